"""What a studio's files take is known without a look at each of them, and what would pass its quota is refused."""

import os
import re
import shutil
import subprocess
import sys

import httpx
import pytest

from app import figures, jobs
from app.__main__ import HOUSE
from app.library import Library
from app.painter import Model, Painter
from app.quota import FRESH, PAUSE, Quota, chosen_quota
from benchmarks.screenshot import studio as open_studio
from pipelines import UserError
from tests.app.conftest import pictures_of
from tests.app.test_recipe import RECIPE

FILES = {
    "data/runs/fox/adapter": 1000,
    "data/runs/.trash/2026-01-01-000000-fox/adapter": 200,
    "data/runs/.pictures/0123/a.png": 30,
    "data/runs/.pictures/trash/2026-01-01-000000-0123/a.png": 4,
    "data/runs/.starts/a.png": 5,
    "data/runs/.projects/0123/1/draft.json": 60,
    "data/runs/.projects/0123/trash/2026-01-01-000000-1/draft.json": 7,
    "data/models/base": 8000,
    "data/tmp/joinery-0/upload": 90000,
}


@pytest.fixture
def places(tmp_path):
    for name, count in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"x" * count)
    return tmp_path / "data/runs", tmp_path / "data/tmp/joinery-0", tmp_path / "data"


@pytest.fixture
def walks(monkeypatch):
    """The folders that were walked through."""
    seen, walk = [], os.walk
    monkeypatch.setattr(os, "walk", lambda place: seen.append(place) or walk(place))
    return seen


@pytest.fixture
def later(monkeypatch):
    """A clock that a test moves on."""
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])

    def move(seconds: float) -> None:
        now[0] += seconds

    return move


def test_every_file_counts_once_by_what_it_is_of(places, walks):
    quota = Quota(places)
    kinds = {"all else": 98000, "runs": 1000, "trash": 211, "projects": 60, "drawn pictures": 35}
    assert quota.found() == kinds and quota.used == sum(FILES.values()) and len(walks) == 1
    assert [*kinds] == [*quota.found()]  # most first
    assert Quota((places[0], places[1])).found()["all else"] == 90000


def test_what_would_pass_the_limit_is_refused_until_something_is_deleted(places, later):
    quota = Quota(places, sum(FILES.values()) + 100)
    with quota.room(100), pytest.raises(UserError, match=r"and this takes 1 MB more\. Delete runs and pictures on"):
        quota.let_in(1)
    with pytest.raises(UserError):  # it was let in, and may lie there by now
        quota.let_in(1)
    later(2 * FRESH)
    quota.let_in(1).end()
    (places[0] / "fox/adapter").write_bytes(b"")
    with pytest.raises(UserError):
        quota.let_in(1000)
    later(2 * FRESH)
    quota.let_in(1000)


def test_a_request_does_not_look_at_every_file(places, walks, later):
    quota = Quota(places, 10**6)
    for _ in range(100):
        quota.let_in(1000).end()
    assert len(walks) == 1 and quota.used == sum(FILES.values()) + 100_000
    with pytest.raises(UserError):
        quota.let_in(10**6)
    later(2 * FRESH)
    for _ in range(100):
        with pytest.raises(UserError):
            quota.let_in(10**6)
    assert len(walks) == 2
    later(2 * PAUSE)
    quota.let_in(1)
    assert len(walks) == 3


def test_a_slow_disk_is_looked_at_less_often(places, walks, later, monkeypatch):
    walk = os.walk
    monkeypatch.setattr(os, "walk", lambda place: later(10 * PAUSE) or walk(place))
    quota = Quota(places)
    for seconds, count in ((0, 1), (2 * PAUSE, 1), (200 * PAUSE, 2)):
        later(seconds)
        quota.found()
        assert len(walks) == count


@pytest.mark.parametrize("said, limit", [("", None), ("50", 50 * 10**9), ("0.5", 5 * 10**8)])
def test_the_quota_of_the_environment(said, limit, monkeypatch):
    monkeypatch.setenv("JOINERY_QUOTA", said)
    assert chosen_quota() == limit and chosen_quota(1) == 10**9


@pytest.mark.parametrize("said", ["0", "-1", "many", "nan", "inf"])
def test_a_quota_that_is_none_is_refused(said, monkeypatch):
    monkeypatch.setenv("JOINERY_QUOTA", said)
    with pytest.raises(UserError, match=f"The quota is {said}. Give a number of gigabytes"):
        chosen_quota()


def test_the_studio_takes_a_quota_before_it_opens(tmp_path):
    command = [sys.executable, "-m", "app", "--port", "0", "--runs", str(tmp_path), "--quota", "-1"]
    ended = subprocess.run(command, cwd=HOUSE, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and ended.stderr.startswith("The quota is -1.0. Give")


def test_no_run_and_no_drawing_begins_that_would_pass_it(config, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_start", lambda run: run.write_state(status="preparing"))
    library = Library(tmp_path / "runs", Quota((tmp_path,), 100))
    with pytest.raises(UserError, match="are used"):
        jobs.launch(library, config, pictures_of(config))
    assert library.runs() == []
    model, painter = Model.of(config), Painter(quota=library.quota)
    with pytest.raises(UserError, match="are used"):
        painter.draw(model, RECIPE, 1)
    library.quota.limit += 10**6
    assert jobs.launch(library, config, pictures_of(config)) in library.runs()
    assert len(painter.draw(model, RECIPE, 1)) == 1


def test_a_full_studio_takes_no_upload_and_still_does_all_else(project, tmp_path):
    limit = 2 * 2**20
    with open_studio(tmp_path / "runs", project, limit=limit) as address, httpx.Client(base_url=address) as client:

        def upload(count: int) -> httpx.Response:
            return client.post("/gradio_api/upload", files={"files": ("a.png", b"x" * count, "image/png")})

        assert upload(2**20).status_code == 200
        refused = upload(2**20)
        assert refused.status_code == 413
        assert re.match(r"1 MB of 2 MB are used( \(all else 1 MB\))?, and this takes 1 MB more\. Delete", refused.text)
        whole = client.post("/gradio_api/run/predict", json={"data": ["x" * 2**20], "fn_index": 0})
        assert whole.status_code == 413
        unsaid = client.post("/gradio_api/upload", content=iter([b"x"]))
        assert unsaid.status_code == 411
        assert client.post("/gradio_api/call/runs", json={"data": []}).status_code == 200
        said = client.get("/healthz").json()
        assert (said["status"], said["used_mb"], said["quota_mb"]) == ("ok", 1, 2)


def test_the_page_says_what_is_used(places):
    quota = Quota(places, 10**9)
    assert "1 MB of 1.0 GB are used (all else 1 MB, runs 1 MB" in figures.used(quota)
    shutil.rmtree(places[2])
    assert "are used." in figures.used(Quota(places))
