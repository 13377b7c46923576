"""Step 3: draw with a finished run, compare, take pictures and the adapter away."""

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple
from urllib.parse import quote

import gradio as gr
from PIL import Image

from app import drawing, figures, mask
from app.album import Album
from app.checks import check_prompts
from app.copies import Copies
from app.drawing import Axis
from app.fields import Fields
from app.library import Library
from app.line import Line
from app.pages import QUICK, about, by_hand, goes_with, wish
from app.painter import LARGEST_SEED, Model, Painter, Stopped
from app.parameters import Parameters
from app.preview import shown_meanwhile
from app.recipe import Recipe, file_hash
from app.starts import Starts
from pipelines import UserError
from training import Customization, Run
from training.families import FAMILIES
from training.formats import shown as readable

SIDES = ("across", "down")  # of a grid
NOT_KEPT = ("image",)
LABEL = 40  # letters of a prompt over a column of a grid
BASE_ALONE = ""  # the dropdown's value for no run
AS_IT_ENDED = "As it ended"


@dataclass(frozen=True)
class PlayPage:
    run: gr.components.Component
    shown: list[gr.components.Component]  # what `offer` fills: the runs, and all that follows from the chosen one
    offer: Callable
    add_new: Callable
    filled: list[gr.components.Component]  # what `set_from` and `set_seed` fill
    set_from: Callable
    set_seed: Callable
    leave: Callable  # for a page that is gone: nobody waits for its pictures
    restored: list[gr.components.Component]  # what `restore` fills
    restore: Callable


