"""Projected AdamW and GradNormLoRP, against torch's AdamW, autograd and the formulas."""

import io
import math

import pytest
import torch
from torch import nn

from pipelines import UserError
from tests.tiny import tiny_unet
from training.adapters import PartlyLearnable
from training.optimizers.projected import GradNormLoRP, ProjectedAdamW
from training.optimizers.quantized import BLOCK, codes, dequantize, quantize


def rand(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def run(optimizer, parameters, steps, start=0, scale=1.0):
    """Steps with gradients that are functions of the step."""
    for k in range(start, start + steps):
        for i, parameter in enumerate(parameters):
            parameter.grad = (scale * rand(*parameter.shape, seed=1000 * k + i, dtype=torch.float64)).to(parameter)
        optimizer.step()


def parameters(*shapes, dtype=torch.float32):
    return [nn.Parameter(rand(*shape, seed=7 + i, dtype=dtype)) for i, shape in enumerate(shapes)]


@pytest.mark.parametrize("rank", [None, 16])
def test_without_a_projection_that_saves_it_is_adamw_to_the_bit(rank):
    shapes = [(16, 24), (24, 16), (8,), (4, 3, 3, 3)]
    ours, theirs = parameters(*shapes), parameters(*shapes)
    settings = {"lr": 0.01, "weight_decay": 0.1}
    run(ProjectedAdamW(ours, rank=rank, **settings), ours, 20)
    run(torch.optim.AdamW(theirs, foreach=False, **settings), theirs, 20)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-7, atol=1e-8)


def galore(weights, steps, rank, gap, lr, scale):
    """GaLore's loop as published, plain, in float64, with the second moment's correction applied to the root alone."""
    first, second, basis = [0] * len(weights), [0] * len(weights), [None] * len(weights)
    for k in range(steps):
        for i, W in enumerate(weights):
            G = rand(*W.shape, seed=1000 * k + i, dtype=torch.float64)
            if k % gap == 0:
                U, _, Vh = torch.linalg.svd(G, full_matrices=False)
                basis[i] = Vh[:rank] if W.shape[0] >= W.shape[1] else U[:, :rank]
            right = W.shape[0] >= W.shape[1]
            R = G @ basis[i].T if right else basis[i].T @ G
            first[i] = 0.9 * first[i] + 0.1 * R
            second[i] = 0.999 * second[i] + 0.001 * R * R
            N = first[i] / second[i].sqrt() * math.sqrt(1 - 0.999 ** (k + 1)) / (1 - 0.9 ** (k + 1))
            W -= lr * scale * (N @ basis[i] if right else basis[i] @ N)
    return weights


def test_with_svd_it_is_galore():
    shapes = [(32, 24), (24, 40)]
    ours = parameters(*shapes, dtype=torch.float64)
    theirs = galore([p.detach().clone() for p in ours], 12, 4, 5, 0.01, 0.25)
    optimizer = ProjectedAdamW(ours, 0.01, eps=0, rank=4, update_proj_gap=5, basis_dtype=torch.float64)
    run(optimizer, ours, 12)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.detach(), b, rtol=0, atol=1e-12)


@pytest.mark.parametrize("basis", ["svd", "randomized"])
@pytest.mark.parametrize("shape", [(48, 24), (24, 48), (24, 4, 3, 3)])
def test_the_basis_is_orthonormal_and_the_update_of_a_window_has_its_rank(shape, basis):
    (weight,) = parameters(shape)
    optimizer = ProjectedAdamW([weight], 0.01, rank=4, update_proj_gap=3, basis=basis)
    before = weight.detach().clone()
    run(optimizer, [weight], 1)
    P = optimizer.state[weight]["basis"].clone()
    gram = P @ P.T if P.shape[0] < P.shape[1] else P.T @ P
    torch.testing.assert_close(gram, torch.eye(4), atol=1e-5, rtol=0)
    run(optimizer, [weight], 2, start=1)
    assert torch.equal(optimizer.state[weight]["basis"], P)
    assert torch.linalg.matrix_rank((weight.detach() - before).flatten(1), atol=1e-5) == 4
    run(optimizer, [weight], 1, start=3)
    assert not torch.equal(optimizer.state[weight]["basis"], P)


