"""Runs that are made of finished ones."""

import shutil

import pytest
import torch

from app import jobs, mixing
from app.library import Library
from pipelines import UserError
from training import Customization, customize, export


@pytest.fixture
def shelf(tmp_path_factory, finished) -> Library:
    """A library with the finished run, as deep as the one that it comes from, so that its base is found."""
    folder = tmp_path_factory.mktemp("shelf")
    shutil.copytree(finished.folder, folder / finished.folder.name)
    return Library(folder)


def test_a_content_and_a_style_are_joined_as_they_were_learned(shelf, finished, monkeypatch):
    monkeypatch.setattr(jobs, "_start", lambda run: customize(Customization.load(run.config), run.folder))
    name = finished.folder.name
    assert mixing.having(shelf, "content") == mixing.having(shelf, "style") == [name]
    run = mixing.mix(shelf, name, name, 0)
    assert jobs.look(run).status == "done"
    assert run.folder.name == f"{name}-in-{name}" and run.sheet.exists()
    before, after = (export.read(one.adapter)[0] for one in (finished, run))
    assert before.keys() == after.keys()
    assert all(torch.equal(a, b) for layer in before for a, b in zip(before[layer], after[layer], strict=True))


def test_a_run_goes_further_with_its_own_pictures(shelf, finished, monkeypatch):
    asked = []
    monkeypatch.setattr(mixing.jobs, "launch", lambda *given: asked.append(given))
    mixing.go_further(shelf, finished.folder.name, 3, 2)
    _, config, pictures = asked[0]
    assert (config.steps.break_, config.steps.make) == (3, 2)
    assert config.content.further and config.content.run == shelf.folder / finished.folder.name
    assert {kind: len(some) for kind, some in pictures.items()} == {"content": 3, "style": 3}
    assert isinstance(config, Customization)


def test_what_cannot_be_mixed_is_a_sentence(shelf, finished):
    name = finished.folder.name
    for wrong, words in (
        (lambda: mixing.mix(shelf, None, name, 0), "No run is chosen for the content"),
        (lambda: mixing.mix(shelf, name, "nobody", 0), "There is no run 'nobody'"),
        (lambda: mixing.go_further(shelf, None, 1, 0), "There is no run yet"),
        (lambda: mixing.go_further(shelf, name, 0, 0), "nothing to do"),
    ):
        with pytest.raises(UserError, match=words):
            wrong()
    assert [run.folder.name for run in shelf.runs()] == [name]
