"""The doors of the web application, and what its page is built of."""

import errno
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from types import SimpleNamespace

import gradio as gr
import httpx
import pytest

from app import health, jobs
from app.__main__ import HOUSE
from app.copies import Copies
from app.drafts import Drafts
from app.library import Library
from app.pages import in_words, project
from app.studio import build as studio_page
from app.studio import serve
from benchmarks.screenshot import studio as open_studio
from pipelines import UserError
from tests.app.browser import PATIENCE
from tests.app.conftest import pictures_of


def test_a_list_that_closes_changes_nothing(config, library, tmp_path):
    """Gradio says `input` of a list then too, so what a choice brings would go over what a person has written."""
    page = studio_page(library, config, Copies(tmp_path))
    closed = {number for number, field in page.blocks.items()
              if isinstance(field, gr.Dropdown) and not (field.allow_custom_value or field.multiselect)}  # fmt: skip
    heard = [target for event in page.fns.values() for target in event.targets if target[0] in closed]
    assert {number for number, _ in heard} == closed
    assert "input" not in {name for _, name in heard}


def test_an_open_studio_starts_the_next_run_in_line(config, project, tmp_path, monkeypatch):
    monkeypatch.setattr(jobs, "_start", lambda run: run.write_state(status="preparing"))
    library = Library(tmp_path / "runs")
    first, second = (
        jobs.launch(library, config.model_copy(update={"seed": seed}), pictures_of(config)) for seed in (1, 2)
    )
    with open_studio(library.folder, project):
        assert jobs.look(second).status == "queued"
        first.write_state(status="done")
        deadline = time.monotonic() + PATIENCE / 1000
        while jobs.look(second).status == "queued" and time.monotonic() < deadline:
            time.sleep(0.1)
        assert jobs.look(second).status == "preparing"


