"""Plots of the studio, which a mouse can read."""

import re

from app import figures

ENTRIES = [
    {"stage": "content" if step < 6 else "style", "step": step, "steps": 20, "loss": 0.1 / step, "losses": {}}
    for step in range(1, 11)
]


def test_each_step_of_a_loss_curve_says_its_mean():
    drawn = figures.loss_curve(ENTRIES)
    said = re.findall(r"<title>step (\d+): ([\d.]+)</title>", drawn)
    assert [int(step) for step, _ in said] == [*range(1, 11)]
    assert float(said[0][1]) == 0.1 and said[5][1] == f"{0.1 / 6:.4f}"  # a stage begins anew
    assert drawn.count("<polyline") == 3 and "<title>" not in figures.loss_curve(ENTRIES[:1])


def test_a_plot_of_guidance_says_how_strong_it_was_and_where_it_was_limited():
    record = [{"rms": 0.02 * k, "clipped": float(k == 2), "parallel": 0.5} for k in range(1, 4)]
    drawn = figures.guidance_curve(record)
    assert re.findall(r"<title>(.*?)</title>", drawn) == [
        "step 1: strength 0.020, 50% of it along the picture",
        "step 2: strength 0.040, 50% of it along the picture, limited",
        "step 3: strength 0.060, 50% of it along the picture",
    ]
    assert figures.guidance_curve([]) == ""


def test_the_line_names_its_runs_in_order():
    assert figures.line([], "a") == ""
    shown = figures.line(["a <b>", "c"], "c")
    assert "<li>a &lt;b&gt;</li><li><strong>c</strong></li>" in shown
