"""What is shown as HTML: notes, findings, a run's progress, its loss curve. Everything from outside is escaped."""

import time
from collections.abc import Mapping, Sequence
from html import escape

from app.checks import Finding
from app.jobs import Job
from app.measuring import Measured
from app.quota import FRESH, Quota, size
from app.recipe import Recipe

STAGES = {"content": "Content", "style": "Style", "make": "Join"}
WORDS = {
    "new": "Not started",
    "queued": "In line",
    "preparing": "Preparing",
    "running": "Training",
    "done": "Finished",
    "cancelled": "Cancelled",
    "failed": "Failed",
    "interrupted": "Interrupted",
}
MATRICES = {  # what an optimizer that projects gradients says of its weights
    "projected": "learned in a projection",
    "bypassed": "too small to gain from it",
    "plain": "learned as they are",
}
POINTS = 240  # of a curve: more than a screen shows


def note(text: str, kind: str = "info", about: str = "") -> str:
    """One sentence; kind is info, good, warning or error. `about` tells the page what it is about."""
    role = "alert" if kind == "error" else "status"
    data = f' data-about="{escape(about)}"' if about else ""
    return f'<p class="note {kind}" role="{role}"{data}>{escape(text)}</p>' if text else ""


def findings(found: list[Finding]) -> str:
    return warnings(found) or note("These pictures are fine.", "good")


def warnings(found: list[Finding]) -> str:
    """The same, without a word where nothing was found."""
    return "".join(note(finding.text, "error" if finding.blocks else "warning") for finding in found)


def duration(seconds: float) -> str:
    """A time as a person says it."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"


def taken(found: Measured) -> str:
    """What a project takes, and whether that is there."""
    what = f"About {duration(found.seconds)} on {found.device}"
    memory = f"{size(found.memory)} of memory, of {size(found.has_memory)}"
    disk = f"{size(found.disk)} of disk, of {size(found.free_disk)} that are free"
    small = [] if found.memory <= found.has_memory else ["Choose less memory above, or a smaller base."]
    small += [] if found.disk <= found.free_disk else ["Make room on the disk first."]
    return " ".join([f"{what}; {memory}; {disk}.", *small])


def used(quota: Quota) -> str:
    """What the files of a studio take, in a sentence."""
    return f'<p class="about">{quota.said(FRESH)}.</p>'


def facts(pairs: Mapping[str, str]) -> str:
    """What is known of something, one fact a line."""
    rows = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs.items())
    return f'<dl class="facts">{rows}</dl>'


def recipe(drawn: Recipe, when: float) -> str:
    """How a picture was drawn, and when."""
    scales = {"Content": f"{drawn.content:g}", "Style": f"{drawn.style:g}"} if drawn.adapter else {}
    run = drawn.adapter + (f", after step {drawn.checkpoint}" if drawn.checkpoint else "")
    return facts(
        {"Prompt": drawn.prompt}
        | ({"Keep away from": drawn.negative_prompt} if drawn.negative_prompt else {})
        | {"Drawn with": run or f"{drawn.base} alone", **scales, "Seed": str(drawn.seed)}
        | {"Guidance": f"{drawn.guidance}, scale {drawn.guidance_scale:g}", "Steps": str(drawn.steps)}
        | {"Size": "{} x {}".format(*drawn.size)}
        | ({"Sampler": drawn.sampler} if drawn.sampler else {})
        | ({"Started from": f"a picture, strength {drawn.strength:g}"} if drawn.image else {})
        | {"Drawn": time.strftime("%Y-%m-%d %H:%M", time.localtime(when))}
    )


def download(address: str, label: str, said: str = "") -> str:
    """A link that looks like a button, with a sentence beside it."""
    link = f'<a class="download" href="{escape(address)}" download>{escape(label)}</a>'
    return link + (f"<span>{escape(said)}</span>" if said else "")


def progress(name: str, job: Job, stages: Sequence[str] = tuple(STAGES), ahead: int = 0) -> str:
    """A run's status, the stages that it has, its progress bar and figures; `ahead` of it other runs wait or go on."""
    share = 100 * job.step / job.steps if job.steps else 0
    figures = []
    if job.steps:
        figures.append(("Step", f"{job.step} of {job.steps}"))
    if job.loss is not None:
        figures.append(("Loss", f"{job.loss:.4f}"))
    if job.live and job.time_left is not None:
        figures.append(("Time left", f"about {duration(job.time_left)}"))
    if job.live and job.device:
        figures.append(("On", escape(job.device)))
    if job.live and job.matrices:
        figures.append(("Matrices", escape(_matrices(job.matrices))))
    cells = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in figures)
    hint = job.message
    if job.status == "preparing":
        hint = f"{job.doing} ..." if job.doing else "Reading the pictures and opening the base model."
    elif job.status == "queued":
        before = f"the {ahead} runs before it have" if ahead > 1 else "the run before it has"
        hint = f"It starts by itself when {before} ended." if ahead else "It starts as soon as a machine has room."
    elif job.status == "interrupted":
        hint = (
            f"{job.message} The process is gone without a last word. Resume goes on from the last checkpoint.".strip()
        )
    elif job.status == "cancelled":
        hint = "What was learned is kept. Resume goes on from here, exactly."
    elif job.status == "done":
        hint = "The adapter is ready to play with and to download."
    elif job.stage == "export":
        hint = "Writing the adapter and the last sheet of pictures."
    elif job.status == "running" and job.doing:
        hint = f"{job.doing} ..."
    return (
        f'<section class="progress" data-status="{escape(job.status)}" aria-label="Progress">'
        f'<header><span class="badge {escape(job.status)}">{WORDS.get(job.status, escape(job.status))}</span>'
        f"<strong>{escape(name)}</strong></header>"
        f'<ol class="stages">{_stages(job, stages)}</ol>'
        f'<div class="bar" role="progressbar" aria-valuemin="0" aria-valuemax="100" aria-valuenow="{share:.0f}" '
        f'aria-label="Training"><div style="width:{share:.1f}%"></div></div>'
        f"<dl>{cells}</dl><p>{escape(hint)}</p></section>"
    )


