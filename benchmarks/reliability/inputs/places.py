"""Names and paths that lead elsewhere, links, and calls out of order."""

import inspect
import shutil
from collections.abc import Iterator
from pathlib import Path
from random import Random

from PIL import Image

from app import jobs
from app.album import Album
from app.api import Api
from app.checks import check
from app.copies import Copies
from app.drafts import Drafts
from app.given import Given
from app.library import Library
from app.mixing import go_further, mix
from app.painter import Painter
from app.recipe import Recipe
from benchmarks.reliability.inputs.case import NAMES, VALUES, Case, Unclear, World, ask
from training import Customization, Run
from training.formats import find_pictures
from training.pictures import open_picture
from training.sampling import open_run


def cases(chance: Random) -> Iterator[Case]:
    for name in NAMES:
        yield Case(f"a name, {name!r:.40}", lambda world, folder, name=name: named(world, folder, name))
        yield Case(f"a path, {name!r:.40}", lambda world, folder, name=name: path(world, folder, name))
    for what, act in LINKS.items():
        yield Case(what, act)
    for what, act in ORDER.items():
        yield Case(what, act)
    for method in (Api.status, Api.cancel, Api.resume, Api.draw):
        for parameter in list(inspect.signature(method).parameters)[1:]:
            for value in chance.sample([*VALUES, None], 4):
                yield Case(
                    f"a call of {method.__name__} whose {parameter} is {value!r:.40}",
                    lambda world, folder, m=method, p=parameter, v=value: called(world, folder, m, {p: v}),
                )


def own(world: World, folder: Path) -> Library:
    """A library with a copy of the run."""
    shutil.copytree(world.run.folder, folder / "runs/fox")
    return Library(folder / "runs")


def named(world: World, folder: Path, name: str) -> None:
    """All that finds something by a name from outside."""
    library = own(world, folder)
    album = Album.of(library.folder)
    drafts = Drafts.of(Customization.load(world.run.config), library.folder / ".projects")
    kept = drafts.names()
    for find in (library.find, library.remove, album.get, album.remove, drafts.read, drafts.remove):
        if ask(find, name) is not None:
            raise Unclear(f"{find.__qualname__} found something")
    ask(album.mark, name, True)
    ask(drafts.write, name, {"seed": 1})
    ask(mix, library, name, name, 0)
    ask(go_further, library, name, 1, 1)
    renamed = ask(library.rename, "fox", name)
    if renamed and renamed.folder.parent != library.folder:
        raise Unclear(f"The run went to {renamed.folder}")
    if drafts.names() != kept:
        raise Unclear("The projects are others now")


def path(world: World, folder: Path, name: str) -> None:
    """All that takes a path; one from outside may name any file, and is only read."""
    for given in (Path(name), folder / name):
        ask(open_picture, given)
        ask(Copies(folder / "copies").of, given)
        ask(check, "content", [Given(given)], 64)
        ask(find_pictures, [given])
        ask(Run(given).customization)
        ask(Customization.load, given)
        ask(open_run, given)


def _linked_picture(world: World, folder: Path) -> None:
    album = Album.of(own(world, folder).folder)
    target = world.outside / "shot"
    album.folder.mkdir()
    (album.folder / "evil").symlink_to(target)
    ask(album.mark, "evil", True)
    ask(album.remove, "evil")


def _linked_draft(world: World, folder: Path) -> None:
    drafts = Drafts(folder / "drafts")
    name = drafts.make({"seed": 1})
    (drafts.folder / name / "pictures").symlink_to(world.outside)
    drafts.write(name, {"seed": 2})
    ask(drafts.remove, name)


def _linked_run(world: World, folder: Path) -> None:
    library = own(world, folder)
    (library.folder / "evil").symlink_to(world.outside / "run")
    for act in (library.remove, jobs_cancel(library)):
        ask(act, "evil")


