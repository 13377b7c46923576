"""What a run takes, said beforehand and then measured."""

import os
import re
import subprocess
import sys

import pytest
import torch
from diffusers import UNet2DConditionModel

from pipelines.errors import UserError
from tests.tiny import TEXT_WIDTH, tiny_pipeline
from tests.training.conftest import optimizers
from training import checkpoint
from training.adapters import METHODS
from training.config import Customization
from training.estimate import estimate
from training.loop import customize
from training.packages import PACKAGES
from training.run import Run


class StopAfter:
    """Asks for the end before step `steps + 1`."""

    def __init__(self, steps: int):
        self.left = steps + 1

    def __call__(self) -> bool:
        self.left -= 1
        return self.left == 0


@pytest.mark.parametrize("name", optimizers("adamw"))
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


@pytest.mark.slow
def test_time_and_peak_are_of_the_whole_run(config):
    config.steps.break_, config.steps.make = 1000, 0
    said = estimate(config)
    assert {name: steps for name, (steps, _) in said.stages.items()} == {"content": 1000, "style": 1000}
    assert said.seconds > 1000 * said.stages["content"][1] > 0
    assert said.peak > 4 * said.learned
    assert f"{said.learned / 1e6:.2f} M" in str(said) and "content 1000 x" in str(said)


@pytest.mark.slow
def test_pictures_count_too(config):
    config.samples.every, config.samples.inference_steps = 1, 4
    assert estimate(config).sampling > 0


def test_too_little_memory_is_told(config, monkeypatch, tmp_path):
    def fails(*args, **kwargs):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(sys.modules["training.loop"], "denoising_loss", fails)
    with pytest.raises(UserError, match=r"do not fit into memory.*batch_size"):
        estimate(config)
    with pytest.raises(UserError, match="do not fit into memory"):
        customize(config, tmp_path / "run")
    assert Run(tmp_path / "run").read_state()["message"].startswith("The steps do not fit into memory")


def peak_of(*command: object) -> tuple[str, int]:
    """What a command of ours prints, and the resident memory of its process at most, in bytes."""
    arguments = [sys.executable, "-m", "training", *map(str, command)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        said = process.stdout.read()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0
    return said, used.ru_maxrss * 1024


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts resident memory as Linux does")
@pytest.mark.skipif(torch.cuda.is_available(), reason="counts the process's own memory")
@pytest.mark.parametrize("method", METHODS)
def test_peak_is_that_of_a_run(project, tmp_path, method):
    pipe = tiny_pipeline(prediction_type="v_prediction")
    # Wide enough that training takes several times what the libraries do.
    pipe.register_modules(
        unet=UNet2DConditionModel(
            sample_size=64,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            block_out_channels=(128, 256, 384),
            layers_per_block=1,
            cross_attention_dim=TEXT_WIDTH,
        )
    )
    pipe.save_pretrained(tmp_path / "wide")
    config = Customization.load(project)
    data = config.model_dump(by_alias=True) | {"base": str(tmp_path / "wide"), "resolution": 128}
    data["adapter"] |= {"method": method, "rank": 16, "layers": "all"}
    data["steps"] |= {"break": 6, "make": 6, "batch_size": 4}
    Customization(**data).save(project)
    said, _ = peak_of("estimate", project)
    _, measured = peak_of("customize", project, "--run", tmp_path / "run")
    estimated = int(re.search(r"(\d+) MB at the peak", said)[1]) * 2**20
    assert measured > 1.5e9 and abs(estimated / measured - 1) < 0.2
