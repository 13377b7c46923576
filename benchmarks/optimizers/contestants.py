"""Who is compared: what learns, by which optimizer, at which rates.

Every contestant learns a style in the embedded base, in the denoiser's own weights ("full"), in a LoRA, or in the
style's factors of a partly learnable projection ("plp").
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module

import torch
from diffusers import DiffusionPipeline
from peft import LoraConfig
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from training.adapters import FullWeights, PartlyLearnable
from training.adapters.compander import compand
from training.families.diffusion import LAYERS
from training.optimizers.outlier import OutlierLayerSampler, blocks_of, choose_scores, outlier_shares
from training.optimizers.registry import make_optimizer

RATES = (1e-3, 3e-3, 1e-2)  # the grid of learning rates, the same for all
EIGHTH = 0.125  # the rank of every projection, as a share of the shorter side
GAP = 40  # steps between two bases
EVERY = 20  # steps between OwLore's draws
GALORE = {"update_proj_gap": GAP, "scale": 1.0}  # the rank is each matrix's own


@dataclass(frozen=True)
class Contestant:
    learns: str  # "full", "lora" or "plp"
    optimizer: str  # a name of the registry, or "package.Class"
    settings: dict = field(default_factory=dict)
    rank: int = 32  # of the adapter
    layers: str = "all"  # a key of LAYERS
    compander: bool = False
    sampling: str = ""  # "outliers" or "uniform": a few blocks at a time


LINEAR = "attention+feedforward"  # what galore-torch can project: its projections take matrices alone
SHORTER = {"rank": EIGHTH, "update_proj_gap": GAP, "scale": 1.0}
PROJECTED = SHORTER | {"side": "right"}  # as the product has it for whole weights, but those of OwLore
ADAPTED = {"rank": 0.25, "update_proj_gap": GAP, "scale": 1.0}
CONTESTANTS: dict[str, Contestant] = {
    "AdamW": Contestant("full", "adamw"),
    "AdamW, 8-bit (bitsandbytes)": Contestant("full", "adamw-8bit"),
    "Adafactor": Contestant("full", "adafactor", {"clip": 1.0}),
    "GaLore (galore-torch), convolutions plain": Contestant(
        "full", "galore_torch.GaLoreAdamW", GALORE | {"proj_type": "std"}
    ),
    "APOLLO (apollo-torch), convolutions plain": Contestant(
        "full",
        "apollo_torch.APOLLOAdamW",
        GALORE | {"proj": "random", "scale_type": "channel", "proj_type": "std"},
    ),
    "Projected AdamW": Contestant("full", "projected-adamw", PROJECTED),
    "GradNormLoRP": Contestant("full", "gradnorm-lorp", PROJECTED),
    "GradNormLoRP, 8-bit": Contestant("full", "gradnorm-lorp", PROJECTED | {"bits": 8}),
    "GradNormLoRP, bases kept for their window": Contestant("full", "gradnorm-lorp", PROJECTED | {"redraw_below": 0.0}),
    "OwLore": Contestant("full", "owlore", SHORTER, sampling="outliers"),
    "OwLore, uniform": Contestant("full", "owlore", SHORTER, sampling="uniform"),
    "AdamW with compander": Contestant("full", "adamw", compander=True),
    "LoRA, rank 8": Contestant("lora", "adamw", rank=8),
    "LoRA, bytes of GradNormLoRP 8-bit": Contestant("lora", "adamw", rank=7),
    "LoRA, bytes of OwLore": Contestant("lora", "adamw", rank=5),
    "linear layers: AdamW": Contestant("full", "adamw", layers=LINEAR),
    "linear layers: GaLore (galore-torch)": Contestant(
        "full", "galore_torch.GaLoreAdamW", GALORE | {"proj_type": "std"}, layers=LINEAR
    ),
    "linear layers: Projected AdamW": Contestant("full", "projected-adamw", PROJECTED, layers=LINEAR),
    "linear layers: GradNormLoRP": Contestant("full", "gradnorm-lorp", PROJECTED, layers=LINEAR),
    "PLP, AdamW": Contestant("plp", "adamw"),
    "PLP, GradNormLoRP 8-bit": Contestant("plp", "gradnorm-lorp", ADAPTED | {"bits": 8, "magnitude_lr": "row"}),
    "PLP, OwLore": Contestant("plp", "owlore", ADAPTED, sampling="outliers"),
    "PLP, AdamW with compander": Contestant("plp", "adamw", compander=True),
}

# One thing changed, to see what counts.
VARIANTS: dict[str, Contestant] = (
    {
        f"{name}, shorter side": replace(CONTESTANTS[name], settings=SHORTER)
        for name in ("Projected AdamW", "GradNormLoRP", "linear layers: GradNormLoRP")
    }
    | {
        "OwLore, columns": replace(CONTESTANTS["OwLore"], settings=PROJECTED),
        "OwLore, columns, uniform": replace(CONTESTANTS["OwLore, uniform"], settings=PROJECTED),
        "LoRA, rank 4": Contestant("lora", "adamw", rank=4),
    }
    | {
        f"GradNormLoRP, {what}": replace(CONTESTANTS["GradNormLoRP"], **change)
        for what, change in {
            "norms at a row's rate": {"settings": PROJECTED | {"magnitude_lr": "row"}},
            "shorter side, norms at a row's rate": {"settings": SHORTER | {"magnitude_lr": "row"}},
            "shorter side, norms fixed": {"settings": SHORTER | {"magnitude_lr": 0.0}},
            "shorter side, moments turned": {"settings": SHORTER | {"on_refresh": "rotate"}},
            "shorter side, rank 1/2": {"settings": SHORTER | {"rank": 0.5}},
            "shorter side, rank 1/4": {"settings": SHORTER | {"rank": 0.25}},
            "shorter side, rank 1/32": {"settings": SHORTER | {"rank": 0.03125}},
            "shorter side, a basis for 10 steps": {"settings": SHORTER | {"update_proj_gap": 10}},
            "shorter side, attention alone": {"settings": SHORTER, "layers": "attention"},
            "rows": {"settings": PROJECTED | {"side": "left"}},
        }.items()
    }
)


def attach(who: Contestant, pipe: DiffusionPipeline, seed: int) -> list[nn.Parameter]:
    """Make a pipeline's denoiser learn as a contestant does, and give what is learned."""
    match who.learns:
        case "full":
            layers = FullWeights(pipe.unet, 8, who.layers).layers.values()
            if not who.compander:
                return [layer.weight for layer in layers]
            for layer in layers:
                compand(layer)
            return [layer.parametrizations.weight.original for layer in layers]
        case "lora":
            torch.manual_seed(seed)
            pipe.unet.requires_grad_(False)
            config = LoraConfig(r=who.rank, lora_alpha=who.rank, target_modules=LAYERS["all"])
            pipe.unet.add_adapter(config)
            return [p for p in pipe.unet.parameters() if p.requires_grad]
        case "plp":
            bound = 0.5 if who.compander else 0.0
            return PartlyLearnable(pipe.unet, who.rank, "all", seed=seed, compander=bound).parameters("style")