def test_the_randomized_basis_holds_nearly_as_much():
    G = rand(200, 60) @ torch.diag(0.8 ** torch.arange(60)) @ rand(60, 120, seed=1)
    kept = {}
    for basis in ("svd", "randomized"):
        weight = nn.Parameter(rand(200, 120, seed=2))
        optimizer = ProjectedAdamW([weight], rank=8, basis=basis, scale=0.25)
        weight.grad = G
        optimizer.step()
        P = optimizer.state[weight]["basis"]
        kept[basis] = float((G @ P.T).norm() / G.norm())
    assert kept["randomized"] > 0.999 * kept["svd"]


def test_a_convolution_is_its_matrix():
    (conv,), matrix = parameters((24, 6, 3, 3)), nn.Parameter(rand(24, 6, 3, 3, seed=7).flatten(1))
    conv.data = conv.data.to(memory_format=torch.channels_last)
    for parameter in (conv, matrix):
        optimizer = ProjectedAdamW([parameter], 0.01, rank=4, update_proj_gap=2, normalize=True)
        for k in range(5):
            parameter.grad = rand(24, 54, seed=k).view(parameter.shape)
            optimizer.step()
    assert torch.equal(conv.flatten(1), matrix)


@pytest.mark.parametrize("rank, bits, normalize", [(8, 32, False), (8, 8, False), (8, 32, True), (0.25, 8, True)])
def test_state_has_the_bytes_of_the_formula(rank, bits, normalize):
    m, n = 320, 128
    k = rank if rank > 1 else int(rank * n)
    (weight,) = parameters((m, n))
    optimizer = ProjectedAdamW([weight], rank=rank, bits=bits, normalize=normalize)
    run(optimizer, [weight], 2)
    measured = sum(
        v.numel() * v.element_size() for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor)
    )
    moments = 8 * k * m if bits == 32 or k * m < 4096 else 2 * k * m + 8 * math.ceil(k * m / BLOCK)
    assert measured == moments + (2 if bits == 8 else 4) * k * n + (8 * m if normalize else 0)


@pytest.mark.parametrize(
    "settings", [{}, {"normalize": True}, {"bits": 8}, {"on_refresh": "rotate"}, {"on_refresh": "reset"}]
)
@pytest.mark.parametrize("stop", [1, 4, 7])
def test_it_resumes_to_the_bit_also_within_a_window(settings, stop):
    shapes = [(80, 64), (64, 80), (16,)]

    def start():
        weights = parameters(*shapes)
        return weights, ProjectedAdamW(weights, 0.01, rank=56, update_proj_gap=5, basis="randomized", **settings)

    straight, optimizer = start()
    run(optimizer, straight, 12)
    stopped, optimizer = start()
    run(optimizer, stopped, stop)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    resumed, optimizer = start()
    for a, b in zip(resumed, stopped, strict=True):
        a.data.copy_(b.data)
    optimizer.load_state_dict(torch.load(file, weights_only=True))
    run(optimizer, resumed, 12 - stop, start=stop)
    assert all(torch.equal(a, b) for a, b in zip(straight, resumed, strict=True))


def test_half_precision_weights_keep_their_moments_in_single():
    (weight,) = parameters((48, 24), dtype=torch.bfloat16)
    optimizer = ProjectedAdamW([weight], rank=4)
    run(optimizer, [weight], 2)
    optimizer.load_state_dict(optimizer.state_dict())
    assert weight.dtype == torch.bfloat16
    assert {v.dtype for v in optimizer.state[weight].values() if isinstance(v, torch.Tensor)} == {torch.float32}


