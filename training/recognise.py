"""What a base is, told from its small files or from a file's header: nothing is loaded, and no weight is downloaded.

A folder tells by `model_index.json` and the configurations of its parts, and so does a hub id. A single file tells by
the names and shapes of its tensors, by its metadata, and by tensors that only mark it.
"""

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, overload

from safetensors import SafetensorError, safe_open

from pipelines.errors import UserError, first_line
from training.families import FAMILIES
from training.families.family import HINTS, PARTS, Header, fast_name
from training.families.stable_diffusion import FIRST, TOLD_SCALE, UNET
from training.formats import NO_JSON

SMALL = 256  # pixels: a base for smaller pictures learns as the embedded one does
FAST_SCHEDULERS = ("LCMScheduler", "TCDScheduler")  # of models that draw in a few steps
OTHERS = {  # a tensor that only such a file has, with or without the prefix of ComfyUI's files
    "joint_blocks.0.context_block.adaLN_modulation.1.bias": "Stable Diffusion 3 model",
    "distilled_guidance_layer.in_proj.bias": "Chroma model",
    "single_stream_modulation.lin.weight": "FLUX.2 model",
    "double_blocks.0.img_attn.norm.key_norm.scale": "FLUX.1 model",
    "layers.0.adaLN_modulation.0.weight": "Z-Image model",
    "cap_embedder.0.weight": "Lumina 2 model",
    "txtfusion.projector.weight": "Krea 2 model",
    "transformer_blocks.0.attn.norm_added_q.weight": "Qwen-Image model",
    "head.modulation": "Wan model",
    "control_model.time_embed.0.weight": "ControlNet",
    "controlnet_cond_embedding.conv_in.weight": "ControlNet",
}
ADAPTER = re.compile(r"\.(lora_down|lora_up|lora_A|lora_B|hada_w1_a|lokr_w1)\b")


@dataclass(frozen=True)
class Base:
    """What is known of a base before it is opened.

    Attributes:
        family: a key of `FAMILIES`, or what else it is, in words.
        prediction: of its family's, or what a scheduler calls another; empty where nothing tells.
        zero_snr: whether its schedule ends in pure noise, a terminal signal-to-noise ratio of zero.
        resolution: the side in pixels that it was made for; 0 where nothing tells.
        distilled, edm: what tells that it is; empty where it is not.
        relative: what it is beside its family's models for text, in words; empty where it is one of them.
        missing: keys of `PARTS`.
    """

    name: str
    family: str
    prediction: str = ""
    zero_snr: bool = False
    resolution: int = 0
    distilled: str = ""
    inpainting: bool = False
    refiner: bool = False
    relative: str = ""
    edm: str = ""
    missing: tuple[str, ...] = ()

    @property
    def preset(self) -> str:
        """The preset that suits it."""
        if self.family not in FAMILIES or 0 < self.resolution < SMALL:
            return "emoji"
        return FAMILIES[self.family].preset

    @property
    def title(self) -> str:
        """What it is, in words."""
        name = FAMILIES[self.family].title if self.family in FAMILIES else self.family
        if self.refiner:
            return f"{name} refiner"
        if self.relative:
            return f"{name} {self.relative}"
        return f"{name} inpainting model" if self.inpainting else name

    def told(self, prediction: str | None, zero_snr: bool | None) -> "Base":
        """The same with what a project file says of it, where it says something."""
        given: dict[str, Any] = {"prediction": prediction, "zero_snr": zero_snr}
        return replace(self, **{key: value for key, value in given.items() if value is not None})

    def check_opens(self) -> None:
        """Raises UserError: it is of a kind that cannot be opened here, or a part of it is missing."""
        family = FAMILIES.get(self.family)
        instead = (
            f"Choose the model that it goes with, for example {family.origin}"
            if family
            else f"Choose a base of {', '.join(one.title for one in FAMILIES.values())}"
        )
        if self.edm:
            what = f"is a {self.title} preconditioned as in EDM ({self.edm}), which cannot be customized yet"
            raise UserError(f"The base model {self.name!r} {what}", instead)
        whole = next((one for one in FAMILIES.values() if f"{one.title} model" == self.family), None)
        if whole:
            raise UserError(
                f"The base model {self.name!r} is a {self.title}, which cannot be read from a single file yet",
                f"Name its folder or its hub id, for example {whole.origin}",
            )
        if self.inpainting or self.refiner or self.relative or not family:
            raise UserError(f"The base model {self.name!r} is a {self.title}, which cannot be customized yet", instead)
        if self.missing:
            raise UserError(
                f"The {PARTS[self.missing[0]]} of the base model {self.name!r} is missing or not whole",
                "Fetch the whole model again, its weights as .safetensors, or choose another base",
            )
        if not self.prediction:
            raise UserError(
                f"Nothing in {self.name!r} tells whether it predicts noise or velocity",
                'Set prediction in the project file: "epsilon" for a descendant of SD 2-base, else "v_prediction"',
            )
        if self.prediction not in family.predictions:
            raise UserError(
                f"The base model {self.name!r} predicts {self.prediction!r}, which cannot be customized yet", instead
            )

    def check_trains(self, preset: str, resolution: int) -> None:
        """Raises UserError: nothing should be trained on it, or not with that preset or at that resolution."""
        self.check_opens()
        if self.distilled:
            raise UserError(
                f"The base model {self.name!r} is distilled to draw in a few steps ({self.distilled}), which training "
                "would undo",
                f"Train on the model that it was made from, for example {FAMILIES[self.family].origin}",
            )
        if preset != self.preset:
            size = f" for {self.resolution} px" if self.resolution else ""
            raise UserError(
                f"preset is {preset!r}, but the base model {self.name!r} is {self.title}{size}",
                f'Set preset to "{self.preset}", or leave it out',
            )
        if self.zero_snr and self.prediction == "epsilon":
            raise UserError(
                f"zero_snr is true, but the base model {self.name!r} predicts noise, which is all there is then",
                'Leave zero_snr out, or set prediction to "v_prediction" if that is what it predicts',
            )
        multiple = FAMILIES[self.family].multiple
        if resolution % multiple:
            raise UserError(
                f"resolution is {resolution}, but {self.title} takes multiples of {multiple} px only",
                f"Set resolution to {resolution // multiple * multiple} or {(resolution // multiple + 1) * multiple}",
            )
        if self.resolution and not self.resolution / 2 <= resolution <= self.resolution * 2:
            raise UserError(
                f"resolution is {resolution}, but the base model {self.name!r} was made for {self.resolution} px",
                f"Leave resolution out, or set it to {self.resolution // 2} to {self.resolution * 2}",
            )