def _draft_elsewhere(world: World, folder: Path) -> None:
    drafts = Drafts(folder / "drafts")
    name = drafts.make({"seed": 1})
    kept = (drafts.folder / name / "draft.json").read_text()
    text = kept.replace('"seed": 1', '"content.pictures": [["../../../../outside/a.png", null], ["/etc/passwd", null]]')
    (drafts.folder / name / "draft.json").write_text(text)
    found = ask(drafts.read, name) or {}
    if any(drafts.folder / name not in one.path.resolve().parents for one in found.get("content.pictures", [])):
        raise Unclear(f"It shows {found}")


def jobs_cancel(library: Library) -> object:
    return lambda name: jobs.cancel(library.find(name))


LINKS = {
    "a picture that is a link out of the folder": _linked_picture,
    "a project whose pictures are a link out of the folder": _linked_draft,
    "a run that is a link out of the folder": _linked_run,
    "a project that names pictures elsewhere": _draft_elsewhere,
}


def _twice(world: World, folder: Path) -> None:
    library = own(world, folder)
    library.remove("fox")
    for act in (library.remove, library.find, jobs_cancel(library)):
        ask(act, "fox")
    ask(library.rename, "fox", "dog")


def _busy(world: World, folder: Path) -> None:
    library = own(world, folder)
    run = library.find("fox")
    with run.writing():
        run.write_state(status="running")
        for act in (jobs.start, jobs.cancel):
            ask(act, run)
        for act in (library.remove, lambda name: library.rename(name, "dog")):
            ask(act, "fox")
    if not run.folder.exists():
        raise Unclear("A run that is trained was moved")


def _queued(world: World, folder: Path) -> None:
    library = own(world, folder)
    run = library.find("fox")
    run.write_state(status="queued", place=10**30)
    for act in (jobs.start, jobs.cancel, jobs.cancel):
        ask(act, run)
    if jobs.look(run).status != "cancelled":
        raise Unclear("It waits still")


def _gone(world: World, folder: Path) -> None:
    library = own(world, folder)
    run = library.find("fox")
    shutil.rmtree(run.folder)
    for act in (jobs.look, jobs.cancel, jobs.ahead, library.stages, library.estimate):
        ask(act, Customization.load(world.run.config) if act == library.estimate else run)
    album, drafts = Album.of(library.folder), Drafts(folder / "drafts")
    picture = album.add(Image.new("RGB", (16, 16)), _recipe())
    shutil.rmtree(picture.parent)
    ask(album.mark, picture.parent.name, True)
    name = drafts.make({})
    drafts.remove(name)
    for act in (drafts.read, drafts.remove):
        ask(act, name)
    ask(drafts.write, name, {"seed": 1})


def _unfinished(world: World, folder: Path) -> None:
    library = own(world, folder)
    library.find("fox").adapter.unlink()
    for act in (lambda: mix(library, "fox", "fox", 1), lambda: go_further(library, "fox", 1, 1)):
        ask(act)
    ask(open_run, library.find("fox").folder)


def _nothing(world: World, folder: Path) -> None:
    library = own(world, folder)
    for given in ((None, None, 0), ("fox", None, 0), ("fox", "fox", -1), ("fox", "fox", None), ("fox", "fox", 1.5)):
        ask(mix, library, *given)
    for given in ((None, 0, 0), ("fox", -1, 0), ("fox", 0, 0), ("fox", None, None)):
        ask(go_further, library, *given)


ORDER = {
    "a run that is deleted twice": _twice,
    "a run that is started while it is trained": _busy,
    "a run that is started while it waits": _queued,
    "what is gone is asked for": _gone,
    "a run without an adapter is learned on from": _unfinished,
    "nothing is mixed": _nothing,
}


def _recipe() -> Recipe:
    return Recipe("a", 0, 1.0, 1.0, "CFG", {}, 5.0, 1, 64, "base")


def called(world: World, folder: Path, method: object, given: dict) -> None:
    """A call with one value that is odd; the others are right."""
    library = own(world, folder)
    api = Api(library, Album.of(library.folder), Painter(), Customization.load(world.run.config), None)
    needed = {"run": "fox", "prompt": "a dog", "steps": 1, "count": 1}
    known = inspect.signature(method).parameters
    if method is Api.resume:  # would train
        library.find("fox").write_state(status="queued")
    ask(method, api, **{key: value for key, value in needed.items() if key in known} | given)
