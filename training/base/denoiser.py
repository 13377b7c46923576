"""Tokenizer, text encoder and denoiser: what turns a caption and noise into latents of the autoencoder."""

import json
import math
from copy import deepcopy
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from pipelines import CFG
from pipelines.adapters import fingerprint
from training import checkpoint, sheet
from training.base.autoencoder import encode
from training.base.computed import COMPUTED
from training.base.data import SPLIT, Pair, Pictures, known_pairs
from training.base.learning import Schedule, train
from training.base.muon import optimizer_for
from training.base.npm import base_folder
from training.base.tokenizer import make_tokenizer
from training.draws import choose, keyed, stratified_timesteps
from training.model import autocast, device
from training.sampling import guided_pipeline

# How a picture is called, and how often.
CAPTIONS = (
    ("{content}, {style} style", 0.4),
    ("a {style} style picture of {content}", 0.2),
    ("a {content} in {style} style", 0.2),
    ("{content}", 0.05),
    ("{style} style", 0.05),
    ("", 0.1),
)
POSITIONS = 32  # of a caption, start and end included
SCHEDULER = DDIMScheduler(
    beta_schedule="squaredcos_cap_v2",
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    clip_sample=False,
    steps_offset=1,
)


@dataclass(frozen=True)
class DenoiserRecipe:
    """How a denoiser and its text encoder are made.

    `scales` weighs the squared errors of v itself and of its means over 2 x 2 and 4 x 4 positions; timesteps are
    1000 u^`noisy` for a uniform u; `contents` is "split" or "all", which is all but the held-out ones, with
    `split_share` of each batch from the split's own, and `computed` of it computed styles, of which a share
    `split_share` again shows the split's contents; `unknown` is how often a caption has an unknown word before the
    content, and before the style, so that a placeholder means nothing until it is learned.
    """

    widths: tuple[int, ...]
    text_width: int
    schedule: Schedule
    contents: str = "split"
    split_share: float = 0.0
    computed: float = 0.0
    unknown: float = 0.0
    pieces: int = 2268
    lr: float = 1.5e-3
    optimizer: str = "muon"
    flips: bool = False
    scales: tuple[float, float, float] = (1.0, 0.0, 0.0)
    noisy: float = 0.7
    seed: int = 0


class Drawer(nn.Module):
    """Text encoder and denoiser, which learn together."""

    def __init__(self, text: CLIPTextModel, unet: UNet2DConditionModel):
        super().__init__()
        self.text, self.unet = text, unet

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        return self.unet(noisy, timesteps, encoder_hidden_states=self.text(tokens)[0]).sample


