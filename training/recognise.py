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
from typing import Any

from safetensors import SafetensorError, safe_open

from pipelines.errors import UserError, first_line

FAMILIES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "Stable Diffusion XL"}
ORIGINS = {  # what distilled and inpainting models, and refiners, go with
    "sd1": "stable-diffusion-v1-5/stable-diffusion-v1-5",
    "sd2": "stabilityai/stable-diffusion-2-1",
    "sdxl": "stabilityai/stable-diffusion-xl-base-1.0",
}
SIDES = {"sd1": 512, "sdxl": 1024}  # pixels, where a single file does not say
PREDICTIONS = ("epsilon", "v_prediction", "sample")
SMALL = 256  # pixels: a base for smaller pictures learns as the embedded one does

PARTS = {  # of a base, in words
    "unet": "UNet",
    "vae": "VAE",
    "text_encoder": "text encoder",
    "text_encoder_2": "second text encoder",
    "tokenizer": "tokenizer",
    "tokenizer_2": "second tokenizer",
    "scheduler": "scheduler",
}
HINTS = {  # a file without which a part of a folder is none; networks need weights too
    "tokenizer": ("tokenizer.json", "vocab.json"),
    "tokenizer_2": ("tokenizer.json", "vocab.json"),
    "scheduler": ("scheduler_config.json",),
}

# How a model that draws in a few steps is told: words of its name, its scheduler.
FAST = re.compile(r"turbo|lightning|hyper-?sd|(?<![a-z])(?:lcm|dmd2?|distilled)(?![a-z])", re.I)
FAST_SCHEDULERS = ("LCMScheduler", "TCDScheduler")

