"""The fields of Play: what to draw, how closely the prompt is followed, and the two sides of a grid."""

from dataclasses import dataclass
from typing import Any

import gradio as gr

from app import drawing, mask
from app.drawing import AXES, RANGES, SHAPES, SQUARE
from app.fields import Fields
from app.pages import QUICK, by_hand
from app.painter import default_rule
from app.recipe import RULES
from training import Customization
from training.families.diffusion import SAMPLERS
from training.formats import SUFFIXES


@dataclass(frozen=True)
class Start:
    """What there is about a picture to start from beside its fields."""

    folded: gr.Accordion
    part: gr.Accordion  # which is there with a picture alone
    view: gr.HTML  # of what is painted over
    painted: gr.State  # a picture that is white where that was


def settings(fields: Fields, sample: Customization) -> Start:
    """The fields that say what to draw, named as recipes name them."""

    def slide(name: str, value: float, step: float, label: str, info: str | None = None) -> None:
        fields.add(name, gr.Slider(*RANGES[name], value, step=step, label=label, info=info, min_width=140))

    words = "The placeholder words stand for what was learned."
    fields.add("prompt", gr.Textbox(sample.sample_prompt, label="Prompt", info=words, lines=2, elem_id="prompt"))
    slide("content", 1, 0.05, "Content", "0 leaves it out, 1 is as trained.")
    slide("style", 1, 0.05, "Style", "0 leaves it out, 1 is as trained.")
    with gr.Row():
        slide("count", 4, 1, "Pictures")
        slide("steps", sample.samples.inference_steps, 1, "Steps")
    with gr.Row():
        shapes = gr.Dropdown(
            list(SHAPES), value=SQUARE, label="Size", allow_custom_value=True, min_width=140, elem_id="size"
        )
        fields.add("size", shapes)
        samplers = [("As suits the base", ""), *((name, name) for name in SAMPLERS)]
        fields.add("sampler", gr.Dropdown(samplers, value="", label="Sampler", min_width=140))
    with gr.Row():
        fields.add("seed", gr.Number(0, label="Seed", precision=0, min_width=120, elem_id="seed"))
        fields.add("fresh", gr.Checkbox(True, label="New seed each time", min_width=120))
    with gr.Accordion("Start from a picture", open=False) as start:
        zone = gr.Gallery(
            label="A picture to start from",
            height=240,
            columns=1,
            object_fit="contain",
            interactive=True,
            sources=["upload", "clipboard"],
            file_types=["image", *sorted(SUFFIXES)],  # what is none of ours is refused in words
            buttons=[],
            elem_id="start",
        )
        fields.add("image", zone)
        slide("strength", 0.6, 0.05, "Strength", "How much is drawn anew; 1 leaves little of it.")
        with gr.Accordion("Change only a part of it", open=False, visible=False) as part:
            gr.Markdown("Paint over what is to change; all else stays as it is.")
            view = gr.HTML(js_on_load=mask.SCRIPT, apply_default_css=False, padding=False, elem_id="painted")
        painted = gr.State(None)
    known = drawing.looks(sample.preset, sample.samples.guidance_scale)
    said = "How closely the prompt is followed. Punchy has more contrast."
    look = gr.Radio(list(known), value="Balanced", label="Guidance", info=said, elem_id="look")
    with gr.Accordion("Guidance in numbers", open=False):
        fields.add("guidance", gr.Radio(list(RULES), value="APG", label="Rule", info="CFG is there for comparison."))
        slide("guidance_scale", sample.samples.guidance_scale, 0.5, "Scale", "1 is none.")
        kept_away = gr.Textbox("", label="Keep away from", info="A negative prompt; may stay empty.")
        fields.add("negative_prompt", kept_away)
        own: Any = default_rule("APG", sample.preset)
        with gr.Accordion("Finer", open=False):
            with gr.Row():
                slide("eta", own.eta, 0.05, "Eta", "Share kept of what oversaturates.")
                slide("norm_threshold", own.norm_threshold or 0, 0.005, "Limit", "Norm threshold; 0 is none.")
                slide("momentum", own.momentum, 0.05, "Momentum", "Away from the last steps.")
            with gr.Row():
                slide("start", 0, 0.05, "Guide from", "Share of the steps.")
                slide("stop", 1, 0.05, "Guide until", "Share of the steps.")

    # A look sets the numbers, and other numbers, wherever they come from, are none.
    numbers = fields.only(*known["Balanced"])
    by_hand(look)(lambda name: fields.write(known[name]), look, [*numbers], **QUICK)

    def name(given: dict) -> str | None:
        return drawing.look_of(fields.read(given), known)

    changes = [field.change for field in numbers]
    gr.on(changes, name, numbers, look, trigger_mode="always_last", **QUICK)
    return Start(start, part, view, painted)


def grid(fields: Fields) -> gr.Button:
    """Which field goes across, which down, and their values."""
    gr.Markdown(
        "One seed with other values across and down. All else is as the fields say. Commas lie between "
        "values, semicolons between prompts."
    )
    choices = [(fields.label(name), name) for name in AXES]
    begins = {"across": ("style", "0, 0.5, 1, 1.5"), "down": ("guidance_scale", "2, 7, 12")}
    for side, (name, values) in begins.items():
        with gr.Row():
            listed = choices if side == "across" else [("Nothing", ""), *choices]
            fields.add(side, gr.Dropdown(listed, value=name, label=side.capitalize(), min_width=120))
            fields.add(f"{side} values", gr.Textbox(values, label="Values", max_lines=1, min_width=120))
    return gr.Button("Draw the grid", elem_id="grid")
