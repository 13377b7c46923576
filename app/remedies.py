"""What mends a run that has failed, where a few other numbers do: a click starts it anew with them."""

from typing import Any

from app import jobs
from app.given import pictures_of
from app.library import Library
from pipelines.errors import UserError
from training import Customization, Run


def less_memory(data: dict[str, Any]) -> dict[str, Any]:
    """As many of its own pictures a step in smaller batches, and the denoiser's insides computed twice."""
    steps = data["steps"] | {"gradient_checkpointing": True}
    if steps["batch_size"] % 2 == 0:
        halved = {size: max(1, steps[size] // 2) for size in ("batch_size", "others_batch_size")}
        steps |= halved | {"accumulation": steps["accumulation"] * 2}
    return data | {"steps": steps}


def half_the_rate(data: dict[str, Any]) -> dict[str, Any]:
    return data | {"optimizer": data["optimizer"] | {rate: data["optimizer"][rate] / 2 for rate in ("lr", "make_lr")}}


REMEDIES = {  # what a run says that has failed -> what is written on the button, and what changes in its tables
    "do not fit into memory": ("Start again in less memory", less_memory),
    "is not a finite number": ("Start again at half the rate", half_the_rate),
}


def mended(run: Run) -> tuple[str, Customization] | None:
    """The words for a run's remedy, and what it would learn with it; None where there is none.

    Raises:
        UserError: its configuration cannot be read.
    """
    job = jobs.look(run)
    found = (remedy for said, remedy in REMEDIES.items() if job.status == "failed" and said in job.message)
    if not (remedy := next(found, None)):
        return None
    words, change = remedy
    before = run.customization()
    config = Customization(**change(before.model_dump(by_alias=True)))
    return None if config == before else (words, config)


def start_again(library: Library, run: Run) -> Run:
    """A new run with the remedy of one that has failed, from that one's pictures.

    Raises:
        UserError: it needs none, or as `jobs.launch`.
    """
    if not (found := mended(run)):
        raise UserError(f"The run {run.folder.name} has nothing to mend", "Resume it, or change its project")
    config = found[1]
    return jobs.launch(library, config, {name: pictures_of(one) for name, one in config.concepts.items()})
