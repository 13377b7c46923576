"""What the one hook has to know of each family of diffusers' pipelines, and why other classes are refused.

The latent needs no entry: it is the leading part, in the shape that the pipeline prepared it in, of what goes into the
denoiser and of what comes out. Inpainting masks, reference pictures and learned variance lie behind it.
"""

from dataclasses import dataclass

import diffusers
from diffusers import DiffusionPipeline

from pipelines.errors import UserError


@dataclass(frozen=True)
class Family:
    """Pipelines whose two branches are found, and whose result is written, in the same way.

    Args:
        name: of the models.
        classes: task -> diffusers' class.
        denoisers: attributes of the pipeline that hold what is called at each evaluation.
        sequential: the branches are two calls, the conditional one first; otherwise one batch.
        conditional_first: in a batch.
        listed: a batch is a list of samples, also what the denoiser returns.
        sign: -1 where the pipeline negates the output before the scheduler sees it.
        scale: the argument of a call that sets the strength of guidance.
        scale_of_none: its value for no guidance at all.
        postprocess: what works on the result of guidance: an argument that switches it on, or "always". The rule's
            result is then written into both branches, so that what comes after finds nothing to do.
        prepare: the method that makes the first latents; they are what it returns, or the first of it.
        windows: texts that are longer than CLIP reads are read in several windows.
    """

    name: str
    classes: dict[str, str]
    denoisers: tuple[str, ...] = ("transformer",)
    sequential: bool = False
    conditional_first: bool = False
    listed: bool = False
    sign: int = 1
    scale: str = "guidance_scale"
    scale_of_none: float = 1.0
    postprocess: str | None = None
    prepare: str = "prepare_latents"
    windows: bool = False

    @property
    def needs_negative_prompt(self) -> bool:
        """Networks that take their own, distilled guidance as a number guide by two branches only when asked to."""
        return self.scale == "true_cfg_scale"


FAMILIES: tuple[Family, ...] = (
    Family(
        "Stable Diffusion 1.x, 2.x",
        {
            "text": "StableDiffusionPipeline",
            "image": "StableDiffusionImg2ImgPipeline",
            "inpaint": "StableDiffusionInpaintPipeline",
            "ControlNet": "StableDiffusionControlNetPipeline",
            "ControlNet, image": "StableDiffusionControlNetImg2ImgPipeline",
            "ControlNet, inpaint": "StableDiffusionControlNetInpaintPipeline",
            "depth": "StableDiffusionDepth2ImgPipeline",
            "upscale": "StableDiffusionUpscalePipeline",
            "T2I-adapter": "StableDiffusionAdapterPipeline",
            "PAG": "StableDiffusionPAGPipeline",
            "PAG, image": "StableDiffusionPAGImg2ImgPipeline",
            "PAG, inpaint": "StableDiffusionPAGInpaintPipeline",
            "PAG, ControlNet": "StableDiffusionControlNetPAGPipeline",
            "PAG, ControlNet, inpaint": "StableDiffusionControlNetPAGInpaintPipeline",
        },
        denoisers=("unet",),
        postprocess="guidance_rescale",
        windows=True,
    ),
    Family(
        "SDXL",
        {
            "text": "StableDiffusionXLPipeline",
            "image, refiner": "StableDiffusionXLImg2ImgPipeline",
            "inpaint": "StableDiffusionXLInpaintPipeline",
            "ControlNet": "StableDiffusionXLControlNetPipeline",
            "ControlNet, image": "StableDiffusionXLControlNetImg2ImgPipeline",
            "ControlNet, inpaint": "StableDiffusionXLControlNetInpaintPipeline",
            "ControlNet-Union": "StableDiffusionXLControlNetUnionPipeline",
            "ControlNet-Union, image": "StableDiffusionXLControlNetUnionImg2ImgPipeline",
            "ControlNet-Union, inpaint": "StableDiffusionXLControlNetUnionInpaintPipeline",
            "T2I-adapter": "StableDiffusionXLAdapterPipeline",
            "PAG": "StableDiffusionXLPAGPipeline",
            "PAG, image": "StableDiffusionXLPAGImg2ImgPipeline",
            "PAG, inpaint": "StableDiffusionXLPAGInpaintPipeline",
            "PAG, ControlNet": "StableDiffusionXLControlNetPAGPipeline",
            "PAG, ControlNet, image": "StableDiffusionXLControlNetPAGImg2ImgPipeline",
        },
        denoisers=("unet",),
        postprocess="guidance_rescale",
        windows=True,
    ),
    Family(
        "Kolors",
        {"text": "KolorsPipeline", "image": "KolorsImg2ImgPipeline", "PAG": "KolorsPAGPipeline"},
        denoisers=("unet",),
    ),
)

