"""What a newcomer installs and what we ship: exact pins, licences, sizes, and nothing that runs foreign code."""

import ast
import importlib.util
import re
import shutil
import subprocess
import sys
from importlib import import_module
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
ROOMS = ("app", "pipelines", "training")

# Installed for what diffusers does with them.
NOT_IMPORTED = {"accelerate", "scipy"}


def shipped() -> list[Path]:
    """Every file that git keeps, or would keep if it were added."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def requirements(name: str) -> dict[str, Requirement]:
    lines = (line.split(" #")[0].strip() for line in (ROOT / name).read_text().splitlines())
    parsed = [Requirement(line) for line in lines if line and not line.startswith(("#", "-r "))]
    return {canonicalize_name(requirement.name): requirement for requirement in parsed}


def trees(*folders: str) -> list[tuple[Path, ast.Module]]:
    files = [path for path in shipped() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in folders]
    return [(path.relative_to(ROOT), ast.parse(path.read_text())) for path in files]


def imported(*folders: str) -> dict[str, set[Path]]:
    """Distribution -> the files that import it."""
    found: dict[str, set[Path]] = {}
    owners = packages_distributions()
    for path, tree in trees(*folders):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules = [node.module]
            else:
                continue
            for module in modules:
                top = module.split(".")[0]
                if top not in sys.stdlib_module_names and not (ROOT / top).is_dir():
                    # What is not installed here, such as xformers, is named like its module.
                    owner = canonicalize_name(owners.get(top, [top])[0])
                    found.setdefault(owner, set()).add(path)
    return found


@pytest.mark.parametrize(
    "name", ["requirements.txt", "requirements-gpu.txt", "requirements-base.txt", "requirements-dev.txt"]
)
def test_every_pin_is_exact(name):
    for requirement in requirements(name).values():
        (specifier,) = requirement.specifier
        assert specifier.operator == "==", requirement
        assert "*" not in specifier.version, requirement
        assert requirement.url is None, requirement


def test_the_two_sets_agree_in_all_but_torch_and_what_needs_a_gpu():
    plain, gpu = ({n: str(r) for n, r in requirements(f).items()} for f in ("requirements.txt", "requirements-gpu.txt"))
    assert gpu.keys() - plain.keys() == {"xformers", "bitsandbytes"} and plain.keys() <= gpu.keys()
    assert [name for name in plain if plain[name] != gpu[name]] == ["torch"]


def test_every_import_is_pinned():
    pinned = requirements("requirements-gpu.txt").keys() | requirements("requirements-base.txt").keys()
    for distribution, files in imported(*ROOMS).items():
        assert distribution in pinned, files


def test_every_pin_is_imported():
    assert requirements("requirements.txt").keys() - imported(*ROOMS).keys() <= NOT_IMPORTED


@pytest.mark.parametrize("folder", [*ROOMS, "benchmarks", "samples"])
def test_no_file_can_run_foreign_code(folder):
    """No pickles, also not through torch or NumPy, and no shell."""
    unsafe_modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
    for path, tree in trees(folder):
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                assert not unsafe_modules & {alias.name.split(".")[0] for alias in node.names}, path
            elif isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] not in unsafe_modules, path
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("shell", "False") == "False", f"{path}:{node.lineno}"
                assert given.get("allow_pickle", "False") == "False", f"{path}:{node.lineno}"
                assert called not in ("os.system", "os.popen", "eval", "exec"), f"{path}:{node.lineno}"
                if called == "torch.load":
                    assert given.get("weights_only") == "True", f"{path}:{node.lineno}"


@pytest.mark.parametrize("room", ["pipelines", "training"])
def test_a_room_gives_all_that_it_names(room):
    """Some of it is imported only when asked for."""
    module = import_module(room)
    assert set(module.__all__) <= set(dir(module))
    assert [name for name in module.__all__ if getattr(module, name).__name__ != name] == []
    with pytest.raises(AttributeError, match=f"'{room}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018


def test_models_are_small_and_hold_no_code():
    files = [path for path in shipped() if path.is_relative_to(ROOT / "models")]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".txt"}
    assert sum(path.stat().st_size for path in files) <= 60e6


def test_nothing_tells_of_the_machine_it_was_made_on():
    """No absolute paths, no private hosts, no package mirrors in any text that we ship."""
    here = Path("/")
    machine_paths = [rf"(?<![\w.-]){here / top}/(?=\w)" for top in ("work", "root", "Users")]
    hosts = re.compile(r"https?://(?:[^/\s\"'@]*@)?([\w.-]+)")
    private = re.compile(
        r"(^(10|172\.(1[6-9]|2\d|3[01])|192\.168)\.)|\.(internal|local|lan|corp|intranet)$|mirror|artifact|proxy"
    )
    for path in shipped():
        try:
            text = path.read_text()
        except UnicodeDecodeError:  # pictures, weights
            continue
        for pattern in [*machine_paths, r"file:///\w"]:
            assert not re.search(pattern, text), f"{path}: {pattern}"
        for host in hosts.findall(text):
            assert not private.search(host), f"{path}: {host}"
            assert "." in host or host == "localhost", f"{path}: {host}"


def test_make_lists_its_targets():
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    said = subprocess.run(["make", "--no-print-directory"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    phony = re.search(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert [target for target in phony if f"make {target} " not in said] == ["browser"]


def test_hadolint_finds_nothing():
    hadolint = shutil.which("hadolint", path=Path(sys.executable).parent) or shutil.which("hadolint")
    if not hadolint:
        pytest.skip("hadolint is not installed")
    said = subprocess.run([hadolint, "Dockerfile"], cwd=ROOT, capture_output=True, text=True)
    assert said.returncode == 0, said.stdout


def test_compose_starts_the_image_with_all_that_is_written_in_its_volume():
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    written = re.search(r"^VOLUME (.*)", (ROOT / "Dockerfile").read_text(), re.M)[1]
    built = {service["image"] for service in services.values() if "build" in service}
    for service in services.values():
        assert service["read_only"] and service["volumes"] == [f"joinery:{written}"] and service["image"] in built
        for name in service.get("build", {}).get("args", {}).keys() & {"REQUIREMENTS"}:
            assert (ROOT / service["build"]["args"][name]).exists()
        if command := service.get("command"):
            assert command[:2] == ["python", "-m"] and importlib.util.find_spec(command[2])
            asked = subprocess.run([sys.executable, *command[1:3], "--help"], cwd=ROOT, capture_output=True, text=True)
            assert all(option in asked.stdout for option in command[3:] if option.startswith("--"))
    profiles = {profile for service in services.values() for profile in service["profiles"]}
    assert profiles == {"cpu", "gpu", "many"}
