"""The table of every content in every style that was learned."""

import shutil
import threading
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from app import pairs
from app.copies import Copies
from app.library import Library
from app.painter import Model, Painter
from training import Customization, customize
from training.mix import mixed


@pytest.fixture
def shelf(tmp_path_factory, finished, config) -> Library:
    """Two runs with both concepts, and one of another rank with a content alone."""
    library = Library(tmp_path_factory.mktemp("shelf"))
    shutil.copytree(finished.folder, library.folder / "first")
    for name, changes in (("second", {"seed": 5}), ("wide", {"style": None, "rank": 8})):
        data = config.model_dump(by_alias=True)
        data["steps"] |= {"break": 3, "make": 0}
        data["adapter"]["rank"] = changes.pop("rank", data["adapter"]["rank"])
        customize(Customization(**data | changes), library.folder / name)
    return library


def test_each_pair_is_drawn_as_it_would_be_joined_and_only_once(shelf, tmp_path):
    painter, asked = Painter(), []
    draw = painter.draw
    painter.draw = lambda *given, **named: asked.append(given[1]) or draw(*given, **named)
    *_, table = pairs.drawn(shelf, painter, threading.Event())
    found = {(pair.content, pair.style): pair for row in table for pair in row}
    assert {*found} == {(content, style) for content in ("first", "second", "wide") for style in ("first", "second")}
    for (content, _), pair in found.items():
        assert bool(pair.picture) == (content != "wide") == ("wide and " not in pair.said)
    assert len(asked) == 4 and len({pair.picture.read_bytes() for pair in found.values() if pair.picture}) == 4

    # The same as from the run that joins the two.
    config = mixed(shelf.folder / "first", shelf.folder / "second")
    run = customize(config, tmp_path / "joined")
    [(whole, _)] = Painter().draw(Model.of(config, run), replace(asked[0], prompt=config.sample_prompt), 1)
    with Image.open(found["first", "second"].picture) as shown:
        np.testing.assert_allclose(np.asarray(shown).astype(int), np.asarray(whole).astype(int), atol=1)

    run.folder.rename(shelf.folder / "taken")  # which has learned nothing of its own
    *_, again = pairs.drawn(shelf, painter, threading.Event())
    assert len(asked) == 4 and [[pair.picture for pair in row] for row in again] == [
        [pair.picture for pair in row] for row in table
    ]
    html = pairs.as_table(again, Copies(tmp_path / "copies"))
    assert html.count("<img") == 4 and html.count("<th") == 5 and str(shelf.folder) not in html


def test_the_table_ends_when_it_is_told_to(shelf):
    stop = threading.Event()
    stop.set()
    *_, table = pairs.drawn(shelf, Painter(), stop)
    assert not any(pair.picture for row in table for pair in row)
    assert [*pairs.drawn(Library(shelf.folder / "none"), Painter(), stop)] == [[]]
