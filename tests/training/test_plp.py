import math

import pytest
import torch
from peft.tuners.lora import LoraLayer

from pipelines import UserError
from tests.tiny import tiny_pipeline
from training.adapters import PartlyLearnable
from training.adapters.factors import C_NORM, frozen_factors
from training.config import Make
from training.families.diffusion import LAYERS
from training.optimizers.riemannian import precondition
from training.stages import BOTH, Part, Stage

RANK = 8


@pytest.fixture
def unet():
    return tiny_pipeline().unet.requires_grad_(False)


def forward(unet, seed=0):
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(2, unet.config.in_channels, 8, 8, generator=generator)
    prompt = torch.randn(2, 5, unet.config.cross_attention_dim, generator=generator)
    return unet(latents, torch.tensor([10, 500]), encoder_hidden_states=prompt).sample


def fill(adapter, seed=1, scale=0.3):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for concept in ("content", "style"):
            for parameter in adapter.parameters(concept):
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * scale)


@pytest.mark.parametrize("layers", LAYERS)
def test_fresh_adapter_is_an_exact_no_op(unet, layers):
    before = forward(unet)
    PartlyLearnable(unet, RANK, layers)
    assert torch.equal(forward(unet), before)


def test_released_constant_block_changes_a_fresh_model(unet):
    before = forward(unet)
    PartlyLearnable(unet, RANK, constant_block="released")
    assert not torch.allclose(forward(unet), before, atol=1e-3)


