"""The methods that are compared on cells: their formulas, and each to its end on a tiny base."""

import math
from contextlib import ExitStack

import pytest
import torch
from torch import Tensor

from benchmarks.pairs import blocks, cells
from benchmarks.pairs.cells import Cell
from benchmarks.pairs.methods import METHODS, added, lora, prompted
from benchmarks.pairs.methods.added import Now
from benchmarks.pairs.methods.b4m_published import published
from benchmarks.pairs.methods.b_lora import PROJECTIONS, within
from benchmarks.pairs.methods.craft_lora import ranged
from benchmarks.pairs.methods.k_lora import choosing, magnitude
from benchmarks.pairs.methods.np_lora import off_rows
from benchmarks.pairs.methods.ready import folder, opened, over, own, project
from benchmarks.pairs.methods.subspace_blending import Blend, balanced, change_over, crossed
from benchmarks.pairs.methods.zip_lora import Zip, Zipping, distance, overlap
from pipelines.errors import UserError
from tests.tiny import tiny_pipeline
from training import customize
from training.base import data
from training.base.data import Pictures
from training.config import Customization
from training.model import encode_prompts
from training.sampling import guided_pipeline

CELL = Cell("guitar", "neon")
SIZE = 32
BLOCKS = {"content": "mid_block.attentions.0", "style": "up_blocks.0.attentions.0"}


