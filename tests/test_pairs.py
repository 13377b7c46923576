"""The benchmark on cells: what is shown, how it is scored, and what learns."""

from importlib import import_module

import pytest
import torch
from torch import nn

from benchmarks.pairs import cells, judges, learners, probe
from benchmarks.pairs.methods.ready import over, project
from benchmarks.pairs.run import parsed
from benchmarks.pairs.score import area, spread
from pipelines.errors import UserError
from training.base import data, join
from training.base.computed import HELD_OUT
from training.base.data import SPLIT
from training.config import Customization


def test_cells_are_of_held_out_contents_in_held_out_styles_and_the_two_parts_share_no_content():
    development, test = (cells.cells(part) for part in ("development", "test"))
    assert len(development) == 24 and len(test) == 40
    assert {c.content for c in development}.isdisjoint({c.content for c in test})
    for cell in development + test:
        assert cell.content in SPLIT["held_out_contents"] and cell.style in SPLIT["held_out_styles"]
        assert cells.CONTENTS[cell.content] in SPLIT["contents"]
        assert cells.STYLES[cell.style] in SPLIT["styles"]


def test_a_judge_that_ships_looks_at_what_it_knows_and_a_wide_one_at_the_rest(monkeypatch):
    monkeypatch.setattr(judges, "wide", lambda: "wide")
    for style in cells.STYLES:
        assert (judges.judges_of(style) == "wide") == (style in join.SHARE_ALIKE)
        assert style in join.SHARE_ALIKE or all(style in one.config["styles"] for one in judges.shipped().values())


def test_a_customization_never_sees_the_picture_of_its_cell():
    for content in cells.CONTENTS:
        assert all(style in SPLIT["styles"] for style in cells.CHOSEN["shown"]["styles of a content"])
        assert content not in cells.CHOSEN["shown"]["contents of a style"]
    assert all(content in SPLIT["contents"] for content in cells.CHOSEN["shown"]["contents of a style"])


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(0.0, 0.0)], 0.0),
        ([(1.0, 1.0), (0.5, 0.2)], 1.0),
        ([(1.0, 0.2), (0.5, 0.8)], 0.2 + 0.5 * 0.6),
        ([(0.5, 0.8), (1.0, 0.2), (0.4, 0.7)], 0.2 + 0.5 * 0.6),
        ([(1.0, 0.0), (0.0, 1.0)], 0.0),
    ],
)
def test_the_frontier_is_the_area_that_its_points_dominate(points, expected):
    assert area(points) == pytest.approx(expected)


@pytest.mark.parametrize("style", [*probe.CLASS, *HELD_OUT])
def test_a_probe_has_five_known_contents_to_see_and_five_others_and_names_what_is_missing(style, monkeypatch):
    seen, new = probe.contents(style).values()
    assert len({*seen, *new}) == 10 and {*seen, *new} <= {*SPLIT["contents"]}
    there = [(content, style) for content in seen + new]
    given = data.Pictures(torch.zeros(len(there), 1, 1, 3, dtype=torch.uint8), there)
    monkeypatch.setattr(probe.data, "load", lambda which="pictures": given)
    assert probe.pictures_of(style)[0] is given
    monkeypatch.setattr(probe.data, "load", lambda which="pictures": given.take(there[1:]))
    with pytest.raises(UserError, match=f"{style} has no picture of {seen[0]}"):
        probe.pictures_of(style)


def test_how_far_pictures_are_apart_in_grey_levels():
    pixels = torch.tensor([0, 10, 40], dtype=torch.uint8)[:, None, None, None].expand(3, 2, 2, 3)
    assert spread(pixels) == pytest.approx((10 + 30 + 40) / 3)


def test_changes_are_tables_of_a_project_file():
    assert parsed(("steps.break=400", "seed=3", "content.class_word=bear")) == {
        "steps": {"break": 400},
        "seed": 3,
        "content": {"class_word": "bear"},
    }
    with pytest.raises(UserError, match="is no change"):
        parsed(("steps.break",))


