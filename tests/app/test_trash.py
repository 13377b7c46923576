"""What was deleted comes back, or goes for good."""

import time

import pytest
from PIL import Image

from app.album import Album
from app.drafts import Drafts
from app.trash import empty, thrown
from pipelines import UserError
from tests.app.conftest import pictures_of
from tests.app.test_recipe import RECIPE


def test_each_kind_is_deleted_and_put_back_where_it_was(library, config, monkeypatch):
    run = library.create(config, pictures_of(config))
    album, drafts = Album.of(library.folder), Drafts.of(config, library.folder / ".projects")
    picture, draft = album.add(Image.new("RGB", (8, 8)), RECIPE), drafts.make({"name": "x"})
    before = {path.relative_to(library.folder) for path in library.folder.rglob("*.*") if path.is_file()}
    clock = iter(range(10))
    monkeypatch.setattr(time, "strftime", lambda form, *given: f"2026-01-01-00000{next(clock)}")
    library.remove(run.folder.name)
    album.remove(picture.parent.name)
    drafts.remove(draft)
    found = thrown(library.folder)
    assert [(one.kind, one.name) for one in found] == [
        ("project", draft), ("picture", picture.parent.name), ("run", run.folder.name),
    ]  # fmt: skip
    assert library.runs() == album.find() == [] and draft not in drafts.names()
    assert all(one.size > 0 for one in found)
    for one in found:
        one.restore()
    assert library.runs() == [run] and [shot.path for shot in album.find()] == [picture] and draft in drafts.names()
    after = {path.relative_to(library.folder) for path in library.folder.rglob("*.*") if path.is_file()}
    assert before <= after and thrown(library.folder) == []


def test_what_has_a_successor_stays_in_the_trash_and_an_emptied_one_is_gone(library, config):
    run = library.create(config, pictures_of(config))
    library.remove(run.folder.name)
    again = library.create(config, pictures_of(config))
    [one] = thrown(library.folder)
    with pytest.raises(UserError, match=f"There is a run {run.folder.name} again"):
        one.restore()
    size = one.size
    assert empty(library.folder) == size and thrown(library.folder) == [] and library.runs() == [again]
    (library.folder / ".trash/of another program").mkdir()
    assert empty(library.folder) == 0 and (library.folder / ".trash/of another program").exists()
