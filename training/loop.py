"""Break and make: learn a content and a style apart, join them in one adapter, fine-tune it. The one training loop.

Break-for-Make (arXiv 2403.19456). The content run learns D of every layer on the content's pictures, the style run B on
the style's. In each the other factor learns too, weakly, on pictures of *other* styles or contents
(multi-correspondence projection), so that a concept does not bind to the one partner it was seen with. Make joins what
both have learned and trains it on both concepts' pictures with preconditioned gradients.
"""

import hashlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from torch import Tensor

from pipelines.adapters import fingerprint
from pipelines.errors import UserError, first_line
from training import checkpoint, export, findings, processes
from training.adapters import METHODS, Adapter
from training.concepts import EncodedConcept, prepare, read_all_pictures
from training.config import Customization
from training.draws import choose, keyed, stratified
from training.families import FAMILIES, denoiser_of, family_of
from training.layer_sampler import layer_sampler
from training.mix import digest, read_taken
from training.model import denoising_loss, open_base, rest_encoders, tokenizers
from training.optimizers.backward import StepInBackward
from training.optimizers.projected import ProjectedAdamW
from training.optimizers.registry import make_optimizer
from training.optimizers.state import at_rest
from training.others import draw_others
from training.packages import require
from training.plan import plan
from training.previews import Previews
from training.run import Onlooker, Run, decisive, runs_folder
from training.sampling import guided_pipeline
from training.sheet import Stopped
from training.stages import BOTH, SHORT, Part, Stage, in_one_pass
from training.state import State, all_finite, check_finite
from training.strength import is_settled, strength_of

# Parameters of a denoiser whose layers are too small to share: two that spin are a sixth faster on an idle
# machine and less than half as fast beside another program (benchmarks/customization/threads.py).
SMALL = 50_000_000
LOSS_SCALE = 2.0**12  # of a base in fp16, whose small gradients would vanish: the loss is a mean over many numbers
CANCELLED = "Cancelled. Start it again to go on."
# Latents, conditions, noise, noise levels and weights, as `denoising_loss` takes them after the base.
Batch = tuple[Tensor, dict[str, Tensor], Tensor, Tensor, Tensor | None]

log = logging.getLogger("joinery")