def fresh(recipe: DenoiserRecipe, tokenizer: CLIPTokenizer, size: int, channels: int) -> Drawer:
    """A model that knows nothing yet, for latents of `size` x `size` and so many channels."""
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.text_width,
            intermediate_size=4 * recipe.text_width,
            num_hidden_layers=3,
            num_attention_heads=4,
            projection_dim=recipe.text_width,
            max_position_embeddings=POSITIONS,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    lower = len(recipe.widths) - 1
    unet = UNet2DConditionModel(
        sample_size=size,
        in_channels=channels,
        out_channels=channels,
        down_block_types=("DownBlock2D", *("CrossAttnDownBlock2D",) * lower),
        up_block_types=(*("CrossAttnUpBlock2D",) * lower, "UpBlock2D"),
        block_out_channels=recipe.widths,
        layers_per_block=1,
        cross_attention_dim=recipe.text_width,
        attention_head_dim=tuple(max(1, width // 32) for width in recipe.widths),
        norm_num_groups=8,
    )
    return Drawer(text, unet)


def make(
    recipe: DenoiserRecipe,
    vae: AutoencoderKL,
    pictures: Pictures,
    words: list[Pair],
    folder: Path,
    stop_after: float = math.inf,
    start: StableDiffusionPipeline | None = None,
) -> StableDiffusionPipeline | None:
    """Train a denoiser on an autoencoder's latents and write the whole model to `folder` in Stable Diffusion's layout.

    Args:
        pictures: all that it may learn from.
        words: contents and styles whose captions the tokenizer is learned from; more than the pictures show.
        start: a model to go on from, with its tokenizer; it is consumed. The widths and pieces are then its own.
    Returns:
        the pipeline, or None if it was left off before the end; the same call goes on.
    """
    latents = cached_latents(vae, pictures, recipe.flips)
    begun = [fingerprint(part) for part in (start.unet, start.text_encoder)] if start else []
    if start:
        tokenizer, model = start.tokenizer, Drawer(start.text_encoder, widened(start.unet, latents.shape[2]))
    else:
        texts = {form.format(content=content, style=style) for content, style in words for form, _ in CAPTIONS}
        tokenizer = make_tokenizer(sorted(texts), recipe.pieces, POSITIONS)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            model = fresh(recipe, tokenizer, latents.shape[-1], latents.shape[2])
    model = model.float().requires_grad_().train().to(device())
    model.unet.to(memory_format=torch.channels_last)  # half the time of a step on a CPU
    optimizer = optimizer_for(model, recipe.optimizer, recipe.lr)
    noise_schedule, count = DDPMScheduler.from_config(SCHEDULER.config), len(pictures.pairs)

    groups = _groups(recipe, pictures)

    def loss(step: int) -> Tensor:
        index = torch.cat(
            [
                some[choose(recipe.seed, "denoiser", name, step, size, len(some))]
                for name, (some, size) in groups.items()
            ]
        )
        generator = keyed(recipe.seed, "denoiser", step)
        flipped = torch.randint(0, latents.shape[1], (len(index),), generator=generator)
        clean = latents[index, flipped]
        texts = captions([pictures.pairs[i] for i in index.tolist()], generator, recipe.unknown)
        noise = torch.randn(clean.shape, generator=generator)
        uniform = (stratified_timesteps(len(index), 1000, generator) + 0.5) / 1000
        timesteps = (1000 * uniform**recipe.noisy).long().clamp(max=999)
        noisy = noise_schedule.add_noise(clean, noise, timesteps).to(device())
        target = noise_schedule.get_velocity(clean, noise, timesteps).to(device())
        tokens = tokenize(tokenizer, texts).to(device())
        with autocast():
            error = model(noisy, timesteps.to(device()), tokens).float() - target
        sides = (F.avg_pool2d(error, side).square().mean() for side in (1, 2, 4))
        total = sum(weight * side for weight, side in zip(recipe.scales, sides, strict=True))
        assert isinstance(total, torch.Tensor)  # there are scales
        return total

    def show(path: Path) -> None:
        order = choose(recipe.seed, "denoiser", "sheet", 0, min(8, count), count).tolist()
        pairs = [pictures.pairs[i] for i in order]
        pipe = guided_pipeline(assemble(vae, model, tokenizer), "emoji")
        texts = [CAPTIONS[0][0].format(content=content, style=style) for content, style in pairs]
        images = sheet.draw(pipe, texts, tuple(range(len(pairs))), pictures.pixels.shape[1], 2.0, 20, CFG())
        sheet.save(sheet.compose({"real": [pictures.image(pair) for pair in pairs], "drawn": images}), path)

    identity = json.dumps(
        [
            asdict(recipe),
            fingerprint(vae),
            vae.config.scaling_factor,
            pictures.pairs,
            sorted(tokenizer.get_vocab()),
            begun,
        ]
    )
    place = base_folder() / "runs" / folder.name / "denoiser"
    done = train(
        "denoiser", place, model, optimizer, loss, recipe.schedule, count, identity, show, stop_after=stop_after
    )
    if not done:
        return None
    model.unet.to(memory_format=torch.contiguous_format)
    pipe = assemble(vae, model, tokenizer)
    write(pipe, folder)
    return pipe


def _groups(recipe: DenoiserRecipe, pictures: Pictures) -> dict[str, tuple[Tensor, int]]:
    """What each batch is drawn from: name -> indices of pictures, and how many of them a batch has."""
    own = torch.tensor([content in SPLIT["contents"] for content, _ in pictures.pairs])
    computed = torch.tensor([style in COMPUTED for _, style in pictures.pairs])
    groups, sizes = {}, {"": recipe.schedule.batch}
    if recipe.computed:
        sizes["computed "] = round(recipe.computed * recipe.schedule.batch)
        sizes[""] -= sizes["computed "]
    for kind, size in sizes.items():
        of_kind = computed if kind else ~computed
        share = round(recipe.split_share * size)
        groups[f"{kind}pictures"] = of_kind.nonzero().flatten(), size - share
        if share:
            groups[f"{kind}own"] = (of_kind & own).nonzero().flatten(), share
    return groups


def widened(unet: UNet2DConditionModel, channels: int) -> UNet2DConditionModel:
    """The same denoiser for latents with more channels: it does not hear the new ones, and says zero of them."""
    old = unet.config.in_channels
    if channels == old:
        return unet
    wider = UNet2DConditionModel.from_config(unet.config, in_channels=channels, out_channels=channels)
    with torch.no_grad():
        for name, weight in wider.state_dict().items():
            given = unet.state_dict()[name]
            if given.shape == weight.shape:
                weight.copy_(given)
            else:
                weight.zero_()
                weight[tuple(slice(size) for size in given.shape)] = given
    return wider


def chosen(pictures: Pictures, contents: str) -> Pictures:
    """What a denoiser may learn from: the trained pairs of the split, or those of all contents but held-out ones."""
    if contents == "split":
        return pictures.take(known_pairs(pictures))
    without = {tuple(pair) for pair in SPLIT["left_out_pairs"]}
    kept = [p for p in pictures.pairs if p[1] in SPLIT["styles"] and p[0] not in SPLIT["held_out_contents"]]
    return pictures.take([pair for pair in kept if pair not in without])


def captions(pairs: list[Pair], generator: torch.Generator, unknown: float = 0.0) -> list[str]:
    """A caption for each pair, in the form that chance gives it.

    Args:
        unknown: how often a word of three chance letters stands before a content, and before a style.
    """
    weights = torch.tensor([weight for _, weight in CAPTIONS])
    forms = torch.multinomial(weights, len(pairs), replacement=True, generator=generator).tolist()
    if unknown:
        there = torch.rand(len(pairs), 2, generator=generator) < unknown
        letters = torch.randint(97, 123, (len(pairs), 2, 3), generator=generator).tolist()
        pairs = [
            tuple(f"{bytes(word).decode()} {name}" if before else name for name, before, word in zip(*row, strict=True))  # type: ignore[misc]
            for row in zip(pairs, there.tolist(), letters, strict=True)
        ]
    return [CAPTIONS[i][0].format(content=c, style=s) for i, (c, s) in zip(forms, pairs, strict=True)]


def tokenize(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    return tokenizer(texts, padding="max_length", truncation=True, max_length=POSITIONS, return_tensors="pt").input_ids


def cached_latents(vae: AutoencoderKL, pictures: Pictures, flips: bool) -> Tensor:
    """Scaled latents (n, 1 or 2, c, h, w): as drawn, and mirrored; encoded once for an autoencoder and pictures."""
    identity = json.dumps([fingerprint(vae), vae.config.scaling_factor, pictures.pairs, flips])
    path = base_folder() / "latents.safetensors"
    if path.exists():
        with safe_open(path, "pt") as file:
            if file.metadata()["identity"] == identity:
                return file.get_tensor("latents")
    sides = [pictures.pixels, pictures.pixels.flip(2)] if flips else [pictures.pixels]
    latents = torch.stack([encode(vae, side) for side in sides], 1) * vae.config.scaling_factor
    checkpoint.write_tensors(path, {"latents": latents}, {"identity": identity})
    return latents


def assemble(vae: AutoencoderKL, model: Drawer, tokenizer: CLIPTokenizer) -> StableDiffusionPipeline:
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=model.text,
        tokenizer=tokenizer,
        unet=model.unet,
        scheduler=DDIMScheduler.from_config(SCHEDULER.config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def write(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write a model as it ships: autoencoder and denoiser in float16, the text encoder in float32.

    transformers keeps the type that is stored, diffusers upcasts.
    """
    smaller = {name: deepcopy(getattr(pipe, name)).half() for name in ("vae", "unet")}
    StableDiffusionPipeline(**pipe.components | smaller, requires_safety_checker=False).save_pretrained(
        folder, safe_serialization=True
    )
    checkpoint.follow_umask(folder)