@overload
def recognise(base: str, fetch: Literal[True] = True) -> Base: ...
@overload
def recognise(base: str, fetch: bool) -> Base | None: ...
def recognise(base: str, fetch: bool = True) -> Base | None:
    """What a base is.

    Args:
        base: a diffusers folder, one safetensors file, or a hub id.
        fetch: whether the small files of a hub id may be fetched; else it is told by those that are here already.
    Returns:
        None if nothing of it is here and nothing may be fetched.
    Raises:
        UserError: there is no such base within reach, it is no safetensors file, or a folder without a model.
    """
    try:
        return _recognise(base, fetch)
    except UserError:
        raise
    except (ValueError, TypeError, LookupError, AttributeError, ArithmeticError) as error:  # files of another kind
        raise _unreadable(base, first_line(error)) from None


def _recognise(base: str, fetch: bool) -> Base | None:
    path = Path(base)
    if os.path.isfile(base):
        return _of_file(base)
    if os.path.isdir(base):
        found = _of_parts(base, lambda name: read_json(path / name))
        return replace(found, missing=_missing(path, found.family))
    try:
        return _of_parts(base, lambda name: _from_hub(base, name, fetch))
    except _OutOfReach as error:
        if not fetch:
            return None
        raise UserError(
            f"The base model {base!r} is neither a folder, nor a file, nor a hub model within reach ({error})",
            "Set base to a diffusers folder, a .safetensors file, or a hub id",
        ) from None


def variant(folder: Path) -> str | None:
    """Which weights a part of a folder has as safetensors: "" for the plain ones, else for example "fp16".

    Plain ones come first. None where there are none, or where a file that an index names is not there.
    """
    found = []
    for file in folder.glob("*.safetensors"):
        whole = re.fullmatch(r"(?:diffusion_pytorch_model|model)(?:\.(\w+))?\.safetensors", file.name)
        found += [whole[1] or ""] if whole else []
    for index in folder.glob("*.safetensors.index*.json"):
        shards = set(read_json(index).get("weight_map", {}).values())
        if shards and all((folder / shard).is_file() for shard in shards):
            found.append(index.name.removesuffix(".json").rpartition(".index")[2].lstrip("."))
    return min(found, key=lambda name: (name != "", name != "fp16", name), default=None)


