"""What an optimizer keeps, counted and calculated."""

import pytest
import torch

from training.optimizers.registry import make_optimizer
from training.optimizers.settings import OPTIMIZERS
from training.optimizers.size import state_bytes
from training.packages import PACKAGES

SHAPES = [(80, 64), (64, 200), (320, 128), (4, 3, 3, 3), (96, 32, 3, 3), (7,), (5000,)]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_formula_is_what_the_state_measures(name, shape):
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    weight = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    settings = OPTIMIZERS[name]().own_settings()
    optimizer = make_optimizer(name, [{"params": [weight], "lr": 0.1}], **settings)
    for _ in range(2):
        weight.square().sum().backward()
        optimizer.step()
    # bitsandbytes' tables of codes are one for all weights.
    entries = {key: value for key, value in optimizer.state[weight].items() if not key.startswith("qmap")}
    kept = [value for value in entries.values() if isinstance(value, torch.Tensor)]
    own = {key: value for key, value in settings.items() if key in ("rank", "bits")}
    held = {value.untyped_storage().data_ptr(): value.untyped_storage().nbytes() for value in kept}
    assert sum(held.values()) == state_bytes(name, shape, **own)
