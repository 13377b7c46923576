"""AdamW whose moments live in a low-rank projection of the gradient, with weight normalization and 8-bit state on top.

Gradient projection (GaLore, arXiv 2403.03507). For a weight W, m x n, with gradient G, every `update_gap` steps:

    m >= n:  P = the first k right singular vectors of G, k x n    R = G P^T    back(N) = N P
    m <  n:  P = the first k left singular vectors of G, m x k     R = P^T G    back(N) = P N

    N = Adam(R)      W <- (1 - lr decay) W - lr scale back(N)

Weight normalization (GradNormLoRP, arXiv 2412.19616), row by row W = g u with |u| = 1 and v = W at every step:

    grad_g = sum_j G u      grad_v = G - u grad_g      R = project(grad_v)
    v' = v - lr scale back(Adam(R))      g' = g - lr Adam(grad_g)      W <- g' v' / |v'|
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipelines.errors import UserError
from training.optimizers.projection import Projection
from training.optimizers.quantized import SMALLEST, dequantize, quantize

MOMENTS = ("exp_avg", "exp_avg_sq")
ALLOWED = {
    "side": ("shorter", "right", "left"),
    "basis": ("svd", "randomized"),
    "on_refresh": ("keep", "rotate", "reset"),
    "bits": (8, 32),
}


class ProjectedAdamW(Optimizer):
    """AdamW on the projected gradients of matrices and convolutions; plain AdamW for groups without a rank.

    Each setting is a default that a parameter group may override.

    Args:
        rank: of the projection: a number, or a share of the shorter side below 1; None for plain AdamW. A weight that
            it would save nothing on, k (2 max + min) >= 2 m n, is not projected.
        update_gap: steps between two bases of a weight.
        scale: of the projected update beside lr.
        side: "shorter" projects the shorter side, "right" the columns, "left" the rows.
        basis: "svd", or "randomized", which is quicker and nearly as good.
        on_refresh: what becomes of the moments under a new basis: "keep", "rotate" or "reset".
        normalize: learn the rows' lengths and directions apart.
        bits: of the moments, 32 or 8; tensors of fewer than 4,096 elements keep 32.
        basis_dtype: in which P is kept.
        stagger: spread the refreshes over the window, so that no step takes much longer than the others.
        seed: of the randomized bases, which are functions of (seed, parameter, step).
    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.01,
        *,
        rank: float | None = None,
        update_gap: int = 200,
        scale: float = 0.25,
        side: str = "shorter",
        basis: str = "svd",
        on_refresh: str = "keep",
        normalize: bool = False,
        bits: int = 32,
        basis_dtype: torch.dtype = torch.float32,
        stagger: bool = True,
        seed: int = 0,
    ):
        defaults = {name: value for name, value in locals().items() if name not in ("self", "params", "__class__")}
        super().__init__(params, defaults)

    def add_param_group(self, group: dict) -> None:
        super().add_param_group(group)
        _check(self.param_groups[-1])
        self._order = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}

    @torch.no_grad()
    def step(self, closure=None) -> float | None:
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, self._order[parameter])
        return loss

    def load_state_dict(self, state_dict: dict) -> None:
        """As every optimizer's, but the state keeps the types it was saved in: torch would cast it to the weights'."""
        super().load_state_dict(state_dict)
        ids = [i for group in state_dict["param_groups"] for i in group["params"]]
        for i, parameter in zip(ids, (p for group in self.param_groups for p in group["params"]), strict=True):
            for name, value in state_dict["state"].get(i, {}).items():
                if isinstance(value, Tensor):
                    self.state[parameter][name] = value.to(parameter.device, copy=True)

    def _update(self, parameter: Tensor, group: dict, index: int) -> None:
        """One step of one parameter, computed in float32 or better whatever its own type."""
        projection = Projection.of(parameter, group)
        W, G = _matrix(parameter), _matrix(parameter.grad)
        sound = projection is None or bool(G.isfinite().all() and G.any())
        if not sound and "basis" not in self.state[parameter]:
            return  # there is no direction to choose a basis by
        state, lr = self.state[parameter], group["lr"]
        state["step"] = step = state.get("step", 0) + 1
        W = W * (1 - lr * group["weight_decay"])
        normalize = group["normalize"] and W.ndim == 2
        if normalize:
            g = W.norm(dim=1, keepdim=True)
            directed = g > 0  # a row of zeros has no direction and is learned as it is
            u = W / torch.where(directed, g, 1)
            grad_g = torch.where(directed, (G * u).sum(1, keepdim=True), 0)
            G = G - u * grad_g
        if projection is None:
            mean, root, size = self._adam(state, "", G, group)
            W = W.addcdiv(mean, root, value=-lr * size)
        else:
            offset = index * group["update_gap"] // len(self._order) if group["stagger"] else 0
            if "basis" not in state or (sound and (step - 1 + offset) % group["update_gap"] == 0):
                self._refresh(state, projection, G, group, index)
            P = state["basis"].to(G.dtype)
            mean, root, size = self._adam(state, "", projection.project(G, P), group)
            W = W - lr * group["scale"] * projection.back(mean / root * size, P)
        if normalize:
            mean, root, size = self._adam(state, "_length", grad_g, group)
            W = torch.where(directed, (g - lr * size * mean / root) * W / W.norm(dim=1, keepdim=True), W)
        parameter.copy_(W.view(parameter.shape))

    def _refresh(self, state: dict, projection: Projection, G: Tensor, group: dict, index: int) -> None:
        """Take a new basis from a gradient, and do with the moments what `on_refresh` says."""
        generator = torch.Generator().manual_seed((group["seed"] * 1_000_003 + index) * 1_000_003 + state["step"])
        old, new = state.get("basis"), projection.basis(G, group["basis"], generator)
        state["basis"] = new.to(group["basis_dtype"])
        if old is None or group["on_refresh"] == "keep":
            return
        if group["on_refresh"] == "reset":
            for name in MOMENTS:
                _write(state, name, torch.zeros_like(_read(state, name)), group["bits"])
            state["began"] = state["step"] - 1
            return
        for name, turn in zip(MOMENTS, projection.turns(old.to(G.dtype), new), strict=True):
            moment = _read(state, name)
            _write(state, name, moment @ turn if projection.right else turn @ moment, group["bits"])

    def _adam(self, state: dict, suffix: str, gradient: Tensor, group: dict) -> tuple[Tensor, Tensor, float]:
        """Adam's direction as numerator, denominator and the factor that corrects the numerator's bias."""
        beta1, beta2 = group["betas"]
        first, second = (name + suffix for name in MOMENTS)
        if first not in state and first + "_codes" not in state:
            mean, square = torch.zeros_like(gradient), torch.zeros_like(gradient)
        else:
            mean, square = _read(state, first), _read(state, second)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        step = state["step"] - (0 if suffix else state.get("began", 0))
        denominator = (square.sqrt() / math.sqrt(1 - beta2**step)).add_(group["eps"])
        _write(state, first, mean, group["bits"])
        _write(state, second, square, group["bits"])
        return mean, denominator, 1 / (1 - beta1**step)


