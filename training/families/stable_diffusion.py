"""Stable Diffusion 1 and 2, which differ in their text encoder, in what they predict, and in what a file tells."""

from __future__ import annotations

import re
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pipelines.windows import MOST
from training.families.diffusion import Diffusion
from training.families.family import BLOCKS, EIGHT_BIT, EXACT, PHOTOGRAPHED, PROJECTED, Header, fast_name

if TYPE_CHECKING:
    import torch
    from diffusers import DiffusionPipeline
    from torch import Tensor

START, END = "<|startoftext|>", "<|endoftext|>"  # of CLIP's tokenizer
OPENCLIP_WIDTH = 1024  # of SD 2's text

# Tensors of single files, as Stability AI names them.
UNET = "model.diffusion_model."
FIRST = f"{UNET}input_blocks.0.0.weight"  # (channels, channels of its input, 3, 3)
KEYS = f"{UNET}input_blocks.2.1.transformer_blocks.0.attn2.to_k.weight"  # (channels, width of the text)
LABELS = f"{UNET}label_emb.0.0.weight"  # SDXL's sizes and pooled text
GUIDED = f"{UNET}time_embed.cond_proj.weight"
EDM_MARKS = ("edm_mean", "edm_std", "edm_vpred.sigma_max")  # Playground 2.5, CosXL
SD2_BASE_STEPS = 875_000  # `global_step` in SD 2-base's file; diffusers tells it by this too
SAID = {"epsilon": "epsilon", "v": "v_prediction"}  # modelspec.prediction_type, modelspec.predict_key
TOLD_SCALE = "a network that is told the guidance scale"


class StableDiffusion(Diffusion):
    """What the two have in common with each other, and with SDXL."""

    pipeline: ClassVar[str] = "StableDiffusionPipeline"
    parts: ClassVar[tuple[str, ...]] = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
    preset: ClassVar[str] = "sd15"
    settings: ClassVar[dict[str, Any]] = {
        "others": PHOTOGRAPHED,
        "make": {"precondition": True},
        "base": "stable-diffusion-v1-5/stable-diffusion-v1-5",
        "resolution": 512,
        "adapter": {"rank": 32, "layers": "attention", "split_gates": True},
        "optimizer": {"lr": 4e-5, "make_lr": 1e-5},
        "steps": {"break": 500, "make": 200, "batch_size": 2, "others_batch_size": 1},
        "samples": {"every": 100, "inference_steps": 25},
    }
    memory: ClassVar[dict[str, dict[int | str, tuple]]] = {
        "plp": {
            8: ("bf16", False, 2, 2, 32, 512, EIGHT_BIT),
            12: ("bf16", False, 4, 1, 32, 512, EIGHT_BIT),
            16: ("bf16", False, 4, 1, 64, 512, EXACT),
            24: ("fp32", False, 4, 1, 64, 512, EXACT),
            48: ("fp32", False, 4, 1, 64, 512, EXACT),
            "cpu": ("fp32", False, 2, 2, 32, 512, EIGHT_BIT),
        },
        "full": {
            8: ("fp32", True, 4, 1, 32, 512, BLOCKS),
            12: ("fp32", True, 4, 1, 32, 512, PROJECTED),
            16: ("fp32", True, 4, 1, 64, 512, PROJECTED),
            24: ("fp32", True, 4, 1, 64, 512, PROJECTED),
            48: ("fp32", False, 4, 1, 64, 512, PROJECTED),
            "cpu": ("fp32", True, 4, 1, 32, 512, PROJECTED),
        },
    }
    windows: ClassVar[int] = MOST
    pads: ClassVar[tuple[str, ...]]  # of each tokenizer
    prefixes: ClassVar[dict[str, str]]  # of the parts' tensors in a single file

    def of_folder(self, kind: str, index: dict[str, Any], denoiser: dict[str, Any]) -> bool:
        if not kind.startswith("StableDiffusion") or kind.startswith("StableDiffusionXL"):
            return False
        own = kind == self.pipeline or denoiser.get("in_channels") == 9
        return own and (denoiser.get("cross_attention_dim") == OPENCLIP_WIDTH) == (self.name == "sd2")

    def side(self, denoiser: dict[str, Any], vae: dict[str, Any]) -> int:
        size = denoiser.get("sample_size") or 0
        size = max(size) if isinstance(size, list) else size
        return size * 2 ** (len(vae["block_out_channels"]) - 1) if "block_out_channels" in vae else 0

    def of_file(self, header: Header) -> dict[str, Any] | None:
        channels = (header.shape(FIRST) or [0, 0])[1]
        if channels not in (4, 9) or _family(header) != self.name:
            return None
        prediction = self.file_prediction(header)
        size = re.match(r"\d+", header.metadata.get("modelspec.resolution", ""))
        missing = [p for p, prefix in self.prefixes.items() if not any(key.startswith(prefix) for key in header.keys)]
        return {
            "prediction": prediction,
            "zero_snr": "ztsnr" in header.keys,
            "resolution": int(size[0]) if size else self.file_side(prediction),
            "distilled": fast_name([header.name, header.metadata.get("modelspec.title", "")])
            or (TOLD_SCALE if GUIDED in header.keys else ""),
            "inpainting": channels == 9,
            "refiner": any(key.startswith("conditioner.embedders.0.model.") for key in header.keys),
            "edm": next((mark for mark in EDM_MARKS if mark in header.keys), ""),
            "missing": tuple(missing),
        }

    def labels(self, prediction: str) -> dict[str, str]:
        """As kohya's scripts and Stability's model specification (ModelSpec 1.0.0) have them; web UIs sort by them."""
        short = next((short for short, long in SAID.items() if long == prediction), "")
        said = {
            "ss_base_model_version": self.version(short),
            "ss_v2": str(self.name == "sd2"),
            "modelspec.sai_model_spec": "1.0.0",
            "modelspec.architecture": f"{self.architecture(short)}/lora",
            "modelspec.implementation": "diffusers",
            "modelspec.prediction_type": short,
        }
        return {key: value for key, value in said.items() if value}

    @abstractmethod
    def version(self, short: str) -> str:
        """What kohya's scripts call a base that predicts this, "epsilon" or "v"."""

    @abstractmethod
    def architecture(self, short: str) -> str:
        """What the model specification calls it."""

    def file_prediction(self, header: Header) -> str:
        """What a single file says, and noise where it says nothing."""
        return _said(header) or "epsilon"

    def file_side(self, prediction: str) -> int:
        """Pixels, where a single file does not say."""
        return self.settings["resolution"]

    def open_file(self, path: str, dtype: torch.dtype) -> DiffusionPipeline:
        from training.single_file import open_single_file

        return open_single_file(path, self, dtype)

    def encode_prompts(self, pipe: DiffusionPipeline, prompts: list[str], resolution: int) -> dict[str, Tensor]:
        encoded = pipe.encode_prompt(
            prompts, device=pipe.device, num_images_per_prompt=1, do_classifier_free_guidance=False
        )
        return {"encoder_hidden_states": encoded[0]}