def factors(m: int, n: int, rank: int, seed: int, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    up, down = (torch.randn(*shape, generator=generator, dtype=dtype) for shape in ((m, rank), (rank, n)))
    return up, down


CONTENT, STYLE = factors(7, 9, 3, 0), factors(7, 9, 2, 1)
OURS, THEIRS = CONTENT[0] @ CONTENT[1], STYLE[0] @ STYLE[1]


def test_a_direct_sum_is_a_sum_at_two_scales():
    deltas = added.summed({"a": CONTENT, "b": CONTENT}, {"a": STYLE})
    assert torch.equal(deltas["a"](Now(0.5, 2.0)), 0.5 * OURS + 2 * THEIRS)
    assert torch.equal(deltas["b"](Now(0.5, 2.0)), 0.5 * OURS)


@pytest.mark.parametrize("mu", [0.0, 0.5, 3.0, math.inf])
def test_np_lora_damps_what_the_style_listens_to(mu):
    V = torch.linalg.svd(THEIRS).Vh[:2].T  # of the style's rank
    share = 1.0 if mu == math.inf else mu / (1 + mu)
    found = CONTENT[0] @ off_rows(CONTENT[1], STYLE[1], mu)
    assert torch.allclose(found, OURS @ (torch.eye(9, dtype=torch.float64) - share * V @ V.T))
    assert torch.allclose(found @ V, (1 - share) * OURS @ V, atol=1e-12)
    if mu == 0:
        assert torch.allclose(found, OURS)


def test_k_lora_lets_one_of_two_work_by_their_largest_entries_and_the_progress():
    top = [delta.abs().flatten().sort(descending=True).values[:6].sum() for delta in (OURS, THEIRS)]  # 3 x 2 entries
    gamma = magnitude([CONTENT]) / magnitude([STYLE])
    assert gamma == pytest.approx((OURS.abs().sum() / THEIRS.abs().sum()).item())
    turn = ((top[0] / (top[1] * gamma) - 0.5) / 1.5).item()  # the progress at which the two are level
    assert 0.1 < turn < 0.9
    delta = choosing(CONTENT, STYLE, 1.5, 0.5, gamma)
    assert torch.equal(delta(Now(progress=turn - 0.01)), OURS) and torch.equal(delta(Now(progress=turn + 0.01)), THEIRS)
    assert torch.equal(delta(Now(0.5, 2.0, progress=0)), 0.5 * OURS)
    assert torch.equal(delta(Now(0.5, 2.0, progress=1)), 2 * THEIRS)
    # A LoRA that is larger as a whole is not chosen more often.
    large = CONTENT[0] * 10, CONTENT[1]
    again = choosing(large, STYLE, 1.5, 0.5, magnitude([large]) / magnitude([STYLE]))
    assert torch.equal(again(Now(progress=turn + 0.01)), THEIRS)
    assert torch.allclose(again(Now(progress=turn - 0.01)), 10 * OURS)


def test_zip_lora_merges_column_by_column_and_counts_what_overlaps():
    one = Zip(OURS, THEIRS)
    assert torch.equal(one(Zipping()), OURS + THEIRS)  # coefficients start at one
    with torch.no_grad():
        one.content.copy_(torch.arange(9))
        one.style.copy_(2 - torch.arange(9))
    m_c, m_s = torch.arange(9).double().diag(), (2 - torch.arange(9)).double().diag()
    assert torch.allclose(one(Zipping(0.5, 3.0)), 0.5 * OURS @ m_c + 3 * THEIRS @ m_s)
    assert torch.equal(one(Zipping(alone="content")), OURS) and torch.equal(one(Zipping(alone="style")), THEIRS)
    assert overlap([one, one]).item() == pytest.approx(2 * abs(sum(j * (2 - j) for j in range(9))))
    assert distance(torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.zeros(2, 2)).item() == 2.5


@pytest.mark.parametrize(
    ("noise", "content", "style"), [(1.0, 1, 0), (0.81, 1, 0), (0.79, 1, 1), (0.5, 1, 1), (0.21, 1, 1), (0.19, 0, 1)]
)
def test_craft_lora_has_each_adapter_in_its_range_of_timesteps(noise, content, style):
    delta = ranged(CONTENT, STYLE, (0.2, 1.0), (0.0, 0.8))
    now = Now(0.5, 3.0, progress=1 - noise)
    assert torch.equal(delta(now), 0.5 * content * OURS + 3 * style * THEIRS)


def test_subspace_blending_writes_into_the_other_s_outputs_and_changes_over():
    content, style = CONTENT, factors(7, 9, 3, 2)
    W_cs, W_sc = factors(3, 3, 1, 3)[0].expand(3, 3), factors(3, 3, 1, 4)[0].expand(3, 3)
    (U_c, D_c), (U_s, D_s) = content, style
    ours, theirs = crossed(content, style, W_cs, W_sc)
    assert torch.allclose(ours + theirs, U_c @ D_c + U_s @ D_s + U_s @ W_cs @ D_c + U_c @ W_sc @ D_s)
    assert torch.allclose(ours, U_c @ D_c + U_s @ W_cs @ D_c)
    blend = Blend(content, style)
    assert torch.allclose(blend(Now(0.5, 2.0, progress=0.4)), 0.5 * U_c @ D_c + 2 * U_s @ D_s)  # while it learns
    blend.k = 3.0
    share = math.exp(-1.2)
    expected = 0.5 * share * U_c @ D_c + 2 * (1 - share) * U_s @ D_s
    assert torch.allclose(blend(Now(0.5, 2.0, progress=0.4)), expected)
    assert change_over(0, 3.0) == (1, 0) and sum(change_over(0.7, 3.0)) == 1
    assert balanced(torch.tensor(3.0), torch.tensor(5.0), 0.5).item() == 9


def test_b4m_as_published_has_their_settings_under_the_changes_and_nothing_of_the_preset():
    tables = published({"steps": {"break": 50}, "optimizer": {"lr": 3e-3}, "adapter": {"content_half": "up"}})
    given = {kind: {"pictures": "."} | tables.pop(kind) for kind in ("content", "style")}
    config = Customization(**given, **tables)
    assert (config.adapter.constant_block, config.adapter.layers) == ("released", "attention")
    places = (config.adapter.split, config.adapter.content_in, config.adapter.style_in)
    assert places == ("factors", "everywhere", "everywhere") and config.content.rate == config.style.rate == 1
    assert config.adapter.content_half == "up"
    assert (config.optimizer.name, config.optimizer.lr, config.optimizer.make_lr) == ("adamw", 3e-3, 3e-3)
    assert (config.optimizer.weak, config.steps.break_) == (0.1, 50)
    assert config.steps.others_batch_size == 3 and config.make.precondition
    plain = Customization(preset="sd15", **{kind: {"pictures": "."} for kind in given})  # it adds nothing to a concept
    for kind, own_keys in (("content", ("prior_weight", "variants")), ("style", ("prior_weight", "slack", "reach"))):
        for key in own_keys:
            assert getattr(config.concepts[kind], key) == getattr(plain.concepts[kind], key)


def test_tables_of_methods_are_not_of_the_project_and_unknown_settings_are_refused():
    changes = {"np_lora": {"mu": 2.0}, "steps": {"make": 5}, "seed": 1}
    assert project(changes) == {"steps": {"make": 5}, "seed": 1}
    assert own("np_lora", changes).mu == 2 and own("k_lora", changes).alpha == 1.5
    with pytest.raises(UserError, match="np_lora has no setting nu"):
        own("np_lora", {"np_lora": {"nu": 1}})
    given = over({"steps": {"make": 1, "break": 2}, "make": {"precondition": True}}, changes)
    assert given == changes | {"steps": {"make": 5, "break": 2}, "make": {"precondition": True}}


@pytest.fixture
def pipe():
    return guided_pipeline(tiny_pipeline(prediction_type="v_prediction"), "emoji")


def evaluated(pipe, states: Tensor, timestep: int = 400) -> Tensor:
    sample = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0)).expand(len(states), -1, -1, -1)
    with torch.no_grad():
        return pipe.unet(sample, torch.tensor(timestep), encoder_hidden_states=states, return_dict=False)[0]