class GradNormLoRP(ProjectedAdamW):
    """Weight normalization and low-rank gradient projection with 8-bit moments (arXiv 2412.19616).

    Args: those of `ProjectedAdamW`, with the defaults of the paper's pre-training runs.
    """

    def __init__(self, params: Iterable, lr: float = 1e-3, *, rank: float = 128, bits: int = 8, **settings):
        super().__init__(params, lr, rank=rank, bits=bits, normalize=True, **settings)


def _check(group: dict) -> None:
    """Raise a UserError for the first setting of a group that is out of range."""
    rank = group["rank"]
    if rank is not None and (rank <= 0 or (rank >= 1 and rank != int(rank))):
        raise UserError(f"rank is {rank}", "Set it to a whole number, or to a share of the shorter side below 1")
    if group["update_gap"] < 1:
        raise UserError(f"update_gap is {group['update_gap']}", "Set it to at least 1 step")
    for name, values in ALLOWED.items():
        if group[name] not in values:
            raise UserError(f"{name} is {group[name]!r}", f"Choose one of {', '.join(map(str, values))}")


def _matrix(tensor: Tensor) -> Tensor:
    """A weight as it is projected: (outputs, the rest), in float32 or float64; a vector stays a vector."""
    tensor = tensor.detach().to(torch.promote_types(tensor.dtype, torch.float32))
    return tensor.reshape(len(tensor), -1) if tensor.ndim > 1 else tensor


def _write(state: dict, name: str, moment: Tensor, bits: int) -> None:
    """Keep a moment; in eight bits the root of the second, which spans half as many orders of magnitude."""
    if bits == 32 or moment.numel() < SMALLEST:
        state[name] = moment
        return
    signed = not name.startswith(MOMENTS[1])
    state[name + "_codes"], state[name + "_largest"] = quantize(moment if signed else moment.sqrt(), signed)


def _read(state: dict, name: str) -> Tensor:
    if name in state:
        return state[name]
    signed = not name.startswith(MOMENTS[1])
    moment = dequantize(state[name + "_codes"], state[name + "_largest"], signed)
    return moment if signed else moment.square()
