"""What is said of methods on cells, from lines whose answers are known."""

import json
import math

import numpy as np
import pytest

from benchmarks.pairs import rates, run, summary
from pipelines.errors import UserError

CELLS = [("crown", "neon"), ("castle", "neon"), ("cactus", "pixel art"), ("doughnut", "pixel art")]


def line(method: str, cell: tuple[str, str], harmonic: float, seed: int = 0, changes: tuple = (), **more) -> dict:
    points = [[1.0, 0.0], [harmonic, harmonic]]
    figures = {"content": 1.0, "style": harmonic, "harmonic": harmonic, "frontier": harmonic / 2, "points": points}
    key = {"method": method, "changes": list(changes), "content": cell[0], "style": cell[1], "seed": seed}
    return key | {"judge": figures | more, "judge-2": figures | {"harmonic": harmonic / 2}}


@pytest.fixture
def lines() -> list[dict]:
    ours, other = (0.9, 0.7, 0.8, 0.6), (0.5, 0.5, 0.5, 0.5)
    return [
        line(method, cell, value)
        for method, values in (("ours", ours), ("direct_sum", other))
        for cell, value in zip(CELLS, values, strict=True)
    ]


def test_means_intervals_and_paired_differences(lines):
    told = summary.summary(summary.scores(lines, {*CELLS}))
    assert (told["test_cells"], told["seeds"]) == (4, 1)
    ours, other = (told["methods"][name] for name in ("ours", "direct_sum"))
    assert (ours["harmonic"], ours["content"], ours["style"], ours["frontier"]) == (0.75, 1.0, 0.75, 0.375)
    assert (other["harmonic"], other["low"], other["high"]) == (0.5, 0.5, 0.5)
    # Means of four draws of (.6, .7, .8, .9): their quantiles by all 256 draws.
    means = [np.mean(draw) for draw in np.stack(np.meshgrid(*[[0.6, 0.7, 0.8, 0.9]] * 4), -1).reshape(-1, 4)]
    low, high = np.quantile(means, [0.025, 0.975])
    assert ours["low"] == pytest.approx(low, abs=0.011) and ours["high"] == pytest.approx(high, abs=0.011)
    paired = told["paired"]
    assert paired.keys() == {"direct_sum"}
    assert paired["direct_sum"]["mean"] == pytest.approx(0.25)
    assert paired["direct_sum"]["low"] == pytest.approx(ours["low"] - 0.5)
    assert told["second_judge"]["paired"]["direct_sum"]["mean"] == pytest.approx(0.125)


def test_a_difference_is_taken_within_cells():
    shifted = [line("ours", cell, 0.1 * i + 0.2) for i, cell in enumerate(CELLS)]
    shifted += [line("base", cell, 0.1 * i) for i, cell in enumerate(CELLS)]
    paired = summary.summary(summary.scores(shifted, {*CELLS}))["paired"]["base"]
    assert [paired[key] for key in ("mean", "low", "high")] == pytest.approx([0.2] * 3)


def test_cells_and_seeds_count_where_all_methods_have_them(lines):
    more = [line("ours", CELLS[0], 0.1, seed=1), line("ours", ("bicycle", "neon"), 0.0)]
    by = summary.scores(lines[:-1] + more, {*CELLS})
    assert {method: [*of] for method, of in by.items()} == {
        method: sorted(CELLS[:3]) for method in ("ours", "direct_sum")
    }
    assert summary.summary(by)["methods"]["ours"]["harmonic"] == pytest.approx(0.8)
    both = lines + [line(*[one["method"], (one["content"], one["style"]), 0.0], seed=1) for one in lines]
    told = summary.summary(summary.scores(both, {*CELLS}))
    assert told["seeds"] == 2 and told["methods"]["ours"]["harmonic"] == pytest.approx(0.375)


def test_what_cannot_be_compared_is_refused(lines):
    with pytest.raises(UserError, match="0 test cells"):
        summary.scores([], {*CELLS})
    with pytest.raises(UserError, match="two sets of changes"):
        summary.scores([*lines, line("ours", CELLS[0], 0.5, changes=("steps.make=0",))], {*CELLS})
    with pytest.raises(UserError, match="no seed in common"):
        summary.scores([*lines[:4], *[one | {"seed": 1} for one in lines[4:]]], {*CELLS})


def test_the_frontier_is_drawn_through_means_over_cells(lines):
    by = summary.scores(lines, {*CELLS})
    assert summary.frontiers(by)["ours"] == pytest.approx(np.array([[1.0, 0.0], [0.75, 0.75]]))
    drawn = summary.plot(by)
    assert drawn.size == (760, 520) and len(drawn.getcolors(1 << 20)) > 20


def test_the_summary_is_written_for_all_methods(lines, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "LINES", tmp_path / "cells.jsonl")
    run.LINES.write_text("".join(json.dumps(one) + "\n" for one in lines))
    monkeypatch.setattr(summary, "SUMMARY", tmp_path / "summary.json")
    monkeypatch.setattr(summary, "PLOT", tmp_path / "plot.png")
    summary.main()
    assert json.loads(summary.SUMMARY.read_text())["test_cells"] == 4 and summary.PLOT.exists()


def rated(values: dict[float, float]) -> list[dict]:
    found = values.items()
    return [line("k_lora", cell, value, changes=(rates.change(rate),)) for rate, value in found for cell in CELLS]


def test_the_rate_with_the_best_mean_is_chosen_and_test_cells_take_it(tmp_path, monkeypatch):
    monkeypatch.setattr(run, "CHOSEN", tmp_path / "rates.json")
    with pytest.raises(UserError, match="No rate has been chosen for k_lora"):
        run.with_rate("k_lora", ())
    found = rates.best(rated({3e-4: 0.4, 1e-3: 0.6, 3e-3: 0.5}), "k_lora", {*CELLS})
    assert found == {"means": pytest.approx({"0.0003": 0.4, "0.001": 0.6, "0.003": 0.5}), "rate": 1e-3}
    run.CHOSEN.write_text(json.dumps({"k_lora": found}))
    assert run.with_rate("k_lora", ("steps.break=9",)) == ("steps.break=9", "optimizer.lr=0.001")
    assert run.with_rate("k_lora", ("optimizer.lr=1",)) == ("optimizer.lr=1",)
    assert run.with_rate("ours", ()) == run.with_rate("base", ()) == ()


def test_a_rate_is_chosen_only_from_whole_sets_of_cells():
    with pytest.raises(UserError, match=r"k_lora at 0\.003 lacks 1 of 4 cells"):
        rates.best(rated(dict.fromkeys(rates.RATES, math.pi / 4))[:-1], "k_lora", {*CELLS})
    with pytest.raises(UserError, match="base has no rate"):
        rates.main("base")
