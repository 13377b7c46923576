"""OwLore's choice of blocks for a stage, calibrated on the pictures that it learns."""

import logging
import math

import torch
from diffusers import DiffusionPipeline

from training.concepts import EncodedConcept
from training.config import Customization
from training.draws import keyed, stratified
from training.families import denoiser_of, family_of
from training.model import denoising_loss
from training.optimizers.outlier import OutlierLayerSampler, blocks_of, choose_scores, outlier_shares
from training.optimizers.projected import ProjectedAdamW
from training.optimizers.settings import OwLore
from training.stages import Stage

log = logging.getLogger("joinery")


def layer_sampler(
    config: Customization,
    pipe: DiffusionPipeline,
    stage: Stage,
    concepts: dict[str, EncodedConcept],
    optimizer: ProjectedAdamW,
) -> OutlierLayerSampler:
    """The sampler of a stage, over the blocks of which the optimizer holds anything.

    Args:
        config: with OwLore's settings as its optimizer.
    """
    own, learned = config.optimizer, {p for group in optimizer.param_groups for p in group["params"]}
    assert isinstance(own, OwLore)
    family, device = family_of(pipe), denoiser_of(pipe).device
    blocks = {
        name: block
        for name, block in blocks_of(denoiser_of(pipe), config.adapter.layers == "all", family.blocks).items()
        if not learned.isdisjoint(block.parameters())
    }

    def calibrate() -> None:
        generator = keyed(config.seed, "calibration")
        for concept in (concepts[part.pictures or part.concept] for part in stage.parts):
            noise = torch.randn(concept.latents.shape, generator=generator).to(device)
            levels = family.levels(pipe, stratified(len(concept), generator)).to(device)
            for one in torch.arange(len(concept), device=device).split(config.steps.batch_size):
                denoising_loss(pipe, *concept[one], noise[one], levels[one])

    even = dict.fromkeys(blocks, 1.0)
    scores = choose_scores(outlier_shares(blocks, calibrate)) if own.sampling == "outliers" else even
    active = min(own.active, len(blocks))
    seed = keyed(config.seed, stage.name, "blocks").initial_seed() % 2**31  # each stage draws its own
    sampler = OutlierLayerSampler(optimizer, blocks, scores, active, own.every, own.floor, seed)
    windows = math.ceil(stage.steps / own.every)
    if idle := blocks.keys() - {name for number in range(windows) for name in sampler.draw(number)}:
        log.warning(
            "%d of %d blocks have no turn in the %s stage's %d steps (%s): give it more steps, lower optimizer.every, "
            "or raise optimizer.active",
            *(len(idle), len(blocks), stage.name, stage.steps, ", ".join(sorted(idle))),
        )
    return sampler