def build(
    library: Library,
    sample: Customization,
    painter: Painter,
    album: Album,
    starts: Starts,
    copies: Copies,
    kept_here: gr.BrowserState,
) -> PlayPage:
    """The page. `kept_here` holds the fields as a browser showed them last, by name."""
    line, fields = Line(), Fields()

    def model_of(name: str, checkpoint: int = 0) -> tuple[Model, Customization, dict]:
        """What draws, its configuration, and the concepts that it has learned."""
        if name == BASE_ALONE:
            return Model.of(sample), sample, {}
        run = library.find(name)
        config = run.customization()
        return Model.of(config, run, checkpoint), config, config.concepts

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            run = fields.add("run", gr.Dropdown([], label="Draw with", elem_id="play-run"))
            ended = [(AS_IT_ENDED, 0)]
            checkpoint = gr.Dropdown(ended, value=0, label="Checkpoint", visible=False, elem_id="checkpoint")
            fields.add("checkpoint", checkpoint)
            start = wish.settings(fields, sample)
        with gr.Column(scale=3, min_width=320):
            with gr.Row(elem_classes="drawing"):
                draw = gr.Button("Draw", variant="primary", elem_id="draw", min_width=80)
                compare = gr.Button("Compare", elem_id="compare", min_width=80)
                rules = gr.Button("APG / CFG", elem_id="rules", min_width=80)
                stop = gr.Button("Stop", elem_id="stop", min_width=60)
            note = gr.HTML(padding=False, elem_id="play-note")
            pictures = gr.Gallery(
                label="Pictures",
                show_label=False,
                columns=4,
                height="auto",
                object_fit="contain",
                interactive=False,
                type="filepath",
                buttons=["download", "download_all", "fullscreen"],
                elem_classes="results",
                elem_id="pictures",
            )
            pair = gr.ImageSlider(
                label="APG on the left, CFG on the right; draw the line across",
                type="filepath",
                interactive=False,
                visible=False,
                buttons=["fullscreen"],
                elem_id="pair",
            )
            drawn_so = gr.HTML(padding=False, elem_id="drawn-so")
            use = gr.Button("Use these settings", visible=False, size="sm", elem_id="use-drawn")
            adapter = gr.HTML(padding=False, elem_id="adapter")
            with gr.Accordion("What guidance did at each step", open=False):
                curve = gr.HTML(figures.note("It shows with the next drawing by APG."), padding=False, elem_id="guided")
            with gr.Accordion("Compare in a grid", open=False):
                grid = wish.grid(fields)
            with gr.Accordion("Draw a picture again", open=False):
                gr.Markdown("Every picture carries its recipe. Drop one here to set all fields as it was drawn.")
                source = gr.File(label="A PNG made by Joinery", file_types=[".png"], height=140, elem_id="recipe")
    ticket, picked = gr.State(None), gr.State("")
    ready = gr.State(False)  # whether the fields are the person's: until they are restored, nothing is kept
    ranges = fields.ranges | {"seed": (0, LARGEST_SEED)}
    named = ("prompt", "content", "style", "seed", "image", "size")
    prompt, content, style, seed, image, size = (fields[name] for name in named)
    written = fields.all - {image}  # a list of pictures also says that it changed when the page sets it

    def ask(request: gr.Request) -> dict:
        number = line.ask(request.session_hash)
        if number is None:
            return {ticket: None, note: figures.note("Still drawing. Wait for the pictures, or stop it.", "warning")}
        ahead = line.ahead(number)
        words = f"Waiting for {'another drawing' if ahead == 1 else f'{ahead} other drawings'}." if ahead else ""
        hidden = {use: gr.Button(visible=False), pair: gr.ImageSlider(visible=False)}
        return {ticket: number, note: figures.note(words), drawn_so: ""} | hidden

    def drawing_of(plan: Callable, one_each: bool = False) -> Callable:
        """A handler. `plan` makes the recipes, by label, from the first one, the configuration and the values.

        With `one_each` they are a grid: of each one picture is drawn, and all of them stand on a sheet as well.
        """

        def handler(
            given: dict,
            request: gr.Request,
            progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds it there)
        ) -> Iterator[dict]:
            number, values = given[ticket], fields.read(given)
            if number is None:
                return
            stopped = line.stopped(number)
            drawn: list[list[_Drawn]] = []  # of each recipe what is kept already
            try:
                model, _, learned = model_of(values["run"], values["checkpoint"])
                values |= kept(values["image"], given[start.painted], drawing.size_of(values["size"], model.resolution))
                recipe = drawing.recipe_of(values, model)
                recipes = plan(recipe, learned, values)

                def draw_all(preview: Callable) -> None:
                    for row, (label, wish) in enumerate(recipes.items()):

                        def show(done: int, total: int, row: int = row) -> None:
                            progress((row * total + done) / (total * len(recipes)), desc="Drawing")

                        def say(words: str, row: int = row) -> None:
                            progress(row / len(recipes), desc=words)

                        say("Drawing")
                        count, before = 1 if one_each else values["count"], shown_of(drawn)
                        try:
                            found = painter.draw(
                                model_of(wish.adapter, wish.checkpoint)[0] if wish.adapter else model,
                                wish,
                                count,
                                show,
                                stopped,
                                say=say,
                                preview=lambda some, before=before: preview([*before, *some]),  # type: ignore[misc]
                            )
                        except Stopped as ended:
                            drawn.append(kept_in_album(ended.drawn, label))
                            raise
                        drawn.append(kept_in_album(found, label))
                        preview(shown_of(drawn))

                for growing in shown_meanwhile(draw_all):
                    yield {pictures: gr.Gallery(growing, selected_index=None)}
            except UserError as error:
                asked = about({field: given[field] for field in written})
                yield early(drawn) | {note: figures.note(str(fields.in_labels(error)), "error", asked)}
                return
            except Stopped:
                words = "Stopped. What was drawn before is in the Library." if shown_of(drawn) else "Stopped."
                yield early(drawn) | {note: figures.note(words)}
                return
            finally:
                line.leave(number)
            shown, recorded = shown_of(drawn), any(wish.guidance == "APG" for wish in recipes.values())
            if one_each:
                whole = _sheet(recipe.prompt, [one.picture for [one] in drawn], *map(heads, sides(values)))
                shown.insert(0, (str(_keep_sheet(copies, whole)), "all of them"))
            said = check_prompts(recipe, learned, model.base)
            yield {
                pictures: gr.Gallery(shown, selected_index=None),
                note: figures.warnings(said),
                seed: next(iter(recipes.values())).seed,
                curve: figures.guidance_curve(painter.record) if recorded else gr.skip(),
                pair: gr.ImageSlider(both(drawn) if plan is by_rules else None, visible=plan is by_rules),  # type: ignore[arg-type]
            }

        return handler

    def early(drawn: list[list[_Drawn]]) -> dict:
        """What is shown of a drawing that did not come to its end; nothing changes if nothing was drawn."""
        shown = shown_of(drawn)
        return {pictures: gr.Gallery(shown, selected_index=None)} if shown else {}

    def kept_in_album(found: list[tuple[Image.Image, Recipe]], label: str) -> list[_Drawn]:
        return [
            _Drawn(picture, str(copies.add(album.add(picture, own, label))), label or f"seed {own.seed}")
            for picture, own in found
        ]

    def kept(image: list | None, painted: Image.Image | None, size: tuple[int, int]) -> dict[str, str]:
        """The picture to start from and the part of it that changes, by the names that recipes have for them."""
        if not image:
            return {"image": "", "mask": ""}
        part = starts.add_mask(painted, size) if painted else ""
        return {"image": starts.add(_last(image), size), "mask": part}

    def both(drawn: list[list[_Drawn]]) -> tuple[str, ...]:
        """The first picture under each rule."""
        return tuple(column[0].copy for column in drawn)

    def by_rules(recipe: Recipe, learned: dict, values: dict) -> dict[str, Recipe]:
        return drawing.by_rules(recipe, values)

    def compared(recipe: Recipe, learned: dict, values: dict) -> dict[str, Recipe]:
        if not learned:
            raise UserError("The base alone has nothing to compare", "Choose a finished run")
        return drawing.by_scales(recipe, learned)

    def sides(values: dict) -> tuple[Axis, Axis | None]:
        known = {"run": names(), "checkpoint": drawing.checkpoints(model_of(values["run"])[0].run)}
        if "checkpoint" in (values["across"], values["down"]) and len(known["checkpoint"]) < 2:
            what = "No step of this run was kept but the last"
            raise UserError(what, 'Train again with "Keep every", under Every other setting, at 1 or more')
        across, down = (
            Axis.read(values[side], values[f"{side} values"], ranges, known) if values[side] else None for side in SIDES
        )
        return across, down  # type: ignore[return-value]

    def name_all(side: str, name: str) -> Any:
        """The values of a side that has just a few, as soon as it is chosen."""
        return ", ".join(drawing.checkpoints(model_of(name)[0].run)) if side == "checkpoint" else gr.skip()

    def heads(side: Axis | None) -> list[str]:
        if side is None:
            return [""]
        if side.name == "prompt":
            short = [shorten(value, LABEL, placeholder=" ...") for value in side.values]
            return short if len({*short}) == len(short) else side.values
        return [f"{fields.label(side.name)} {value}" for value in side.values]

    def gridded(recipe: Recipe, learned: dict, values: dict) -> dict[str, Recipe]:
        across, down = sides(values)
        model = model_of(values["run"], values["checkpoint"])[0]
        rows = drawing.by_grid(values, model, across, down, lambda *of: model_of(*of)[0])
        return {
            ", ".join(filter(None, (head, column))): wish
            for head, row in zip(heads(down), rows, strict=True)
            for column, wish in zip(heads(across), row, strict=True)
        }

    def choose(name: str) -> tuple:
        """What follows from a run: its prompt, whether there is something to scale, and its adapter."""
        try:
            model, config, learned = model_of(name)
        except UserError as error:
            return *[gr.skip()] * 4, figures.note(str(error), "error"), gr.skip()
        folded = gr.Accordion(visible=_begins(config))
        return config.sample_prompt, *scales(learned), folded, _download(model), checkpoints(model.run)

    def checkpoints(run: Run | None, step: int = 0) -> gr.Dropdown:
        """Those of a run, where it has any; the last where the wanted one is gone."""
        kept = run.kept_steps() if run else []
        every = [(AS_IT_ENDED, 0), *((f"After step {one}", one) for one in kept)]
        return gr.Dropdown(every, value=step if step in kept else 0, visible=bool(kept))

    def scales(learned: dict) -> list[dict]:
        return [gr.update(interactive=concept in learned) for concept in ("content", "style")]

    def names() -> list[str]:
        return [run.folder.name for run in library.finished()]

    def runs(value: str) -> gr.Dropdown:
        return gr.Dropdown([*((name, name) for name in names()), ("Base model alone", BASE_ALONE)], value=value)

    def offer(wanted: str | None = None) -> tuple:
        """The runs that can be drawn with, and what follows from the wanted one, or else from the newest."""
        value = wanted if wanted in names() else next(iter(names()), BASE_ALONE)
        return runs(value), *choose(value)

    def add_new(name: str | None, known: list[str]) -> tuple | dict:
        """Runs that finished since are offered; what a person has chosen and written stays."""
        there = names()
        if there == known:
            return gr.skip()
        if not name or name in there:  # an open list says None
            return runs(name or BASE_ALONE), *[gr.skip()] * 6, there
        return *offer(), there

    def set_from(path: str | Path, now: str) -> dict:
        """All fields as a picture was drawn: from its recipe, or from what a web UI has written in it."""
        picture = Path(path)
        try:
            foreign = None if Recipe.is_in(picture) else Parameters.read(picture)
            return set_from_text(foreign, now) if foreign else set_from_recipe(Recipe.read(picture), now)
        except UserError as error:
            return {note: figures.note(str(fields.in_labels(error)), "error")}

    def set_from_recipe(recipe: Recipe, now: str) -> dict:
        values, odd = drawing.recall(recipe, ranges)
        values.pop("mask", None)  # which no field has: it is painted
        known = not recipe.adapter or recipe.adapter in names()
        # It may have another name by now.
        same = None if known else library.holding(recipe.adapter_hash, recipe.checkpoint)
        values["run"] = recipe.adapter if known else same.folder.name if same else now
        model, _, learned = model_of(values["run"], recipe.checkpoint if known or same else 0)
        faults = [] if known or same else [f"Its adapter, {recipe.adapter}, is not among your runs."]
        if model.adapter and not model.adapter.exists():
            faults.append(f"{values['run']} keeps no adapter of step {recipe.checkpoint}.")
            model = replace(model, checkpoint=0)
        values["checkpoint"] = model.checkpoint
        faults += out_of_range({name: getattr(recipe, name) for name in odd})
        try:
            begun = copies.of(starts.path(recipe.image)) if recipe.image else None
            over = to_paint(begun, recipe.mask if begun else "", recipe.size)
        except UserError as error:
            begun, over, faults = None, to_paint(None), [*faults, str(error)]
        # A base that is not open has no hash yet; one of another name is taken for another.
        base_hash = painter.base_hash(model) or ("" if model.name == recipe.base else model.name)
        adapter_hash = _adapter_hash(model) if known or same else recipe.adapter_hash
        return (
            put(values | {"image": _shown(begun)}, model, learned)
            | over
            | {
                start.folded: gr.Accordion(open=begun is not None),
                note: figures.note(*drawing.recalled(recipe, faults, base_hash, adapter_hash)),
            }
        )

    def set_from_text(found: Parameters, now: str) -> dict:
        values, odd = drawing.recall_elsewhere(found, names(), ranges)
        values.setdefault("run", now)
        model, _, learned = model_of(values["run"])
        faults = out_of_range({name: found.values[name] for name in odd if name in found.values})
        said = drawing.recalled_elsewhere(found, faults, model, values["run"])
        return put(values, model, learned) | {note: figures.note(*said)}

    def out_of_range(odd: dict) -> list[str]:
        here = {name: ", and here it goes from {:g} to {:g}".format(*ranges[name]) for name in odd if name in ranges}
        said = ((fields.label(name), value, here.get(name, "")) for name, value in odd.items())
        return [f'"{label}" is {value!r} in the picture{limits}.' for label, value, limits in said]

    def put(values: dict, model: Model, learned: dict) -> dict:
        """The values of a picture into the fields: its seed is the next one's, and it starts from nothing else."""
        return written_as({"image": None} | values | {"fresh": False}, model, learned) | to_paint(None)

    def written_as(values: dict, model: Model, learned: dict) -> dict:
        """Values into the fields; a scale of what was not learned cannot be moved."""
        usable = dict(zip(("content", "style"), scales(learned), strict=True))
        for concept in usable.keys() & values.keys():
            usable[concept]["value"] = values[concept]
        # A run may be newer than the page's list, or have another name by now.
        chosen = {"run": runs(values["run"]), "checkpoint": checkpoints(model.run, values.get("checkpoint", 0))}
        return fields.write(values | usable | chosen) | {adapter: _download(model)}

    def take(given: dict) -> dict:
        """A picture that was dropped is shown as training would see it, and is the only one."""
        path = _last(given[image])
        try:
            begun, said = copies.of(path), ""
        except UserError as error:
            begun, said = None, figures.note(str(error).replace(readable(path), readable(path.name)), "error")
        return to_paint(begun, size=size_in(given)) | {image: _shown(begun), note: said}

    def size_in(given: dict) -> tuple[int, int]:
        """What the canvas has the shape of; a square where the size says nothing yet."""
        try:
            return drawing.size_of(given[size], model_of(given[run])[0].resolution)
        except UserError:
            return 1, 1

    def reshape(given: dict) -> dict:
        """Another size shows another part of the picture, and nothing is painted over that yet."""
        if not given[image]:
            return {start.painted: None}
        return {start.view: mask.canvas(_last(given[image]), size=size_in(given)), start.painted: None}

    def to_paint(begun: Path | None, name: str = "", size: tuple[int, int] = (1, 1)) -> dict:
        """A picture to start from, to be painted over where it is to change, and what was painted before, by its name.

        Raises:
            UserError: that is gone.
        """
        shown = mask.canvas(begun, copies.of(starts.path(name)) if name else None, size)
        part = gr.Accordion(visible=begun is not None, open=bool(name))
        return {start.view: shown, start.painted: starts.get(name) if name else None, start.part: part}

    def paint(event: gr.EventData) -> dict:
        """What was painted so far, with each stroke."""
        try:
            return {start.painted: mask.read(event._data["mask"])}
        except UserError as error:
            return {note: figures.note(str(error), "error")}

    def set_seed(number: int) -> dict:
        return fields.write({"seed": number, "fresh": False}) | {note: figures.note(f"The seed is {number} now.")}

    for button, plan, one_each in (
        (draw, lambda recipe, learned, values: drawing.alone(recipe), False),
        (compare, compared, False),
        (rules, by_rules, False),
        (grid, gridded, True),
    ):
        # The ticket is given at once, so that a Stop that comes while it waits is kept.
        button.click(ask, None, [ticket, note, drawn_so, use, pair], trigger_mode="once", **QUICK).then(
            drawing_of(plan, one_each),
            {*fields.all, start.painted, ticket},
            [pictures, note, seed, curve, pair],
            concurrency_id="device",
            concurrency_limit=1,
            show_progress_on=[pictures],
            api_visibility="private",
        )

    def pick(event: gr.SelectData) -> dict:
        """How the picture was drawn that a person has chosen; a sheet has no recipe."""
        path = Path(event.value["image"]["path"])
        if not path.is_relative_to(copies.folder) or not Recipe.is_in(path):
            return {drawn_so: "", use: gr.Button(visible=False), picked: ""}
        shown = figures.recipe(Recipe.read(path), path.stat().st_mtime)
        return {drawn_so: shown, use: gr.Button(visible=True), picked: str(path)}

    def use_picked(path: str, now: str) -> dict:
        return set_from(path, now) if path else {note: gr.skip()}

    def keep(given: dict) -> dict[str, Any]:
        """What a reload shows again; the picture to start from is not kept."""
        if not given[ready]:
            return gr.skip()
        values = fields.read(given)
        return {name: value for name, value in values.items() if name not in NOT_KEPT}

    def restore(values: Any, now: str) -> dict:
        """The fields as they were, on the run that they were for if it is still there."""
        values = {name: value for name, value in (values or {}).items() if name in fields and name not in NOT_KEPT}
        if not values or values.setdefault("run", now or BASE_ALONE) not in (*names(), BASE_ALONE):
            return {ready: True}
        model, _, learned = model_of(values["run"])
        return written_as(drawing.fitting(values, ranges)[0], model, learned) | {ready: True}

    def leave(request: gr.Request) -> None:
        line.stop(request.session_hash)

    def stop_drawing(request: gr.Request) -> str:
        line.stop(request.session_hash)
        return figures.note("Stopped.")

    stop.click(stop_drawing, None, note, **QUICK)
    pictures.select(pick, None, [drawn_so, use, picked], **QUICK)
    by_hand(run)(choose, run, [prompt, content, style, start.folded, adapter, checkpoint], **QUICK)
    for side in SIDES:
        by_hand(fields[side])(name_all, [fields[side], run], fields[f"{side} values"], **QUICK)
    over = [start.view, start.painted, start.part]
    image.upload(take, {image, size, run}, [image, *over, note], **QUICK)
    by_hand(size)(reshape, {image, size, run}, [start.view, start.painted], **QUICK)
    start.view.input(paint, None, [start.painted, note], trigger_mode="multiple", **QUICK)
    filled = [*fields.all, start.folded, *over, adapter, note]
    source.upload(set_from, [source, run], filled, **QUICK)
    use.click(use_picked, [picked, run], filled, **QUICK)
    goes_with(note, written)
    changes = [field.change for name, field in ((name, fields[name]) for name in fields) if name not in NOT_KEPT]
    gr.on(changes, keep, fields.all | {ready}, kept_here, trigger_mode="always_last", **QUICK)
    source.clear(lambda: "", None, note, **QUICK)
    shown = [run, prompt, content, style, start.folded, adapter, checkpoint]
    return PlayPage(run, shown, offer, add_new, filled, set_from, set_seed, leave, [*filled, ready], restore)