def test_with_svd_it_is_galore_torch():
    galore_torch = pytest.importorskip("galore_torch")
    shapes = [(32, 24), (24, 40)]
    ours, theirs = parameters(*shapes, dtype=torch.float64), parameters(*shapes, dtype=torch.float64)
    window = {"rank": 4, "update_proj_gap": 5, "scale": 0.25}
    oracle = galore_torch.GaLoreAdamW(
        [{"params": theirs, "proj_type": "std", **window}],
        lr=0.01,
        eps=1e-300,
        weight_decay=0,
        no_deprecation_warning=True,
    )
    run(ProjectedAdamW(ours, 0.01, eps=1e-300, basis_dtype=torch.float64, **window), ours, 12)
    run(oracle, theirs, 12)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-6)  # its bases are those of float32, whatever the weights


def test_a_basis_that_holds_too_little_is_drawn_anew_before_its_time():
    """For ten steps the gradient has one direction, then another; with `redraw_below` 0 the window is kept."""
    first, second = torch.linalg.qr(rand(16, 2)).Q.T
    drawn = {}
    for below in (0.5, 0.0):
        (weight,) = parameters((24, 16))
        optimizer = ProjectedAdamW([weight], rank=2, update_proj_gap=100, redraw_below=below)
        for k in range(25):
            weight.grad = torch.outer(rand(24, seed=k), first if k < 10 else second)
            optimizer.step()
        drawn[below] = optimizer.state[weight]["drawn"]
    assert drawn == {0.5: 10, 0.0: 0}


def test_rows_are_plain_until_they_have_grown():
    """Of a weight that begins at zero: as without normalization, then with a norm that the optimizer holds."""
    normalized, plain = nn.Parameter(torch.zeros(24, 16)), nn.Parameter(torch.zeros(24, 16))
    settings = {"lr": 1e-2, "rank": 4, "scale": 1.0}
    first, second = GradNormLoRP([normalized], **settings), ProjectedAdamW([plain], **settings)
    threshold = 10 * 1e-2 * math.sqrt(16)
    for k in range(60):
        before = normalized.detach().norm(dim=1)
        for weight in (normalized, plain):
            weight.grad = -torch.ones(24, 16) + rand(24, 16, seed=k)
        first.step()
        second.step()
        if (before <= threshold).all():
            torch.testing.assert_close(normalized, plain, rtol=0, atol=1e-6)
        if (before > threshold).all():
            assert ((normalized.detach().norm(dim=1) - before).abs() < 2 * 1e-2).all()
    assert (before > threshold).all() and not torch.equal(normalized, plain)


def test_a_row_is_never_turned_round():
    (weight,) = parameters((24, 16))
    with torch.no_grad():
        weight.mul_(1 / weight.norm(dim=1, keepdim=True))
    optimizer = GradNormLoRP([weight], 1e-4, rank=4, magnitude_lr=10.0)
    before = weight.detach().clone()
    weight.grad = weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(weight.detach().norm(dim=1), torch.full((24,), 0.1), rtol=1e-3, atol=0)
    assert (nn.functional.cosine_similarity(weight.detach(), before) > 0.99).all()


