"""A column of the project page: the pictures of a content or a style as cards, and their words."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.components import Component

from app import bases, figures
from app.bases import models_folder
from app.cards import SCRIPT, cards
from app.checks import Finding, check
from app.copies import Copies
from app.describing import captioner
from app.describing import describe as described
from app.drafts import Drafts
from app.fields import Fields
from app.form import ProjectForm
from app.given import Given, added, pictures_of
from app.pages import QUICK
from pipelines.errors import UserError
from training.formats import SUFFIXES, listed

WHAT = {
    "content": "What is shown: a thing, an animal, a person. 3 to 10 pictures.",
    "style": "How it is shown. 1 to 10 pictures in that style.",
}
LARGEST = 480  # pixels of a card's copy
MASKED = 0.1  # weight of what lies outside, once there are masks
EVERY = {"trigger_mode": "multiple"} | QUICK  # none of many edits is left out


@dataclass(frozen=True)
class Column:
    """The pictures lie in the draft; the page has a view of them, and says what to change."""

    concept: str
    form: ProjectForm
    drafts: Drafts
    copies: Copies
    begin: list[Given]  # the sample project's pictures
    zone: gr.Gallery  # where new ones are dropped; empty otherwise
    folder: gr.UploadButton
    view: gr.HTML
    found: gr.HTML
    asked: gr.HTML
    describe: gr.Button
    outside: Component  # how much counts what lies outside the masks
    compare: gr.Button  # the words that the base knows
    nearest: gr.HTML  # what comes of that

    @property
    def key(self) -> str:
        return f"{self.concept}.pictures"

    @property
    def shown(self) -> list[Component]:
        return [self.view, self.found, self.outside]

    def pictures(self, draft: str) -> list[Given]:
        return self.drafts.read(draft).get(self.key, self.begin)

    def show(self, draft: str, values: Mapping[Any, Any], left_out: Sequence[str] = ()) -> dict[Any, Any]:
        """The cards, and what is to be said of all of them.

        Args:
            values: of the fields.
            left_out: what was given and is not used.
        """
        if not draft:  # the page opens
            return {}
        pictures = self.pictures(draft)
        findings = check(self.concept, pictures, self.form.resolution(values["preset"]))
        words = {name: (values[f"{self.concept}.{name}"] or "").strip() for name in ("placeholder", "class_word")}
        caption = (values[f"{self.concept}.caption"] or "").strip()
        copied = [(one, self._copy(one.path), self._copy(one.mask)) for one in pictures]
        of_all = [one for one in findings if one.number is None] + [Finding(f"{line}.", False) for line in left_out]
        said = figures.warnings(of_all) if findings or left_out else figures.findings([])
        masked = gr.update(visible=any(one.mask for one in pictures))
        return {self.view: cards(copied, findings, caption, words), self.found: said, self.outside: masked}

    def listen(self, fields: Fields, draft: gr.Textbox, preset: gr.Radio, note: gr.HTML) -> None:
        """Wire what changes the pictures, and what changes how they are seen.

        Args:
            note: goes with any change.
        """
        words = [fields[f"{self.concept}.{name}"] for name in ("class_word", "placeholder", "caption")]
        seen: set[Any] = {draft, preset, self.outside, *words}
        changed = [*self.shown, note]

        def look(given: dict) -> dict:
            return self.show(given[draft], fields.read(given))

        def take(given: dict, files: Sequence[Path]) -> dict:
            values, left_out = fields.read(given), {}

            def add(pictures: list[Given]) -> list[Given]:
                every, others = added(pictures, files, (values[f"{self.concept}.caption"] or "").strip())
                left_out.update(others)
                return every

            had = any(one.mask for one in self.pictures(given[draft]))
            self.drafts.change(given[draft], self.key, add, self.begin)
            shown = self.show(given[draft], values, listed(left_out)) | {note: "", self.zone: None}
            if not had and any(one.mask for one in self.pictures(given[draft])) and given[self.outside] == 1:
                shown[self.outside] = gr.update(value=MASKED, visible=True)  # or the masks would not count
            return shown

        def take_pictures(given: dict) -> dict:
            return take(given, [Path(path) for path, _ in given[self.zone] or []])

        def take_folder(given: dict) -> dict:
            return take(given, sorted(map(Path, given[self.folder] or []), key=lambda path: path.name))

        def describe(given: dict) -> Iterator[dict]:
            name, values = given[draft], fields.read(given)
            self.drafts.change(name, self.key, list, self.begin)  # taken in first, so that they stay where they are
            model, bare = captioner(), [one.path for one in self.pictures(name) if not one.caption]
            if not model:
                raise UserError("There is no captioning model", f"Put one into {models_folder().name} and reload")
            if not bare:
                raise UserError("Every picture has a caption", "Take out those that a model is to write")
            yield {note: figures.note(f"{model.name} looks at {len(bare)} pictures")}
            words = (values[f"{self.concept}.caption"] or "").strip()
            for done, (path, text) in enumerate(described(model, bare, words), 1):

                def put(pictures: list[Given], path: Path = path, text: str = text) -> list[Given]:
                    return [
                        one._replace(caption=text) if one.path == path and not one.caption else one for one in pictures
                    ]

                self.drafts.change(name, self.key, put, self.begin)
                yield self.show(name, values) | {note: figures.note(f"{done} of {len(bare)} described")}

        def edit(given: dict, event: gr.EventData) -> dict:
            self.drafts.change(given[draft], self.key, lambda pictures: edited(pictures, event._data), self.begin)
            return look(given) | {note: ""}

        self.zone.upload(take_pictures, seen | {self.zone}, [*changed, self.zone], **EVERY)
        self.folder.upload(take_folder, seen | {self.folder}, [*changed, self.zone], **EVERY)
        self.view.input(edit, seen, changed, **EVERY)
        # It needs the device as drawing does, so it waits in the same line.
        line: dict[str, Any] = {"concurrency_id": "device", "concurrency_limit": 1}
        self.describe.click(describe, seen, changed, api_visibility="private", show_progress="hidden", **line)
        events = [field.change for field in (preset, *words)]
        gr.on(events, look, seen, self.shown, trigger_mode="always_last", **QUICK)

    def _copy(self, path: Path | None) -> Path | None:
        try:
            return self.copies.of(path, LARGEST) if path else None
        except UserError:  # the checks say why
            return None


def edited(pictures: list[Given], sent: Any) -> list[Given]:
    """Pictures after what a card sends. One that is not there any more, as another page removed it, is passed over."""
    match sent:
        case {"number": str(number), "name": str(name), **change} if number.isdecimal():
            at = int(number)
        case _:
            return pictures
    if at >= len(pictures) or pictures[at].path.name != name:
        return pictures
    match change:
        case {"remove": True}:
            new = []
        case {"mask": False}:
            new = [pictures[at]._replace(mask=None)]
        case {"caption": str(text)}:
            new = [pictures[at]._replace(caption=" ".join(text.split()) or None)]
        case {"crop": int(place) | float(place)} if 0 <= place <= 1:
            new = [pictures[at]._replace(crop=float(place))]
        case _:
            return pictures
    return [*pictures[:at], *new, *pictures[at + 1 :]]


def build(form: ProjectForm, drafts: Drafts, copies: Copies, concept: str, fields: Fields) -> Column:
    """Lay out the column; its words are added to the fields."""
    settings = form.concept(concept)
    begin = pictures_of(settings) if concept in form.sample.concepts else []
    with gr.Column(min_width=320):
        gr.Markdown(f"### {concept.capitalize()}\n{WHAT[concept]}")
        view = gr.HTML(js_on_load=SCRIPT, apply_default_css=False, padding=False, elem_id=f"{concept}-cards")
        found = gr.HTML(padding=False, elem_id=f"{concept}-findings")
        with gr.Row(equal_height=False):
            zone = gr.Gallery(
                label=f"Pictures of the {concept}",
                show_label=False,  # the heading says it
                height=120,
                interactive=True,
                sources=["upload", "clipboard"],
                file_types=["image", ".txt", *sorted(SUFFIXES)],  # what is none of ours is refused in words
                buttons=[],
                elem_classes="zone",
                elem_id=f"{concept}-pictures",
            )
        with gr.Row():
            whole: dict[str, Any] = {"file_count": "directory", "size": "sm", "min_width": 120}
            folder = gr.UploadButton("Add a whole folder", elem_id=f"{concept}-folder", **whole)
            own: dict[str, Any] = {"size": "sm", "min_width": 120, "visible": captioner() is not None}
            ask = gr.Button("Describe the pictures", elem_id=f"{concept}-describe", **own)

        def add(name: str, kind: type[Component], label: str, info: str, **shown: Any) -> None:
            field = kind(value=getattr(settings, name), label=label, info=info, **shown)
            fields.add(f"{concept}.{name}", field, of=f"the {concept}")

        with gr.Row():
            listed = {"choices": bases.words(form.sample.base).get(concept, []), "allow_custom_value": True}
            add("class_word", gr.Dropdown, "Class word", "The nearest that the base knows.", min_width=120, **listed)
            add("placeholder", gr.Textbox, "Placeholder", "Stands for it in prompts.", max_lines=1, min_width=120)
        compare = gr.Button("Which word is nearest?", size="sm", elem_id=f"{concept}-nearest")
        nearest = gr.HTML(padding=False, elem_classes="said", elem_id=f"{concept}-nearest-word")
        asked = gr.HTML(padding=False, elem_classes="said", elem_id=f"{concept}-word")
        add("caption", gr.Textbox, "Caption", "For pictures that bring no caption of their own.", max_lines=2)
        outside = {"minimum": 0, "maximum": 1, "step": 0.05, "visible": any(one.mask for one in begin)}
        add(
            "unmasked_weight",
            gr.Slider,
            "Outside the masks",
            "How much of it is learned; 1: masks do not count.",
            **outside,
        )
    return Column(
        concept,
        form,
        drafts,
        copies,
        begin,
        zone,
        folder,
        view,
        found,
        asked,
        ask,
        fields[f"{concept}.unmasked_weight"],
        compare,
        nearest,
    )