def states_of(pipe, *texts: str) -> Tensor:
    return encode_prompts(pipe, list(texts), SIZE)["encoder_hidden_states"]


def test_what_is_added_is_told_the_progress_and_comes_off_to_the_bit(pipe):
    states, before = states_of(pipe, "a cat"), {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    plain, now, seen = evaluated(pipe, states), Now(), []
    layers = lora.layers_of(pipe.unet, lora.LAYERS["all"])
    assert {type(layer).__name__ for layer in layers.values()} == {"Linear", "Conv2d"}
    deltas = {name: lora.LoRA(layer.weight, 4, 0, name) for name, layer in layers.items()}
    added.put(pipe.unet, deltas, now)
    added.follow(pipe, now)
    assert torch.equal(evaluated(pipe, states), plain)  # nothing at first
    for delta in deltas.values():
        delta.register_forward_pre_hook(lambda module, args: seen.append(args[0].progress))
        torch.nn.init.normal_(delta.up)
    changed = evaluated(pipe, states, 750)
    assert not torch.allclose(changed, plain) and {*seen} == {0.25}
    now.on = False
    assert torch.equal(evaluated(pipe, states), plain)
    added.take_off(pipe.unet)
    after = pipe.unet.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)


def test_the_unconditional_half_is_evaluated_without_what_was_added(pipe):
    states, asked = states_of(pipe, "", "a cat", ""), states_of(pipe, "a cat")
    plain, now = evaluated(pipe, states), Now()
    name, layer = next(iter(lora.layers_of(pipe.unet, r".*attn2\.to_v").items()))
    one = torch.randn(len(layer.weight), layer.weight[0].numel(), generator=torch.Generator().manual_seed(1))
    added.put(pipe.unet, {name: lambda now: one}, now)
    changed = evaluated(pipe, asked)
    prompted.without_prompt(pipe, SIZE, lambda on: setattr(now, "on", on))
    found = evaluated(pipe, states)
    assert torch.allclose(found[[0, 2]], plain[[0, 2]], atol=1e-6) and torch.allclose(found[[1]], changed, atol=1e-6)
    assert not torch.allclose(changed, plain[[1]], atol=1e-4) and now.on
    assert torch.allclose(evaluated(pipe, asked), changed, atol=1e-6)  # outside a rule's interval


