"""Step 3: draw with a finished run, compare, take pictures and the adapter away."""

import random
import tempfile
import threading
from collections.abc import Callable, Container
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from urllib.parse import quote

import gradio as gr

from app import figures
from app.copies import Copies
from app.library import Library
from app.pages import QUICK
from app.painter import LARGEST_SEED, Model, Painter, Stopped, default_rule, settings_of
from app.recipe import RULES, Recipe
from pipelines import APG, CFG, UserError
from training import Customization
from training.plan import SCALES

RANDOM_SEEDS = 1_000_000  # short enough to be read and typed
BASE_ALONE = ""  # the dropdown's value for no run


@dataclass(frozen=True)
class PlayPage:
    run: gr.Dropdown
    shown: list[gr.components.Component]  # what `offer` fills: the runs, and all that follows from the chosen one
    offer: Callable
    add_new: Callable


def build(library: Library, sample: Customization, painter: Painter, copies: Copies) -> PlayPage:
    stops: dict[str, threading.Event] = {}  # one for each page that draws

    def model_of(name: str) -> tuple[Model, Customization]:
        if name == BASE_ALONE:
            return Model.of(sample), sample
        run = library.find(name)
        config = Customization.load(run.config)
        return Model.of(config, run), config

    with gr.Row(equal_height=False):
        with gr.Column(scale=2, min_width=320):
            run = gr.Dropdown([], label="Draw with", elem_id="play-run")
            prompt = gr.Textbox(
                sample.sample_prompt,
                label="Prompt",
                info="The placeholder words stand for what was learned.",
                lines=2,
                elem_id="prompt",
            )
            content = gr.Slider(0, 1.5, 1, step=0.05, label="Content", info="0 leaves it out, 1 is as trained.")
            style = gr.Slider(0, 1.5, 1, step=0.05, label="Style", info="0 leaves it out, 1 is as trained.")
            with gr.Row():
                count = gr.Slider(1, 8, 4, step=1, label="Pictures", min_width=140, elem_id="count")
                steps = gr.Slider(1, 50, sample.samples.inference_steps, step=1, label="Steps", min_width=140)
            with gr.Row():
                seed = gr.Number(0, label="Seed", precision=0, min_width=120, elem_id="seed")
                fresh = gr.Checkbox(True, label="New seed each time", min_width=120)
            with gr.Accordion("Guidance", open=False):
                rule = gr.Radio(list(RULES), value="APG", label="Rule", info="CFG is there for comparison.")
                scale = gr.Slider(1, 15, sample.samples.guidance_scale, step=0.5, label="Scale", info="1 is none.")
                negative = gr.Textbox("", label="Keep away from", info="A negative prompt; may stay empty.")
                own = default_rule("APG", sample.preset)
                with gr.Accordion("Finer", open=False):
                    with gr.Row():
                        eta = _fine(0, 1, own.eta, 0.05, "Eta", "Share kept of what oversaturates.")
                        limit = _fine(0, 0.5, own.norm_threshold or 0, 0.005, "Limit", "Norm threshold; 0 is none.")
                        momentum = _fine(-0.9, 0, own.momentum, 0.05, "Momentum", "Away from the last steps.")
                    with gr.Row():
                        start = _fine(0, 0.95, 0, 0.05, "Guide from", "Share of the steps.")
                        end = _fine(0.05, 1, 1, 0.05, "Guide until", "Share of the steps.")
        with gr.Column(scale=3, min_width=320):
            with gr.Row():
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
            adapter = gr.HTML(padding=False, elem_id="adapter")
            with gr.Accordion("Draw a picture again", open=False):
                gr.Markdown("Every picture carries its recipe. Drop one here to set all fields as it was drawn.")
                source = gr.File(label="A PNG made by Joinery", file_types=[".png"], height=110, elem_id="recipe")

    def drawing(show_what: str):
        def handler(
            name, text, content, style, count, steps, seed, fresh, rule, scale, negative,
            eta, limit, momentum, start, end,
            request: gr.Request, progress=gr.Progress(),  # noqa: B008 (Gradio finds it by its default)
        ):  # fmt: skip
            stop = stops.setdefault(request.session_hash, threading.Event())
            stop.clear()
            try:
                seed = random.randrange(RANDOM_SEEDS) if fresh else _whole_seed(seed)
                model, config = model_of(name)
                if not text.strip():
                    raise UserError("The prompt is empty", "Say what to draw")
                if show_what == "scales" and not model.run:
                    raise UserError("The base alone has nothing to compare", "Choose a finished run")
                settings = {
                    "APG": APG(eta, limit or None, momentum, interval=(start, end)),
                    "CFG": CFG(interval=(start, end)),
                }
                recipe = Recipe(
                    text.strip(), seed, content, style, rule, settings_of(settings[rule]), scale, steps,
                    model.resolution, model.name, negative_prompt=negative.strip(),
                )  # fmt: skip
                rows = {
                    "pictures": {"": {}},
                    "scales": {label: {"content": c, "style": s} for label, (c, s) in columns(config.concepts).items()},
                    "rules": {n: {"guidance": n, "guidance_settings": settings_of(r)} for n, r in settings.items()},
                }[show_what]
                drawn = []
                for number, (label, change) in enumerate(rows.items()):
                    wish = replace(recipe, **change)

                    def show(done, total, number=number):
                        progress((number * total + done) / (total * len(rows)), desc="Drawing")

                    drawn.append([(label, *found) for found in painter.draw(model, wish, count, show, stop)])
            except UserError as error:
                return gr.skip(), figures.note(str(error), "error"), gr.skip()
            except Stopped:
                return gr.skip(), figures.note("Stopped."), gr.skip()
            # Compared pictures of one seed stand side by side.
            ordered = [picture for together in zip(*drawn, strict=True) for picture in together]
            shown = []
            with tempfile.TemporaryDirectory() as folder:
                for label, picture, own in ordered:
                    stem = "-".join(filter(None, [own.adapter or model.name.split("/")[-1], label, f"seed-{own.seed}"]))
                    caption = label or f"seed {own.seed}"
                    shown.append((str(copies.add(own.save(picture, Path(folder) / f"{stem}.png"))), caption))
            return gr.Gallery(shown, selected_index=None), "", seed

        return handler

    def choose(name: str):
        """What follows from a run: its prompt, whether there is something to scale, and its adapter."""
        try:
            model, config = model_of(name)
        except UserError as error:
            return gr.skip(), gr.skip(), gr.skip(), figures.note(str(error), "error")
        learned = config.concepts if model.run else {}
        scales = [gr.Slider(interactive=concept in learned) for concept in ("content", "style")]
        return config.sample_prompt, *scales, _download(name) if model.run else ""

    def offer(wanted: str | None = None):
        """The runs that can be drawn with, and what follows from the wanted one, or else from the newest."""
        names = [run.folder.name for run in library.finished()]
        value = wanted if wanted in names else names[0] if names else BASE_ALONE
        return gr.Dropdown([*((name, name) for name in names), ("Base model alone", BASE_ALONE)], value=value), *choose(
            value
        )

    def add_new(name: str | None, known: list[str]):
        """Runs that finished since; a person who is already drawing with one keeps it."""
        names = [run.folder.name for run in library.finished()]
        if names == known:
            return [gr.skip()] * 6
        if name and name in names:
            return offer(name)[0], *[gr.skip()] * 4, names
        return *offer(), names

    def set_from(path: str | None, runs_name: str):
        if not path:
            return [gr.skip()] * 17
        try:
            recipe = Recipe.read(Path(path))
            fine = _finer(recipe)
        except UserError as error:
            return [*[gr.skip()] * 16, figures.note(str(error), "error")]
        known = recipe.adapter in [run.folder.name for run in library.finished()] or not recipe.adapter
        said = (
            figures.note("All fields are as the picture was drawn.", "good")
            if known
            else figures.note(f"Its adapter, {recipe.adapter}, is not among your runs. All else is set.", "warning")
        )
        return (
            recipe.adapter if known else runs_name, recipe.prompt, recipe.content, recipe.style, recipe.steps,
            recipe.seed, False, recipe.guidance, recipe.guidance_scale, recipe.negative_prompt,
            *fine,
            _download(recipe.adapter) if known and recipe.adapter else gr.skip(), said,
        )  # fmt: skip

    finer = [eta, limit, momentum, start, end]
    fields = [run, prompt, content, style, count, steps, seed, fresh, rule, scale, negative, *finer]
    for button, what in ((draw, "pictures"), (compare, "scales"), (rules, "rules")):
        button.click(
            drawing(what),
            fields,
            [pictures, note, seed],
            concurrency_id="device",
            concurrency_limit=1,
            trigger_mode="once",
            show_progress_on=[pictures],
            api_visibility="private",
        )

    def ask_to_stop(request: gr.Request) -> None:
        if request.session_hash in stops:
            stops[request.session_hash].set()

    stop.click(ask_to_stop, None, None, **QUICK)
    # `input`, not `change`: a recipe sets the run and the prompt, and the prompt must stay.
    run.input(choose, run, [prompt, content, style, adapter], **QUICK)
    recipe_fields = [run, prompt, content, style, steps, seed, fresh, rule, scale, negative, *finer]
    source.upload(set_from, [source, run], [*recipe_fields, adapter, note], **QUICK)
    return PlayPage(run, [run, prompt, content, style, adapter], offer, add_new)


