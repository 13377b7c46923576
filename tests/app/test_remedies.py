"""A run that has failed is started anew with what mends it."""

import pytest

from app import jobs, remedies
from pipelines import UserError
from tests.app.conftest import pictures_of
from training.loop import out_of_memory


def failed(library, config, message):
    run = library.create(config, pictures_of(config))
    run.write_state(status="failed", message=message)
    return run


def test_less_memory_learns_from_as_many_pictures_a_step(library, config, monkeypatch):
    config.steps.batch_size, config.steps.others_batch_size, config.steps.accumulation = 4, 3, 1
    run = failed(library, config, str(out_of_memory(MemoryError("CUDA out of memory"))))
    words, made = remedies.mended(run)
    steps = made.steps
    assert words == "Start again in less memory" and steps.gradient_checkpointing
    assert (steps.batch_size, steps.others_batch_size, steps.accumulation) == (2, 1, 2)

    monkeypatch.setattr(jobs, "_start", lambda run: run.write_state(status="preparing"))
    again = remedies.start_again(library, run)
    assert again != run and again.customization().steps == steps
    assert [p.read_bytes() for p in sorted(again.folder.rglob("*.png"))] == [
        p.read_bytes() for p in sorted(run.folder.rglob("*.png"))
    ]
    config.steps.batch_size, config.steps.gradient_checkpointing = 1, True
    assert remedies.mended(failed(library, config, "The steps do not fit into memory (x). Lower it.")) is None


def test_a_number_that_is_none_is_learned_at_half_the_rate(library, config):
    run = failed(library, config, "The loss at step 3 is not a finite number (it learned from a.png). Lower it.")
    words, made = remedies.mended(run)
    assert words == "Start again at half the rate"
    assert (made.optimizer.lr, made.optimizer.make_lr) == (config.optimizer.lr / 2, config.optimizer.make_lr / 2)
    assert made.steps == run.customization().steps


@pytest.mark.parametrize("status, message", [("failed", "The disk is full."), ("done", "do not fit into memory")])
def test_what_no_number_mends_has_no_button(library, config, status, message):
    run = failed(library, config, message)
    run.write_state(status=status)
    assert remedies.mended(run) is None
    with pytest.raises(UserError, match="has nothing to mend"):
        remedies.start_again(library, run)
