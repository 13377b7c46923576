"""Training jobs: started, watched, cancelled, resumed; found again by a studio that did not start them."""

import json
import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest

from app import figures, jobs
from app.__main__ import HOUSE
from pipelines.errors import UserError
from tests.app.conftest import pictures_of
from training import customize

PATIENCE = 300  # seconds, for machines that do other things too


def wait_for(run, reached) -> jobs.Job:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        job = jobs.look(run)
        if reached(job):
            return job
        time.sleep(0.05)
    raise AssertionError(f"{jobs.look(run)}\n{jobs.log_path(run).read_text()}")


@pytest.mark.slow
def test_a_job_starts_reports_is_cancelled_and_resumes_to_the_end(library, config):
    config.steps.break_ = 200  # long enough to be caught at it
    run = library.create(config, pictures_of(config))
    assert jobs.look(run).status == "new"
    jobs.start(run)
    assert jobs.look(run).status == "preparing"  # at once, long before the child can say so itself
    assert library.running() == run

    job = wait_for(run, lambda job: job.step >= 2)
    assert (job.status, job.stage, job.steps) == ("running", "content", 406)
    assert job.loss > 0 and job.time_left > 0
    with pytest.raises(UserError, match="is being trained or waits"):
        jobs.start(run)

    jobs.cancel(run)
    cancelled = wait_for(run, lambda job: not job.live)
    assert cancelled.status == "cancelled" and library.running() is None
    steps = len(run.read_metrics())
    assert 2 <= steps < 406

    # A session of its own: what ends the studio's does not end the training.
    jobs.start(run)
    wait_for(run, lambda job: job.step > steps)
    pid = run.read_state()["pid"]
    assert os.name == "nt" or os.getsid(pid) != os.getsid(0)

    # Killed without a last word, it can be resumed as well.
    psutil.Process(pid).kill()
    job = wait_for(run, lambda job: not job.live)
    assert job.status == "interrupted" and job.status in jobs.RESUMABLE


@pytest.mark.parametrize("last_line", ["The port is closed. Open it.", ""])
def test_a_run_that_nobody_writes_is_interrupted_whatever_pid_its_state_has(library, config, last_line):
    run = library.create(config, pictures_of(config))
    for status, before in (("running", 0), ("preparing", jobs.SPEAKS_WITHIN + 1), ("preparing", -1000)):
        state = {"status": status, "stage": "style", "step": 7, "steps": 30, "pid": os.getpid()}
        run.state.write_text(json.dumps(state | {"time": time.time() - before}))
        jobs.log_path(run).write_text(f"Going on after step 3\n{last_line}\n\n")
        job = jobs.look(run)
        assert (job.status, job.stage, job.step, job.message) == ("interrupted", "style", 7, last_line)
        jobs.cancel(run)
        assert not run.stop_asked  # nobody would hear it, and the next start must not


def test_another_studios_job_is_seen_before_and_after_it_has_taken_the_lock(library, config):
    run = library.create(config, pictures_of(config))
    run.write_state(status="preparing", pid=4_000_000, host="another")
    assert jobs.look(run).live
    run.state.write_text(json.dumps({"status": "running", "pid": 4_000_000, "time": 0.0}))
    with run.writing():
        assert jobs.look(run).live
        jobs.cancel(run)
        assert run.stop_asked
    assert jobs.look(run).status == "interrupted"


@pytest.fixture
def started(monkeypatch) -> list:
    """The runs that were started, as if a child worked on each."""
    runs = []
    monkeypatch.setattr(
        jobs, "_start", lambda run: (time.sleep(0.2), runs.append(run), run.write_state(status="preparing"))
    )
    return runs