FAMILIES += (
    Family(
        "Stable Diffusion 3, 3.5",
        {
            "text": "StableDiffusion3Pipeline",
            "image": "StableDiffusion3Img2ImgPipeline",
            "inpaint": "StableDiffusion3InpaintPipeline",
            "ControlNet": "StableDiffusion3ControlNetPipeline",
            "ControlNet, inpaint": "StableDiffusion3ControlNetInpaintingPipeline",
            "PAG": "StableDiffusion3PAGPipeline",
            "PAG, image": "StableDiffusion3PAGImg2ImgPipeline",
        },
    ),
    Family(
        "Flux.1, true CFG",
        {
            "text": "FluxPipeline",
            "image": "FluxImg2ImgPipeline",
            "inpaint": "FluxInpaintPipeline",
            "ControlNet": "FluxControlNetPipeline",
            "Kontext": "FluxKontextPipeline",
            "Kontext, inpaint": "FluxKontextInpaintPipeline",
        },
        sequential=True,
        scale="true_cfg_scale",
    ),
    Family(
        "Flux.2 klein",
        {"text, image": "Flux2KleinPipeline", "inpaint": "Flux2KleinInpaintPipeline"},
        sequential=True,
    ),
    Family(
        "Qwen-Image",
        {
            "text": "QwenImagePipeline",
            "image": "QwenImageImg2ImgPipeline",
            "inpaint": "QwenImageInpaintPipeline",
            "ControlNet": "QwenImageControlNetPipeline",
            "ControlNet, inpaint": "QwenImageControlNetInpaintPipeline",
            "edit": "QwenImageEditPipeline",
            "edit, inpaint": "QwenImageEditInpaintPipeline",
            "edit plus": "QwenImageEditPlusPipeline",
        },
        sequential=True,
        scale="true_cfg_scale",
        postprocess="always",
    ),
)

FAMILIES += (
    Family("Krea 2", {"text": "Krea2Pipeline"}, sequential=True, scale_of_none=0.0),
    Family(
        "Sana",
        {"text": "SanaPipeline", "ControlNet": "SanaControlNetPipeline", "PAG": "SanaPAGPipeline"},
    ),
    Family(
        "PixArt-alpha, Sigma",
        {"text, alpha": "PixArtAlphaPipeline", "text, Sigma": "PixArtSigmaPipeline", "PAG": "PixArtSigmaPAGPipeline"},
    ),
    Family(
        "HunyuanDiT",
        {
            "text": "HunyuanDiTPipeline",
            "ControlNet": "HunyuanDiTControlNetPipeline",
            "PAG": "HunyuanDiTPAGPipeline",
        },
        postprocess="guidance_rescale",
    ),
    Family("AuraFlow", {"text": "AuraFlowPipeline"}),
    Family("Lumina 2", {"text": "Lumina2Pipeline"}, sequential=True, sign=-1, postprocess="cfg_normalization"),
    Family("CogView 3+", {"text": "CogView3PlusPipeline"}),
    Family("CogView 4", {"text": "CogView4Pipeline", "control": "CogView4ControlPipeline"}, sequential=True),
    Family(
        "Chroma",
        {"text": "ChromaPipeline", "image": "ChromaImg2ImgPipeline"},
        sequential=True,
    ),
    Family(
        "Z-Image",
        {
            "text": "ZImagePipeline",
            "image": "ZImageImg2ImgPipeline",
            "inpaint": "ZImageInpaintPipeline",
            "ControlNet": "ZImageControlNetPipeline",
            "ControlNet, inpaint": "ZImageControlNetInpaintPipeline",
        },
        conditional_first=True,
        listed=True,
        sign=-1,
        scale_of_none=0.0,
        postprocess="cfg_normalization",
    ),
    Family("HiDream-I1", {"text": "HiDreamImagePipeline"}, sign=-1),
    Family(
        "Stable Cascade",
        {"text, first stage": "StableCascadePriorPipeline", "second stage": "StableCascadeDecoderPipeline"},
        denoisers=("prior", "decoder"),
        conditional_first=True,
    ),
    Family(
        "Kandinsky 2.2",
        {
            "text, first stage": "KandinskyV22PriorPipeline",
            "image, first stage": "KandinskyV22PriorEmb2EmbPipeline",
            "second stage": "KandinskyV22Pipeline",
            "second stage, image": "KandinskyV22Img2ImgPipeline",
            "second stage, inpaint": "KandinskyV22InpaintPipeline",
            "second stage, ControlNet": "KandinskyV22ControlnetPipeline",
            "second stage, ControlNet, image": "KandinskyV22ControlnetImg2ImgPipeline",
        },
        denoisers=("prior", "unet"),
    ),
    Family(
        "DeepFloyd IF",
        {
            "text": "IFPipeline",
            "image": "IFImg2ImgPipeline",
            "inpaint": "IFInpaintingPipeline",
            "super-resolution": "IFSuperResolutionPipeline",
            "super-resolution, image": "IFImg2ImgSuperResolutionPipeline",
            "super-resolution, inpaint": "IFInpaintingSuperResolutionPipeline",
        },
        denoisers=("unet",),
        prepare="prepare_intermediate_images",
    ),
)