def build(who: Contestant, weights: list[nn.Parameter], lr: float) -> Optimizer:
    """The optimizer of a contestant; galore-torch and APOLLO raise at a convolution's gradient, so those are plain."""
    if "." not in who.optimizer:
        settings = {"betas": (0.9, 0.99)} if who.optimizer != "adafactor" else {}
        decay = {"weight_decay": 0.0}
        return make_optimizer(who.optimizer, [{"params": weights, "lr": lr}], **settings, **decay, **who.settings)
    module, _, name = who.optimizer.partition(".")
    groups = [{"params": [p], "rank": round(EIGHTH * min(p.shape)), **who.settings} for p in weights if p.ndim == 2]
    groups.append({"params": [p for p in weights if p.ndim != 2]})
    extra = {"betas": (0.9, 0.99), "weight_decay": 0.0, "no_deprecation_warning": True}
    return getattr(import_module(module), name)(groups, lr=lr, **extra)


def sampler(
    who: Contestant, pipe: DiffusionPipeline, optimizer: Optimizer, calibrate: Callable[[], object], seed: int
) -> OutlierLayerSampler:
    """OwLore's choice of blocks, with the redraws that fit a short run."""
    learned = {p for group in optimizer.param_groups for p in group["params"]}
    found = blocks_of(pipe.unet, resnets=True).items()
    blocks = {name: block for name, block in found if not learned.isdisjoint(block.parameters())}
    even = dict.fromkeys(blocks, 1.0)
    scores = even if who.sampling == "uniform" else choose_scores(outlier_shares(blocks, calibrate))
    return OutlierLayerSampler(optimizer, blocks, scores, every=EVERY, seed=seed)


def kept(optimizer: Optimizer) -> int:
    """Bytes of an optimizer's state as it stands, whatever objects hold it; what tensors share counts once."""
    found: dict[int, int] = {}

    def look(value: object) -> None:
        if is_traceable_wrapper_subclass(value):  # torchao's codes and scales
            look([getattr(value, name) for name in value.__tensor_flatten__()[0]])
        elif isinstance(value, Tensor):
            found[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
        elif isinstance(value, dict):
            for item in value.values():
                look(item)
        elif isinstance(value, list | tuple):
            for item in value:
                look(item)
        elif hasattr(value, "__dict__"):  # galore-torch keeps its bases in objects
            look(vars(value))

    for entries in optimizer.state.values():
        look(entries)
    return sum(found.values())