def test_a_block_is_told_another_prompt_and_all_blocks_together_make_the_other_picture(pipe):
    names = blocks.blocks_of(pipe)
    assert len(names) == 7 and {*BLOCKS.values()} < {*names}
    states = states_of(pipe, "", "a cat")
    cat, dog = evaluated(pipe, states), evaluated(pipe, states_of(pipe, "", "a dog"))
    with blocks.injected(pipe, names[0], ["a dog"], SIZE):
        one = evaluated(pipe, states)
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(blocks.injected(pipe, name, ["a dog"], SIZE))
        every = evaluated(pipe, states)
    assert torch.allclose(every, dog, atol=1e-5) and torch.equal(evaluated(pipe, states), cat)
    assert not torch.allclose(one[1], cat[1]) and not torch.allclose(one[1], dog[1])
    assert torch.equal(one[0], cat[0])


def test_blocks_are_chosen_by_what_they_move_and_prompts_differ_in_both(monkeypatch):
    shares = {"a": {"content": 0.9, "style": 0.8}, "b": {"content": 0.2, "style": 0.5}, "c": {"content": 0, "style": 0}}
    assert blocks.chosen(shares) == {"content": "a", "style": "b"}
    pairs = [(content, style) for content in data.SPLIT["contents"][:6] for style in data.SPLIT["styles"][:4]]
    given = Pictures(torch.zeros(len(pairs), 1, 1, 3, dtype=torch.uint8), pairs)
    monkeypatch.setattr(data, "load", lambda which="pictures": given)
    first, second = blocks.prompts(8)
    assert len(first) == len(second) == 8
    assert all(a[0] != b[0] and a[1] != b[1] for a, b in zip(first, second, strict=True))


# To the end, on a tiny base.


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a base, and the data folder of all tests, so that what is learned is shared."""
    folder = tmp_path_factory.mktemp("rivals")
    tiny_pipeline(prediction_type="v_prediction").save_pretrained(folder / "base")
    return folder


@pytest.fixture
def changes(place, monkeypatch) -> dict:
    shown = cells.CHOSEN["shown"]
    pairs = [(content, style) for content in ("guitar", "tulip") for style in shown["styles of a content"]]
    pairs += [(content, style) for style in ("neon", "streamline") for content in shown["contents of a style"]]
    pixels = torch.randint(256, (len(pairs), SIZE, SIZE, 3), generator=torch.Generator().manual_seed(0))
    given = Pictures(pixels.to(torch.uint8), pairs)
    monkeypatch.setattr(cells, "pictures", lambda: given)
    monkeypatch.setenv("JOINERY_DATA", str(place / "data"))
    torch.set_num_threads(1)
    return {
        "base": str(place / "base"),
        "resolution": SIZE,
        "adapter": {"rank": 4},
        "optimizer": {"lr": 0.1},
        "steps": {"break": 2, "make": 2, "batch_size": 2, "others_batch_size": 1},
        "others": {"count": 2},
        "samples": {"inference_steps": 1},
        "b_lora": BLOCKS,
        "zip_lora": {"steps": 2},
        "subspace_blending": {"steps": 2},
    }


def latents(pipe, prompt: str) -> Tensor:
    """What two steps make of a prompt, before it is decoded."""
    settings = {"num_inference_steps": 2, "guidance_scale": 3.0, "height": SIZE, "width": SIZE}
    with torch.no_grad():
        return pipe(prompt, output_type="latent", generator=torch.Generator().manual_seed(0), **settings).images


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_and_draws_at_its_scales(method, changes):
    ready, base = METHODS[method](CELL, 0, changes), opened(changes)
    assert ready.prompt == (CELL.class_words if method == "base" else CELL.prompt)
    plain, found = latents(base, ready.prompt), latents(ready.pipe, ready.prompt)
    if method == "base":
        assert ready.set_scales is None and torch.equal(found, plain)
        return
    assert not torch.allclose(found, plain, atol=1e-4) and found.isfinite().all()
    if method == "joint":
        assert ready.set_scales is None
        return
    drawn = {}
    for scales in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0)):
        ready.set_scales(*scales)
        drawn[scales] = latents(ready.pipe, ready.prompt)
    assert torch.equal(drawn[1.0, 1.0], found)
    assert not torch.allclose(drawn[1.0, 0.0], drawn[0.0, 1.0], atol=1e-4)
    # As published the constant block is on the base whatever the scales are.
    assert torch.allclose(drawn[0.0, 0.0], plain, atol=1e-5) == (method != "b4m_published")


@pytest.mark.slow
def test_what_is_learned_of_a_content_serves_all_its_cells(changes):
    def files() -> dict:
        return {path: path.stat().st_mtime_ns for path in (folder() / "learned").iterdir()}

    METHODS["direct_sum"](CELL, 0, changes)
    before = files()
    METHODS["np_lora"](CELL, 0, changes)
    assert files() == before
    METHODS["direct_sum"](Cell("guitar", "streamline"), 0, changes)
    assert {path.name.partition("-")[0] for path in files().keys() - before.keys()} == {"style"}
    before = files()
    METHODS["direct_sum"](CELL, 0, changes | {"optimizer": {"lr": 0.05}})
    METHODS["direct_sum"](CELL, 1, changes)
    assert len(files()) == len(before) + 4


@pytest.mark.slow
def test_a_plain_lora_takes_the_product_s_steps(changes, monkeypatch):
    """The same draws as a break run: the first loss, before anything has been learned, is that run's."""
    pipe, losses, step = opened(changes), [], lora.train_step
    monkeypatch.setattr(lora, "train_step", lambda *args: losses.append(step(*args)))
    mine = changes | {"adapter": {"rank": 2}, "steps": changes["steps"] | {"break": 3}}
    found = lora.alone(pipe, "content", CELL, 0, mine)
    assert len(losses) == 3 and all(up.any() for up, _ in found.values())
    lora.alone(pipe, "content", CELL, 0, mine | {"samples": {"every": 1}})  # which decides nothing
    assert len(losses) == 3
    run = customize(lora.plain({"content": CELL.content}, 0, mine), folder() / "whole")
    assert losses[0]["content"] == pytest.approx(run.read_metrics()[0]["losses"]["content"], rel=1e-5)


