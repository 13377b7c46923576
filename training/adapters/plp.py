"""Partly learnable projections: of each LoRA factor one part is frozen and shared, the other is learned.

Break-for-Make (arXiv 2403.19456): up = [A ; B] and down = [C , D], as `factors` has them. One of B and D is the
content's, the other the style's; the paper's figure and its code disagree on which.

In a layer where one concept alone learns, nothing has to be kept free for the other: it learns both factors whole.
Split by rank, each concept has half of the rank's coordinates instead, and learns both factors there: two LoRAs, added.

The learned factors are what parametrizations on the weights of peft's LoRA layers are made of, so that peft's forward,
scaling and merging stay as they are, and removing the parametrizations leaves an ordinary LoRA.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pipelines.errors import UserError
from training.adapters.adapter import Adapter
from training.families import family_of_denoiser
from training.stages import BOTH, Part, Stage, end_of, others_parts, own_part, partner_of, steps_of

if TYPE_CHECKING:
    from diffusers import ModelMixin
    from torch import Tensor, nn

    from training.adapters.compander import WeightCompander
    from training.config import AdapterSettings, Customization, Make


@dataclass(frozen=True)
class Learned:
    """What a concept learns of a parametrized factor: all that is learned there, or its half of the rank."""

    factor: Any  # of `Layer`
    half: int | None = None

    @property
    def parameter(self) -> nn.Parameter:
        held = self.factor.parametrizations.weight
        return held.original if self.half is None else getattr(held, f"original{self.half}")

    def of(self, weight: Tensor) -> Tensor:
        """What it is in a factor of this weight."""
        parametrization = self.factor.parametrizations.weight[0]
        found = parametrization.right_inverse(weight.to(self.parameter))
        return found if self.half is None else found[self.half]

    def set_scale(self, scale: float) -> None:
        self.factor.parametrizations.weight[0].scales[self.half or 0] = scale


@dataclass(frozen=True)
class Layer:
    """One adapted layer: its name in the denoiser, and the two parametrized factors."""

    name: str
    up: Any  # peft's lora_B, weight m x r
    down: Any  # peft's lora_A, weight r x n; of a convolution r x n x its kernel
    owner: str | None = None  # the concept that alone learns here
    by_rank: bool = False  # whether each concept has half of the rank

    @property
    def B(self) -> nn.Parameter:
        return self.up.parametrizations.weight.original

    @property
    def D(self) -> nn.Parameter:
        return self.down.parametrizations.weight.original

    def learned(self, concept: str, place: str) -> dict[str, Learned]:
        """What a concept learns here, by the names under which it is kept; of both factors, up first.

        Args:
            place: "up" or "down", the factor that is the concept's in a layer of both that is not split by rank.
        """
        if self.owner not in (None, concept):
            return {}
        if self.owner is None and not self.by_rank:
            return {self.name: Learned(getattr(self, place))}
        half = BOTH.index(concept) if self.by_rank else None
        return {f"{self.name}.up": Learned(self.up, half), f"{self.name}.down": Learned(self.down, half)}


class PartlyLearnable(Adapter):
    """The partly learnable adapter on a denoiser.

    With `constant_block="zero"` a fresh one leaves the denoiser's output the same to the bit; with "released" not.

    Args:
        rank: even, at most the shorter side of the narrowest layer.
        layers: one of the denoiser's sets (`layers` of its family).
        seed: of the frozen factors.
        compander: a of a Weight Compander on the learned factors, whose entries then stay within a pi / 2; 0 for none.
        content_half: "down" gives D to the content and B to the style, "up" the other way round.
        learns_in: concept -> "everywhere", one of the places of `Family.places` or "not " and one, everywhere if not
            named.
        split_gates: half of the values and half of the gates of a UNet's feed-forward are each concept's; otherwise
            one learns on the gates alone.
        split: of a layer in which both learn; by "factors" as said above, or by "rank".
    Raises:
        UserError: the rank does not fit, or the denoiser has no such layers.
    """

    name: ClassVar[str] = "plp"
    title: ClassVar[str] = "partly learnable projections"
    splits: ClassVar[bool] = True

    @classmethod
    def stages(cls, config: Customization) -> list[Stage]:
        """Break: each concept, with weak lessons from others for its partner. Make: both together.

        Where others teach the concept itself, make does so too. Concepts that share no factor need no stand-ins.
        """
        settings = config.optimizer
        stages: list[Stage] = []
        for own, concept in config.to_learn.items():
            first, steps = end_of(stages), steps_of(config, own)
            partner, weak = partner_of(own), settings.lr * settings.weak
            stand_in = weak > 0 and not config.adapter.apart
            moves = (own,) * cls.learns_from_others(config, own) + (partner,) * stand_in
            others = others_parts(config, own, moves)
            parts, rates = (own_part(config, own), *others), {own: settings.lr * concept.rate}
            rates |= {partner: weak} if others and stand_in else {}
            stages.append(Stage(own, first, steps, parts, rates))
        if len(config.concepts) == 2:
            each = max(1, config.steps.batch_size // 2)
            parts = tuple(Part(concept, each, BOTH) for concept in BOTH)
            for own in BOTH:
                parts += others_parts(config, own, (own,) * cls.learns_from_others(config, own))
            rates = {own: settings.make_lr * concept.rate for own, concept in config.concepts.items()}
            stages.append(Stage("make", end_of(stages), config.steps.make, parts, rates))
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
            settings.split_gates,
            settings.split,
        )

    def __init__(
        self,
        denoiser: ModelMixin,
        rank: int,
        layers: str = "attention",
        constant_block: str = "zero",
        seed: int = 0,
        compander: float = 0.0,
        content_half: str = "down",
        learns_in: dict[str, str] | None = None,
        split_gates: bool = False,
        split: str = "factors",
    ):
        from peft import LoraConfig
        from peft.tuners.lora import LoraLayer

        from pipelines.adapters import ADAPTER

        self.denoiser, self.layers, self.constant_block = denoiser, [], constant_block
        self.begins: dict[str, dict[str, Tensor]] = {concept: {} for concept in BOTH}  # what is not zero at first
        self.fused: dict[str, dict[str, tuple[int, ...]]] = {}  # of the layers that are several matrices in one
        self.places = {"content": content_half, "style": "up" if content_half == "down" else "down"}
        if split == "rank":
            self.places = {"content": "first rank", "style": "second rank"}
        denoiser.requires_grad_(False)
        family = family_of_denoiser(denoiser)
        pattern = re.compile(family.layers[layers])
        names = [name for name, _ in denoiser.named_modules() if pattern.fullmatch(name)]
        if not names:
            raise UserError(
                f"The base's {type(denoiser).__name__} has no {layers} layers that an adapter could be put on",
                "Choose another base or other adapter.layers",
            )
        where = dict.fromkeys(BOTH, "everywhere") | (learns_in or {})
        learning = {concept: _layers_at(denoiser, names, concept, where[concept]) for concept in BOTH}
        used = [name for name in names if any(name in some for some in learning.values())]
        exactly = pattern.pattern if used == names else "|".join(map(re.escape, used))
        config = LoraConfig(r=rank, lora_alpha=rank, target_modules=exactly, init_lora_weights=False)
        denoiser.add_adapter(config, adapter_name=ADAPTER)
        for name, module in denoiser.named_modules():
            if not isinstance(module, LoraLayer):
                continue
            up, down = module.lora_B[ADAPTER].float(), module.lora_A[ADAPTER].float()
            owners = [concept for concept in BOTH if name in learning[concept]]
            if len(owners) == 1 or split == "rank":
                by_rank = len(owners) == 2
                _leave_free(name, up, down, seed, compander, by_rank)
                layer = Layer(name, up, down, None if by_rank else owners[0], by_rank)
                self.layers.append(layer)
                for concept in owners:
                    begin = layer.learned(concept, "")[key := f"{name}.down"].parameter
                    self.begins[concept][key] = begin.detach().clone()
                continue
            parts = family.fused(denoiser, name) if split_gates or family.always_by_parts else {}
            if parts:
                self.fused[name] = parts
            _freeze_partly(name, up, down, constant_block, seed, compander, parts)
            self.layers.append(Layer(name, up, down))

    def _learned(self, concept: str) -> dict[str, Learned]:
        place = self.places[concept]
        return {key: learned for layer in self.layers for key, learned in layer.learned(concept, place).items()}

    def parameters(self, concept: str) -> list[nn.Parameter]:
        """The learned factors of a concept, "content" or "style": D of every layer or B; both where it is alone, and
        both halves of the rank that are its own."""
        return [learned.parameter for learned in self._learned(concept).values()]

    def in_up_factors(self, concept: str) -> list[nn.Parameter]:
        place = self.places[concept]
        found = ((layer, one) for layer in self.layers for one in layer.learned(concept, place).values())
        return [one.parameter for layer, one in found if one.factor is layer.up]

    def learned(self, concept: str) -> dict[str, Tensor]:
        return {key: learned.parameter.detach().clone() for key, learned in self._learned(concept).items()}

    def load(self, concept: str, learned: dict[str, Tensor] | None) -> None:
        """Put a concept's learned factors back; None puts zeros, with which it does nothing."""
        import torch

        given = self.begins[concept] if learned is None else learned
        with torch.no_grad():
            for key, one in self._learned(concept).items():
                if learned is None and key not in given:
                    one.parameter.zero_()
                else:
                    one.parameter.copy_(given[key])

    def set_scales(self, content: float = 1.0, style: float = 1.0) -> None:
        """Multiply the learned factors, in the forward pass only."""
        for concept, scale in (("content", content), ("style", style)):
            for layer in self.layers:
                for learned in [*layer.learned(concept, self.places[concept]).values()][:1]:  # of both factors up alone
                    learned.set_scale(scale)

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
        shared = [layer for layer in self.layers if layer.owner is None and not layer.by_rank]
        for layer in shared:
            lower = len(layer.D) // 2
            if layer.D.grad is not None:
                layer.D.grad[lower:] = 0
            if layer.B.grad is not None:
                layer.B.grad[:, :lower] = 0
        yield
        with torch.no_grad():
            for layer in shared:
                lower = len(layer.D) // 2
                layer.D[lower:] = 0
                layer.B[:, :lower] = 0

    def _precondition(self, damping: float) -> None:
        from training.optimizers.riemannian import precondition

        for layer in self.layers:
            # A block may stand still, and where one concept alone learns, make does not join anything.
            if layer.by_rank:
                for concept in BOTH:
                    up, down = (learned.parameter for learned in layer.learned(concept, "").values())
                    if up.grad is not None and down.grad is not None:
                        factors = up.detach(), down.detach()
                        up.grad, down.grad = precondition(up.grad, down.grad, *factors, damping)
            elif layer.owner is None and layer.B.grad is not None and layer.D.grad is not None:
                up, down = layer.up.weight.detach(), layer.down.weight.detach()
                layer.B.grad, layer.D.grad = precondition(layer.B.grad, layer.D.grad, up, down, damping)

    def learned_in(self, factors: dict[str, tuple[Tensor, Tensor]], concept: str) -> dict[str, Tensor]:
        found = {}
        for layer in self.layers:
            for key, learned in layer.learned(concept, self.places[concept]).items():
                found[key] = learned.of(factors[layer.name][0 if learned.factor is layer.up else 1])
        return found

    def factors(self) -> dict[str, tuple[Tensor, Tensor]]:
        return {layer.name: (layer.up.weight.detach(), layer.down.weight.detach()) for layer in self.layers}

    def frozen(self, settings: AdapterSettings) -> dict[str, Any]:
        alone = {layer.name: layer.owner for layer in self.layers if layer.owner}
        return {"seed": settings.seed, "constant_block": settings.constant_block, "fused": self.fused, "alone": alone}

    def remove_parametrizations(self) -> None:
        """Leave peft's plain LoRA with the same weights, bit for bit: what is learned cannot be told apart then."""
        from torch.nn.utils import parametrize

        for layer in self.layers:
            for factor in (layer.up, layer.down):
                parametrize.remove_parametrizations(factor, "weight", leave_parametrized=True)


