"""A content and a style that finished runs have learned, put into one adapter."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.training.conftest import write_project
from training import Customization, Run, UserError, checkpoint, customize, export, mixed
from training.__main__ import main
from training.mix import further


def learned_alone(config: Customization, kind: str, folder: Path) -> Run:
    """A run of a content or a style alone, without the others' pictures that name a partner."""
    other = {"content": "style", "style": "content"}[kind]
    data = config.model_dump(by_alias=True, exclude={other})
    data[kind]["others"], data["others"]["count"] = [], 0
    return customize(Customization(**data), folder)


@pytest.fixture(scope="module")
def runs(base, tmp_path_factory) -> dict[str, Run]:
    """A content and a style, each learned alone; nobody changes them."""
    folder = tmp_path_factory.mktemp("learned")
    config = Customization.load(write_project(folder, base))
    return {kind: learned_alone(config, kind, folder / kind) for kind in ("content", "style")}


def whole(config: Customization) -> Customization:
    """The same content and style in one run, likewise without others."""
    data = config.model_dump(by_alias=True)
    data["content"]["others"] = data["style"]["others"] = []
    data["others"]["count"] = 0
    return Customization(**data)


def test_joining_runs_and_making_is_the_whole_customization_to_the_bit(config, tmp_path, runs):
    made = customize(mixed(runs["content"].folder, runs["style"].folder, make=config.steps.make), tmp_path / "made")
    at_once = customize(whole(config), tmp_path / "whole")
    ours, theirs = (export.read(run.adapter) for run in (made, at_once))
    assert ours[1] == theirs[1]
    for name, factors in ours[0].items():
        assert all(map(torch.equal, factors, theirs[0][name]))
    assert {entry["stage"] for entry in made.read_metrics()} == {"make"} and made.sheet.exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"content_in": "words", "style_in": "not words"},
        *(
            pytest.param(one, marks=pytest.mark.slow)
            for one in (
                {},
                {"compander": True},
                {"split": "rank"},
                {"content_half": "up"},
                {"compander": True, "content_half": "up"},
                {"method": "full"},
            )
        ),
    ],
)
def test_joining_without_a_make_takes_what_each_run_has_learned(config, tmp_path, changes):
    config = Customization(**config.model_dump(by_alias=True) | {"adapter": config.adapter.model_dump() | changes})
    runs = {kind: learned_alone(config, kind, tmp_path / kind) for kind in ("content", "style")}
    joined = customize(mixed(runs["content"].folder, runs["style"].folder), tmp_path / "joined")
    assert joined.status == "done" and joined.read_metrics() == []
    export.join(runs["content"].adapter, runs["style"].adapter, tmp_path / "expected.safetensors")
    (ours, card), (expected, its_card) = (export.read(p) for p in (joined.adapter, tmp_path / "expected.safetensors"))
    assert replace(card, base=its_card.base) == its_card
    for name, (up, down) in ours.items():
        its_up, its_down = expected[name]
        product, its_product = (a.flatten(1) @ b.flatten(1) for a, b in ((up, down), (its_up, its_down)))
        assert torch.allclose(product, its_product, atol=1e-6)


@pytest.mark.slow
def test_a_cancelled_make_goes_on_to_the_same_bits(config, tmp_path, runs):
    mix = mixed(runs["content"].folder, runs["style"].folder, make=3)
    straight = customize(mix, tmp_path / "straight")
    steps = []
    first = customize(mix, tmp_path / "parts", progress=steps.append, should_stop=lambda: len(steps) == 2)
    assert first.status == "cancelled"
    assert customize(mix, tmp_path / "parts").status == "done"
    one, two = (checkpoint.read_last(run.checkpoints).tensors for run in (straight, first))
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one)


def test_only_the_style_may_be_taken(config, tmp_path, runs):
    data = whole(config).model_dump(by_alias=True)
    data["style"]["run"] = runs["style"].folder
    run = customize(Customization(**data), tmp_path / "run")
    assert [entry["stage"] for entry in run.read_metrics()] == ["content"] * 3 + ["make"] * 3
    again = Customization.load(run.config)
    assert again.style.run.resolve() == runs["style"].folder.resolve()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("rank", "another rank"),
        ("seed", "another seed"),
        ("layers", "another layers"),
        ("nothing there", "no finished run to take a style from"),
        ("no style", "has learned no style"),
    ],
)
def test_what_does_not_go_together_is_told_before_anything_is_learned(config, tmp_path, runs, what, said):
    content, style = runs["content"].folder, runs["style"].folder
    with pytest.raises(UserError, match=said):
        if what == "nothing there":
            mixed(content, tmp_path / "none")
        elif what == "no style":
            mixed(content, content)
        else:
            value = {"rank": 2, "seed": 7, "layers": "cross-attention"}[what]
            data = config.model_dump(by_alias=True)
            data["adapter"][what] = value
            data["style"]["run"] = style
            customize(Customization(**data), tmp_path / "run", progress=lambda entry: pytest.fail("it has begun"))


def test_the_command_line_joins(tmp_path, runs, monkeypatch, capsys):
    folder = tmp_path / "joined"
    line = ["training", "join", str(runs["content"].folder), str(runs["style"].folder), "--run", str(folder)]
    monkeypatch.setattr("sys.argv", line)
    assert main() == 0
    assert str(folder / "adapter.safetensors") in capsys.readouterr().out
    assert Run(folder).adapter.exists()


@pytest.mark.parametrize("method", ["plp", "full"])
def test_a_finished_run_goes_further_from_its_end(config, tmp_path, method):
    data = config.model_dump(by_alias=True)
    config = Customization(**data | {"adapter": data["adapter"] | {"method": method}})
    first = learned_alone(config, "content", tmp_path / "first")
    more = further(first.folder, steps=2, make=0)
    more.optimizer.lr = 1e-12  # so that it stays where it starts
    run = customize(more, tmp_path / "further")
    assert [entry["stage"] for entry in run.read_metrics()] == ["content"] * 2
    (before, card), (after, its_card) = (export.read(one.adapter) for one in (first, run))
    assert card == its_card
    for name, (up, down) in before.items():
        product, its_product = (a.flatten(1) @ b.flatten(1) for a, b in ((up, down), after[name]))
        assert product.abs().max() > 1e-6
        assert torch.allclose(product, its_product, atol=1e-6)


def test_a_make_may_follow_alone_and_a_wish_for_more_needs_a_run(config, tmp_path, finished):
    run = customize(further(finished.folder, steps=0, make=2), tmp_path / "further")
    assert [entry["stage"] for entry in run.read_metrics()] == ["make"] * 2
    assert export.read(run.adapter)[1] == export.read(finished.adapter)[1]
    with pytest.raises(UserError, match="no run is named to go on from"):
        Customization(content={"pictures": ".", "further": True})
