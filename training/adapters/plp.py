"""Partly learnable projections: of each LoRA factor one part is frozen and shared, the other is learned.

Break-for-Make (arXiv 2403.19456): up = [A ; B] and down = [C , D], as `factors` has them. One of B and D is the
content's, the other the style's; the paper's figure and its code disagree on which.

The learned factors are what parametrizations on the weights of peft's LoRA layers are made of, so that peft's forward,
scaling and merging stay as they are, and removing the parametrizations leaves an ordinary LoRA.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pipelines.errors import UserError
from training.adapters.adapter import Adapter
from training.families import family_of_denoiser
from training.stages import BOTH, Part, Stage, others_parts, own_part, partner_of

if TYPE_CHECKING:
    from torch import Tensor, nn

    from training.config import AdapterSettings, Customization, Make


@dataclass(frozen=True)
class Layer:
    """One adapted layer: its name in the denoiser, and the two parametrized factors."""

    name: str
    up: nn.Module  # peft's lora_B, weight m x r
    down: nn.Module  # peft's lora_A, weight r x n; of a convolution r x n x its kernel

    @property
    def B(self) -> nn.Parameter:
        return self.up.parametrizations.weight.original

    @property
    def D(self) -> nn.Parameter:
        return self.down.parametrizations.weight.original


class PartlyLearnable(Adapter):
    """The partly learnable adapter on a denoiser.

    With `constant_block="zero"` a fresh one leaves the denoiser's output the same to the bit; with "released" not.

    Args:
        rank: even, at most the shorter side of the narrowest layer.
        layers: one of the denoiser's sets (`layers` of its family).
        seed: of the frozen factors.
        compander: a of a Weight Compander on the learned factors, whose entries then stay within a pi / 2; 0 for none.
        content_half: "down" gives D to the content and B to the style, "up" the other way round.
        learns_in: concept -> "everywhere" or one of the places of `Family.places`, everywhere if not named.
    Raises:
        UserError: the rank does not fit, or the denoiser has no such layers.
    """

    name: ClassVar[str] = "plp"
    title: ClassVar[str] = "partly learnable projections"

    @classmethod
    def stages(cls, config: Customization) -> list[Stage]:
        """Break: each concept, with weak lessons from others for its partner. Make: both together.

        Where others teach both, the concept itself learns from them too, and make does.
        """
        steps, settings = config.steps, config.optimizer
        stages, up = [], "content" if config.adapter.content_half == "up" else "style"
        for own in config.to_learn:
            partner, weak = partner_of(own), settings.lr * settings.weak
            moves = (own,) * (config.others.teach == "both") + (partner,) * (weak > 0)
            others = others_parts(config, own, moves)
            parts, rates = (own_part(config, own), *others), {own: settings.lr}
            rates |= {partner: weak} if others and weak else {}
            stages.append(Stage(own, len(stages) * steps.break_, steps.break_, parts, settings.rates(rates, up)))
        if len(config.concepts) == 2:
            each = max(1, steps.batch_size // 2)
            parts = tuple(Part(concept, each, BOTH) for concept in BOTH)
            parts += others_parts(config, "content", BOTH) if config.others.teach == "both" else ()
            rates = settings.rates(dict.fromkeys(BOTH, settings.make_lr), up)
            stages.append(Stage("make", len(stages) * steps.break_, steps.make, parts, rates))
        return stages

    @classmethod
    def attach(cls, denoiser: nn.Module, settings: AdapterSettings) -> Self:
        return cls(
            denoiser,
            settings.rank,
            settings.layers,
            settings.constant_block,
            settings.seed,
            settings.compander_scale if settings.compander else 0.0,
            settings.content_half,
            {"content": settings.content_in, "style": settings.style_in},
        )

    def __init__(
        self,
        denoiser: nn.Module,
        rank: int,
        layers: str = "attention",
        constant_block: str = "zero",
        seed: int = 0,
        compander: float = 0.0,
        content_half: str = "down",
        learns_in: dict[str, str] | None = None,
    ):
        from peft import LoraConfig
        from peft.tuners.lora import LoraLayer

        from pipelines.adapters import ADAPTER

        self.denoiser, self.layers, self.constant_block = denoiser, [], constant_block
        self.fused: dict[str, dict[str, tuple[int, ...]]] = {}  # of the layers that are several matrices in one
        self.places = {"content": content_half, "style": "up" if content_half == "down" else "down"}
        denoiser.requires_grad_(False)
        family = family_of_denoiser(denoiser)
        pattern = family.layers[layers]
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=pattern, init_lora_weights=False)
        try:
            denoiser.add_adapter(config, adapter_name=ADAPTER)
        except ValueError:
            raise UserError(
                f"The base's {type(denoiser).__name__} has no {layers} layers that an adapter could be put on",
                "Choose another base or other adapter.layers",
            ) from None
        for name, module in denoiser.named_modules():
            if isinstance(module, LoraLayer):
                up, down = module.lora_B[ADAPTER].float(), module.lora_A[ADAPTER].float()
                if parts := family.fused(denoiser, name):
                    self.fused[name] = parts
                _freeze_partly(name, up, down, constant_block, seed, compander, parts)
                self.layers.append(Layer(name, up, down))
        self.idle = {concept: self._idle(concept, (learns_in or {}).get(concept, "everywhere")) for concept in BOTH}

    def _idle(self, concept: str, where: str) -> set[str]:
        """The layers in which a concept learns nothing.

        Raises:
            UserError: those are all.
        """
        if where == "everywhere":
            return set()
        family = family_of_denoiser(self.denoiser)
        idle = {one.name for one in self.layers if where not in family.places(self.denoiser, one.name)}
        if len(idle) == len(self.layers):
            raise UserError(
                f'adapter.{concept}_in is "{where}", and none of the adapted layers of {family.title} is there',
                f'Set adapter.layers to "all", or adapter.{concept}_in to "everywhere"',
            )
        return idle

    def parameters(self, concept: str) -> list[nn.Parameter]:
        """The learned factors of a concept, "content" or "style": D of every layer or B, where it learns."""
        idle = self.idle[concept]
        return [p for layer, p in zip(self.layers, self._factors(concept), strict=True) if layer.name not in idle]

    def _factors(self, concept: str) -> list[nn.Parameter]:
        return [layer.D if self.places[concept] == "down" else layer.B for layer in self.layers]

    def learned(self, concept: str) -> dict[str, Tensor]:
        factors = self._factors(concept)
        return {layer.name: p.detach().clone() for layer, p in zip(self.layers, factors, strict=True)}

    def load(self, concept: str, learned: dict[str, Tensor] | None) -> None:
        """Put a concept's learned factors back; None puts zeros, with which it does nothing."""
        import torch

        with torch.no_grad():
            for layer, parameter in zip(self.layers, self._factors(concept), strict=True):
                parameter.zero_() if learned is None else parameter.copy_(learned[layer.name])

    def set_scales(self, content: float = 1.0, style: float = 1.0) -> None:
        """Multiply the learned factors, in the forward pass only."""
        for layer in self.layers:
            for concept, scale in (("content", content), ("style", style)):
                factor = layer.up if self.places[concept] == "up" else layer.down
                factor.parametrizations.weight[0].scale = scale

    @contextmanager
    def stepping(self, stage: Stage, make: Make) -> Iterator[None]:
        """In make precondition the gradients, where that is asked for; before it keep D and B apart.

        There D learns only where A reads it and B only where C writes to it, so that B D stays zero. The other entries
        act through B D alone, which no break run can teach: in it the other concept's factor is a stand-in. Left to
        Adam, which takes steps of full size however small a gradient, they fill B D with noise; a projection leaves its
        rounding there. Without effect where A and C share the coordinates of the rank.
        """
        import torch

        if stage.joins:
            if make.precondition:
                self._precondition(make.damping)
            yield
            return
        if self.constant_block != "zero":
            yield
            return
        for layer in self.layers:
            lower = len(layer.D) // 2
            if layer.D.grad is not None:
                layer.D.grad[lower:] = 0
            if layer.B.grad is not None:
                layer.B.grad[:, :lower] = 0
        yield
        with torch.no_grad():
            for layer in self.layers:
                lower = len(layer.D) // 2
                layer.D[lower:] = 0
                layer.B[:, :lower] = 0

    def _precondition(self, damping: float) -> None:
        from training.optimizers.riemannian import precondition

        for layer in self.layers:
            if layer.B.grad is None or layer.D.grad is None:  # of a block that stands still, or one concept's alone
                continue
            up, down = layer.up.weight.detach(), layer.down.weight.detach()
            layer.B.grad, layer.D.grad = precondition(layer.B.grad, layer.D.grad, up, down, damping)

    def learned_in(self, factors: dict[str, tuple[Tensor, Tensor]], concept: str) -> dict[str, Tensor]:
        place = self.places[concept]
        found = {}
        for layer in self.layers:
            factor = getattr(layer, place).parametrizations.weight[0]
            weight = factors[layer.name][0 if place == "up" else 1]
            found[layer.name] = factor.right_inverse(weight.to(factor.frozen))
        return found

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {layer.name: (layer.up.weight.detach(), layer.down.weight.detach()) for layer in self.layers}

    def frozen(self, settings: AdapterSettings) -> dict[str, Any]:
        return {"seed": settings.seed, "constant_block": settings.constant_block, "fused": self.fused}

    def remove_parametrizations(self) -> None:
        """Leave peft's plain LoRA with the same weights, bit for bit: what is learned cannot be told apart then."""
        from torch.nn.utils import parametrize

        for layer in self.layers:
            for factor in (layer.up, layer.down):
                parametrize.remove_parametrizations(factor, "weight", leave_parametrized=True)


