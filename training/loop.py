"""Break and make: learn a content and a style apart, join them in one adapter, fine-tune it. The one training loop.

Break-for-Make (arXiv 2403.19456). The content run learns D of every layer on the content's pictures, the style run B on
the style's. In each the other half learns too, weakly, on pictures of *other* styles or contents (multi-correspondence
projection), so that a concept does not bind to the one partner it was seen with. Make joins both halves and trains
them on both concepts' pictures with preconditioned gradients.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from accelerate import Accelerator
from PIL import ImageOps

from pipelines.adapters import fingerprint
from pipelines.errors import UserError
from training import checkpoint, export, full, plp, sheet
from training.concepts import Concept, prepare
from training.config import Customization
from training.draws import choose, keyed, stratified_timesteps
from training.model import denoising_loss, open_base, timestep_count
from training.optimizers.backward import StepInBackward
from training.optimizers.outlier import OutlierLayerSampler, blocks_of, choose_scores, outlier_shares
from training.optimizers.projected import ProjectedAdamW
from training.optimizers.registry import make_optimizer
from training.optimizers.riemannian import precondition
from training.optimizers.state import at_rest, flatten_state, load_state
from training.others import draw_others
from training.packages import require
from training.pictures import read_pictures
from training.plan import BOTH, SHORT, Stage, plan
from training.run import Run, decisive, runs_folder
from training.sampling import guided_pipeline

# Parameters of a denoiser whose layers are too small to share: two that spin are a sixth faster on an idle
# machine and less than half as fast beside another program (benchmarks/customization/threads.py).
SMALL = 50_000_000
WARM_UP = 10  # steps: Adam's second moment is a guess before

log = logging.getLogger("joinery")


def learning_rate_factor(step: int, steps: int, decays: bool = True) -> float:
    """Linear warm-up, then half a cosine down to zero, or a plateau."""
    return min(1.0, (step + 1) / WARM_UP) * (0.5 * (1 + math.cos(math.pi * step / steps)) if decays else 1.0)


def customize(
    config: Customization,
    run_dir: str | Path | None = None,
    progress: Callable[[dict], None] | None = None,
    should_stop: Callable[[], bool] = lambda: False,
) -> Run:
    """Train an adapter as the customization says; the same call again goes on where the last one ended.

    Args:
        run_dir: the run's folder; by default the customization's name in `runs_folder()`.
        progress: called after every step with the entry that `metrics.jsonl` gets.
        should_stop: asked before every step; True ends the run with a checkpoint and the status "cancelled".
    Raises:
        UserError: for everything in pictures, configuration, base model, disk or run folder that a user can mend.
    """
    run = Run(Path(run_dir) if run_dir else runs_folder() / (config.name or "customization"))
    run.begin(config)
    threads = torch.get_num_threads()
    try:
        _train(config, run, progress, should_stop)
    except BaseException as error:
        cancelled = isinstance(error, KeyboardInterrupt)
        message = str(error) or type(error).__name__
        run.write_state(status="cancelled" if cancelled else "failed", message=message, time_left=None)
        raise
    finally:
        torch.set_num_threads(threads)
    return run


def _train(config: Customization, run: Run, progress: Callable | None, should_stop: Callable[[], bool]) -> None:
    # Pictures first: they are quick to read, and a base model is not quick to open.
    stages = plan(config)
    total = sum(stage.steps for stage in stages)
    require(config.optimizer.name)
    words = {name: concept.placeholder for name, concept in config.concepts.items()}
    pictures = read_all_pictures(config)
    accelerator = Accelerator(gradient_accumulation_steps=config.steps.accumulation)
    pipe = guided_pipeline(open_base(config.resolved_base(), _precision(config)), config.preset)
    device = pipe.device
    if device.type == "cpu" and sum(p.numel() for p in pipe.unet.parameters()) < SMALL:
        torch.set_num_threads(1)  # before anything is computed, so that the bits do not depend on the cores
    base_hash = fingerprint(pipe.unet)
    for missing in {part.concept for stage in stages for part in stage.parts} - pictures.keys():
        pictures[missing] = draw_others(pipe, config, run.cache)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    run.write_state(device=f"{place}, attention by {pipe.kernels}")
    concepts = {name: prepare(pipe, found, run.cache) for name, found in pictures.items()}
    identity = _identity(config, base_hash, concepts)
    concepts = {name: concept.to(device) for name, concept in concepts.items()}

    settings, own = config.adapter, config.optimizer
    adapter = (
        full.attach(pipe.unet, settings.rank, settings.layers)
        if settings.method == "full"
        else plp.attach(
            pipe.unet,
            settings.rank,
            settings.layers,
            settings.constant_block,
            settings.seed,
            settings.compander_scale if settings.compander else 0.0,
            settings.content_half,
        )
    )
    if config.steps.gradient_checkpointing:
        pipe.unet.enable_gradient_checkpointing()
    learned_bytes = sum(p.nbytes for concept in BOTH for p in adapter.parameters(concept))
    checkpoint.check_space(run.folder, learned_bytes * (4 * (checkpoint.KEEP + 1) + 2))
    strips = sheet.Strips(pipe, adapter, config, run)

    # The state of a run: how many steps are done, the halves, the halves with which earlier stages ended, and the
    # optimizer's moments. Everything else is a function of the configuration and the step.
    saved = checkpoint.read_last(run.checkpoints, accept=lambda numbers: _check_identity(run, numbers, identity))
    step, done = 0, {}
    if saved:
        step, done = saved.step, {c: half for c in words if (half := checkpoint.under(saved.tensors, f"done.{c}."))}
        log.info("Going on after step %d of %d", step, total)
    run.rewind_metrics(step)
    started, first, last_saved = time.monotonic(), step, step if saved else None

    def save_checkpoint() -> None:
        nonlocal last_saved
        if step == last_saved:
            return
        tensors = {f"half.{c}.{name}": half for c in BOTH for name, half in adapter.half(c).items()}
        tensors |= {f"done.{c}.{name}": half for c in done for name, half in done[c].items()}
        moments, numbers = flatten_state(optimizer)
        tensors |= {f"optimizer.{key}": value for key, value in moments.items()}
        kept = {"identity": identity, "optimizer": numbers, "sampler": sampler.state_dict() if sampler else None}
        checkpoint.write(run.checkpoints, checkpoint.Checkpoint(step, tensors, kept))
        last_saved = step

    for stage in stages:
        end = stage.first + stage.steps
        if step >= end:
            continue
        groups = [{"params": adapter.parameters(c), "lr": rate, "peak": rate} for c, rate in stage.rates.items()]
        optimizer = make_optimizer(own.name, groups, **own.own_settings())
        resumed = step > stage.first
        for concept in BOTH:
            if resumed:
                adapter.load_half(concept, checkpoint.under(saved.tensors, f"half.{concept}."))
            elif stage.name == "make":
                adapter.load_half(concept, done[concept])  # make starts from what the break runs ended with
            else:
                adapter.load_half(concept, adapter.fresh() if concept in stage.rates else None)
        if isinstance(optimizer, ProjectedAdamW):
            counts = ", ".join(f"{count} {kind}" for kind, count in optimizer.census().items() if count)
            run.write_state(matrices=counts)
            log.info("The %s stage learns %s matrices", stage.name, counts)
        sampler = _layer_sampler(config, pipe, stage, concepts, optimizer) if own.name == "owlore" else None
        # Of the base's own weights one gradient at a time is enough; an adapter's gradients are changed between.
        alone = settings.method == "full" and own.independent and config.steps.accumulation == 1
        in_backward = StepInBackward(optimizer, losses=len(stage.parts)) if alone else None
        if resumed:
            load_state(optimizer, checkpoint.under(saved.tensors, "optimizer."), saved.numbers["optimizer"])
            if sampler:
                sampler.load_state_dict(saved.numbers["sampler"])

        while step < end:
            if should_stop():
                save_checkpoint()
                run.write_state(status="cancelled", time_left=None, message="Cancelled. Start it again to go on.")
                return
            began, k, losses = time.monotonic(), step - stage.first, {}

            optimizer.zero_grad()
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * learning_rate_factor(k, stage.steps, own.decays)
            if sampler:
                sampler.before_step(k)
            for part in stage.parts:
                concept = concepts[part.pictures or part.concept]
                count = part.count * config.steps.accumulation
                generator = keyed(config.seed, stage.name, part.concept, k)
                index = choose(config.seed, stage.name, part.concept, k, count, len(concept)).to(device)
                noise = torch.randn((count, *concept.latents.shape[1:]), generator=generator).to(device)
                learned = config.concepts.get(part.concept)  # None for others
                stretch = learned.noise if learned else (0.0, 1.0)
                timesteps = stratified_timesteps(count, timestep_count(pipe), generator, stretch).to(device)
                # `inputs` keeps a loss from moving a half that is not its own. One pass for each loss gives the same
                # gradients as one batched pass with two backward passes through all of it, for less work.
                moved = [p for half in part.moves for p in adapter.parameters(half) if p.requires_grad]
                losses[part.concept] = 0.0
                for some in torch.arange(count, device=device).split(part.count):
                    loss = denoising_loss(pipe, *concept[index[some]], noise[some], timesteps[some])
                    losses[part.concept] += loss.item() / config.steps.accumulation
                    if not math.isfinite(losses[part.concept]):
                        raise UserError(
                            f"The loss at step {step + 1} is {losses}: the learned weights have grown out of bounds",
                            "Lower optimizer.lr and start a new run",
                        )
                    accelerator.backward(loss, inputs=moved)
            if not in_backward:
                if stage.name == "make" and config.make.precondition:
                    _precondition(adapter, config.make.damping)
                with nullcontext() if stage.name == "make" else adapter.apart_while_stepping():
                    optimizer.step()
            step += 1

            if step == end:
                with at_rest(optimizer):
                    done |= {c: adapter.half(c) for c in words if stage.name in (c, "make")}
            entry = {
                "stage": stage.name,
                "step": step,
                "steps": total,
                "loss": sum(losses[c] for c in words if c in losses) / sum(c in losses for c in words),
                "losses": losses,
                "seconds_per_step": time.monotonic() - began,
                "time_left": (time.monotonic() - started) / (step - first) * (total - step),
            }
            run.append_metrics(**entry)
            run.write_state(status="running", **{k: entry[k] for k in ("stage", "step", "steps", "loss", "time_left")})
            if progress:
                progress(entry)
            if config.samples.every and step % config.samples.every == 0 and step < total:
                with at_rest(optimizer):
                    strips.draw(stage.name, step, done)
            if step % config.steps.checkpoint_every == 0 or step == end:
                save_checkpoint()
        if in_backward:
            in_backward.remove()

    run.write_state(stage="export", step=total, steps=total, time_left=0)
    for concept in BOTH:
        adapter.load_half(concept, done.get(concept))
    factors = adapter.factors()
    card = export.Card(
        Path(config.base).name,
        base_hash,
        settings.rank,
        settings.seed,
        settings.constant_block,
        words,
        tuple(factors),
        halves=tuple(adapter.halves.items()),
    )
    if isinstance(adapter, full.FullWeights):
        card = replace(card, constant_block="none")
        adapter.load_factors(factors)  # the sheet shows what the file does
    export.write(run.adapter, factors, card)
    strips.finish(done.keys())
    run.write_state(status="done", message="")


def _precision(config: Customization) -> str:
    """Of the base in training: weights that learn themselves are bf16 only where that was asked for."""
    return "fp32" if config.adapter.method == "full" and config.precision == "auto" else config.precision


def _precondition(adapter: plp.PartlyLearnable, damping: float) -> None:
    for layer in adapter.layers:
        if layer.B.grad is None:  # of a block that stands still
            continue
        up, down = layer.up.weight.detach(), layer.down.weight.detach()
        layer.B.grad, layer.D.grad = precondition(layer.B.grad, layer.D.grad, up, down, damping)


def _layer_sampler(
    config: Customization, pipe, stage: Stage, concepts: dict[str, Concept], optimizer: ProjectedAdamW
) -> OutlierLayerSampler:
    """OwLore's choice of blocks, calibrated on the pictures that the stage learns."""
    own, learned = config.optimizer, {p for group in optimizer.param_groups for p in group["params"]}
    blocks = {
        name: block
        for name, block in blocks_of(pipe.unet, resnets=config.adapter.layers == "all").items()
        if not learned.isdisjoint(block.parameters())
    }
    scores = dict.fromkeys(blocks, 1.0)
    if own.sampling == "outliers":

        def calibrate() -> None:
            generator = keyed(config.seed, "calibration")
            for concept in (concepts[part.pictures or part.concept] for part in stage.parts):
                noise = torch.randn(concept.latents.shape, generator=generator).to(pipe.device)
                timesteps = stratified_timesteps(len(concept), timestep_count(pipe), generator).to(pipe.device)
                for one in torch.arange(len(concept), device=pipe.device).split(config.steps.batch_size):
                    denoising_loss(pipe, *concept[one], noise[one], timesteps[one])

        scores = choose_scores(outlier_shares(blocks, calibrate))
    active = min(own.active, len(blocks))
    return OutlierLayerSampler(optimizer, blocks, scores, active, own.every, own.floor, config.seed)


