"""A concept is kept at the least strength that shows nearly all of what was learned."""

import pytest
import torch

from training import Customization, checkpoint, customize, export
from training.strength import STRENGTHS, least_strength


@pytest.mark.parametrize(
    "slack, expected",
    [(0.0, 1.0), (0.01, 0.9), (0.05, 0.8), (0.25, 0.5), (1.0, 0.3)],
)
def test_the_least_strength_that_keeps_the_rest(slack, expected):
    asked = []
    assert least_strength(lambda s: asked.append(s) or 2 + 3 * (1 - s) ** 2, slack) == pytest.approx(expected)
    assert {*asked} <= {0.0, *STRENGTHS}


def test_what_has_learned_nothing_stays_as_it_is():
    assert least_strength(lambda s: 1.0, 0.05) == 1.0
    assert least_strength(lambda s: 1.0 + s, 0.05) == 1.0


@pytest.mark.parametrize("adapter", [{}, {"content_in": "words", "style_in": "not words"}, {"method": "full"}])
def test_a_run_s_file_holds_the_style_at_that_strength_and_says_so(config, tmp_path, adapter):
    data = config.model_dump(by_alias=True)
    data["adapter"] |= adapter
    data["steps"] |= {"make": 0, "break": 12}
    whole = customize(Customization(**data), tmp_path / "whole")
    data["style"]["slack"] = 0.3
    run = customize(Customization(**data), tmp_path / "run")
    (before, first), (after, card) = (export.read(one.adapter) for one in (whole, run))
    strength = dict(card.scales)["style"]
    assert (
        0.3 <= strength < 1 and dict(card.scales)["content"] == 1 and dict(first.scales) == {"content": 1, "style": 1}
    )
    expected, _ = export.scaled(before, first, {"style": strength})
    for name, (up, down) in after.items():
        product, its = (a.flatten(1) @ b.flatten(1) for a, b in ((up, down), expected[name]))
        torch.testing.assert_close(product, its)
    assert run.sheet.read_bytes() != whole.sheet.read_bytes()

    # What was learned is as strong as ever where a run goes on.
    ends = [checkpoint.read_last(one.checkpoints).tensors for one in (whole, run)]
    assert all(torch.equal(ends[0][key], ends[1][key]) for key in ends[0])
