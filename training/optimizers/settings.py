"""The settings of every optimizer: what a project file and the studio can choose, and within which bounds."""

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, Union

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

if TYPE_CHECKING:
    from torch import nn


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_assignment=True, populate_by_name=True, allow_inf_nan=False)


class Learning(Strict):
    """What every optimizer has; each adds its own settings, and `Optimizer` is the union of all."""

    if TYPE_CHECKING:
        name: str = ""  # each has its own

    lr: float = Field(3e-3, gt=0, le=1, description="learning rate of break")
    make_lr: float = Field(2e-3, gt=0, le=1, description="learning rate of make, which starts from learned factors")
    weak: float = Field(
        0.1, ge=0, le=1, description="share of lr with which the other concept's factors learn on `others`"
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="pull of the weights towards zero, times lr")

    title: ClassVar[str]  # as people know it; without one its name stands for it
    decays: ClassVar[bool] = True  # whether the rate falls to zero over a stage
    narrow: ClassVar[bool] = False  # whether weights may be bfloat16 themselves, as stochastic rounding allows
    independent: ClassVar[bool] = True  # whether a weight's update depends on that weight's gradient alone

    def groups(self, learned: list["nn.Parameter"], up: list["nn.Parameter"], rate: float) -> list[dict[str, Any]]:
        """The parameter groups of what a concept learns at a rate.

        Args:
            up: those of it that lie in up factors.
        """
        return [{"params": learned, "lr": rate, "peak": rate}]

    def own_settings(self) -> dict[str, Any]:
        """What the optimizer itself is built with; the rates go to its parameter groups."""
        others = {"name", "lr", "make_lr", "weak", "ratio", "active", "every", "floor", "sampling"}
        return self.model_dump(exclude=others)


class AdamLike(Learning):
    beta1: float = Field(0.9, ge=0, lt=1, description="share of the gradients' mean that a step keeps")
    beta2: float = Field(0.99, ge=0, lt=1, description="share of their squares' mean that a step keeps")
    eps: float = Field(1e-8, gt=0, le=1e-2, description="keeps steps finite where gradients vanish")


class AdamW(AdamLike):
    """Each weight's step follows its own gradient's mean and spread (arXiv 1711.05101)."""

    title: ClassVar[str] = "AdamW"
    name: Literal["adamw"] = "adamw"


class AdamW8bit(AdamLike):
    """bitsandbytes' AdamW with moments in eight bits."""

    title: ClassVar[str] = "AdamW, 8-bit"
    name: Literal["adamw-8bit"] = "adamw-8bit"


class LoRAPlus(AdamLike):
    """AdamW with a higher rate for the up factors (arXiv 2402.12354)."""

    title: ClassVar[str] = "LoRA+"
    name: Literal["lora-plus"] = "lora-plus"
    ratio: float = Field(4.0, gt=0, le=100, description="of the up factors' rate to the down factors'")

    def groups(self, learned: list["nn.Parameter"], up: list["nn.Parameter"], rate: float) -> list[dict[str, Any]]:
        higher = {id(one) for one in up}
        down = [one for one in learned if id(one) not in higher]
        both = ((up, self.ratio * rate), (down, rate))
        return [{"params": some, "lr": own, "peak": own} for some, own in both if some]


class Adafactor(Learning):
    """Second moments as rows and columns (arXiv 1804.04235)."""

    title: ClassVar[str] = "Adafactor"
    name: Literal["adafactor"] = "adafactor"
    beta2_decay: float = Field(-0.8, ge=-1, lt=0, description="power of the step with which it forgets older squares")
    clip: float = Field(1.0, gt=0, le=100, description="limit of the update's root mean square")


class ScheduleFree(AdamLike):
    """AdamW whose weights are averages along the way, so that no rate has to fall (arXiv 2405.15682)."""

    title: ClassVar[str] = "Schedule-free AdamW"
    name: Literal["schedule-free"] = "schedule-free"
    decays: ClassVar[bool] = False
    independent: ClassVar[bool] = False


class Prodigy(AdamLike):
    """AdamW that finds its own rate; lr and make_lr multiply it (arXiv 2306.06101)."""

    title: ClassVar[str] = "Prodigy"
    name: Literal["prodigy"] = "prodigy"
    lr: float = Field(1.0, gt=0, le=100, description="factor of the rate that it finds, in break")
    make_lr: float = Field(1.0, gt=0, le=100, description="the same, in make")
    weak: float = Field(1.0, ge=1, le=1, description="it has one rate for all")

    independent: ClassVar[bool] = False


