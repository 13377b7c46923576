"""What is sampled with: the embedded base, and denoisers of SD 1.5, SDXL, SD3 and Flux with random weights."""

from dataclasses import dataclass, field

import diffusers
import torch
from diffusers import DiffusionPipeline, FluxTransformer2DModel, SD3Transformer2DModel, UNet2DConditionModel

from benchmarks.optimizers.state import ARCHITECTURES
from training.config import HOUSE


@dataclass(frozen=True)
class Model:
    """A denoiser and the stock pipeline around it.

    On a GPU it has its real size, in bf16; on a CPU the same kinds of blocks, narrower and fewer, in float32.

    Args:
        stock: the pipeline's class in diffusers.
        denoiser: the network's class and real configuration; None is the embedded base.
        reduced: what of the configuration is smaller on a CPU.
        pixels: of a picture's side, on a GPU and on a CPU.
        text: tokens, on a GPU and on a CPU, and their width.
        pooled: width of the pooled text embedding, 0 for none.
    """

    stock: str
    preset: str
    denoiser: tuple[type, dict] | None
    pixels: tuple[int, int]
    text: tuple[int, int, int]
    pooled: int = 0
    reduced: dict = field(default_factory=dict)
    scheduler: str = "DPMSolverMultistepScheduler"
    scale: str = "guidance_scale"

    def parts(self, device: str) -> dict:
        """The pipeline's components, the denoiser's weights random unless it is the embedded base."""
        scheduler = getattr(diffusers, self.scheduler)
        if self.denoiser is None:
            base = DiffusionPipeline.from_pretrained(HOUSE / "models/emoji").to(device)
            return base.components | {"scheduler": scheduler.from_config(base.scheduler.config)}
        cls, config = self.denoiser
        torch.manual_seed(0)
        usual = torch.get_default_dtype()
        torch.set_default_dtype(torch.float32 if device == "cpu" else torch.bfloat16)
        try:
            with torch.device(device):
                network = cls(**config | (self.reduced if device == "cpu" else {})).eval()
        finally:
            torch.set_default_dtype(usual)
        names = getattr(diffusers, self.stock)._get_signature_types()
        absent = dict.fromkeys(name for name in names if name not in ("unet", "transformer", "scheduler"))
        return absent | {self.attribute: network, "scheduler": scheduler()}

    @property
    def attribute(self) -> str:
        return "unet" if self.denoiser is None or self.denoiser[0] is UNet2DConditionModel else "transformer"

    def inputs(self, batch: int, device: str, dtype: torch.dtype) -> dict:
        """The arguments of a call; its text embeddings are random."""
        on_gpu, on_cpu, width = self.text
        tokens, pixels = (on_cpu, self.pixels[1]) if device == "cpu" else (on_gpu, self.pixels[0])
        shapes = {"prompt_embeds": (batch, tokens, width)}
        if self.pooled:
            shapes["pooled_prompt_embeds"] = (batch, self.pooled)
        generator = torch.Generator().manual_seed(1)
        embeddings = {
            prefix + name: torch.randn(shape, generator=generator).to(device, dtype)
            for name, shape in shapes.items()
            for prefix in ("", "negative_")
        }
        return embeddings | {self.scale: 5.0, "height": pixels, "width": pixels, "output_type": "latent"}


SD3 = {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "pos_embed_max_size": 192,
}
MODELS = {
    "emoji": Model("StableDiffusionPipeline", "emoji", None, (64, 64), (77, 77, 128)),
    "SD 1.5": Model(
        "StableDiffusionPipeline",
        "sd15",
        (UNet2DConditionModel, ARCHITECTURES["SD 1.5"]),
        (512, 128),
        (77, 77, 768),
        reduced={"block_out_channels": (32, 64, 128, 128)},
    ),
    "SDXL": Model(
        "StableDiffusionXLPipeline",
        "sdxl",
        (UNet2DConditionModel, ARCHITECTURES["SDXL"]),
        (1024, 128),
        (77, 77, 2048),
        pooled=1280,
        reduced={
            "block_out_channels": (32, 64, 128),
            "attention_head_dim": (1, 1, 2),
            "transformer_layers_per_block": (1, 1, 2),
        },
    ),
    "SD3": Model(
        "StableDiffusion3Pipeline",
        "sdxl",
        (SD3Transformer2DModel, SD3),
        (1024, 128),
        (333, 77, 4096),
        pooled=2048,
        reduced={"num_layers": 3, "num_attention_heads": 6, "caption_projection_dim": 384},
        scheduler="FlowMatchEulerDiscreteScheduler",
    ),
    "Flux": Model(
        "FluxPipeline",
        "sdxl",
        (FluxTransformer2DModel, {"guidance_embeds": True}),
        (1024, 128),
        (512, 64, 4096),
        pooled=768,
        reduced={"num_layers": 1, "num_single_layers": 2, "num_attention_heads": 3},
        scheduler="FlowMatchEulerDiscreteScheduler",
        scale="true_cfg_scale",
    ),
}