class StableDiffusion1(StableDiffusion):
    name: ClassVar[str] = "sd1"
    title: ClassVar[str] = "Stable Diffusion 1"
    origin: ClassVar[str] = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    pads: ClassVar[tuple[str, ...]] = (END,)
    prefixes: ClassVar[dict[str, str]] = {"vae": "first_stage_model.", "text_encoder": "cond_stage_model."}

    def version(self, short: str) -> str:
        return "sd_v1_v" if short == "v" else "sd_v1"

    def architecture(self, short: str) -> str:
        return "stable-diffusion-v1"


class StableDiffusion2(StableDiffusion):
    name: ClassVar[str] = "sd2"
    title: ClassVar[str] = "Stable Diffusion 2"
    origin: ClassVar[str] = "stabilityai/stable-diffusion-2-1"
    pads: ClassVar[tuple[str, ...]] = ("!",)  # OpenCLIP's pad with the first token
    prefixes: ClassVar[dict[str, str]] = {"vae": "first_stage_model.", "text_encoder": "cond_stage_model.model."}

    def version(self, short: str) -> str:
        return "sd_v2_v" if short == "v" else "sd_v2"

    def architecture(self, short: str) -> str:
        return "stable-diffusion-v2-768-v" if short == "v" else "stable-diffusion-v2-512"

    def file_prediction(self, header: Header) -> str:
        """What a single file says, then by its architecture or the steps of training; else nothing tells."""
        if said := _said(header):
            return said
        architecture = header.metadata.get("modelspec.architecture", "")
        steps = int(header.largest("global_step"))
        if architecture.startswith("stable-diffusion-v2-512") or steps == SD2_BASE_STEPS:
            return "epsilon"
        return "v_prediction" if architecture.startswith("stable-diffusion-v2-768-v") or steps else ""

    def file_side(self, prediction: str) -> int:
        return {"epsilon": 512, "v_prediction": 768}.get(prediction, 0)


def _said(header: Header) -> str:
    """The prediction by a marker, then by what the metadata says, then by the name; empty where none says it."""
    if "v_pred" in header.keys:
        return "v_prediction"
    metadata = header.metadata
    said = SAID.get(metadata.get("modelspec.prediction_type") or metadata.get("modelspec.predict_key", ""), "")
    return said or ("v_prediction" if re.search(r"v[-_ ]?pred", Path(header.name).stem, re.I) else "")


def _family(header: Header) -> str:
    """Of a file with a UNet of Stable Diffusion."""
    width = (header.shape(KEYS) or [0])[-1]
    if width == OPENCLIP_WIDTH or any(key.startswith("cond_stage_model.model.") for key in header.keys):
        return "sd2"
    return "sdxl" if LABELS in header.keys or any(key.startswith("conditioner.") for key in header.keys) else "sd1"