def _layers_at(denoiser: nn.Module, names: list[str], concept: str, where: str) -> set[str]:
    """The layers in which a concept learns.

    Raises:
        UserError: there are none.
    """
    if where == "everywhere":
        return {*names}
    family, (*negated, place) = family_of_denoiser(denoiser), where.split()
    found = {name for name in names if (place in family.places(denoiser, name)) != bool(negated)}
    if not found:
        raise UserError(
            f'adapter.{concept}_in is "{where}", and none of the adapted layers of {family.title} is there',
            f'Set adapter.layers to "all", or adapter.{concept}_in to "everywhere"',
        )
    return found


def _leave_free(name: str, up: Any, down: Any, seed: int, compander: float, by_rank: bool) -> None:
    """Put zeros into up, and random rows of about length one into down, which learn whole.

    Args:
        by_rank: the first half of the rank for one concept, the second for the other.
    """
    import torch
    from torch.nn.utils import parametrize

    from training.adapters.factors import PartlyLearned, SplitByRank
    from training.draws import keyed

    n = down.weight[0].numel()
    begin = torch.randn(down.weight.shape, generator=keyed(seed, "alone", name)) / math.sqrt(n)
    for factor, whole, dim in ((up, torch.zeros_like(up.weight), 0), (down, begin.to(down.weight), 1)):
        with torch.no_grad():
            factor.weight.copy_(whole)
        bounded = _compander(compander, whole)
        free = SplitByRank(1 - dim, bounded) if by_rank else PartlyLearned(whole.narrow(dim, 0, 0), dim, bounded)
        parametrize.register_parametrization(factor, "weight", free.to(whole.device))


