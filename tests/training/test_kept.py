"""Adapters that are kept on the way."""

import torch

from tests.training.test_loop import StopAfter, same
from training import customize, export


def test_what_is_kept_holds_what_was_learned_so_far_and_changes_no_bit(config, tmp_path, finished):
    config.steps.keep_every = 1  # of saves after every second of nine steps, three of content, of style and of both
    customize(config, tmp_path / "run", should_stop=StopAfter(5))
    config.steps.keep_every = 2
    run = customize(config, tmp_path / "run")
    assert same(run, finished) and run.kept_steps() == [2, 4, 8]
    assert customize(config, tmp_path / "run").kept_steps() == [2, 4, 8]

    def learned(step: int) -> dict[str, torch.Tensor]:
        """All that the content has learned in down, and the style in up."""
        factors, card = export.read(run.adapter_after(step))
        assert card == export.read(run.adapter)[1]
        ups = torch.cat([up[up.shape[0] // 2 :].flatten() for up, _ in factors.values()])
        downs = torch.cat([down[:, down.shape[1] // 2 :].flatten() for _, down in factors.values()])
        return {"content": downs, "style": ups}

    two, four, eight, end = map(learned, (2, 4, 8, 0))
    assert two["content"].any() and not two["style"].any() and four["style"].any()
    assert not torch.equal(two["content"], four["content"])
    assert not torch.equal(eight["content"], four["content"]) and not torch.equal(eight["style"], end["style"])


def test_what_a_stage_ends_with_is_kept_as_it_ends(config, tmp_path):
    config.steps = config.steps.model_copy(update={"make": 0, "checkpoint_every": 3, "keep_every": 1})
    config.content.slack = 0.9  # so that less of it is kept than was learned
    run = customize(config, tmp_path / "run")
    assert run.kept_steps() == [3]
    (kept, _), (end, _) = export.read(run.adapter_after(3)), export.read(run.adapter)
    assert all(torch.equal(kept[name][1], end[name][1]) for name in kept)
