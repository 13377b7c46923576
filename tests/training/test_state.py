"""A run's state goes through a checkpoint to the bit, without the run."""

import pytest
import torch

from tests.tiny import tiny_pipeline
from tests.training.test_adapters import teach
from training import checkpoint
from training.adapters import METHODS
from training.config import AdapterSettings
from training.optimizers.registry import make_optimizer
from training.stages import BOTH, Stage
from training.state import State

STAGE = Stage("style", 4, 4, (), {"style": 1e-2})


def begun(method: str) -> tuple:
    """A fresh adapter, with a fresh optimizer for what the stage learns."""
    adapter = METHODS[method].attach(tiny_pipeline().unet, AdapterSettings(method=method, rank=4))
    return adapter, make_optimizer("adamw", [{"params": adapter.parameters("style"), "lr": 1e-2}])


@pytest.mark.parametrize("method", METHODS)
def test_a_state_is_what_it_was_saved_as(tmp_path, method):
    adapter, optimizer = begun(method)
    content = teach(adapter, "content")
    teach(adapter, "style")
    for parameter in adapter.parameters("style"):
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    style = adapter.learned("style")
    state = State(6, {"content": content}, optimizer)
    state.save(tmp_path, adapter, "this run")
    assert state.last_saved == 6

    saved = checkpoint.read_last(tmp_path)
    assert saved.numbers["identity"] == "this run"
    again = State.of(saved, {})
    fresh, again.optimizer = begun(method)
    again.load_adapter(STAGE, fresh)
    again.load_optimizer(STAGE)
    assert (again.step, again.last_saved, again.resumed) == (6, 6, None)
    assert all(torch.equal(again.done["content"][name], value) for name, value in content.items())
    assert all(torch.equal(fresh.learned("style")[name], value) for name, value in style.items())
    moments, others = (one.state_dict()["state"] for one in (optimizer, again.optimizer))
    assert all(torch.equal(others[i][key], value) for i, entry in moments.items() for key, value in entry.items())


def test_one_step_is_saved_once(tmp_path):
    adapter, optimizer = begun("plp")
    state = State(6, {}, optimizer, last_saved=6)
    state.save(tmp_path / "checkpoints", adapter, "")
    assert not (tmp_path / "checkpoints").exists()


def test_a_stage_starts_from_nothing_and_make_from_what_was_learned():
    adapter, _ = begun("plp")
    learned = {concept: teach(adapter, concept) for concept in BOTH}
    State(4, {"content": learned["content"]}).load_adapter(STAGE, adapter)
    assert not any(value.any() for concept in BOTH for value in adapter.learned(concept).values())
    State(8, learned).load_adapter(Stage("make", 8, 4, (), dict.fromkeys(BOTH, 1e-2)), adapter)
    for concept in BOTH:
        assert all(torch.equal(adapter.learned(concept)[name], value) for name, value in learned[concept].items())