def _compander(scale: float, like: Tensor) -> WeightCompander | None:
    from training.adapters.compander import WeightCompander

    return WeightCompander(scale, scale).to(like.device) if scale else None


def _freeze_partly(
    name: str,
    up: Any,
    down: Any,
    constant_block: str,
    seed: int,
    compander: float,
    parts: dict[str, tuple[int, ...]],
) -> None:
    """Put A and C into a layer's factors, and zeros for B and D, which alone learn from now on."""
    import torch
    from torch.nn.utils import parametrize

    from training.adapters.factors import PartlyLearned, frozen_factors

    m, rank = up.weight.shape[:2]
    n, *kernel = down.weight.shape[1:]
    if rank > min(m, n):
        raise UserError(
            f"adapter.rank is {rank}, but layer {name} is {m} x {n}",
            f"Set adapter.rank to at most {min(m, n) // 2 * 2}",
        )
    A, C = frozen_factors(m, n, rank, constant_block, seed, name, tuple(kernel))
    A, C = A.to(up.weight.device), C.to(up.weight.device)
    for factor, which, frozen, dim in ((up, "up", A, 0), (down, "down", C, 1)):
        with torch.no_grad():
            factor.weight.zero_()
        partly = PartlyLearned(frozen, dim, _compander(compander, frozen), parts.get(which, ()))
        parametrize.register_parametrization(factor, "weight", partly.to(frozen.device))