class ProjectedAdamW(AdamLike):
    """AdamW in a low-rank projection of the gradient (GaLore)."""

    title: ClassVar[str] = "Projected AdamW (GaLore)"
    narrow: ClassVar[bool] = True
    name: Literal["projected-adamw"] = "projected-adamw"
    rank: float = Field(0.25, gt=0, le=4096, description="of the projection; below 1 a share of the shorter side")
    update_proj_gap: int = Field(50, ge=1, le=100_000, description="steps until a projection is drawn anew")
    redraw_below: float = Field(
        0.5, ge=0, le=1, description="a projection that holds less than this share of what it did is drawn anew early"
    )
    scale: float = Field(1.0, gt=0, le=10, description="factor of the projected update, beside lr")
    side: Literal["shorter", "right", "left"] = Field(
        "shorter", description="which side is projected: the shorter, the right (columns) or the left (rows)"
    )
    basis: Literal["svd", "randomized"] = Field("svd", description="how the projection is drawn: exactly, or quickly")
    on_refresh: Literal["keep", "rotate", "reset"] = Field(
        "keep", description="what becomes of the moments at a new projection"
    )
    bits: Literal[8, 32] = Field(32, description="of each number in the moments")
    stagger: bool = Field(False, description="spread these draws, so that no step takes much longer than the others")


class GradNormLoRP(ProjectedAdamW):
    """Weight normalization and low-rank gradient projection (arXiv 2412.19616)."""

    title: ClassVar[str] = "GradNormLoRP"
    name: Literal["gradnorm-lorp"] = "gradnorm-lorp"  # type: ignore[assignment]
    bits: Literal[8, 32] = Field(8, description="of each number in the moments")
    magnitude_lr: Annotated[float, Field(gt=0, le=1)] | Literal["lr", "row"] = Field(
        "row", description="rate of the rows' norms; row is lr times the root of the columns"
    )

    def own_settings(self) -> dict[str, Any]:
        return super().own_settings() | ({"magnitude_lr": None} if self.magnitude_lr == "lr" else {})


class OwLore(ProjectedAdamW):
    """A few blocks at a time, those whose weights have many outliers more often (arXiv 2405.18380)."""

    title: ClassVar[str] = "OwLore"
    name: Literal["owlore"] = "owlore"  # type: ignore[assignment]
    active: int = Field(0, ge=0, le=1000, description="blocks that learn at a time; 0: a third of them, at most 5")
    every: int = Field(50, ge=1, le=100_000, description="steps between two draws of blocks")
    floor: float = Field(0.1, ge=0, le=1, description="share of the probability that is spread evenly")
    sampling: Literal["outliers", "uniform"] = Field("outliers", description="by what blocks are drawn")


KINDS = (AdamW, AdamW8bit, LoRAPlus, Adafactor, ScheduleFree, Prodigy, ProjectedAdamW, GradNormLoRP, OwLore)
DEFAULT = "gradnorm-lorp"  # where no name is given
OPTIMIZERS: dict[str, type[Learning]] = {kind.model_fields["name"].default: kind for kind in KINDS}
RATES = ("lr", "make_lr")
NARROW = tuple(name for name, kind in OPTIMIZERS.items() if kind.narrow)


def shares_rates(name: Any) -> bool:
    """Whether a learning rate means to this optimizer what it means to most, and not a factor of one that it finds."""
    lr = {known: kind.model_fields["lr"].default for known, kind in OPTIMIZERS.items()}
    return lr[name] == lr[DEFAULT] if isinstance(name, str) and name in lr else True


def _optimizer_name(value: Any) -> Any:
    """By what the union chooses."""
    return value.get("name", DEFAULT) if isinstance(value, dict) else getattr(value, "name", None)


if TYPE_CHECKING:  # the same written out
    Optimizer: TypeAlias = (
        AdamW | AdamW8bit | LoRAPlus | Adafactor | ScheduleFree | Prodigy | ProjectedAdamW | GradNormLoRP | OwLore
    )
else:
    Optimizer = Annotated[
        Union[tuple(Annotated[kind, Tag(name)] for name, kind in OPTIMIZERS.items())],  # noqa: UP007 (made from a list)
        Discriminator(_optimizer_name),
    ]