def columns(learned: Container[str]) -> dict[str, tuple[float, float]]:
    """The scales that compare what was learned with the base: those of a concept that was not are left out."""
    return {
        label: scales
        for label, scales in SCALES.items()
        if all(concept in learned for concept, scale in zip(("content", "style"), scales, strict=True) if scale)
    }


def _download(name: str) -> str:
    return (
        f'<a class="download" href="adapters/{quote(name)}.safetensors" download>Download the adapter</a>'
        f"<span>One LoRA file, {escape(name)}.safetensors, for diffusers and the common web UIs.</span>"
    )


def _fine(low: float, high: float, value: float, step: float, label: str, info: str) -> gr.Slider:
    return gr.Slider(low, high, value, step=step, label=label, info=info, min_width=140)


def _finer(recipe: Recipe) -> list:
    """The fields of a recipe's rule, its own defaults where the recipe names none; those that the rule lacks stay."""
    rule = RULES[recipe.guidance](**recipe.guidance_settings)
    own = [rule.eta, rule.norm_threshold or 0, rule.momentum] if isinstance(rule, APG) else [gr.skip()] * 3
    return [*own, *rule.interval]


def _whole_seed(seed: float | None) -> int:
    if seed is None or not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"The seed is {seed}", f"Set it to a whole number from 0 to {LARGEST_SEED}")
    return int(seed)
