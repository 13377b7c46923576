"""Every optimizer with all it can teach: it lowers the loss, goes on to the same bits, and its file holds it all."""

import pytest
import torch

from pipelines import UserError
from tests.training.test_loop import StopAfter, same
from training import Customization, customize
from training.draws import keyed
from training.model import denoising_loss, encode_pictures, encode_prompts
from training.optimizers.settings import OPTIMIZERS
from training.packages import PACKAGES
from training.sampling import open_run

KINDS = {
    "plp": {},
    "plp + compander": {"compander": True},
    "plp, apart by layers": {"content_in": "words", "style_in": "not words"},
    "full": {"method": "full", "layers": "all"},
}
REFUSED = {("lora-plus", "full"): "two factors of an adapter"}
QUICK = [("gradnorm-lorp", "plp, apart by layers"), ("owlore", "full")]
STEPS, STOP, WINDOW = 10, 5, 4  # it stops within the second window


def changed(config: Customization, name: str, kind: str) -> Customization:
    rates = {"lr": 1.0} if name == "prodigy" else {"lr": 1e-2}
    window = {"update_proj_gap": WINDOW} if "update_proj_gap" in OPTIMIZERS[name].model_fields else {}
    blocks = {"every": WINDOW} if name == "owlore" else {}
    data = config.model_dump(by_alias=True)
    return Customization(
        **data
        | {
            "style": None,
            "others": {"count": 0},
            "optimizer": {"name": name, **rates, **window, **blocks},
            "adapter": data["adapter"] | KINDS[kind],
            "steps": data["steps"] | {"break": STEPS, "batch_size": 4},
        }
    )


@torch.no_grad()
def losses(run) -> tuple[float, float]:
    """On the content's own picture at fixed noises: of the base, and with what was learned on it."""
    pipe, _ = open_run(run.folder)
    pixels = torch.full((1, 3, 32, 32), -1.0)
    pixels[:, 0] = 1  # red, as the content's pictures
    latents = encode_pictures(pipe, pixels).expand(16, -1, -1, -1)
    condition = encode_prompts(pipe, ["sks koala"] * 16, 32)
    noise = torch.randn(latents.shape, generator=keyed("noise"))
    timesteps = torch.linspace(20, 980, 16).long()
    found = []
    for scale in (0.0, 1.0):
        pipe.set_scales(content=scale, style=scale)
        found.append(denoising_loss(pipe, latents, condition, noise, timesteps).item())
    return tuple(found)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        pytest.param(name, kind, marks=() if (name, kind) in QUICK else pytest.mark.slow)
        for name in OPTIMIZERS
        for kind in KINDS
    ],
)
def test_it_learns_and_goes_on_to_the_same_bits(config, tmp_path, name, kind):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    if (name, kind) in REFUSED:
        with pytest.raises(UserError, match=REFUSED[name, kind]):
            changed(config, name, kind)
        return
    config = changed(config, name, kind)
    whole = customize(config, tmp_path / "whole")
    assert customize(config, tmp_path / "run", should_stop=StopAfter(STOP)).status == "cancelled"
    assert same(customize(config, tmp_path / "run"), whole)
    before, after = losses(whole)
    assert after < before