def test_runs_wait_in_line_and_start_in_turn(library, config, started):
    first, second, third, fourth = (launched(library, config, seed) for seed in range(4))
    assert started == [first] and jobs.waiting(library.folder) == [second, third, fourth]
    assert [jobs.ahead(run) for run in (first, second, third, fourth)] == [0, 1, 2, 3]
    assert "when the 2 runs before it have ended" in figures.progress("x", jobs.look(third), ahead=2)
    assert jobs.start_next(library.folder) is None  # one is being trained
    jobs.cancel(second)
    first.write_state(status="done")
    assert jobs.start_next(library.folder) == third and started == [first, third]
    jobs.start(second)  # at the end of the line
    third.write_state(status="failed")
    assert [jobs.start_next(library.folder), jobs.start_next(library.folder)] == [fourth, None]
    fourth.write_state(status="done")
    assert jobs.start_next(library.folder) == second and jobs.waiting(library.folder) == []


def test_each_gpu_that_is_named_trains_a_run_and_other_machines_take_what_waits(library, config, started, monkeypatch):
    monkeypatch.setattr(jobs, "room", jobs.Room(trains=False))
    runs = [launched(library, config, seed) for seed in range(5)]
    assert started == [] and jobs.start_next(library.folder) is None
    assert "as soon as a machine has room" in figures.progress("x", jobs.look(runs[0]), ahead=jobs.ahead(runs[0]))

    monkeypatch.setattr(jobs, "room", jobs.Room(gpus=("2", "3")))
    assert [jobs.start_next(library.folder) for _ in range(3)] == [*runs[:2], None]
    assert [run.read_state()["gpu"] for run in runs[:2]] == ["2", "3"]
    monkeypatch.setattr(jobs.platform, "node", lambda: "another")
    assert [jobs.start_next(library.folder) for _ in range(3)] == [*runs[2:4], None]
    paused = jobs.pause_all(library.folder)
    assert len(paused) == 2 and [run.stop_asked for run in runs] == [False, False, True, True, False]
    monkeypatch.undo()
    runs[0].write_state(status="done")
    monkeypatch.setattr(jobs, "room", jobs.Room(gpus=("2", "3")))
    monkeypatch.setattr(jobs, "_start", started.append)
    assert jobs.start_next(library.folder) == runs[4] and runs[4].read_state()["gpu"] == "2"


@pytest.mark.slow
def test_two_workers_train_what_a_studio_put_in_line_and_one_that_is_killed_costs_nothing(library, config, tmp_path):
    """Six runs: all end, none twice, and to the bits of a run without workers."""
    config.steps.break_, config.steps.make, config.steps.checkpoint_every = 30, 0, 5
    library.folder.mkdir()
    runs = []
    for seed in range(6):
        config.seed = seed
        runs.append(library.create(config, pictures_of(config)))
        runs[-1].write_state(status=jobs.QUEUED, place=seed + 1)
    log = open(tmp_path / "workers.txt", "w+")  # noqa: SIM115
    command = [sys.executable, "-m", "app.worker", "--runs", str(library.folder), "--gpus"]
    workers = [
        subprocess.Popen([*command, gpu], cwd=HOUSE, stdout=log, stderr=log, start_new_session=True) for gpu in "01"
    ]
    try:
        wait_for(runs[1], lambda job: job.step > 7)
        pid = runs[1].read_state()["pid"]
        children = psutil.Process(workers[0].pid).children() + psutil.Process(workers[1].pid).children()
        assert pid in {child.pid for child in children}
        for process in (psutil.Process(pid).parent(), psutil.Process(pid)):
            process.kill()
        for run in runs:
            wait_for(run, lambda job: job.status == "done")
    finally:
        for worker in workers:
            worker.kill()
            worker.wait()
    began = (tmp_path / "workers.txt").read_text()
    assert {run.folder.name: began.count(f"{run.folder.name} begins") for run in runs} == {
        run.folder.name: 2 if run == runs[1] else 1 for run in runs
    }
    again = customize(runs[1].customization(), tmp_path / "again")
    assert again.adapter.read_bytes() == runs[1].adapter.read_bytes()
    assert [entry["step"] for entry in runs[1].read_metrics()] == [*range(1, 61)]