@pytest.mark.parametrize("m, n, rank", [(32, 32, 8), (32, 64, 32), (64, 32, 2), (33, 47, 6)])
def test_constant_block_is_zero_and_the_frozen_halves_are_orthogonal(m, n, rank):
    A, C = frozen_factors(m, n, rank, "zero", 0, "layer")
    assert A.shape == (m // 2, rank) and C.shape == (rank, n // 2)
    assert not (A @ C).any()
    half = rank // 2
    torch.testing.assert_close(A[:, :half].T @ A[:, :half] / (m // 2), torch.eye(half))
    torch.testing.assert_close(C[half:] @ C[half:].T / C_NORM**2, torch.eye(rank - half))


@pytest.mark.parametrize("m, n, rank", [(32, 32, 8), (32, 64, 16), (12, 8, 12)])
def test_the_released_halves_are_orthonormal_and_come_from_different_rows(m, n, rank):
    """Of a square layer the same rows would make A the transpose of C, and A C a projector."""
    A, C = frozen_factors(m, n, rank, "released", 0, "layer")
    assert A.shape == (m // 2, rank) and C.shape == (rank, n // 2)
    for factor in (A, C.T):
        short = factor if len(factor) <= rank else factor.T
        torch.testing.assert_close(short @ short.T, torch.eye(len(short)), atol=1e-5, rtol=0)
    shared = min(len(A), C.shape[1])
    assert not torch.allclose(A[:shared], C.T[:shared], atol=0.1)


@pytest.mark.parametrize("constant_block", ["zero", "released"])
def test_frozen_halves_depend_on_seed_and_layer_alone(constant_block):
    first = frozen_factors(32, 32, 8, constant_block, 0, "layer")
    torch.manual_seed(99)
    for seed, name, same in [(0, "layer", True), (1, "layer", False), (0, "other", False)]:
        again = frozen_factors(32, 32, 8, constant_block, seed, name)
        assert all(torch.equal(a, b) == same for a, b in zip(first, again, strict=True))


def test_a_convolution_s_constant_block_is_zero_and_its_halves_orthogonal():
    A, C = frozen_factors(16, 12, 8, "zero", 0, "layer", (3, 3))
    assert A.shape == (8, 8, 1, 1) and C.shape == (8, 6, 3, 3)
    A, C = A.flatten(1), C.flatten(1)
    assert not (A @ C).any()
    torch.testing.assert_close(A[:, :4].T @ A[:, :4] / 8, torch.eye(4))
    torch.testing.assert_close(C[4:] @ C[4:].T / C_NORM**2, torch.eye(4))


@pytest.mark.parametrize("content, style", [(1, 1), (0.8, 1), (0, 1), (1, 0), (-0.5, 1.7)])
@pytest.mark.parametrize("half", ["down", "up"])
def test_scaled_layer_equals_the_block_formula(unet, content, style, half):
    adapter = PartlyLearnable(unet, RANK, content_half=half)
    fill(adapter)
    adapter.set_scales(content, style)
    for layer in adapter.layers:
        A, C = layer.up.parametrizations.weight[0].frozen, layer.down.parametrizations.weight[0].frozen
        scale_up, scale_down = (style, content) if half == "down" else (content, style)
        B, D = scale_up * layer.B, scale_down * layer.D
        blocks = torch.cat([torch.cat([A @ C, A @ D], 1), torch.cat([B @ C, B @ D], 1)])
        torch.testing.assert_close(layer.up.weight @ layer.down.weight, blocks, atol=1e-5, rtol=1e-5)
        assert not (A @ C).any()


@pytest.mark.parametrize("content, style", [(1, 1), (0.8, 1), (0, 1), (-0.5, 1.7)])
def test_split_by_rank_a_layer_adds_a_lora_of_each_concept(unet, content, style):
    before = forward(unet)
    adapter = PartlyLearnable(unet, RANK, split="rank")
    assert torch.equal(forward(unet), before)
    fill(adapter)
    adapter.set_scales(content, style)
    pairs = [adapter.parameters(concept) for concept in BOTH]
    for layer, up_c, down_c, up_s, down_s in zip(
        adapter.layers, pairs[0][::2], pairs[0][1::2], pairs[1][::2], pairs[1][1::2], strict=True
    ):
        assert up_c.shape == up_s.shape == (len(layer.up.weight), RANK // 2)
        expected = content * up_c @ down_c + style * up_s @ down_s
        torch.testing.assert_close(layer.up.weight @ layer.down.weight, expected, atol=1e-5, rtol=1e-5)


def test_split_by_rank_make_preconditions_each_concept_s_pair(unet):
    adapter = PartlyLearnable(unet, RANK, split="rank")
    fill(adapter)
    forward(unet).square().mean().backward()
    up, down = adapter.parameters("style")[:2]
    expected = precondition(up.grad, down.grad, up.detach(), down.detach(), 1e-4)
    with adapter.stepping(Stage("make", 0, 1, (Part("content", 1, BOTH),), {}), Make(precondition=True)):
        torch.testing.assert_close((up.grad, down.grad), expected)


@pytest.mark.parametrize("split", ["factors", "rank"])
@pytest.mark.parametrize("own, other", [("content", "style"), ("style", "content")])
def test_a_loss_moves_its_own_half_only(unet, own, other, split):
    adapter = PartlyLearnable(unet, RANK, split=split)
    fill(adapter)
    forward(unet).square().mean().backward(inputs=adapter.parameters(own))
    assert all(p.grad is not None and p.grad.any() for p in adapter.parameters(own))
    assert all(p.grad is None for p in adapter.parameters(other))


def test_both_halves_learn_from_a_fresh_start(unet):
    adapter = PartlyLearnable(unet, RANK)
    forward(unet).square().mean().backward()
    assert all(p.grad.any() for concept in ("content", "style") for p in adapter.parameters(concept))


def test_learned_factors_do_not_meet_before_make(unet):
    adapter = PartlyLearnable(unet, RANK)
    optimizer = torch.optim.AdamW([p for concept in BOTH for p in adapter.parameters(concept)], lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        forward(unet).square().mean().backward()
        with adapter.stepping(Stage("content", 0, 3, (), {}), Make()):
            optimizer.step()
    for layer in adapter.layers:
        assert layer.B.any() and layer.D.any() and not (layer.B @ layer.D).any()


def test_training_leaves_the_frozen_halves_and_the_base_alone(unet):
    adapter = PartlyLearnable(unet, RANK)
    fill(adapter)
    frozen = {name: buffer.clone() for name, buffer in unet.named_buffers()}
    base = {name: p.clone() for name, p in unet.named_parameters() if not p.requires_grad}
    learned = [p for concept in ("content", "style") for p in adapter.parameters(concept)]
    assert {id(p) for p in learned} == {id(p) for p in unet.parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(learned, lr=0.1, weight_decay=0.5)
    for _ in range(2):
        forward(unet).square().mean().backward()
        optimizer.step()
    assert frozen and all(torch.equal(buffer, frozen[name]) for name, buffer in unet.named_buffers())
    assert all(torch.equal(p, base[name]) for name, p in unet.named_parameters() if name in base)


def test_removing_the_parametrizations_leaves_the_same_lora(unet):
    adapter = PartlyLearnable(unet, RANK)
    fill(adapter)
    factors, output = adapter.factors(), forward(unet)
    adapter.remove_parametrizations()
    for layer in adapter.layers:
        assert torch.equal(layer.up.weight, factors[layer.name][0])
        assert torch.equal(layer.down.weight, factors[layer.name][1])
    assert torch.equal(forward(unet), output)


@pytest.mark.parametrize("layers", ["attention", "all"])
def test_merged_equals_unmerged(unet, layers):
    adapter = PartlyLearnable(unet, RANK, layers)
    fill(adapter, scale=0.1)
    before = forward(unet)
    adapter.remove_parametrizations()
    unet.fuse_lora()
    assert (forward(unet) - before).norm() <= 1e-5 * before.norm()


@pytest.mark.parametrize("split", ["factors", "rank"])
def test_halves_are_put_back(unet, split):
    adapter = PartlyLearnable(unet, RANK, split=split)
    fill(adapter)
    begun = adapter.learned_in(adapter.factors(), "content")
    assert all(torch.equal(begun[key], value) for key, value in adapter.learned("content").items())
    half, output = adapter.learned("content"), forward(unet)
    adapter.load("content", None)
    assert not torch.equal(forward(unet), output)
    adapter.load("content", half)
    assert torch.equal(forward(unet), output)


def test_split_by_rank_a_compander_bounds_what_is_learned(unet):
    adapter = PartlyLearnable(unet, RANK, compander=0.2, split="rank")
    with torch.no_grad():
        for concept in BOTH:
            for parameter in adapter.parameters(concept):
                parameter.copy_(100 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    for layer in adapter.layers:
        for factor in (layer.up.weight, layer.down.weight):
            assert 0.3 < factor.abs().max() <= 0.2 * math.pi / 2 * (1 + 1e-6)


def test_a_compander_bounds_the_learned_halves_and_folds_into_them(unet):
    before = forward(unet)
    adapter = PartlyLearnable(unet, RANK, compander=0.2)
    assert torch.equal(forward(unet), before)
    with torch.no_grad():
        for concept in ("content", "style"):
            for parameter in adapter.parameters(concept):
                parameter.copy_(100 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    for layer in adapter.layers:
        rows, columns = layer.up.weight.shape[0] // 2, layer.down.weight.shape[1] // 2
        for learned in (layer.up.weight[rows:], layer.down.weight[:, columns:]):
            assert 0.3 < learned.abs().max() <= 0.2 * math.pi / 2 * (1 + 1e-6)
    output, half = forward(unet), adapter.learned("style")
    adapter.load("style", None)
    adapter.load("style", half)
    adapter.remove_parametrizations()
    assert torch.equal(forward(unet), output)


def test_a_rank_that_does_not_fit_is_refused(unet):
    with pytest.raises(UserError, match=r"adapter.rank is 256.*Set adapter.rank to at most"):
        PartlyLearnable(unet, 256)


@pytest.mark.parametrize("where", ["words", "fine", "coarse"])
def test_a_concept_learns_only_where_it_may_and_the_rest_stays_a_joint_lora(unet, where):
    adapter = PartlyLearnable(unet, RANK, "all", learns_in={"style": where})
    last = len(unet.up_blocks) - 1
    finest = ("down_blocks.0.", "down_blocks.1.", f"up_blocks.{last}.", f"up_blocks.{last - 1}.")
    fine = {layer.name for layer in adapter.layers if layer.name.startswith(finest) and "resnets" in layer.name}
    all_of_them = {layer.name for layer in adapter.layers}
    words = {name for name in all_of_them if name.endswith(("attn2.to_k", "attn2.to_v"))}
    assert 0 < len(fine) < len(all_of_them) and words
    fill(adapter)
    moved = {layer.name for layer in adapter.layers if layer.learned("style", "up")}
    assert moved == {"words": words, "fine": fine, "coarse": all_of_them - fine}[where]
    assert {layer.name for layer in adapter.layers if layer.owner} == all_of_them - moved
    kept = adapter.learned("style")
    adapter.load("style", None)
    adapter.load("style", kept)
    assert all(torch.equal(adapter.learned("style")[name], factor) for name, factor in kept.items())


@pytest.mark.parametrize("split", [True, False])
def test_a_style_learns_on_values_and_gates_or_as_older_runs_on_the_gates_alone(unet, split):
    before = forward(unet)
    adapter = PartlyLearnable(unet, RANK, "all", split_gates=split)
    assert torch.equal(forward(unet), before)
    gated = [layer for layer in adapter.layers if layer.name.endswith(".ff.net.0.proj")]
    assert {layer.name for layer in gated if split} == adapter.fused.keys() and gated
    for layer in gated:
        zeros = layer.up.weight.detach().clone()
        torch.nn.init.ones_(layer.B)
        of_values, of_gates = (layer.up.weight != zeros).any(1).chunk(2)
        half = len(of_values) // 2
        if split:
            assert all(not part[:half].any() and part[half:].all() for part in (of_values, of_gates))
        else:
            assert not of_values.any() and of_gates.all()


APART = {"content": "words", "style": "not words"}


def test_a_concept_that_learns_alone_in_a_layer_learns_both_factors_whole(unet):
    before = forward(unet)
    adapter = PartlyLearnable(unet, RANK, "all", learns_in=APART)
    assert torch.equal(forward(unet), before)  # a fresh one does nothing
    fresh = {concept: adapter.learned(concept) for concept in APART}
    for layer in adapter.layers:
        assert layer.owner == ("content" if layer.name.endswith(("attn2.to_k", "attn2.to_v")) else "style")
        assert layer.up.weight.shape == layer.B.shape and layer.down.weight.shape == layer.D.shape
    owned = {concept: {key.rpartition(".")[0] for key in keys} for concept, keys in fresh.items()}
    assert owned["content"] | owned["style"] == {layer.name for layer in adapter.layers}
    assert not owned["content"] & owned["style"]

    fill(adapter)
    kept, products = (
        adapter.learned("style"),
        {layer.name: layer.up.weight @ layer.down.weight for layer in linear(adapter)},
    )
    adapter.set_scales(content=0.5, style=-2.0)
    for layer in linear(adapter):
        scale = 0.5 if layer.owner == "content" else -2.0
        torch.testing.assert_close(layer.up.weight @ layer.down.weight, scale * products[layer.name])
    adapter.load("content", None)
    adapter.load("style", None)
    assert torch.equal(forward(unet), before)
    assert all(torch.equal(factor, fresh["content"][key]) for key, factor in adapter.learned("content").items())
    adapter.load("style", kept)
    assert all(torch.equal(factor, kept[key]) for key, factor in adapter.learned("style").items())


def linear(adapter: PartlyLearnable) -> list:
    return [layer for layer in adapter.layers if layer.B.ndim == 2]


def test_layers_in_which_nobody_learns_get_no_adapter(unet):
    adapter = PartlyLearnable(unet, RANK, "all", learns_in={"content": "words", "style": "fine"})
    assert {layer.owner for layer in adapter.layers} == {"content", "style"}
    assert adapter.factors().keys() == {name for name, module in unet.named_modules() if isinstance(module, LoraLayer)}


def test_without_a_fine_layer_a_style_that_learns_there_is_refused(unet):
    with pytest.raises(UserError, match=r'adapter\.style_in is "fine", and none of .* adapter\.layers to "all"'):
        PartlyLearnable(unet, RANK, "attention", learns_in={"style": "fine"})
