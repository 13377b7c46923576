"""What is installed: a wheel of the three rooms, whose classes work from any folder, and locks of all that it needs."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from email.parser import Parser
from importlib.metadata import PackageNotFoundError, requires

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.test_packaging import ROOMS, ROOT, requirements, shipped

LOCKS = ROOT / "locks"
# Installed by hand after the lock, in one of its many builds; what it needs besides CUDA's packages is in the lock.
PYTORCH = {"torch"}
HEADS = ("torch==", "triton==", "cuda-", "nvidia-")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel that `pip install .` makes of what git keeps."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for path in shipped():
        name = path.relative_to(ROOT)
        if name.parts[0] in (*ROOMS, "tests", "benchmarks", "locks") or len(name.parts) == 1:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, source / name)
    backend = tomllib.loads((source / "pyproject.toml").read_text())["build-system"]["build-backend"]
    build = f"import sys; from {backend} import build_wheel; build_wheel(sys.argv[1])"
    made = subprocess.run([sys.executable, "-c", build, out], cwd=source, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (file,) = out.glob("*.whl")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(out / "site")
    return out / "site"


def test_a_wheel_holds_the_three_rooms_alone(wheel):
    rooms = {path.relative_to(ROOT) for path in shipped() if path.relative_to(ROOT).parts[0] in ROOMS}
    held = {path.relative_to(wheel) for path in wheel.rglob("*") if path.is_file()}
    assert {path for path in held if not path.parts[0].endswith(".dist-info")} == rooms
    assert {path.name for path in held - rooms} >= {"LICENSE", "NOTICE", "METADATA"}


def test_a_wheel_needs_what_the_requirements_pin(wheel):
    (file,) = wheel.glob("*.dist-info/METADATA")
    needs = {str(Requirement(one)) for one in Parser().parsestr(file.read_text()).get_all("Requires-Dist")}
    assert needs == {str(one) for one in requirements("requirements.txt").values()}


def test_the_classes_and_every_thin_file_work_from_any_folder(wheel, tmp_path):
    script = """
import sys
from pathlib import Path
import pipelines
from pipelines import APG, APGStableDiffusionPipeline
from diffusers import DiffusionPipeline
from diffusers.utils.dynamic_modules_utils import get_class_from_dynamic_module
from pipelines.guided_pipeline import GuidedMixin

for file in sorted(Path(pipelines.__file__).with_name("custom").glob("*.py")):
    loaded = get_class_from_dynamic_module(file.parent, module_file=file.name, trust_remote_code=True)
    assert issubclass(loaded, GuidedMixin) and loaded.__name__.startswith("Joinery"), file
    print(file.stem)
