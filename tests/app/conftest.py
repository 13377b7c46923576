"""A tiny real base, a project on it, a finished run, and a studio that serves them."""

from pathlib import Path

import pytest

from app.given import Given
from app.library import Library
from benchmarks.screenshot import studio as open_studio
from tests.app.browser import browser, page  # noqa: F401
from tests.tiny import tiny_pipeline, write_pictures
from training import Customization, Run, customize

PROJECT = """
name = "Red on blue"
base = "base"
resolution = 32
[content]
pictures = "content"
class_word = "koala"
short_captions = true
others = "other_contents"
steps = 0
[style]
pictures = "style"
others = "other_styles"
reach = 0
steps = 0
[adapter]
rank = 4
[make]
precondition = true
[steps]
break = 12
make = 6
batch_size = 2
others_batch_size = 1
checkpoint_every = 5
[samples]
every = 5
inference_steps = 2
"""


@pytest.fixture(scope="session")
def project(tmp_path_factory) -> Path:
    """The path of a project file, with its base and pictures beside it. Read it only."""
    folder = tmp_path_factory.mktemp("project")
    tiny_pipeline(prediction_type="v_prediction").save_pretrained(folder / "base")
    write_pictures(folder)
    (folder / "style" / "picture-0.txt").write_text("star, {placeholder} style")
    path = folder / "project.toml"
    path.write_text(PROJECT)
    return path


@pytest.fixture
def config(project) -> Customization:
    return Customization.load(project)


@pytest.fixture
def library(tmp_path) -> Library:
    return Library(tmp_path / "runs")


def pictures_of(config: Customization) -> dict:
    """The project's pictures as the page hands them on: with a caption only where there is one."""
    return {name: [Given(path) for path in sorted(getattr(config, name).pictures[0].glob("*.png"))]
            for name in ("content", "style")}  # fmt: skip


@pytest.fixture(scope="session")
def finished(tmp_path_factory, project) -> Run:
    """A finished run in a library of its own. Read it only."""
    config = Customization.load(project)
    config.steps.break_, config.steps.make, config.samples.every = 2, 1, 0
    config.steps.checkpoint_every, config.steps.keep_every = 2, 1
    run = Library(tmp_path_factory.mktemp("library")).create(config, pictures_of(config))
    return customize(Customization.load(run.config), run.folder)


@pytest.fixture(scope="session")
def studio(tmp_path_factory, project) -> tuple[str, Library]:
    """The address of a running studio, and its library."""
    runs = tmp_path_factory.mktemp("studio") / "runs"
    with open_studio(runs, project) as address:
        yield address, Library(runs)
