"""The runs on disk, and the adapters they ended with."""

import os
import re
import shutil
import statistics
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from app import jobs
from app.given import Given
from app.quota import Quota
from app.recipe import file_hash
from app.trash import to_trash
from pipelines.errors import UserError
from training import Customization, Run, captions
from training.formats import find_pictures, mask_beside, shown
from training.pictures import MIDDLE
from training.plan import plan

TRASH = ".trash"


@dataclass(frozen=True)
class Library:
    """A folder of run folders. Whatever else lies in it is left alone."""

    folder: Path
    quota: Quota = field(default_factory=Quota, compare=False)

    def runs(self) -> list[Run]:
        """All runs, the newest first. One in a folder whose name is no text cannot be shown on a page."""
        times = {}
        for path in self.folder.glob("*/config.toml"):
            with suppress(OSError):  # removed meanwhile
                times[path] = path.stat().st_mtime
        configs = sorted(times, key=times.__getitem__, reverse=True)
        return [Run(path.parent) for path in configs if shown(path.parent.name) == path.parent.name]

    def finished(self) -> list[Run]:
        """The runs that have an adapter."""
        return [run for run in self.runs() if run.adapter.exists()]

    def running(self) -> Run | None:
        return next((run for run in self.runs() if jobs.look(run).live), None)

    def find(self, name: str) -> Run:
        """The run whose folder has this name; a name from outside reaches no other folder.

        Raises:
            UserError: there is none.
        """
        there = os.listdir(self.folder) if self.folder.exists() else []
        if name in there and shown(name) == name and os.path.exists(Run(self.folder / name).config):
            return Run(self.folder / name)
        raise UserError(f"There is no run {name!r} in {self.folder.name}", "Choose another one")

    def holding(self, adapter_hash: str, step: int = 0) -> Run | None:
        """The finished run with this very adapter, as it ended or after a step, whatever it is called now."""
        files = ((run, run.adapter_after(step)) for run in self.finished())
        return next((run for run, path in files if path.exists() and file_hash(path) == adapter_hash), None)

    def rename(self, name: str, new: str) -> Run:
        """Give a run another name, which is its folder's.

        Raises:
            UserError: there is no such run, it is being trained, another needs it under its name, or has the new one.
        """
        with jobs.alone(self.folder):
            run, stem = self._resting(name), _slug(new)
            if not stem:
                raise UserError(f"The new name is {new!r}", "Write one with letters or numbers")
            target = Run(self.folder / stem)
            if target.folder.exists():
                raise UserError(f"There is a run {stem!r} already", "Choose another name")
            run.folder.rename(target.folder)
            run.forget_lock()
        return target

    def remove(self, name: str) -> Path:
        """Move a run into the trash, a folder beside the runs, and say where it is.

        Raises:
            UserError: there is no such run, it is being trained, or another needs it.
        """
        with jobs.alone(self.folder):
            run = self._resting(name)
            target = to_trash(run.folder, self.folder / TRASH, name)
            run.forget_lock()
        return target

    def _resting(self, name: str) -> Run:
        """A run that nobody works on or needs."""
        run = self.find(name)
        if jobs.look(run).status in (*jobs.LIVE, jobs.QUEUED) or run.written:
            raise UserError(f"The run {name} is being trained or waits", "Cancel it first, or wait for its end")
        for other in self.runs():
            config = None if other.adapter.exists() else self.customization(other)
            taken = [concept.run for concept in config.concepts.values()] if config else []
            if run.folder.resolve() in [path.resolve() for path in taken if path]:
                raise UserError(f"The run {other.folder.name} learns on from {name}", "Wait for its end, or delete it")
        return run

    def stages(self, run: Run) -> list[str]:
        """The names of the stages that a run has: without a style there is no stage for it, and nothing to join.

        Raises:
            UserError: another version wrote its configuration, or it was damaged.
        """
        return [stage.name for stage in plan(run.customization()) if stage.steps]

    def customization(self, run: Run) -> Customization | None:
        """What a run learns; None of one that another version wrote, or that was damaged."""
        try:
            return run.customization()
        except UserError:
            return None

    def create(self, config: Customization, pictures: dict[str, list[Given]]) -> Run:
        """A new run's folder with its own copies of all pictures, so that it can be moved and resumed years later.

        Args:
            config: its `pictures` and `crops` are replaced by those of the copies; `others` are copied too.
            pictures: for "content" and "style".
        Raises:
            UserError: their copies would pass the quota.
        """
        given = [file for files in pictures.values() for one in files for file in (one.path, one.mask) if file]
        given += [file for concept in config.concepts.values() for file in find_pictures(concept.others)]
        with self.quota.room(sum(file.stat().st_size for file in given)):
            return self._copy_in(config.model_copy(deep=True), pictures)

    def _copy_in(self, config: Customization, pictures: dict[str, list[Given]]) -> Run:
        run = Run(self._free_folder(config.name))
        for name, files in pictures.items():
            concept, folder = getattr(config, name), run.folder / "pictures" / name
            folder.mkdir(parents=True)
            concept.crops = {}
            for number, (path, caption, crop, mask) in enumerate(files, 1):
                copy = folder / f"{number:02d}-{_slug(path.stem)}{path.suffix.lower()}"
                shutil.copyfile(path, copy)
                if crop != MIDDLE:
                    concept.crops[copy.name] = crop
                if caption:
                    copy.with_suffix(".txt").write_text(caption, encoding="utf-8")
                if mask:
                    shutil.copyfile(mask, mask_beside(copy))
            concept.pictures = [folder]
            concept.others = [_copy_others(path, run.folder / "pictures" / f"other-{name}s") for path in concept.others]
        config.save(run.config)
        return run

    def estimate(self, config: Customization) -> float | None:
        """Seconds that a customization will take, from the pace of the newest run like it; None if there was none."""
        for run in self.runs():
            paces: dict[str, list[float]] = {}
            for entry in run.read_metrics():
                paces.setdefault(entry.get("stage", ""), []).append(entry["seconds_per_step"])
            stages = plan(config)
            like = self.customization(run) if {stage.name for stage in stages} <= paces.keys() else None
            if like and _workload(like) == _workload(config):
                return sum(statistics.median(paces[stage.name]) * stage.steps for stage in stages)
        return None

    def _free_folder(self, name: str) -> Path:
        stem, number = _slug(name) or "run", 1
        folder = self.folder / stem
        while folder.exists():
            number += 1
            folder = self.folder / f"{stem}-{number}"
        return folder


def _slug(name: str) -> str:
    """A name that every file system takes."""
    return re.sub(r"[^\w]+", "-", name.lower()).strip("-_")[:60]


def _copy_others(source: Path, target: Path) -> Path:
    """The pictures of a folder, or one picture, with the captions beside them."""
    target.mkdir(parents=True, exist_ok=True)
    for path in find_pictures([source]):
        shutil.copyfile(path, target / path.name)
        if caption := captions.beside(path):
            (target / path.name).with_suffix(".txt").write_text(caption, encoding="utf-8")
    return target if source.is_dir() else target / source.name


def _workload(config: Customization) -> tuple:
    """What decides the seconds of a step."""
    steps, adapter = config.steps, config.adapter
    return (
        Path(config.base).name,
        config.resolution,
        config.precision,
        steps.batch_size,
        steps.accumulation,
        steps.others_batch_size,
        [len(stage.parts) for stage in plan(config)],
        adapter.layers,
        adapter.method,
    )