def test_b_lora_learns_two_blocks_and_draws_with_one_of_each(changes):
    pipe = opened(changes)
    either = "|".join(BLOCKS.values()).replace(".", r"\.")
    content, _ = lora.both(pipe, CELL, 0, changes, f"({either}){PROJECTIONS}")
    assert len(content) == 16 and all(name.startswith(tuple(BLOCKS.values())) for name in content)
    assert len(within(content, BLOCKS["content"])) == 8
    ready = METHODS["b_lora"](CELL, 0, changes)
    on = {n for n, module in ready.pipe.unet.named_modules() if isinstance(module, added.Added)}
    assert len(on) == 16
    ready.set_scales(0.0, 1.0)
    deltas = {n: module.delta(module.now) for n, module in ready.pipe.unet.named_modules() if n in on}
    assert {n.startswith(BLOCKS["style"]) for n, delta in deltas.items() if delta.any()} == {True}


@pytest.mark.slow
@pytest.mark.parametrize("method", ["zip_lora", "subspace_blending"])
def test_what_is_learned_for_a_pair_moves_and_leaves_the_rest(method, changes):
    loras = lora.both(opened(changes), CELL, 0, changes)
    ready = METHODS[method](CELL, 0, changes)
    again = lora.both(opened(changes), CELL, 0, changes)
    for before, after in zip(loras, again, strict=True):
        assert all(torch.equal(a, b) for name in before for a, b in zip(before[name], after[name], strict=True))
    start = 1.0 if method == "zip_lora" else 0.0
    modules = [module.delta for module in ready.pipe.unet.modules() if isinstance(module, added.Added)]
    assert len(modules) == len(loras[0])
    for module in modules:
        assert (module.content != start).any() and not module.content.requires_grad
