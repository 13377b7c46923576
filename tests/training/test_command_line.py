import os
import signal
import subprocess
import sys
import time

import pytest

from training import Run, checkpoint

COMMAND = [sys.executable, "-m", "training"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def run(*arguments):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )


def test_the_whole_line(project, tmp_path):
    folder = Run(tmp_path / "run")
    done = run("customize", project, "--run", folder.folder)
    assert done.returncode == 0, done.stderr
    assert str(folder.adapter) in done.stdout and "step 9/9" in done.stdout and "Traceback" not in done.stderr
    done = run("sample", folder.folder, "--content", 0.8, "--style", 1, "--count", 2, "--out", tmp_path / "sheet.png")
    assert done.returncode == 0 and (tmp_path / "sheet.png").exists(), done.stderr
    done = run("export", folder.folder, "--format", "peft", "--out", tmp_path / "peft.safetensors")
    assert done.returncode == 0 and (tmp_path / "peft.safetensors").exists(), done.stderr


def test_what_a_user_can_mend_is_one_sentence_and_exit_2(project):
    project.write_text(project.read_text().replace("rank = 4", "rank = 0"))
    done = run("customize", project)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "adapter.rank is 0. Set it to a whole number" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_with_a_checkpoint_and_exit_130(project, tmp_path, number):
    project.write_text(project.read_text().replace("break = 3", "break = 2000"))
    folder = Run(tmp_path / "run")
    process = subprocess.Popen([*COMMAND, "customize", project, "--run", folder.folder], env=ENVIRONMENT)
    try:
        for _ in range(600):
            if folder.status == "running":
                break
            time.sleep(0.1)
        process.send_signal(number)
        assert process.wait(60) == 130
    finally:
        process.kill()
    state = folder.read_state()
    assert state["status"] == "cancelled"
    assert checkpoint.read_last(folder.checkpoints).step == state["step"] > 0