def test_the_norms_follow_a_rate_of_their_own():
    grown = {}
    for rate in (None, "row", 0.0):
        (weight,) = parameters((24, 16))
        optimizer = GradNormLoRP([weight], 1e-3, rank=4, magnitude_lr=rate, eps=1e-12)
        norms = weight.detach().norm(dim=1)
        weight.grad = -weight.detach().clone()
        optimizer.step()
        grown[rate] = float((weight.detach().norm(dim=1) - norms).mean())
    assert grown[None] == pytest.approx(1e-3, rel=1e-2) and grown["row"] == pytest.approx(4e-3, rel=1e-2)
    assert grown[0.0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("bits", [pytest.param(32, marks=pytest.mark.slow), 8])
def test_every_row_and_column_of_a_fresh_adapter_moves(bits):
    denoiser = tiny_unet()
    adapter = PartlyLearnable(denoiser, 8, "all")
    halves = [p for concept in ("content", "style") for p in adapter.parameters(concept)]
    optimizer = GradNormLoRP(halves, 1e-2, rank=0.25, bits=bits, magnitude_lr="row")
    latents, text = rand(4, 4, 16, 16, seed=1), rand(4, 6, 32, seed=2)
    for k in range(30):
        optimizer.zero_grad()
        output = denoiser(latents + rand(4, 4, 16, 16, seed=10 + k), torch.tensor([k, 100, 500, 900]), text).sample
        (output - latents).square().mean().backward()
        optimizer.step()
    for half in halves:
        moved = half.detach().flatten(1)
        assert moved.isfinite().all() and moved.any(1).all() and moved.any(0).all()
    counts = optimizer.census()
    assert counts["plain"] == 0 and sum("basis" in optimizer.state[p] for p in halves) == counts["projected"]
    assert counts["projected"] >= 0.9 * len(halves)


def test_refreshes_are_spread_over_the_window():
    weights = parameters(*[(24, 16)] * 4)
    optimizer = ProjectedAdamW(weights, rank=2, update_proj_gap=8, stagger=True, redraw_below=0)
    changed, bases = [], [None] * 4
    for k in range(17):
        run(optimizer, weights, 1, start=k)
        now = [optimizer.state[w]["basis"].clone() for w in weights]
        changed.append(sum(a is None or not torch.equal(a, b) for a, b in zip(bases, now, strict=True)))
        bases = now
    assert changed[0] == 4 and max(changed[1:]) == 1 and sum(changed[1:9]) == 4


def test_a_gradient_without_direction_harms_nothing():
    (weight, idle) = parameters((24, 16), (24, 16))
    optimizer = ProjectedAdamW([weight, idle], rank=2, update_proj_gap=1)
    before = weight.detach().clone()
    weight.grad = torch.zeros(24, 16)
    optimizer.step()
    assert torch.equal(weight, before) and idle not in optimizer.state and weight not in optimizer.state
    run(optimizer, [weight], 1)
    weight.grad = torch.zeros(24, 16)
    optimizer.step()
    assert weight.isfinite().all()


def test_weight_normalization_is_what_autograd_says():
    """Unprojected and by hand: v and g as parameters of their own, with autograd's gradients, under Adam."""
    (weight,) = parameters((12, 8), dtype=torch.float64)
    optimizer = ProjectedAdamW([weight], 0.01, weight_decay=0, normalize=True)
    lengths = weight.detach().norm(dim=1, keepdim=True)
    moments = [[0, 0], [0, 0]]
    W = weight.detach().clone()
    for k in range(6):
        G = rand(12, 8, seed=1000 * k, dtype=torch.float64)
        v, g = W.clone().requires_grad_(), W.norm(dim=1, keepdim=True).requires_grad_()
        ((g * v / v.norm(dim=1, keepdim=True)) * G).sum().backward()
        assert (v.grad * v).sum(1).abs().max() < 1e-12
        steps = []
        for moment, gradient in zip(moments, (v.grad, g.grad), strict=True):
            moment[0] = 0.9 * moment[0] + 0.1 * gradient
            moment[1] = 0.999 * moment[1] + 0.001 * gradient**2
            steps.append(moment[0] / (1 - 0.9 ** (k + 1)) / ((moment[1] / (1 - 0.999 ** (k + 1))).sqrt() + 1e-8))
        direction = W - 0.01 * steps[0]
        lengths = lengths - 0.01 * steps[1]
        W = lengths * direction / direction.norm(dim=1, keepdim=True)
        weight.grad = G
        optimizer.step()
        torch.testing.assert_close(weight.detach(), W, rtol=0, atol=1e-12)
        torch.testing.assert_close(weight.detach().norm(dim=1, keepdim=True), lengths, rtol=0, atol=1e-12)


def test_a_gradient_along_the_rows_changes_their_lengths_alone():
    (weight,) = parameters((48, 24), dtype=torch.float64)
    before = nn.functional.normalize(weight.detach(), dim=1)
    optimizer = ProjectedAdamW([weight], 0.01, weight_decay=0, rank=4, normalize=True, eps=1e-3)
    weight.grad = 0.5 * weight.detach().clone()
    optimizer.step()
    torch.testing.assert_close(nn.functional.normalize(weight.detach(), dim=1), before, rtol=0, atol=1e-10)
    assert (weight.detach().norm(dim=1) < 1e3).all()


def test_a_gradient_across_the_rows_keeps_their_lengths():
    (weight,) = parameters((48, 24), dtype=torch.float64)
    lengths = weight.detach().norm(dim=1)
    # Adam would turn the rounding errors of grad_g into steps: eps stands far above them.
    optimizer = ProjectedAdamW([weight], 0.01, weight_decay=0, rank=4, normalize=True, eps=1e-3)
    for k in range(5):
        u = nn.functional.normalize(weight.detach(), dim=1)
        G = rand(48, 24, seed=k, dtype=torch.float64)
        weight.grad = G - u * (G * u).sum(1, keepdim=True)
        optimizer.step()
    torch.testing.assert_close(weight.detach().norm(dim=1), lengths, rtol=0, atol=1e-12)


def test_rows_of_zeros_stay_finite_and_learn():
    weight = nn.Parameter(torch.cat([torch.zeros(24, 24), rand(24, 24)]))
    optimizer = GradNormLoRP([weight], 0.01, rank=4)
    run(optimizer, [weight], 3)
    assert weight.isfinite().all() and weight[:24].any()


@pytest.mark.slow
def test_eight_bits_follow_thirty_two():
    latents, text = rand(4, 4, 8, 8, seed=1), rand(4, 6, 32, seed=2)

    def losses(bits):
        torch.manual_seed(0)
        unet = tiny_unet().train()
        optimizer = GradNormLoRP(unet.parameters(), 2e-3, rank=0.5, bits=bits, update_proj_gap=50, scale=1.0)
        for k in range(200):
            noise, share = rand(4, 4, 8, 8, seed=100 + k), torch.linspace(0.1, 0.9, 4).view(4, 1, 1, 1)
            noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
            loss = (unet(noisy, (1000 * (1 - share)).flatten().long(), text).sample - noise).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            yield loss.item()

    exact, packed = list(losses(32)), list(losses(8))
    assert sum(exact[-20:]) < 0.8 * sum(exact[:20])
    assert abs(sum(packed[-20:]) / sum(exact[-20:]) - 1) < 0.02


@pytest.mark.parametrize("signed", [True, False])
def test_codes_are_exact_for_themselves_and_near_for_others(signed):
    code = codes(signed)
    assert len(code.unique()) == 256 and code.max() == 1 and (code == 0).any()
    packed, largest = quantize(code, signed)
    assert torch.equal(dequantize(packed, largest, signed), code)
    values = rand(3, 1000) if signed else rand(3, 1000).abs()
    near = dequantize(*quantize(values, signed), signed)
    assert near.shape == values.shape and (near - values).abs().max() < 0.06 * values.abs().max()
    assert not dequantize(*quantize(torch.zeros(300), signed), signed).any()


@pytest.mark.parametrize(
    "setting, words",
    [
        ({"rank": 0}, "rank is 0"),
        ({"rank": 2.5}, "rank is 2.5"),
        ({"bits": 4}, "bits is 4"),
        ({"side": "up"}, "side is 'up'"),
        ({"redraw_below": 2}, "redraw_below is 2"),
        ({"magnitude_lr": "fast"}, "magnitude_lr is 'fast'"),
        ({"update_proj_gap": 0}, "update_proj_gap is 0"),
    ],
)
def test_settings_out_of_range_are_named(setting, words):
    with pytest.raises(UserError, match=words):
        ProjectedAdamW(parameters((4, 4)), **{"rank": 2} | setting)