class _Drawn(NamedTuple):
    """A picture that is kept."""

    picture: Image.Image
    copy: str  # that may be served
    label: str


def shown_of(drawn: list[list[_Drawn]]) -> list[tuple[str, str]]:
    """What is drawn of some recipes, as a gallery takes it: pictures of one seed stand side by side."""
    return [(one.copy, one.label) for column in zip_longest(*drawn) for one in column if one]


def _sheet(title: str, drawn: list[Image.Image], across: list[str], down: list[str]) -> Image.Image:
    """All pictures with the values above and beside them."""
    from training import sheet  # what draws takes longer to import than all else together

    rows = [drawn[first : first + len(across)] for first in range(0, len(drawn), len(across))]
    return sheet.compose(dict(zip(down, rows, strict=True)), title, across)


def _keep_sheet(copies: Copies, picture: Image.Image) -> Path:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "grid.png"
        picture.save(path, "PNG")
        return copies.add(path)


def _last(given: list[tuple[str, str | None]]) -> Path:
    return Path(given[-1][0])


def _shown(start: Path | None) -> list[str] | None:
    return [str(start)] if start else None


def _begins(config: Customization) -> bool:
    """Whether drawings on its base may begin with a picture; where that is not known, a drawing says so."""
    try:
        return bool(FAMILIES[config.recognised_base().family].starts)
    except UserError:
        return True


def _adapter_hash(model: Model) -> str:
    return file_hash(model.adapter) if model.adapter and model.adapter.exists() else ""


def _download(model: Model) -> str:
    if not model.run:
        return ""
    name = model.run.folder.name
    said = f"One LoRA file, {name}.safetensors, for diffusers and the common web UIs."
    return figures.download(f"adapters/{quote(name)}.safetensors", "Download the adapter", said)