FAMILIES += (
    Family(
        "Wan 2.1, 2.2",
        {
            "text": "WanPipeline",
            "image": "WanImageToVideoPipeline",
            "video": "WanVideoToVideoPipeline",
            "control": "WanVACEPipeline",
        },
        denoisers=("transformer", "transformer_2"),
        sequential=True,
    ),
    Family("LTX-Video", {"text": "LTXPipeline"}, postprocess="guidance_rescale"),
    Family(
        "CogVideoX",
        {
            "text": "CogVideoXPipeline",
            "image": "CogVideoXImageToVideoPipeline",
            "video": "CogVideoXVideoToVideoPipeline",
            "control": "CogVideoXFunControlPipeline",
        },
    ),
    Family(
        "HunyuanVideo",
        {"text": "HunyuanVideoPipeline", "image, SkyReels": "HunyuanSkyreelsImageToVideoPipeline"},
        sequential=True,
        scale="true_cfg_scale",
    ),
    Family("Mochi 1", {"text": "MochiPipeline"}),
    Family("AudioLDM 2", {"text": "AudioLDM2Pipeline"}, denoisers=("unet",)),
    Family("Stable Audio", {"text": "StableAudioPipeline"}),
)

DISTILLED = "its guidance is distilled into the network, so there is no unconditional branch"
TWO_SCALES = "it guides by text and by picture with a scale for each, and a rule knows one"
BROKEN = "in this version of diffusers its own call fails (it asks the network for a setting that it has not)"
FIRST_FRAME = "parts of its latent are a picture with no noise, or less, and a rule knows one noise level"
SEVERAL = "it is several pipelines in one"
REFUSED = {
    "StableCascadeCombinedPipeline": SEVERAL,
    "KandinskyV22CombinedPipeline": SEVERAL,
    "KandinskyV22Img2ImgCombinedPipeline": SEVERAL,
    "KandinskyV22InpaintCombinedPipeline": SEVERAL,
    "ChromaInpaintPipeline": BROKEN,
    "LTXImageToVideoPipeline": FIRST_FRAME,
    "LTXConditionPipeline": FIRST_FRAME,
    "HunyuanVideoImageToVideoPipeline": FIRST_FRAME,
    "SanaSprintPipeline": DISTILLED,
    "SanaSprintImg2ImgPipeline": DISTILLED,
    "LatentConsistencyModelPipeline": DISTILLED,
    "LatentConsistencyModelImg2ImgPipeline": DISTILLED,
    "FluxFillPipeline": DISTILLED,
    "FluxControlPipeline": DISTILLED,
    "FluxControlImg2ImgPipeline": DISTILLED,
    "FluxControlInpaintPipeline": DISTILLED,
    "FluxControlNetImg2ImgPipeline": DISTILLED,
    "FluxControlNetInpaintPipeline": DISTILLED,
    "Flux2Pipeline": DISTILLED,
    "Flux2KleinKVPipeline": DISTILLED,
    "StableDiffusionInstructPix2PixPipeline": TWO_SCALES,
    "StableDiffusionXLInstructPix2PixPipeline": TWO_SCALES,
}


def family_of(stock: type[DiffusionPipeline]) -> Family:
    """The family of one of diffusers' own classes.

    Raises:
        UserError: it is of no family, with the reason where there is one to tell.
    """
    name = getattr(stock, "__name__", repr(stock))
    if getattr(diffusers, name, None) is stock:
        for family in FAMILIES:
            if name in family.classes.values():
                if hasattr(stock, "_backends"):  # diffusers' stand-in for a class that cannot be imported here
                    missing = " and ".join(stock._backends)
                    raise UserError(f"{name} needs {missing}, not all of which is installed", f"Install {missing}")
                return family
        if name in REFUSED:
            raise UserError(f"{name} cannot carry a guidance rule: {REFUSED[name]}", "Use it as diffusers has it")
    raise UserError(
        f"{name} has no known way to carry a guidance rule yet",
        f"Choose a class of one of these families: {'; '.join(family.name for family in FAMILIES)}",
    )