# Tensors of single files, as Stability AI names them.
UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"  # (channels, channels of its input, 3, 3)
KEYS = f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"  # (channels, width of the text)
LABELS = f"{UNET}label_emb.0.0.weight"  # SDXL's sizes and pooled text
OPENCLIP_WIDTH = 1024  # of SD 2's text
FILE_PARTS = {
    "sd1": {"vae": "first_stage_model.", "text_encoder": "cond_stage_model."},
    "sd2": {"vae": "first_stage_model.", "text_encoder": "cond_stage_model.model."},
    "sdxl": {
        "vae": "first_stage_model.",
        "text_encoder": "conditioner.embedders.0.transformer.",
        "text_encoder_2": "conditioner.embedders.1.model.",
    },
}
EDM_MARKS = ("edm_mean", "edm_std", "edm_vpred.sigma_max")  # Playground 2.5, CosXL
SD2_BASE_STEPS = 875_000  # `global_step` in SD 2-base's file; diffusers tells it by this too
SAID = {"epsilon": "epsilon", "v": "v_prediction"}  # modelspec.prediction_type, modelspec.predict_key
OTHERS = {  # a tensor that only such a file has, with or without `UNET` before it
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
        prediction: of `PREDICTIONS`, or what a scheduler calls another; empty where nothing tells.
        zero_snr: whether its schedule ends in pure noise, a terminal signal-to-noise ratio of zero.
        resolution: the side in pixels that it was made for; 0 where nothing tells.
        distilled, edm: what tells that it is; empty where it is not.
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
    edm: str = ""
    missing: tuple[str, ...] = ()

    @property
    def preset(self) -> str:
        """The preset that suits it."""
        if self.family not in FAMILIES or 0 < self.resolution < SMALL:
            return "emoji"
        return "sdxl" if self.family == "sdxl" else "sd15"

    @property
    def title(self) -> str:
        """What it is, in words."""
        name = FAMILIES.get(self.family, self.family)
        if self.refiner:
            return f"{name} refiner"
        return f"{name} inpainting model" if self.inpainting else name

    def told(self, prediction: str | None, zero_snr: bool | None) -> "Base":
        """The same with what a project file says of it, where it says something."""
        given = {"prediction": prediction, "zero_snr": zero_snr}
        return replace(self, **{key: value for key, value in given.items() if value is not None})

    def check_opens(self) -> None:
        """Raises UserError: it is of a kind that cannot be opened here, or a part of it is missing."""
        origin = ORIGINS.get(self.family)
        instead = (
            f"Choose the model that it goes with, for example {origin}"
            if origin
            else "Choose an SD 1, SD 2 or SDXL base"
        )
        if self.edm:
            what = f"is a {self.title} preconditioned as in EDM ({self.edm}), which cannot be customized yet"
            raise UserError(f"The base model {self.name!r} {what}", instead)
        if self.inpainting or self.refiner or not origin:
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
        if self.prediction not in PREDICTIONS:
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
                f"Train on the model that it was made from, for example {ORIGINS[self.family]}",
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
        if self.resolution and not self.resolution / 2 <= resolution <= self.resolution * 2:
            raise UserError(
                f"resolution is {resolution}, but the base model {self.name!r} was made for {self.resolution} px",
                f"Leave resolution out, or set it to {self.resolution // 2} to {self.resolution * 2}",
            )


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
    unet, vae = read("unet/config.json"), read("vae/config.json")
    schedule = read("scheduler/scheduler_config.json")
    kind = index["_class_name"]
    kind = str(kind[-1] if isinstance(kind, list) else kind)  # a custom pipeline names its file first
    inpainting = unet.get("in_channels") == 9
    refiner = bool(index.get("requires_aesthetics_score"))
    family = kind
    if kind == "StableDiffusionXLPipeline" or (kind.startswith("StableDiffusionXL") and (inpainting or refiner)):
        family = "sdxl"
    elif kind == "StableDiffusionPipeline" or (kind.startswith("StableDiffusion") and inpainting):
        family = "sd2" if unet.get("cross_attention_dim") == OPENCLIP_WIDTH else "sd1"
    scheduler = str(schedule.get("_class_name", ""))
    flows = scheduler.startswith("FlowMatch") or schedule.get("use_flow_sigmas")
    names = [base, *(part.get("_name_or_path") or "" for part in (index, unet))]
    side = unet.get("sample_size") or 0
    side = max(side) if isinstance(side, list) else side
    return Base(
        name=base,
        family=family,
        prediction="flow" if flows else schedule.get("prediction_type", "epsilon") if schedule else "",
        zero_snr=bool(schedule.get("rescale_betas_zero_snr")),
        resolution=side * 2 ** (len(vae["block_out_channels"]) - 1) if "block_out_channels" in vae else 0,
        distilled=_fast_name(names) or _fast_parts(schedule, unet),
        inpainting=inpainting,
        refiner=refiner,
        edm=scheduler if scheduler.startswith("EDM") else "",
    )


def _of_file(base: str) -> Base:
    """A single file, from its header."""
    try:
        with safe_open(base, "np") as file:
            keys, metadata = set(file.keys()), file.metadata() or {}
            shapes = {key: file.get_slice(key).get_shape() for key in (FIRST, KEYS) if key in keys}
            steps = int(file.get_tensor("global_step").max()) if "global_step" in keys else 0
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise _unreadable(base, first_line(error)) from None
    channels, width = shapes.get(FIRST, [0, 4])[1], shapes.get(KEYS, [0])[-1]
    family = _file_family(keys, channels, width)
    prediction = _file_prediction(base, family, keys, metadata, steps)
    size = re.match(r"\d+", metadata.get("modelspec.resolution", ""))
    side = {"epsilon": 512, "v_prediction": 768}.get(prediction, 0) if family == "sd2" else SIDES.get(family, 0)
    prefixes = FILE_PARTS.get(family, {})
    missing = [part for part, prefix in prefixes.items() if not any(key.startswith(prefix) for key in keys)]
    return Base(
        name=base,
        family=family,
        prediction=prediction,
        zero_snr="ztsnr" in keys,
        resolution=int(size[0]) if size else side,
        distilled=_fast_name([base, metadata.get("modelspec.title", "")])
        or ("a network that is told the guidance scale" if f"{UNET}time_embed.cond_proj.weight" in keys else ""),
        inpainting=channels == 9,
        refiner=any(key.startswith("conditioner.embedders.0.model.") for key in keys),
        edm=next((mark for mark in EDM_MARKS if mark in keys), ""),
        missing=tuple(missing),
    )


def _file_family(keys: set[str], channels: int, width: int) -> str:
    if any(map(ADAPTER.search, keys)):
        return "LoRA file"
    for tensor, name in OTHERS.items():
        if tensor in keys or UNET + tensor in keys:
            return name
    if FIRST not in keys:
        return "file without a UNET of Stable Diffusion"
    if channels not in (4, 9):
        return f"model with {channels} channels of input"
    if width == OPENCLIP_WIDTH or any(key.startswith("cond_stage_model.model.") for key in keys):
        return "sd2"
    return "sdxl" if LABELS in keys or any(key.startswith("conditioner.") for key in keys) else "sd1"


def _file_prediction(base: str, family: str, keys: set[str], metadata: dict[str, str], steps: int) -> str:
    """By a marker, then by what the metadata says, then by the name; all but SD 2 predict noise otherwise."""
    said = SAID.get(metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key", ""), "")
    if "v_pred" in keys:
        return "v_prediction"
    if said:
        return said
    if re.search(r"v[-_ ]?pred", Path(base).stem, re.I):
        return "v_prediction"
    if family != "sd2":
        return "epsilon"
    architecture = metadata.get("modelspec.architecture", "")
    if architecture.startswith("stable-diffusion-v2-512") or steps == SD2_BASE_STEPS:
        return "epsilon"
    return "v_prediction" if architecture.startswith("stable-diffusion-v2-768-v") or steps else ""


def _fast_name(names: list[str]) -> str:
    """The word in one of the names that only models for a few steps have; of a path the last part counts."""
    found = next(filter(None, (FAST.search(Path(name).name) for name in names)), None)
    return f"its name has {found[0]!r}" if found else ""


def _fast_parts(schedule: dict[str, Any], unet: dict[str, Any]) -> str:
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
    return "a network that is told the guidance scale" if unet.get("time_cond_proj_dim") else ""


def _missing(folder: Path, family: str) -> tuple[str, ...]:
    """The parts that a folder of this family should have and has not."""
    parts = [part for part in PARTS if family == "sdxl" or not part.endswith("_2")] if family in FAMILIES else []
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
        held = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return held if isinstance(held, dict) else {}
