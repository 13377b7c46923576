"""The base's own weights as what is learned."""

import logging
import sys

import pytest
import torch
from diffusers import StableDiffusionPipeline

from pipelines import UserError
from tests.tiny import tiny_pipeline
from training import Customization, checkpoint, customize, export
from training.__main__ import Export
from training.adapters.full import FullWeights, truncate
from training.model import open_base
from training.optimizers import GradNormLoRP
from training.sampling import open_run


def whole(config, **changes):
    """The conftest's project, learned in the base's own weights."""
    data = config.model_dump(by_alias=True)
    adapter = data["adapter"] | {"method": "full", "rank": 64, "layers": "attention"}
    return Customization(**data | {"adapter": adapter, "optimizer": {"lr": 1e-2}} | changes)


@pytest.fixture
def run(config, tmp_path):
    return customize(whole(config), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["adamw", "gradnorm-lorp", "owlore"])
def test_gradient_checkpointing_and_steps_in_the_backward_pass_give_the_same_bits(config, tmp_path, optimizer):
    runs = []
    for checkpointing in (False, True):
        config = whole(config, optimizer={"name": optimizer})
        config.steps.gradient_checkpointing = checkpointing
        runs.append(learned_weights(customize(config, tmp_path / str(checkpointing))))
    for concept in ("content", "style"):
        assert all(torch.equal(runs[0][concept][name], weight) for name, weight in runs[1][concept].items())


def learned_weights(run):
    tensors = checkpoint.read_last(run.checkpoints).tensors
    return {concept: checkpoint.under(tensors, f"done.{concept}.") for concept in ("content", "style")}


def test_truncation_is_the_nearest_product():
    difference = torch.randn(12, 20, generator=torch.Generator().manual_seed(0))
    up, down = truncate(difference, 5)
    singular = torch.linalg.svdvals(difference)
    torch.testing.assert_close(torch.linalg.matrix_norm(difference - up @ down), singular[5:].norm())
    torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1))
    up, down = truncate(difference, 15)
    assert up.shape == (12, 15) and down.shape == (15, 20)
    torch.testing.assert_close(up @ down, difference, atol=1e-5, rtol=1e-4)


def test_weights_come_and_go_to_the_bit():
    unet = tiny_pipeline().unet
    adapter = FullWeights(unet, 8)
    base = {name: weight.clone() for name, weight in adapter.base.items()}
    one = {name: weight + torch.randn_like(weight) for name, weight in base.items()}
    two = {name: weight + torch.randn_like(weight) for name, weight in base.items()}
    now = lambda: {name: layer.weight.detach() for name, layer in adapter.layers.items()}  # noqa: E731
    equal = lambda a, b: all(torch.equal(a[name], b[name]) for name in base)  # noqa: E731

    adapter.load("content", one)
    assert equal(now(), one) and equal(adapter.learned("content"), one) and adapter.learned("style") == {}
    adapter.load("style", two)
    for content, style in [(1, 1), (0.5, 1.5), (-1, 0.2)]:
        adapter.set_scales(content, style)
        for name, weight in now().items():
            expected = base[name] + content * (one[name] - base[name]) + style * (two[name] - base[name])
            torch.testing.assert_close(weight, expected)
    for scales, expected in [((1, 0), one), ((0, 1), two), ((0, 0), base)]:
        adapter.set_scales(*scales)
        assert equal(now(), expected)
    adapter.set_scales()
    for concept in ("content", "style"):
        adapter.load(concept, None)
    assert equal(now(), base)


def test_both_concepts_are_learned_from_the_base_and_nothing_else_moves(config, run):
    base = dict(open_base(config.base).unet.named_parameters())
    weights = learned_weights(run)
    assert weights["content"].keys() == weights["style"].keys()
    for halves in weights.values():
        assert all(not torch.equal(half, base[f"{name}.weight"]) for name, half in halves.items())
    assert [entry["stage"] for entry in run.read_metrics()] == ["content"] * 3 + ["style"] * 3


@pytest.mark.slow
def test_steps_inside_the_backward_pass_change_nothing(config, run, tmp_path, monkeypatch):
    gradients = []
    step = GradNormLoRP.step

    def counted(self):
        gradients.append(sum(p.grad is not None for group in self.param_groups for p in group["params"]))
        return step(self)

    monkeypatch.setattr(GradNormLoRP, "step", counted)
    weights = learned_weights(customize(whole(config), tmp_path / "inside"))
    assert set(gradients) == {1}
    monkeypatch.setattr(type(config.optimizer), "independent", False)
    after = learned_weights(customize(whole(config), tmp_path / "after"))
    for concept, half in learned_weights(run).items():
        for name, weight in half.items():
            assert torch.equal(weights[concept][name], weight) and torch.equal(after[concept][name], weight)