def _freeze_partly(
    name: str,
    up: nn.Module,
    down: nn.Module,
    constant_block: str,
    seed: int,
    compander: float,
    parts: dict[str, tuple[int, ...]],
) -> None:
    """Put A and C into a layer's factors, and zeros for B and D, which alone learn from now on."""
    import torch
    from torch.nn.utils import parametrize

    from training.adapters.compander import WeightCompander
    from training.adapters.factors import PartlyLearned, frozen_factors

    m, rank = up.weight.shape[:2]
    n, *kernel = down.weight.shape[1:]
    if rank > min(m, n):
        raise UserError(
            f"adapter.rank is {rank}, but layer {name} is {m} x {n}",
            f"Set adapter.rank to at most {min(m, n) // 2 * 2}",
        )
    frozen = frozen_factors(m, n, rank, constant_block, seed, name, tuple(kernel))
    A, C = (factor.to(up.weight.device) for factor in frozen)
    for factor, which, frozen, dim in ((up, "up", A, 0), (down, "down", C, 1)):
        with torch.no_grad():
            factor.weight.zero_()
        bounded = WeightCompander(compander, compander).to(frozen.device) if compander else None
        partly = PartlyLearned(frozen, dim, bounded, parts.get(which, ())).to(frozen.device)
        parametrize.register_parametrization(factor, "weight", partly)