class Net(nn.Module):
    """Two layers with the names that adapters take."""

    def __init__(self):
        super().__init__()
        self.attn1 = nn.Module()
        self.attn1.to_q = nn.Linear(8, 6)
        self.resnets = nn.ModuleList([nn.Module()])
        self.resnets[0].conv1 = nn.Conv2d(4, 6, 3, padding=1)
        self.block = nn.ModuleList([self.attn1])

    def forward(self, x: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        return self.attn1.to_q(x[:, 0, :1, :8].flatten(1)[:, :8]).sum() + self.resnets[0].conv1(x).sum()


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    outer = nn.Module()
    outer.inner = Net()
    return outer


@pytest.mark.parametrize("kind", learners.KINDS)
def test_a_learner_starts_from_the_base_learns_and_leaves_it_as_it_was(net, kind):
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([500.0])
    before = {key: value.clone() for key, value in net.state_dict().items()}
    plain = net.inner(x, t)
    with learners.learning(net, kind, rank=4) as learned:
        if kind != "half-up-released":  # A C is in the weights from the start there
            assert torch.equal(net.inner(x, t), plain)
        optimizer = torch.optim.SGD(learned, lr=0.1)
        net.inner(x, t).backward()
        assert all(p.grad is not None for p in learned)
        optimizer.step()
        changed = net.inner(x, t)
        assert not torch.allclose(changed, plain)
        with learners.only_below(net.inner, 0.4):
            assert torch.equal(net.inner(x, t), plain)
            assert torch.equal(net.inner(x, torch.tensor([400.0])), changed)
        assert torch.equal(net.inner(x, t), changed)
    after = net.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[key], after[key]) for key in before)


@pytest.mark.parametrize(("kind", "read", "written"), [("half-up", (0, 4), (3, 6)), ("half-down", (4, 8), (0, 3))])
def test_a_half_changes_a_quarter_of_its_matrix(net, kind, read, written):
    layer = net.inner.attn1.to_q
    plain = layer.weight.detach().clone()
    with learners.learning(net, kind, rank=4) as learned, torch.no_grad():
        for p in learned:
            p.fill_(0.1)
        moved = (layer.weight - plain).abs() > 1e-6
    outside = moved.clone()
    outside[written[0] : written[1], read[0] : read[1]] = False
    assert moved.any() and not outside.any()


def test_the_run_of_one_concept_takes_tables_of_its_own(monkeypatch):
    module, learned = import_module("benchmarks.pairs.methods.joined"), {}

    class Learned(Exception):
        pass

    def look(config):
        learned[next(iter(config.concepts))] = config
        if len(learned) == 2:
            raise Learned
        return config

    monkeypatch.setattr(module, "learned", look)
    monkeypatch.setattr(module, "of_one", lambda kind, name, seed, tables: settings_of(kind, tables))
    changes = parsed(["optimizer.lr=2e-3", "apart.style.optimizer.name=adamw", "apart.content.content.rate=2"])
    with pytest.raises(Learned):
        module.joined(cells.cells("development")[0], 0, changes)
    assert (learned["content"].optimizer.name, learned["style"].optimizer.name) == ("gradnorm-lorp", "adamw")
    assert learned["content"].content.rate == 2 and learned["style"].optimizer.lr == 2e-3
    assert over({"base": "a", "x": {"y": 1, "z": 1}}, {"x": {"y": 2}}) == {"base": "a", "x": {"y": 2, "z": 1}}


def settings_of(kind, tables):
    own = tables.pop(kind, {})
    return Customization(**{kind: {"pictures": "p"} | own}, **project(tables))


def test_a_concept_may_be_learned_from_fewer_pictures_in_a_folder_of_their_own(monkeypatch, tmp_path):
    there = [("guitar", style) for style in cells.CHOSEN["shown"]["styles of a content"]]
    given = data.Pictures(torch.zeros(len(there), 8, 8, 3, dtype=torch.uint8), there)
    monkeypatch.setattr(cells, "pictures", lambda: given)
    monkeypatch.setenv("JOINERY_DATA", str(tmp_path))
    of_one = import_module("benchmarks.pairs.methods.joined").of_one
    folders = [of_one("content", "guitar", 0, parsed([f"shown.content={n}"])).content.pictures[0] for n in (3, 5, 1)]
    assert [len([*folder.glob("*.png")]) for folder in folders] == [3, 5, 1]
    assert folders[1] == of_one("content", "guitar", 0, {}).content.pictures[0]