def _of_parts(base: str, read: Callable[[str], dict[str, Any]]) -> Base:
    """A base of several parts, from their configurations."""
    index = read("model_index.json")
    if "_class_name" not in index:
        raise _unreadable(base, "it has no model_index.json that names its class")
    kind = index["_class_name"]
    kind = str(kind[-1] if isinstance(kind, list) else kind)  # a custom pipeline names its file first
    denoiser = read(f"{'transformer' if 'transformer' in index else 'unet'}/config.json")
    vae, schedule = read("vae/config.json"), read("scheduler/scheduler_config.json")
    family = next((one for one in FAMILIES.values() if one.of_folder(kind, index, denoiser)), None)
    scheduler = str(schedule.get("_class_name", ""))
    flows = scheduler.startswith("FlowMatch") or schedule.get("use_flow_sigmas")
    prediction = "flow" if flows else schedule.get("prediction_type", "epsilon") if schedule else ""
    side = family.side(denoiser, vae) if family else 0
    for what, said, wanted in (("prediction_type", prediction, str), ("sample_size", side, int)):
        if not isinstance(said, wanted):
            raise _unreadable(base, f"its {what} is a {type(said).__name__}")
    names = [base, *(part.get("_name_or_path") or "" for part in (index, denoiser))]
    return Base(
        name=base,
        family=family.name if family else kind,
        prediction=prediction,
        zero_snr=bool(schedule.get("rescale_betas_zero_snr")),
        resolution=side,
        distilled=fast_name(names)
        or _fast_parts(schedule, denoiser)
        or (family.distilled(denoiser, schedule) if family else "")
        or ("its model_index.json says so" if index.get("is_distilled") else ""),
        inpainting=denoiser.get("in_channels") == 9,
        refiner=bool(index.get("requires_aesthetics_score")),
        relative=family.relatives.get(kind, "") if family else "",
        edm=scheduler if scheduler.startswith("EDM") else "",
    )


def _of_file(base: str) -> Base:
    """A single file, from its header."""
    try:
        with safe_open(base, "np") as file:
            keys = frozenset(file.keys())
            header = Header(
                base,
                keys,
                file.metadata() or {},
                shape=lambda key: file.get_slice(key).get_shape() if key in keys else [],
                largest=lambda key: float(file.get_tensor(key).max()) if key in keys else 0.0,
            )
            facts = {name: family.of_file(header) for name, family in FAMILIES.items()}
            channels = header.shape(FIRST)[1] if FIRST in keys else 0
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise _unreadable(base, first_line(error)) from None
    if any(map(ADAPTER.search, keys)):
        return Base(base, "LoRA file")
    for tensor, name in OTHERS.items():
        if tensor in keys or UNET + tensor in keys:
            return Base(base, name)
    found = next((name for name, told in facts.items() if told), None)
    if found:
        return Base(base, found, **(facts[found] or {}))
    if FIRST in keys:
        return Base(base, f"model with {channels} channels of input")
    return Base(base, "file without a UNET of Stable Diffusion")


def _fast_parts(schedule: dict[str, Any], denoiser: dict[str, Any]) -> str:
    name = schedule.get("_class_name", "")
    turbo = (  # as SDXL Turbo has it; a base for a terminal ratio of zero has these spacings too
        name == "EulerAncestralDiscreteScheduler"
        and schedule.get("timestep_spacing") == "trailing"
        and schedule.get("prediction_type", "epsilon") == "epsilon"
        and not schedule.get("rescale_betas_zero_snr")
    )
    if name in FAST_SCHEDULERS:
        return f"its scheduler is {name}"
    if turbo:
        return f"its scheduler is {name} with trailing steps"
    return TOLD_SCALE if denoiser.get("time_cond_proj_dim") else ""


def _missing(folder: Path, family: str) -> tuple[str, ...]:
    """The parts that a folder of this family should have and has not."""
    parts = FAMILIES[family].parts if family in FAMILIES else ()
    return tuple(
        part
        for part in parts
        if not any((folder / part / hint).is_file() for hint in HINTS.get(part, ("config.json",)))
        or (part not in HINTS and variant(folder / part) is None)
    )


class _OutOfReach(Exception):
    """A hub id of which a file is neither here nor to be fetched."""


def _from_hub(base: str, name: str, fetch: bool) -> dict[str, Any]:
    """A small file of a hub id, from the cache if it is there; empty if the model has none."""
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    first = name == "model_index.json"
    try:
        kept = try_to_load_from_cache(base, name)
        if kept is None and fetch:
            if first:
                get_hf_file_metadata(hf_hub_url(base, name))  # fetching tries for half a minute where no network is
            kept = hf_hub_download(base, name)
    except Exception as error:  # no name of a model, none there, consent is asked first, no network: each its own kind
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            return {}
        raise _OutOfReach(first_line(error)) from None
    if kept is None and first:
        raise _OutOfReach
    return read_json(Path(kept)) if isinstance(kept, str) else {}


def _unreadable(base: str, why: str) -> UserError:
    return UserError(
        f"The base model {base!r} cannot be opened ({why})",
        "Set base to a diffusers folder, a .safetensors file, or a hub id",
    )


def read_json(path: Path) -> dict[str, Any]:
    """What a file holds; nothing if it is not there or holds something else."""
    try:
        held = json.loads(path.read_text(encoding="utf-8")) if os.path.isfile(path) else {}
    except (OSError, *NO_JSON):
        return {}
    return held if isinstance(held, dict) else {}