def _matrices(counts: str) -> str:
    """In plain words: "212 projected, 20 bypassed" is "212 learned in a projection, 20 too small to gain from it"."""
    parts = (part.partition(" ") for part in counts.split(", "))
    return ", ".join(f"{count} {MATRICES.get(kind, kind)}" for count, _, kind in parts)


def _stages(job: Job, names: Sequence[str]) -> str:
    past = job.stage == "export" or job.status == "done"
    at = len(names) if past else names.index(job.stage) if job.stage in names else -1
    items = []
    for position, name in enumerate(names):
        state = "past" if position < at else "now" if position == at else "next"
        current = ' aria-current="step"' if state == "now" else ""
        items.append(f'<li class="{state}"{current}>{STAGES[name]}</li>')
    return "".join(items)


def line(waiting: Sequence[str], shown: str) -> str:
    """The runs that wait, the next one first; the one that is shown stands out."""
    if not waiting:
        return ""
    items = (f"<li>{f'<strong>{escape(name)}</strong>' if name == shown else escape(name)}</li>" for name in waiting)
    return f'<section class="line" aria-label="Runs in line"><h4>In line</h4><ol>{"".join(items)}</ol></section>'


def loss_curve(entries: list[dict]) -> str:
    """A run's loss over its steps as SVG: each step faintly, a running mean plainly, a line where a stage begins."""
    if len(entries) < 2:
        return '<p class="curve empty">The loss curve appears here with the first steps.</p>'
    width, height, left, bottom = 440, 220, 40, 24
    losses = [entry["loss"] for entry in entries]
    smooth = _running_means(entries)
    top = max(sorted(losses)[int(0.98 * (len(losses) - 1))], max(smooth)) * 1.05 or 1.0
    steps = max(entries[-1].get("steps", entries[-1]["step"]), 1)

    def point(step: int, loss: float) -> str:
        x = left + step / steps * (width - left - 8)
        y = 8 + (1 - min(loss, top) / top) * (height - bottom - 8)
        return f"{x:.1f},{y:.1f}"

    stride = max(1, len(entries) // POINTS)
    kept = range(0, len(entries), stride)
    faint = " ".join(point(entries[i]["step"], losses[i]) for i in kept)
    plain: list[list[str]] = []
    marks: list[str] = []
    for i, entry in enumerate(entries):
        if i == 0 or entry.get("stage", "") != entries[i - 1].get("stage", ""):
            x = point(entry["step"] - 1, 0).split(",")[0]
            label = STAGES.get(entry.get("stage", ""), entry.get("stage", ""))
            marks.append(
                f'<line x1="{x}" x2="{x}" y1="8" y2="{height - bottom}"/>'
                f'<text x="{x}" dx="5" y="18">{escape(label)}</text>'
            )
            plain.append([])
        if i in kept or i == len(entries) - 1:
            plain[-1].append(point(entry["step"], smooth[i]))
    lines = "".join(f'<polyline class="mean" points="{" ".join(points)}"/>' for points in plain)
    base = height - bottom
    wide = (width - 8 - left) / max(1, len(kept))
    read = [
        (float(point(entries[i]["step"], 0).split(",")[0]) - wide / 2, f"step {entries[i]['step']}: {smooth[i]:.4f}")
        for i in kept
    ]
    return (
        f'<svg class="curve" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Loss, now {smooth[-1]:.4f} on average, at step {entries[-1]["step"]} of {steps}">'
        f'<g class="axis"><line x1="{left}" x2="{width - 8}" y1="{base}" y2="{base}"/>'
        f'<text x="{left - 6}" y="14" text-anchor="end">{top:.2g}</text>'
        f'<text x="{left - 6}" y="{base}" text-anchor="end">0</text>'
        f'<text x="{left}" y="{height - 6}">0</text>'
        f'<text x="{(left + width - 8) / 2}" y="{height - 6}" text-anchor="middle">loss by step</text>'
        f'<text x="{width - 8}" y="{height - 6}" text-anchor="end">{steps}</text></g>'
        f'<g class="marks">{"".join(marks)}</g><polyline class="each" points="{faint}"/>{lines}'
        f"{_hints(read, wide, base)}</svg>"
    )


def guidance_curve(record: Sequence[Mapping[str, float]]) -> str:
    """What guidance did at each step of a drawing, as SVG: how strong it was, and how much of that oversaturates.

    Args:
        record: of a pipeline, as `guidance_record` has it.
    """
    if not record:
        return ""
    width, height, left, bottom = 440, 150, 40, 24
    base, top = height - bottom, max(entry["rms"] for entry in record) or 1.0

    def place(k: int) -> float:
        return left + (k + 0.5) / len(record) * (width - left - 8)

    def line(kind: str, values: Sequence[float]) -> str:
        points = " ".join(f"{place(k):.1f},{8 + (1 - value) * (base - 8):.1f}" for k, value in enumerate(values))
        return f'<polyline class="{kind}" points="{points}"/>'

    read = [
        (
            place(k) - (width - left - 8) / len(record) / 2,
            f"step {k + 1}: strength {entry['rms']:.3f}, {entry['parallel']:.0%} of it along the picture"
            + (", limited" if entry["clipped"] else ""),
        )
        for k, entry in enumerate(record)
    ]
    return (
        f'<svg class="curve" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="Strength of guidance over {len(record)} evaluations, at most {top:.3f}">'
        f'<g class="axis"><line x1="{left}" x2="{width - 8}" y1="{base}" y2="{base}"/>'
        f'<text x="{left - 6}" y="14" text-anchor="end">{top:.2g}</text>'
        f'<text x="{(left + width - 8) / 2}" y="{height - 6}" text-anchor="middle">'
        "strength by step; faint: the share that would oversaturate</text></g>"
        f"{line('each', [min(1.0, entry['parallel']) for entry in record])}"
        f"{line('mean', [entry['rms'] / top for entry in record])}"
        f"{_hints(read, (width - left - 8) / len(record), base)}</svg>"
    )


def _hints(read: Sequence[tuple[float, str]], wide: float, high: float) -> str:
    """What a mouse reads: of each left edge its words."""
    rects = (
        f'<rect x="{x:.1f}" y="0" width="{wide:.1f}" height="{high}"><title>{escape(words)}</title></rect>'
        for x, words in read
    )
    return f'<g class="hints">{"".join(rects)}</g>'


def _running_means(entries: list[dict]) -> list[float]:
    """Exponential means of the loss, each stage from its own beginning."""
    means: list[float] = []
    for i, entry in enumerate(entries):
        fresh = i == 0 or entry.get("stage", "") != entries[i - 1].get("stage", "")
        means.append(entry["loss"] if fresh else 0.93 * means[-1] + 0.07 * entry["loss"])
    return means