def read_all_pictures(config: Customization) -> dict[str, list]:
    """Pictures by what the stages call them; `others` only where there are some."""
    found = {}
    for name, concept in config.concepts.items():
        words = {"placeholder": concept.placeholder, "class_word": concept.class_word}
        found[name] = read_pictures(concept.pictures, config.resolution, concept.caption, words)
        if concept.mirror:
            found[name] += [replace(picture, image=ImageOps.mirror(picture.image)) for picture in found[name]]
        if name == "content" and concept.short_captions:
            # In make the full captions alone, so that what they say of a style is not taken for the content's own.
            short = [replace(p, caption=p.caption.split(",")[0]) for p in found[name] if "," in p.caption]
            found[SHORT] = found[name] + short
        if concept.others:
            found[f"other {name}s"] = read_pictures(concept.others, config.resolution, None)
    return found


def _identity(config: Customization, base_hash: str, concepts: dict[str, Concept]) -> str:
    """What a checkpoint must have been made from to be gone on with."""
    digests = {name: concept.digest for name, concept in concepts.items()}
    return hashlib.sha256(json.dumps([decisive(config), base_hash, digests], sort_keys=True).encode()).hexdigest()


def _check_identity(run: Run, numbers: dict, identity: str) -> None:
    if numbers["identity"] != identity:
        raise UserError(
            f"The pictures, captions or base model have changed since the run {run.folder} began",
            "Choose another run folder, or remove this one to start anew",
        )