def test_an_open_studio_goes_on_looking_at_its_line(project, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("app.studio.Health", lambda *given: kept.append(health.Health(*given)) or kept[0])
    with open_studio(tmp_path / "runs", project):
        looks, deadline = {kept[0].looked}, time.monotonic() + PATIENCE / 1000
        while len(looks) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
            looks.add(kept[0].looked)
    assert len(looks) >= 3


def test_only_what_needs_the_device_waits_in_line(config, library, tmp_path):
    page = studio_page(library, config, Copies(tmp_path))
    # An endpoint for programs has no target.
    asked = (event for event in page.fns.values() if not event.targets or event.targets[0][1] != "unload")
    queued = [event for event in asked if event.queue is not False]
    assert {event.concurrency_id for event in queued} == {"device"} and len(queued) == 11
    # Gradio puts what programs call in its line all the same: there it must not wait for others of its kind.
    named = [event for event in page.fns.values() if not event.targets and event not in queued]
    assert len(named) == 6 and {event.concurrency_limit for event in named} == {None}


def test_whatever_goes_wrong_is_a_sentence(config, library, tmp_path, monkeypatch):
    page = studio_page(library, config, Copies(tmp_path))
    status = next(event.fn for event in page.fns.values() if event.fn and event.fn.__name__ == "status")
    monkeypatch.setattr(Library, "find", lambda *given: 1 / 0)
    with pytest.raises(gr.Error, match=r"made a fault\. Its terminal says which"):
        status("a run")

    def raising(error):
        def handler():
            raise error

        return in_words(handler)

    for error, words in (
        (UserError("There is no run <b>", "Choose another one"), "There is no run &lt;b&gt;. Choose another one."),
        (OSError(errno.ENOSPC, "No space left on device"), "could not be read or written: No space left on device."),
    ):
        with pytest.raises(gr.Error) as said:
            raising(error)()
        assert words in said.value.message


def test_a_run_that_cannot_be_read_does_not_keep_the_studio_from_opening(config, library, tmp_path):
    run = library.create(config, pictures_of(config))
    run.config.write_text("no project")
    page = studio_page(library, config, Copies(tmp_path))
    look = next(
        event.fn
        for event in page.fns.values()
        if event.fn and event.fn.__name__ == "look" and event.targets and event.targets[0][1] == "tick"
    )
    shown = look(run.folder.name, None, "")
    assert any("is not valid TOML" in str(value) for value in shown.values())


def test_health_and_adapters(studio):
    address, _ = studio
    with urllib.request.urlopen(f"{address}/healthz") as answer:
        said = json.load(answer)
    assert said.keys() == {"status", "line", "waiting", "disk_free_mb", "used_mb"} and said["disk_free_mb"] > 0
    assert (said["status"], said["line"], said["waiting"]) == ("ok", "alive", 0)
    for name in ("nothing", "..", "%2e%2e%2fbase"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{address}/adapters/{name}.safetensors")
        assert refused.value.code == 404


@pytest.mark.parametrize("door, number", [("queue/join", 10_000), ("run/predict", -1), ("run/predict", None)])
def test_a_call_of_nothing_is_refused_in_a_sentence(studio, door, number):
    body = {"data": [1], "session_hash": "x", "fn_index": number}
    answer = httpx.post(f"{studio[0]}/gradio_api/{door}", json=body)
    assert answer.status_code == 404 and "nothing of that name or number" in answer.json()["error"]


def test_calls_of_programs_do_not_fill_the_memory(project, tmp_path, monkeypatch):
    """Gradio keeps a session of each, ten thousand if nothing is said."""
    monkeypatch.setattr("app.studio.SESSIONS", 3)
    served = []
    monkeypatch.setattr("benchmarks.screenshot.serve", lambda *given: served.append(serve(*given)) or served[0])
    with open_studio(tmp_path / "runs", project) as address, httpx.Client(base_url=f"{address}/gradio_api") as client:
        for _ in range(6):
            event = client.post("/call/runs", json={"data": []}).json()["event_id"]
            assert "complete" in client.get(f"/call/runs/{event}").text
        assert 0 < len(served[0].routes[-1].app.state_holder.session_data) <= 3


def test_the_page_is_built_without_what_draws(tmp_path):
    """PyTorch and diffusers take longer to import than all else together."""
    code = (
        "import sys; from app.__main__ import Path, Studio; from app.studio import serve\n"
        f"serve(Path({str(tmp_path)!r}), Studio.project)\n"
        "print({'torch', 'diffusers', 'transformers', 'peft'} & sys.modules.keys())"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True)
    assert ended.stdout == "set()\n", ended.stdout + ended.stderr


def test_a_taken_port_is_refused_in_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = subprocess.run([sys.executable, "-m", "app", "--port", port], cwd=HOUSE, capture_output=True, text=True)
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"Port {port} of 127.0.0.1 is taken") and ended.stderr.count("\n") == 1


def test_the_health_check_of_a_container_follows_the_port_and_says_why(studio, monkeypatch, capsys):
    monkeypatch.setenv("JOINERY_PORT", studio[0].rpartition(":")[2])
    assert health.main() == 0 and "ok" in capsys.readouterr().out
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
    for named, why in ((str(port), "Connection refused"), ("eighty", "JOINERY_PORT is 'eighty'")):
        monkeypatch.setenv("JOINERY_PORT", named)
        assert health.main() == 1 and why in capsys.readouterr().out


def test_the_health_check_of_a_container_imports_nothing_slow():
    """It is done every half a minute, and has ten seconds on a machine that trains."""
    code = "import sys, app.health; print({'gradio', 'fastapi', 'pydantic', 'tyro', 'torch'} & sys.modules.keys())"
    ended = subprocess.run([sys.executable, "-c", code], cwd=HOUSE, capture_output=True, text=True)
    assert ended.stdout == "set()\n", ended.stdout + ended.stderr


def test_a_temporary_folder_that_is_named_is_made(tmp_path):
    """Before Gradio asks for one when it is imported: where all else is read only, there is no other."""
    place = tmp_path / "volume/tmp"
    command = [sys.executable, "-m", "app", "--port", "0", "--runs", str(tmp_path / "runs")]
    environment = os.environ | {"TMPDIR": str(place)}
    with subprocess.Popen(command, cwd=HOUSE, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            said = [process.stdout.readline(), process.stdout.readline()]
            assert "The studio is open at" in said[1] and len(list(place.glob("joinery-*"))) == 1
        finally:
            process.kill()


def test_late_words_of_a_page_that_is_gone_change_nothing(config, library, tmp_path):
    """An old page's last event may come after it was loaded anew, and after others have written."""
    page = studio_page(library, config, Copies(tmp_path))
    events = {
        event.fn.__name__: event for event in page.fns.values() if event.fn and event.fn.__module__ == project.__name__
    }
    old, drafts = SimpleNamespace(session_hash="old"), Drafts.of(config, library.folder / ".projects")
    name = drafts.make({"name": "as it is now"})
    given = {part: part.value for part in events["follow"].inputs}
    (draft,) = [part for part in given if part.visible == "hidden"]
    events["leave"].fn(old)
    events["follow"].fn(given | {draft: name}, old)
    assert drafts.read(name) == {"name": "as it is now"}
    events["follow"].fn(given | {draft: name}, SimpleNamespace(session_hash="new"))
    assert "name" not in drafts.read(name)  # it is the sample's again, which is not kept
