"""AdamW whose moments live in a low-rank projection of the gradient, with weight normalization and 8-bit state on top.

Gradient projection (GaLore, arXiv 2403.03507). For a weight W, m x n, with gradient G, every `update_proj_gap` steps:

    m >= n:  P = the first k right singular vectors of G, k x n    R = G P^T    back(N) = N P
    m <  n:  P = the first k left singular vectors of G, m x k     R = P^T G    back(N) = P N

    N = Adam(R)      W <- (1 - lr decay) W - lr scale back(N)

Weight normalization (GradNormLoRP, arXiv 2412.19616), row by row W = g u with |u| = 1 and v = W at every step:

    grad_g = sum_j G u      grad_v = G - u grad_g      R = project(grad_v)
    v' = v - lr scale back(Adam(R))      g' = g - magnitude_lr Adam(grad_g)      W <- g' v' / |v'|

Adam moves a norm by at most its rate a step, but a plain row by up to lr sqrt(n): normalized from the start, the rows
of a weight that begins at zero would hardly grow. A row is therefore plain until |W| > 10 lr sqrt(n).
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pipelines.errors import UserError
from training.optimizers.projection import Projection
from training.optimizers.quantized import MOMENTS, read, write
from training.optimizers.rounding import widen, write_back

LOOK = 10  # steps between two looks at how much of the gradient a basis still holds
ROOM = 10  # times the largest plain step: rows longer than that are normalized
SHRINK = 0.1  # of a row's norm is left by one step at least: a negative norm would turn the row round
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
        update_proj_gap: steps between two bases of a weight.
        redraw_below: a basis that holds less than this share of what it held of the gradient it was drawn from is
            drawn anew before its time, as is one from before a row or column had a gradient at all; looked at every 10
            steps; 0 never.
        scale: of the projected update beside lr.
        side: "shorter" projects the shorter side, "right" the columns, "left" the rows.
        basis: "svd", or "randomized", which is quicker and nearly as good.
        on_refresh: what becomes of the moments under a new basis: "keep", "rotate" or "reset".
        normalize: learn the rows' norms and directions apart.
        magnitude_lr: rate of the norms: a number, None for lr, or "row" for lr sqrt(n), what a plain step of n columns
            can do.
        bits: of the moments, 32 or 8; tensors of fewer than 4,096 elements, and the norms', keep 32.
        basis_dtype: in which P is kept; by default float32, with 8 bits bfloat16.
        stagger: spread the refreshes over the window, so that no step takes much longer than the others.
        seed: of the randomized bases and of the stochastic rounding of bfloat16 weights, which are functions of
            (seed, parameter, step).
    Raises:
        UserError: a setting is out of range.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float = 1e-4,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        rank: float | None = None,
        update_proj_gap: int = 200,
        redraw_below: float = 0.5,
        scale: float = 0.25,
        side: str = "shorter",
        basis: str = "svd",
        on_refresh: str = "keep",
        normalize: bool = False,
        magnitude_lr: float | str | None = None,
        bits: int = 32,
        basis_dtype: torch.dtype | None = None,
        stagger: bool = False,
        seed: int = 0,
    ):
        defaults = {name: value for name, value in locals().items() if name not in ("self", "params", "__class__")}
        super().__init__(params, defaults)

    def add_param_group(self, group: dict) -> None:
        super().add_param_group(group)
        _check(self.param_groups[-1])
        self._order = {p: i for i, p in enumerate(p for group in self.param_groups for p in group["params"])}

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
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

    def census(self) -> dict[str, int]:
        """How many weights are projected, bypassed because nothing would be saved, and plain by their group."""
        counts = {"projected": 0, "bypassed": 0, "plain": 0}
        for group in self.param_groups:
            for parameter in group["params"]:
                plain = group["rank"] is None or parameter.ndim < 2
                counts["plain" if plain else "projected" if Projection.of(parameter, group) else "bypassed"] += 1
        return counts

    def _update(self, parameter: Tensor, group: dict, index: int) -> None:
        """One step of one parameter, computed in float32 or better whatever its own type."""
        projection, lr = Projection.of(parameter, group), group["lr"]
        assert parameter.grad is not None
        W, G = widen(parameter), widen(parameter.grad)
        state = self.state.get(parameter, {})
        if group["weight_decay"]:
            W.mul_(1 - lr * group["weight_decay"])
        normalize = group["normalize"] and W.ndim == 2
        if normalize:
            g, columns = W.norm(dim=1, keepdim=True), W.shape[1]
            normal = g > ROOM * lr * math.sqrt(columns)
            grad_g = torch.where(g > 0, (G * W).sum(1, keepdim=True) / g, 0)
            G = torch.addcmul(G, W, torch.where(normal, grad_g / g, 0), value=-1)
        if projection is not None:
            R = projection.project(G, state["basis"].to(G.dtype)) if "basis" in state else None
            if self._is_due(state, projection, G, R, group):
                if projection.has_direction(G):
                    self._refresh(state, projection, G, group, index)
                    R = projection.project(G, state["basis"].to(G.dtype))
                elif R is None:
                    return
        state["step"] = state.get("step", 0) + 1
        self.state[parameter] = state
        if projection is None:
            mean, root, size = self._adam(state, "", G, group)
            W.addcdiv_(mean, root, value=-lr * size)
        else:
            assert R is not None  # there is a basis by now
            mean, root, size = self._adam(state, "", R, group)
            projection.add_back(W, mean / root, state["basis"].to(W.dtype), -lr * group["scale"] * size)
        if normalize:
            rate = {None: lr, "row": lr * math.sqrt(columns)}.get(group["magnitude_lr"], group["magnitude_lr"])
            mean, root, size = self._adam(state, "_norm", grad_g, group)
            norms = torch.maximum(g - rate * size * mean / root, SHRINK * g)
            W.mul_(torch.where(normal, norms / W.norm(dim=1, keepdim=True), 1))
        write_back(parameter, W, _seed(group, index, state["step"]) + 1)

    @staticmethod
    def _is_due(state: dict, projection: Projection, G: Tensor, R: Tensor | None, group: dict) -> bool:
        """Whether a basis is wanted: there is none, its window has ended, or it holds too little of the gradient."""
        if R is None:
            return True
        age = state["step"] - state["drawn"]
        if age >= state["window"]:
            return True
        if age % LOOK or not group["redraw_below"]:
            return False
        # In a fresh adapter rows and columns wait for their partner's: what had no gradient then is not in the basis.
        return projection.live(G) > state["live"] or projection.share(G, R) < group["redraw_below"] * state["share"]

    def _refresh(self, state: dict, projection: Projection, G: Tensor, group: dict, index: int) -> None:
        """Take a new basis from a gradient, and do with the moments what `on_refresh` says."""
        step, gap = state.get("step", 0), group["update_proj_gap"]
        generator = torch.Generator().manual_seed(_seed(group, index, step))
        old, new = state.get("basis"), projection.basis(G, group["basis"], generator)
        early = index * gap // len(self._order) if group["stagger"] and old is None else 0  # of the first window alone
        state["basis"] = new.to(group["basis_dtype"] or (torch.bfloat16 if group["bits"] == 8 else torch.float32))
        share = projection.share(G, projection.project(G, new))
        state |= {"drawn": step, "window": gap - early, "share": share, "live": projection.live(G)}
        if old is None or group["on_refresh"] == "keep":
            return
        if group["on_refresh"] == "reset":
            for name in MOMENTS:
                write(state, name, torch.zeros_like(read(state, name)), group["bits"])
            state["began"] = step
            return
        for name, turn in zip(MOMENTS, projection.turns(old.to(G.dtype), new), strict=True):
            moment = read(state, name)
            write(state, name, moment @ turn if projection.right else turn @ moment, group["bits"])

    def _adam(self, state: dict, suffix: str, gradient: Tensor, group: dict) -> tuple[Tensor, Tensor, float]:
        """Adam's direction as numerator, denominator and the factor that corrects the numerator's bias."""
        beta1, beta2 = group["betas"]
        first, second = (name + suffix for name in MOMENTS)
        if first not in state and first + "_codes" not in state:
            mean, square = torch.zeros_like(gradient), torch.zeros_like(gradient)
        else:
            mean, square = read(state, first), read(state, second)
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        step = state["step"] - (0 if suffix else state.get("began", 0))
        denominator = square.sqrt().div_(math.sqrt(1 - beta2**step)).add_(group["eps"])
        bits = 32 if suffix else group["bits"]
        write(state, first, mean, bits)
        write(state, second, square, bits)
        return mean, denominator, 1 / (1 - beta1**step)


class GradNormLoRP(ProjectedAdamW):
    """Weight normalization and low-rank gradient projection (arXiv 2412.19616).

    Args: those of `ProjectedAdamW`. Groups without a rank are plain AdamW.
    """

    def __init__(self, params: Iterable, lr: float = 1e-4, *args: Any, **settings: Any):
        super().__init__(params, lr, *args, normalize=True, **settings)


def _seed(group: dict, index: int, step: int) -> int:
    """An even number of its own for each parameter and step."""
    return ((group["seed"] * 1_000_003 + index) * 1_000_003 + step) * 2 % 2**63


def _check(group: dict) -> None:
    """Raise a UserError for the first setting of a group that is out of range."""
    rank = group["rank"]
    if rank is not None and (rank <= 0 or (rank >= 1 and rank != int(rank))):
        raise UserError(f"rank is {rank}", "Set it to a whole number, or to a share of the shorter side below 1")
    if group["update_proj_gap"] < 1:
        raise UserError(f"update_proj_gap is {group['update_proj_gap']}", "Set it to at least 1 step")
    if not 0 <= group["redraw_below"] <= 1:
        raise UserError(f"redraw_below is {group['redraw_below']}", "Set it to 0 to 1")
    rate = group["magnitude_lr"]
    if rate not in (None, "row") and (isinstance(rate, str) or not 0 <= rate < math.inf):
        raise UserError(f"magnitude_lr is {rate!r}", 'Set it to a number of at least 0, to None or to "row"')
    for name, values in ALLOWED.items():
        if group[name] not in values:
            raise UserError(f"{name} is {group[name]!r}", f"Choose one of {', '.join(map(str, values))}")