def test_a_gradient_that_is_used_up_in_the_backward_pass_is_looked_at_too(config, tmp_path, monkeypatch):
    loop, begun = sys.modules["training.loop"], []
    loss = loop.denoising_loss

    def spoilt(*arguments) -> torch.Tensor:
        value = loss(*arguments)
        begun.append(1)
        if len(begun) == 5:
            value.register_hook(lambda gradient: gradient * float("inf"))
        return value

    monkeypatch.setattr(loop, "denoising_loss", spoilt)
    with pytest.raises(
        UserError, match=r"The gradient at step 5 is not a finite number \(it learned from picture-\d.png"
    ):
        customize(whole(config), tmp_path / "run")
    last = checkpoint.read_last(tmp_path / "run" / "checkpoints")
    assert last.step == 4 and all(tensor.isfinite().all() for tensor in last.tensors.values())


def test_an_adapter_of_full_rank_is_the_learned_weights_at_every_scale(config, run):
    base = dict(open_base(config.base).unet.named_parameters())
    weights, (pipe, _) = learned_weights(run), open_run(run.folder)
    for content, style in [(1, 1), (1, 0), (0, 1), (0.3, 1.2)]:
        pipe.set_scales(content, style)
        for name in weights["content"]:
            layer = pipe.unet.get_submodule(name)
            delta = layer.lora_B["joinery"].weight @ layer.lora_A["joinery"].weight
            start = base[f"{name}.weight"]
            expected = content * (weights["content"][name] - start) + style * (weights["style"][name] - start)
            torch.testing.assert_close(delta, expected, atol=1e-5, rtol=1e-4)


def test_what_the_rank_leaves_out_is_said(config, tmp_path, caplog):
    caplog.set_level(logging.INFO, "joinery")
    config = whole(config)
    config.adapter.rank = 4
    customize(config, tmp_path / "small")
    assert "Rank 2 holds the learned content up to" in caplog.text


def test_a_model_is_written_whole_and_every_tool_opens_it(config, run, tmp_path):
    assert Export(run.folder, "model", tmp_path / "model")() == 0
    made = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    base = dict(open_base(config.base).unet.named_parameters())
    weights = learned_weights(run)
    found = dict(made.unet.named_parameters())
    assert found.keys() == base.keys()
    for name, parameter in found.items():
        concept = name.removesuffix(".weight")
        if concept in weights["content"]:
            expected = weights["content"][concept] + weights["style"][concept] - base[name]
            torch.testing.assert_close(parameter, expected)
        else:
            assert torch.equal(parameter, base[name])
    with pytest.raises(UserError, match="exists"):
        Export(run.folder, "model", tmp_path / "model")()


def test_a_model_of_an_adapter_has_it_merged(finished, tmp_path):
    Export(finished.folder, "model", tmp_path / "model")()
    pipe, _ = open_run(finished.folder)
    made = StableDiffusionPipeline.from_pretrained(tmp_path / "model")
    latents, prompt = torch.randn(1, 4, 8, 8), torch.randn(1, 5, pipe.unet.config.cross_attention_dim)
    with torch.no_grad():
        first, second = (p.unet(latents, 500, encoder_hidden_states=prompt).sample for p in (pipe, made))
    torch.testing.assert_close(first, second, atol=1e-4, rtol=1e-4)


def test_two_such_adapters_join_and_one_does_not_join_an_ordinary_one(config, run, finished, tmp_path):
    other = customize(whole(config, seed=5), tmp_path / "other")
    target = tmp_path / "joined.safetensors"
    export.join(run.adapter, other.adapter, target)
    (a, _), (b, _), (joined, card) = (export.read(path) for path in (run.adapter, other.adapter, target))
    for name in card.layers:
        up, down = joined[name]
        assert torch.equal(up[:, :32], a[name][0][:, :32]) and torch.equal(up[:, 32:], b[name][0][:, 32:])
        assert torch.equal(down[:32], a[name][1][:32]) and torch.equal(down[32:], b[name][1][32:])
    with pytest.raises(UserError, match="differ in"):
        export.join(run.adapter, finished.adapter, tmp_path / "no.safetensors")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"adapter": {"method": "full", "compander": True}}, "compander"),
        ({"adapter": {"method": "full"}, "precision": "bf16", "optimizer": {"name": "adamw-8bit"}}, "precision"),
    ],
)
def test_what_does_not_go_together_is_refused(config, changes, said):
    with pytest.raises(UserError, match=said):
        Customization(**config.model_dump(by_alias=True) | changes)
