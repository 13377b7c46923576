"""What a run takes, said beforehand and then measured."""

import sys

import pytest
import torch

from pipelines.errors import UserError
from tests.training.conftest import optimizers
from training import checkpoint
from training.config import Customization
from training.estimate import estimate
from training.loop import customize
from training.packages import PACKAGES


class StopAfter:
    """Asks for the end before step `steps + 1`."""

    def __init__(self, steps: int):
        self.left = steps + 1

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize("name", optimizers("gradnorm-lorp"))
def test_optimizer_and_disk_are_what_a_run_keeps(config, tmp_path, name):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    method = {"method": "full"} if name == "owlore" else {}
    data = config.model_dump(by_alias=True)
    config = Customization(**data | {"optimizer": {"name": name}, "adapter": data["adapter"] | method})
    said = estimate(config)
    last = 5 if method else 8
    run = customize(config, tmp_path / "run", should_stop=StopAfter(last))
    tensors = checkpoint.under(checkpoint.read_last(run.checkpoints).tensors, "optimizer.")
    measured = sum(value.numel() * value.element_size() for value in tensors.values())
    assert measured <= 1.1 * said.optimizer and (said.optimizer <= 1.1 * measured or name == "owlore")
    customize(config, tmp_path / "run")
    assert sum(f.stat().st_size for f in run.folder.rglob("*.safetensors")) <= said.disk


def test_time_and_peak_are_of_the_whole_run(config):
    config.steps.break_, config.steps.make = 1000, 0
    said = estimate(config)
    assert {name: steps for name, (steps, _) in said.stages.items()} == {"content": 1000, "style": 1000}
    assert said.seconds > 1000 * said.stages["content"][1] > 0
    assert said.peak > 4 * said.learned
    assert f"{said.learned / 1e6:.2f} M" in str(said) and "content 1000 x" in str(said)


def test_pictures_count_too(config):
    config.samples.every, config.samples.inference_steps = 1, 4
    assert estimate(config).sampling > 0


def test_too_little_memory_is_told(config, monkeypatch):
    def fails(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sys.modules["training.loop"], "denoising_loss", fails)
    with pytest.raises(UserError, match=r"do not fit into memory.*batch_size"):
        estimate(config)
