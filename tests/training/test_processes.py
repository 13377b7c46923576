import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from pipelines import UserError
from training import Customization, Run, customize, processes

SCRIPT = Path(__file__).with_name("shared_run.py")


def train(count: int, *arguments: object) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    env = os.environ | {"PYTHONPATH": str(SCRIPT.parents[2]), "OMP_NUM_THREADS": "1"}
    subprocess.run([*command, SCRIPT, *map(str, arguments)], check=True, env=env, timeout=120)


def curve(run: Run) -> list[float]:
    return [loss for entry in run.read_metrics() for loss in entry["losses"].values()]


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_and_one_goes_on_after_them(project, tmp_path):
    text = project.read_text().replace("others_batch_size = 1", "others_batch_size = 2")
    project.write_text(text.replace("batch_size = 2\n", "batch_size = 4\n", 1).replace("every = 0", "every = 2"))
    alone = customize(Customization.load(project), tmp_path / "alone")
    train(2, project, tmp_path / "shared", 5)
    shared = Run(tmp_path / "shared")
    assert (shared.status, shared.read_state()["step"]) == ("cancelled", 5)
    customize(Customization.load(project), shared.folder)
    assert curve(shared) == pytest.approx(curve(alone), rel=1e-5)
    for one, other in zip(*(load_file(run.adapter).values() for run in (alone, shared)), strict=True):
        assert one.sub(other).abs().max() < 1e-4
    assert sorted(path.name for path in shared.samples.iterdir()) == sorted(p.name for p in alone.samples.iterdir())


def test_a_batch_that_cannot_be_shared_is_named(monkeypatch):
    monkeypatch.setattr(processes, "count", lambda: 3)
    processes.check_shares([("content", 6)])
    with pytest.raises(UserError, match="learns the content from 8 pictures at once, which 3 processes cannot share"):
        processes.check_shares([("style", 6), ("content", 8), ("content", 3)])  # apart, and joined