thin = Path(pipelines.__file__).parent / "custom/apg_stable_diffusion.py"
pipe = DiffusionPipeline.from_pretrained(sys.argv[1], custom_pipeline=str(thin), trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
pipe("fox", num_inference_steps=1, guidance=APG(), output_type="latent")
"""
    environment = os.environ | {"PYTHONPATH": str(wheel), "HF_MODULES_CACHE": str(tmp_path / "modules")}
    command = [sys.executable, "-c", script, ROOT / "models/emoji"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.split() == sorted(file.stem for file in (ROOT / "pipelines/custom").glob("*.py"))


def locked(name: str) -> dict[str, tuple[Requirement, list[str]]]:
    """Distribution -> what the lock asks for, and its hashes."""
    found = {}
    text = re.sub(r"^\s*#.*\n?", "", (LOCKS / name).read_text(), flags=re.M)
    for entry in re.sub(r"\\\n\s*", " ", text).splitlines():
        requirement, *hashes = entry.split(" --hash=")
        requirement = Requirement(requirement)
        assert canonicalize_name(requirement.name) not in found, requirement
        found[canonicalize_name(requirement.name)] = requirement, [one.strip() for one in hashes]
    return found


SETS = ["requirements.txt", "requirements-gpu.txt", "requirements-base.txt", "requirements-dev.txt"]


@pytest.mark.parametrize("name", [*SETS, "optimizers.txt"])
def test_a_lock_holds_each_pin_with_hashes_and_no_build_of_pytorch(name):
    source = {"optimizers.txt": "benchmarks/optimizers/requirements.txt"}.get(name, name)
    lock = locked(name)
    for distribution, pin in requirements(source).items():
        if distribution not in PYTORCH:
            assert lock[distribution][0].specifier == pin.specifier, f"{source} was changed: make lock"
    for distribution, (requirement, hashes) in lock.items():
        assert [one.operator for one in requirement.specifier] == ["=="], requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", one) for one in hashes), requirement
        assert not str(requirement).startswith(HEADS), distribution


def test_locks_that_are_installed_together_agree():
    plain, gpu, base, dev = (locked(name) for name in SETS)
    for one in (gpu, base, dev):
        assert {n: one[n][0].specifier for n in one.keys() & plain.keys()} == {
            n: plain[n][0].specifier for n in one.keys() & plain.keys()
        }
    assert gpu.keys() - plain.keys() == {"xformers", "bitsandbytes"} and plain.keys() <= gpu.keys()
    assert base.keys() <= dev.keys()


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-dev.txt"])
def test_a_lock_is_closed(name):
    """Whatever a package in it asks for on this machine is in it too."""
    lock = {**locked("requirements.txt"), **locked(name)}
    wanted = [(distribution, {""}) for distribution in PYTORCH]
    wanted += [(distribution, requirement.extras or {""}) for distribution, (requirement, _) in lock.items()]
    wanted += [(canonicalize_name(n), r.extras or {""}) for n, r in requirements(name).items()]
    seen = set()
    while wanted:
        distribution, extras = wanted.pop()
        try:
            needs = [Requirement(one) for one in requires(distribution) or []]
        except PackageNotFoundError:  # for another system or Python
            assert lock[distribution][0].marker and not lock[distribution][0].marker.evaluate(), distribution
            continue
        for need in needs:
            asked = not need.marker or any(need.marker.evaluate({**default_environment(), "extra": e}) for e in extras)
            child = canonicalize_name(need.name), tuple(sorted(need.extras)) or ("",)
            if asked and child[0] not in PYTORCH and not f"{child[0]}==".startswith(HEADS) and child not in seen:
                assert need.specifier.contains(next(iter(lock[child[0]][0].specifier)).version), (
                    f"{distribution}: {need}"
                )
                seen.add(child)
                wanted.append((child[0], set(child[1])))


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-gpu.txt"])
def test_cudas_packages_are_constrained_not_hashed(name):
    """So that a build without CUDA brings none of them, and one of another index is not refused."""
    constraints = requirements(f"locks/cuda-{name}")
    assert "triton" in constraints and "torch" not in constraints
    assert "--hash" not in (LOCKS / f"cuda-{name}").read_text()


def test_torch_brings_the_cuda_that_xformers_is_linked_to(tmp_path):
    """Else xformers is there and never loads; its own metadata asks for no CUDA at all."""
    asked = tmp_path / "xformers.txt"
    requirement, hashes = locked("requirements-gpu.txt")["xformers"]
    asked.write_text(f"{requirement.name}{requirement.specifier} " + " ".join(f"--hash={one}" for one in hashes))
    system = ["--platform", "manylinux_2_28_x86_64", "--only-binary", ":all:"]
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--require-hashes", *system]
    subprocess.run([*command, "-d", tmp_path, "-r", asked], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        linked = re.search(rb"libcudart\.so\.(\d+)", archive.read("xformers/_C.so"))[1].decode()
    constraints = requirements("locks/cuda-requirements-gpu.txt")
    (runtime,) = (pin for name, pin in constraints.items() if name.startswith("nvidia-cuda-runtime"))
    assert str(runtime.specifier).startswith(f"=={linked}.")


def test_the_wheel_is_built_by_what_is_locked():
    (builder,) = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    assert (
        builder
        == str(requirements("requirements-dev.txt")["setuptools"])
        == str(locked("requirements.txt")["setuptools"][0])
    )
