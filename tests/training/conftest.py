"""A project with a tiny real base, and a finished run of it."""

from pathlib import Path

import pytest

from tests.tiny import tiny_pipeline, write_pictures
from training import Customization, Run, customize
from training.optimizers.settings import OPTIMIZERS

# What the embedded base's preset sets is left out: a test that is about it says so.
PROJECT = """
base = "base"
resolution = 32
seed = 3
[content]
pictures = "content"
class_word = "koala"
short_captions = true
others = "other_contents"
prior_weight = 0.0
rate = 1.0
variants = {}
steps = 0
[style]
pictures = "style"
others = "other_styles"
reach = 0
prior_weight = 0.0
steps = 0
[adapter]
rank = 4
layers = "attention"
split = "factors"
content_in = "everywhere"
style_in = "everywhere"
[optimizer]
lr = 3e-3
rank = 0.25
[make]
precondition = true
[steps]
break = 3
make = 3
batch_size = 2
others_batch_size = 1
checkpoint_every = 2
[samples]
every = 0
inference_steps = 1
"""


@pytest.fixture(scope="session")
def base(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("base") / "base"
    tiny_pipeline(prediction_type="v_prediction").save_pretrained(folder)
    return folder


def write_project(folder: Path, base: Path) -> Path:
    """A project file, with its pictures beside it."""
    write_pictures(folder)
    path = folder / "project.toml"
    path.write_text(PROJECT.replace('"base"', f'"{base.as_posix()}"'))
    return path


@pytest.fixture
def project(tmp_path, base) -> Path:
    return write_project(tmp_path, base)


@pytest.fixture
def config(project) -> Customization:
    return Customization.load(project)


@pytest.fixture(scope="session")
def finished(tmp_path_factory, base) -> Run:
    """A run that was never stopped. Read it only."""
    folder = tmp_path_factory.mktemp("finished")
    config = Customization.load(project.__wrapped__(folder, base))
    return customize(config, folder / "run")


def optimizers(*quick: str) -> list:
    """Every optimizer's name for a parametrized test; all but the quick ones run in `make test-all` only."""
    return [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in OPTIMIZERS]
