import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from app.temporary import TemporaryFolder
from pipelines.errors import UserError
from training.config import HOUSE

STUDIO = """
import time
from app.temporary import TemporaryFolder
folder = TemporaryFolder()
(folder.path / "drawn.png").touch()
print(folder.path, flush=True)
time.sleep(600)
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Where the system has temporary folders, of this process and of others that it starts."""
    place = tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    monkeypatch.setenv("TMPDIR", str(place))
    return place


@pytest.fixture
def another(place):
    """Another studio's process, and its folder."""
    process = subprocess.Popen([sys.executable, "-c", STUDIO], cwd=HOUSE, stdout=subprocess.PIPE, text=True)
    try:
        yield process, Path(process.stdout.readline().strip())
    finally:
        process.kill()
        process.wait()


def test_it_goes_with_the_studio_and_leaves_nothing(place):
    folder = TemporaryFolder()
    (folder.path / "drawn.png").touch()
    assert folder.path.parent == place
    folder.remove()
    assert list(place.iterdir()) == []


def test_of_a_studio_that_runs_it_stays_and_of_one_that_was_killed_it_goes(place, another):
    process, theirs = another
    ours = TemporaryFolder()
    assert ours.path != theirs and (theirs / "drawn.png").exists()
    process.kill()
    process.wait()
    (place / "joinery-of-another-kind").mkdir()
    third = TemporaryFolder()
    assert not theirs.exists() and ours.path.exists() and third.path.exists()
    for folder in (ours, third):
        folder.remove()
    assert [path.name for path in place.iterdir()] == ["joinery-of-another-kind"]


@pytest.mark.skipif(os.name != "posix", reason="a user's own place, where no other user's folders lie")
def test_another_user_s_folder_stays(place, monkeypatch):
    (place / "joinery-theirs").mkdir()
    (place / "joinery-theirs" / ".lock").touch()
    monkeypatch.setattr(os, "getuid", lambda: 1 + place.stat().st_uid)
    TemporaryFolder().remove()
    assert [path.name for path in place.iterdir()] == ["joinery-theirs"]


def test_a_place_that_takes_no_folder_is_a_sentence(place, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(place / "gone"))
    with pytest.raises(UserError, match=r"No temporary folder can be made .*Name a place for it with TMPDIR"):
        TemporaryFolder()