def test_a_killed_run_is_taken_up_first_and_given_up_where_it_is_killed_again(library, config, started):
    killed, waits = (launched(library, config, seed) for seed in range(2))

    def kill() -> None:
        killed.state.write_text(json.dumps(killed.read_state() | {"status": "running", "time": 0.0}))

    kill()
    assert jobs.start_next(library.folder) == killed
    kill()
    assert jobs.start_next(library.folder) == waits
    assert "ended again at the same place" in figures.progress("x", jobs.look(killed))
    waits.write_state(status="done")
    assert jobs.start_next(library.folder) is None
    (killed.checkpoints / "step-000010").mkdir(parents=True)  # somebody resumed it, and it came further
    assert jobs.start_next(library.folder) == killed


@pytest.mark.slow
def test_a_studio_that_is_terminated_takes_its_training_along_and_goes_on_at_the_next_start(library, project, config):
    config.steps.break_, config.steps.make, config.steps.checkpoint_every = 60, 0, 1000
    library.folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", "app", "--runs", library.folder, "--project", project, "--port", port]

    def opened() -> subprocess.Popen:
        return subprocess.Popen([*map(str, command), "--stop-training"], cwd=HOUSE, stdout=subprocess.DEVNULL)

    studio = opened()
    try:
        run, other = (library.create(config.model_copy(update={"seed": seed}), pictures_of(config)) for seed in (1, 2))
        run.write_state(status="queued", place=1)
        other.write_state(status="queued", place=2)
        wait_for(run, lambda job: job.step >= 2)
        studio.terminate()
        assert studio.wait(PATIENCE) != 0
        job = jobs.look(run)
        assert job.status == "queued" and jobs.look(other).status == "queued" and jobs.waiting(library.folder)[0] == run
        steps = len(run.read_metrics())
        assert 2 <= steps < 120 and (run.checkpoints / f"step-{steps:06d}").exists()
        studio = opened()
        wait_for(run, lambda job: job.step > steps)
    finally:
        studio.terminate()
        studio.wait(PATIENCE)
        jobs.cancel(run)


def launched(library, config, seed):
    return jobs.launch(library, config.model_copy(update={"seed": seed}), pictures_of(config))


def test_of_two_starts_together_one_makes_a_run(library, config, started):
    def press(_: int) -> str:
        try:
            jobs.launch(library, config, pictures_of(config))
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor() as threads:
        said = sorted(threads.map(press, range(4)))
    assert said[0] == "" and all("is being trained already" in one for one in said[1:])
    assert [run.folder for run in library.runs()] == [run.folder for run in started] and len(started) == 1


def test_a_run_without_state_or_with_a_damaged_one_is_new(library, config):
    run = library.create(config, pictures_of(config))
    run.state.write_text('{"status": "run')
    assert jobs.look(run) == jobs.Job("new")
    jobs.cancel(run)


def test_what_the_optimizer_projects_is_said_in_plain_words(library, config):
    run = library.create(config, pictures_of(config))
    run.write_state(status="running", device="cpu", matrices="212 projected, 20 bypassed, 3 plain")
    with run.writing():
        shown = figures.progress("x", jobs.look(run))
    assert "212 learned in a projection, 20 too small to gain from it, 3 learned as they are" in shown
    run.write_state(status="done")
    assert "212" not in figures.progress("x", jobs.look(run))
    # A word that is not known is shown as it is, and never as markup.
    assert "4 &lt;b&gt;odd" in figures.progress("x", jobs.Job("running", matrices="4 <b>odd"))
    assert "Matrices" not in figures.progress("x", jobs.Job("running"))


def test_what_a_child_writes_is_said_aloud_line_by_line_and_nothing_of_an_earlier_one(library, config, capfd):
    run = library.create(config, pictures_of(config))
    path = jobs.log_path(run)
    path.write_bytes(b"before\n")
    write = "import sys, time; print('one', flush=True); time.sleep(1); sys.stdout.write('two\\nno end')"
    with open(path, "ab") as log:
        child = subprocess.Popen([sys.executable, "-c", write], stdout=log)
        jobs.say_aloud(run, child, len(b"before\n"))
    assert capfd.readouterr().out == "red-on-blue: one\nred-on-blue: two\n"