def learning_rate_factor(step: int, steps: int, schedule: str = "cosine", warm_up: int = 10) -> float:
    """Of a stage's rate at one of its steps.

    A linear warm-up over at most a quarter of the steps, since Adam's second moment is a guess before; times a cosine
    or a line from one down to zero, or one.
    """
    falls = {"cosine": 0.5 * (1 + math.cos(math.pi * step / steps)), "linear": 1 - step / steps, "constant": 1.0}
    return min(1.0, (step + 1) / max(1, min(warm_up, steps // 4))) * falls[schedule]


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
        should_stop: asked before every step and within drawings; True ends the run with a checkpoint and the status
            "cancelled".
    Raises:
        UserError: for everything in pictures, configuration, base model, memory, disk or run folder that a user can
            mend.
    """
    folder = Path(run_dir) if run_dir else runs_folder() / (config.name or "customization")
    run = Run(folder) if processes.leads() else Onlooker(folder)
    threads = torch.get_num_threads()
    with run.writing():
        with processes.leader_first():
            run.begin(config)
        try:
            _train(config, run, progress, lambda: should_stop() or run.stop_asked)
        except BaseException as error:
            cancelled = isinstance(error, KeyboardInterrupt)
            if isinstance(error, torch.OutOfMemoryError | MemoryError):
                error = out_of_memory(error)
            message = CANCELLED if cancelled else str(error) or type(error).__name__
            with suppress(UserError):  # a disk that is full takes no last word either
                run.write_state(status="cancelled" if cancelled else "failed", message=message, time_left=None)
            raise error
        finally:
            run.forget_stop()
            torch.set_num_threads(threads)
    return run


def out_of_memory(error: BaseException) -> UserError:
    """What to do where the memory does not suffice."""
    return UserError(
        f"The steps do not fit into memory ({first_line(error)})",
        'Set memory = "auto", precision = "nf4" or steps.gradient_checkpointing = true, or lower steps.batch_size or '
        "resolution",
    )


def _train(
    config: Customization, run: Run, progress: Callable[[dict], None] | None, should_stop: Callable[[], bool]
) -> None:
    try:
        work = prepare_work(config, run, should_stop)
        saved = checkpoint.read_last(run.checkpoints, lambda numbers: _check_identity(run, numbers, work.identity))
        state = State.of(saved, work.taken)
        if saved:
            log.info("Going on after step %d of %d", state.step, work.steps)
        run.rewind_metrics(state.step)
        report = Report(config, run, state.step, work.steps, progress)
        for stage in work.stages:
            if state.step < stage.end:
                train_stage(work, state, stage, report, should_stop)
        finish(work, state)
    except Stopped:
        run.write_state(status="cancelled", time_left=None, message=CANCELLED)


@dataclass(frozen=True)
class Work:
    """What a run works on and with, the same from its first step to its last."""

    config: Customization
    run: Run
    stages: list[Stage]
    pipe: DiffusionPipeline  # the guided base, with the adapter on
    device: torch.device  # of its denoiser
    adapter: Adapter
    concepts: dict[str, EncodedConcept]  # by what the stages call them
    taken: dict[str, dict[str, Tensor]]  # concept -> what finished runs have learned
    previews: Previews
    base_hash: str
    labels: dict[str, str]  # by which programs know which bases an adapter is for
    identity: str  # of all that decides the trained bits

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(stage.steps for stage in self.stages)


def prepare_work(config: Customization, run: Run, should_stop: Callable[[], bool]) -> Work:
    """Read pictures, open the base, encode, and put an adapter on.

    Raises:
        Stopped: `should_stop` ended it within a drawing.
    """

    def say(words: str) -> None:
        run.write_state(doing=words)

    # What the base is and pictures first: they are quick to read, and a base model is not quick to open.
    stages, method = plan(config), METHODS[config.adapter.method]
    parts = [part for stage in stages if stage.steps for part in stage.parts]
    processes.check_shares((part.concept, part.count) for part in parts)
    require(config.optimizer.name)
    base = config.recognised_base()
    FAMILIES[base.family].check_loss(config.loss)
    pictures = read_all_pictures(config)
    for finding in findings.of_pictures(config, pictures):
        log.warning(finding)

    # The base.
    say("Opening the base model")
    opened = open_base(config.resolved_base(), method.precision(config), config.prediction, config.zero_snr)
    pipe = guided_pipeline(opened, config.preset)
    device, denoiser = pipe.device, denoiser_of(pipe)
    if device.type == "cpu" and sum(p.numel() for p in denoiser.parameters()) < SMALL:
        torch.set_num_threads(1)  # before anything is computed, so that the bits do not depend on the cores
    base_hash = fingerprint(denoiser)
    place = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"

    # What is learned from.
    for finding in findings.of_words(config, findings.given_captions(config, pictures), tokenizers(pipe)):
        log.warning(finding)
    own, needed = config.concepts | {SHORT: config.content}, {part.concept for part in parts}
    with processes.leader_first():
        for missing in needed - pictures.keys():
            pictures[missing] = draw_others(pipe, config, runs_folder().parent / "cache", say, should_stop)
        run.write_state(device=f"{place}, attention by {pipe.kernels}", doing="Encoding pictures and captions")
        concepts = {name: prepare(pipe, found, run.cache, own.get(name)) for name, found in pictures.items()}
    rest_encoders(pipe)
    say("Putting the adapter on")

    # What learns.
    adapter = method.attach(denoiser, config.adapter)
    if config.steps.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
    learned_bytes = sum(p.nbytes for concept in BOTH for p in adapter.parameters(concept))
    checkpoint.check_space(run.folder, learned_bytes * (4 * (checkpoint.KEEP + 1) + 2))
    files = read_taken(config, adapter, base_hash)
    digests = {name: concept.digest for name, concept in concepts.items()}
    digests |= {f"{name}, taken": digest(factors) for name, factors in files.items()}
    schedule = family_of(pipe).noise_schedule(pipe)
    identity = json.dumps([decisive(config), base_hash, schedule, digests], sort_keys=True)
    return Work(
        config=config,
        run=run,
        stages=stages,
        pipe=pipe,
        device=device,
        adapter=adapter,
        concepts={name: concept.to(device) for name, concept in concepts.items()},
        taken={name: adapter.learned_in(factors, name) for name, factors in files.items()},
        previews=Previews(pipe, adapter, config, run, should_stop),
        base_hash=base_hash,
        labels=FAMILIES[base.family].labels(base.prediction),
        identity=hashlib.sha256(identity.encode()).hexdigest(),
    )


def train_stage(work: Work, state: State, stage: Stage, report: "Report", should_stop: Callable[[], bool]) -> None:
    """Train a stage to its end, from where the state is.

    Raises:
        Stopped: `should_stop` ended it, with a checkpoint.
    """
    config = work.config
    begin_stage(work, state, stage)
    if state.step > stage.first:  # taken up where its strip may have been stopped
        draw_strip(work, state, stage)
    while state.step < stage.end:
        if processes.as_leader(should_stop):
            save(work, state)
            raise Stopped

        # Step
        began = time.monotonic()
        losses = train_step(work, state, stage)
        seconds = time.monotonic() - began
        state.step += 1
        if state.step == stage.end:
            with at_rest(state.optimizer):
                state.done |= {c: work.adapter.learned(c) for c in stage.teaches if c in config.concepts}
            if not stage.joins:
                taught = [concept for concept in stage.teaches if concept in config.concepts]
                state.done |= {concept: settled(work, concept, state.done[concept], should_stop) for concept in taught}

        # Report
        report.step(stage, state.step, losses, seconds)

        # Preview
        draw_strip(work, state, stage)

        # Checkpoint
        if state.step % config.steps.checkpoint_every == 0 or state.step == stage.end:
            keep_adapter(work, state, stage)
            save(work, state)
    if state.in_backward:
        state.in_backward.remove()


def settled(work: Work, concept: str, learned: dict[str, Tensor], should_stop: Callable[[], bool]) -> dict[str, Tensor]:
    """What a concept has learned, at the least strength that reaches as far as it has to, or keeps all but its slack.

    Raises:
        Stopped: `should_stop` ended it; the stage goes on from its last checkpoint then.
    """
    if not is_settled(config := work.config, concept):
        return learned
    work.run.write_state(doing=f"Looking how strong the {concept} has to be")
    for each in BOTH:
        work.adapter.load(each, learned if each == concept else None)
    strength = strength_of(work.pipe, work.adapter, config, concept, work.concepts[concept], should_stop)
    log.info("The %s has %g of the strength that it was learned with", concept, strength)
    return learned if strength == 1 else work.adapter.at_strength(concept, learned, strength)


def draw_strip(work: Work, state: State, stage: Stage) -> None:
    """Draw the strip of a step that has one, or for which somebody has asked, unless an earlier start has.

    Raises:
        Stopped: the drawing was stopped, with a checkpoint.
    """
    every = work.config.samples.every
    asked = processes.as_leader(work.run.take_sample_asked)
    if state.step == work.steps or not (asked or (every and state.step % every == 0)):
        return

    def stopped() -> bool:
        try:
            if not work.previews.strip(state.step).exists():
                work.run.write_state(doing="Drawing samples")
                with at_rest(state.optimizer):
                    work.previews.draw(stage, state.step, state.done)
        except Stopped:
            return True
        return False

    if processes.as_leader(stopped):
        save(work, state)
        raise Stopped


def keep_adapter(work: Work, state: State, stage: Stage) -> None:
    """Write the adapter as it is after this step, if it is to be kept and this is the process that writes."""
    adapter, steps = work.adapter, work.config.steps
    every = steps.checkpoint_every * steps.keep_every
    if not every or state.step % every or state.step == work.steps or not processes.leads():
        return
    with at_rest(state.optimizer), adapter.put_back() as now:
        shown = {c: now[c] for c in stage.teaches if c in work.config.concepts} if state.step < stage.end else {}
        write_adapter(work, work.run.adapter_after(state.step), state.done | shown)


def save(work: Work, state: State) -> None:
    """Write a checkpoint, if this is the process that writes."""
    if processes.leads():
        state.save(work.run.checkpoints, work.adapter, work.identity)


def begin_stage(work: Work, state: State, stage: Stage) -> None:
    """Give the state the stage's optimizer, and the adapter what the stage starts from or was taken up with."""
    config, adapter, own = work.config, work.adapter, work.config.optimizer
    groups = []
    for concept, rate in stage.rates.items():
        groups += own.groups(adapter.parameters(concept), adapter.in_up_factors(concept), rate)
    state.optimizer = make_optimizer(own.name, groups, **own.own_settings())
    state.load_adapter(stage, adapter)
    if isinstance(state.optimizer, ProjectedAdamW):
        counts = ", ".join(f"{count} {kind}" for kind, count in state.optimizer.census().items() if count)
        work.run.write_state(matrices=counts)
        log.info("The %s stage learns %s matrices", stage.name, counts)
    state.sampler = None
    if own.name == "owlore":
        assert isinstance(state.optimizer, ProjectedAdamW)
        state.sampler = layer_sampler(config, work.pipe, stage, work.concepts, state.optimizer)
    # Of the base's own weights one gradient at a time is enough; an adapter's gradients are changed between.
    alone = adapter.steps_in_backward and own.independent and config.steps.accumulation == 1
    # Both a limit and other processes need all gradients at once.
    alone = alone and not config.steps.max_grad_norm and processes.count() == 1
    state.in_backward = StepInBackward(state.optimizer, losses=len(passes(work, stage))) if alone else None
    state.load_optimizer(stage)


def train_step(work: Work, state: State, stage: Stage) -> dict[str, float]:
    """Take one step of a stage, and give its losses by concept."""
    config, adapter, k = work.config, work.adapter, state.step - stage.first
    losses: dict[str, float] = {}
    scale = LOSS_SCALE if config.precision == "fp16" else 1.0

    # Rate, and the blocks that learn.
    assert state.optimizer is not None  # since the stage began
    state.optimizer.zero_grad()
    schedule = config.steps.schedule if config.optimizer.decays else "constant"
    for group in state.optimizer.param_groups:
        group["lr"] = group["peak"] * learning_rate_factor(k, stage.steps, schedule, config.steps.warm_up)
    if state.sampler:
        state.sampler.before_step(k)

    # Multi-correspondence: each loss has its own pictures and moves its own learned factors (`inputs`). A pass for each
    # gives the same gradients as one batched pass with two backward passes through all of it, for less work.
    # Parts that move the same factors go through in one pass.
    for parts in passes(work, stage):
        moved = [p for concept in parts[0].moves for p in adapter.parameters(concept) if p.requires_grad]
        losses |= dict.fromkeys((part.concept for part in parts), 0.0)

        # Accumulation: a mean over batches.
        for together in zip(*(batches(work, stage, part, k) for part in parts), strict=True):
            found = denoising_loss(work.pipe, *joined(together), len(parts))
            for part, loss in zip(parts, found.view(-1), strict=True):
                losses[part.concept] += processes.mean(loss.item()) / config.steps.accumulation
                _check_finite("loss", [loss], work, stage, part, state.step)
            (scale * parts[0].weight * found.sum() / config.steps.accumulation).backward(inputs=moved)
        held = [state.in_backward.largest()] if state.in_backward else [p.grad for p in moved]
        gradients = [gradient for gradient in held if gradient is not None]
        _check_finite("gradient", gradients, work, stage, parts[0], state.step)

    if scale != 1:
        for p in (p for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None):
            p.grad /= scale

    # Several processes.
    processes.average([p.grad for group in state.optimizer.param_groups for p in group["params"] if p.grad is not None])

    # Optimizer, unless it has stepped in the backward pass.
    if limit := config.steps.max_grad_norm:
        torch.nn.utils.clip_grad_norm_([p for group in state.optimizer.param_groups for p in group["params"]], limit)
    if not state.in_backward:
        with adapter.stepping(stage, config.make):
            state.optimizer.step()
    return losses


def passes(work: Work, stage: Stage) -> list[tuple[Part, ...]]:
    """The parts of a step that go through the denoiser together: whose prompts have embeddings of one shape too."""

    def shapes(part: Part) -> dict[str, torch.Size]:
        concept = work.concepts[part.pictures or part.concept]
        return {key: value.shape[1:] for key, value in (concept.conditions | concept.framing).items()}

    found = in_one_pass(stage.parts, work.config.steps.batch_size)
    alike = [all(shapes(part) == shapes(parts[0]) for part in parts) for parts in found]
    return [one for parts, same in zip(found, alike, strict=True) for one in ([parts] if same else zip(parts))]


def joined(together: Sequence[Batch]) -> Batch:
    """Batches one after the other as one."""
    if len(together) == 1:
        return together[0]
    latents, conditions, noise, levels, given = zip(*together, strict=True)
    weights = list(given)
    if any(some is not None for some in weights):
        ones = [torch.ones_like(one[:, :1]) for one in latents]
        weights = [one if some is None else some.expand_as(one) for some, one in zip(weights, ones, strict=True)]
    said = {key: torch.cat([one[key] for one in conditions]) for key in conditions[0]}
    weighed = torch.cat(weights) if weights[0] is not None else None
    return torch.cat(latents), said, torch.cat(noise), torch.cat(levels), weighed


def batches(work: Work, stage: Stage, part: Part, k: int) -> Iterator[Batch]:
    """The batches of one loss of a stage's step k, or this process's part of each: functions of (seed, k) alone.

    Yields:
        latents (n, c, h, w), conditions with n rows each, noise like the latents, noise levels (n,), and weights
        (n, 1, h, w) or (n, 1, 1, 1), or None.
    """
    config, device, seed = work.config, work.device, work.config.seed
    concept = work.concepts[part.pictures or part.concept]
    count = part.count * config.steps.accumulation
    generator = keyed(seed, stage.name, part.concept, k)
    index = choose(seed, stage.name, part.concept, k, count, len(concept)).to(device)
    noise = torch.randn((count, *concept.latents.shape[1:]), generator=generator).to(device)
    own = config.concepts.get(part.concept)  # None for others
    stretch = own.noise if own else (0.0, 1.0)
    family = family_of(work.pipe)
    levels = family.levels(work.pipe, stratified(count, generator, stretch)).to(device)

    # What a project file may ask for beside: drawn last, so that what is drawn before is the same without it.
    if config.loss.noise_offset:
        shift = torch.randn((*noise.shape[:2], 1, 1), generator=generator).to(device)
        noise = noise + config.loss.noise_offset * shift
    kept = torch.rand(count, generator=generator) >= (own.caption_dropout if own else 0.0)
    rows = index.where(kept.to(device), concept.no_caption)
    weights = None if concept.weights is None else concept.weights[index]
    if config.loss.min_snr:
        by_level = family.min_snr_weights(work.pipe, levels, config.loss.min_snr).view(-1, 1, 1, 1)
        weights = by_level if weights is None else weights * by_level
    for some in map(processes.share, torch.arange(count, device=device).split(part.count)):
        of_some = None if weights is None else weights[some]
        said = concept.said(index[some], rows[some])
        yield concept.latents[index[some]], said, noise[some], levels[some], of_some


def finish(work: Work, state: State) -> None:
    """Write the adapter file, and the sheet of what it does, if this is the process that writes."""
    if not processes.leads():
        return
    work.run.write_state(stage="export", step=work.steps, steps=work.steps, time_left=0)
    factors = write_adapter(work, work.run.adapter, state.done)
    work.adapter.load_factors(factors)  # the sheet shows what the file does
    work.previews.finish(state.done.keys())
    work.run.write_state(status="done", message="")


def write_adapter(work: Work, path: Path, learned: dict[str, dict[str, Tensor]]) -> export.Factors:
    """Put on what was learned, by concept, write it as an adapter file, and give its factors.

    Raises:
        UserError: something of it is not a finite number, or the file cannot be written.
    """
    config, adapter = work.config, work.adapter
    check_finite(learned)
    for concept in BOTH:
        adapter.load(concept, learned.get(concept))
    factors = adapter.factors()
    card = export.Card(
        base=Path(config.base).name,
        base_hash=work.base_hash,
        rank=config.adapter.rank,
        placeholders={name: concept.placeholder for name, concept in config.concepts.items()},
        layers=tuple(factors),
        component=family_of(work.pipe).denoiser,  # type: ignore[arg-type]
        labels=work.labels,
        halves=tuple(adapter.places.items()),  # type: ignore[arg-type]
        **adapter.frozen(config.adapter),
    )
    export.write(path, factors, card)
    return factors


class Report:
    """Says after each step what a run is doing: in `metrics.jsonl`, in `state.json`, and to who started it."""

    def __init__(
        self, config: Customization, run: Run, first: int, steps: int, progress: Callable[[dict], None] | None
    ):
        self.config, self.run, self.first, self.steps, self.progress = config, run, first, steps, progress
        self.started = time.monotonic()

    def step(self, stage: Stage, step: int, losses: dict[str, float], seconds: float) -> None:
        """Report one step.

        Args:
            step: how many are done, of all stages.
            losses: by concept; the loss of the step is a mean over what is learned.
            seconds: that it took.
        """
        own = [losses[concept] for concept in self.config.concepts if concept in losses]
        pace = (time.monotonic() - self.started) / (step - self.first)
        entry = {
            "stage": stage.name,
            "step": step,
            "steps": self.steps,
            "loss": sum(own) / len(own),
            "losses": losses,
            "seconds_per_step": seconds,
            "time_left": pace * (self.steps - step),
        }
        self.run.append_metrics(**entry)
        told = {k: entry[k] for k in ("stage", "step", "steps", "loss", "time_left")}
        self.run.write_state(status="running", doing="", **told)
        if self.progress:
            self.progress(entry)


def _check_finite(what: str, values: list[Tensor], work: Work, stage: Stage, part: Part, step: int) -> None:
    """Before a number that is none reaches the optimizer, or what is saved: what was saved before stays good."""
    if processes.all_agree(all_finite(values)):
        return
    count = part.count * work.config.steps.accumulation
    concept = work.concepts[part.pictures or part.concept]
    index = choose(work.config.seed, stage.name, part.concept, step - stage.first, count, len(concept))
    names = ", ".join(sorted({concept.names[i] for i in index.tolist()}))
    wider = 'Set precision to "fp32" or "nf4", lower' if work.config.precision == "fp16" else "Lower"
    raise UserError(
        f"The {what} at step {step + 1} is not a finite number (it learned from {names})",
        f"{wider} optimizer.lr, or take that picture out, and start a new run; the last checkpoint is good",
    )


def _check_identity(run: Run, numbers: dict, identity: str) -> None:
    if numbers.get("identity") != identity:
        raise UserError(
            f"The pictures, captions or base model have changed since the run {run.folder} began",
            "Choose another run folder, or remove this one to start anew",
        )
