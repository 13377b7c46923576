"""Step 4: every picture that was drawn, found again; what runs have learned, kept in order and taken away."""

from pathlib import Path
from typing import Any

import gradio as gr

from app import figures
from app.album import Album, Shot
from app.copies import Copies
from app.library import Library
from app.pages import QUICK, bin, shelf
from app.pages.play import PlayPage
from app.pages.project import ProjectPage

AT_ONCE = 48  # pictures on a page
SMALL = 256  # pixels of a picture among others


def build(
    library: Library,
    album: Album,
    copies: Copies,
    projects: ProjectPage,
    plays: PlayPage,
    tabs: gr.Tabs,
    here: gr.Tab,
) -> None:
    """The page, in the tab `here`: it looks anew when that is opened. What is used again goes to the others."""
    shown = gr.State([])  # the names of the pictures that the gallery shows
    chosen = gr.Textbox("", visible="hidden")  # the name of the one that is looked at
    page = gr.Number(0, visible="hidden", precision=0)
    with gr.Row(equal_height=False, elem_classes="projects"):
        words = gr.Textbox(
            label="Search", placeholder="Words of the prompt, or a run", max_lines=1, scale=3, elem_id="search"
        )
        favourites = gr.Checkbox(False, label="Favourites only", scale=1, min_width=140, elem_id="favourites")
        newer, older = (
            gr.Button(name, size="sm", scale=0, min_width=80, elem_id=name.lower()) for name in ("Newer", "Older")
        )
    said = gr.HTML(padding=False, elem_id="library-said")
    with gr.Row(equal_height=False):
        with gr.Column(scale=3, min_width=320):
            pictures = gr.Gallery(
                label="Pictures",
                show_label=False,
                columns=6,
                height="auto",
                object_fit="contain",
                interactive=False,
                allow_preview=False,
                type="filepath",
                buttons=[],
                elem_classes="album",
                elem_id="album",
            )
        with gr.Column(scale=2, min_width=320, visible=False) as detail:
            picture = gr.Image(
                show_label=False, type="filepath", buttons=["download", "fullscreen"], elem_id="shot", height=280
            )
            recipe = gr.HTML(padding=False, elem_id="shot-recipe")
            with gr.Row():
                use = gr.Button("Use settings", variant="primary", min_width=110, elem_id="use-settings")
                seed = gr.Button("Use this seed", min_width=110, elem_id="use-seed")
            with gr.Row():
                mark = gr.Button("", min_width=110, elem_id="mark")
                remove = gr.Button("Delete", variant="stop", min_width=110, elem_id="delete-picture")
    source = gr.File(label="Drop a picture here: Play is set as it was drawn", file_types=[".png"], height=140,
                     elem_id="dropped")  # fmt: skip
    gr.Markdown("### Runs and adapters")
    shelf.build(library, tabs, projects, plays, here)
    bin.build(library, here)

    def look(words: str, favourites: bool, number: float) -> dict:
        found = album.find(words, favourites)
        last = max(0, (len(found) - 1) // AT_ONCE)
        number = min(max(0, int(number)), last)
        part = found[number * AT_ONCE : (number + 1) * AT_ONCE]
        return {
            pictures: gr.Gallery([small(shot) for shot in part], selected_index=None),
            shown: [shot.name for shot in part],
            said: _counted(len(found), number, bool(words.strip() or favourites)),
            page: number,
            newer: gr.Button(interactive=number > 0),
            older: gr.Button(interactive=number < last),
        }

    def small(shot: Shot) -> tuple[str, str]:
        """As the gallery shows it; the star is a favourite's."""
        return str(copies.of(shot.path, SMALL)), "★" if shot.favourite else ""

    def open_one(names: list[str], event: gr.SelectData) -> dict:
        return show(names[event.index])

    def show(name: str) -> dict:
        shot = album.get(name)
        return {
            chosen: name,
            detail: gr.Column(visible=True),
            picture: str(copies.add(shot.path)),
            recipe: figures.recipe(shot.recipe, shot.drawn),
            mark: "★ Favourite" if shot.favourite else "☆ Favourite",
        }

    def turn_mark(name: str, *asked: Any) -> dict:
        album.mark(name, not album.get(name).favourite)
        return show(name) | look(*asked)

    def take_away(name: str, *asked: Any) -> dict:
        where = album.remove(name)
        looked = look(*asked)
        looked[said] += figures.note(f"The picture is in the trash of the runs' folder now, as {where.name}.")
        return looked | {detail: gr.Column(visible=False), chosen: ""}

    def to_play(filled: dict) -> dict:
        return filled | {tabs: gr.Tabs(selected="play")}

    asked, view = [words, favourites, page], [pictures, shown, said, page, newer, older]
    one = [chosen, detail, picture, recipe, mark]
    here.select(look, asked, view, **QUICK)
    for field in (words.input, favourites.input):
        field(lambda words, favourites: look(words, favourites, 0), asked[:2], view,
              trigger_mode="always_last", **QUICK)  # fmt: skip
    newer.click(lambda words, favourites, page: look(words, favourites, page - 1), asked, view, **QUICK)
    older.click(lambda words, favourites, page: look(words, favourites, page + 1), asked, view, **QUICK)
    pictures.select(open_one, shown, one, **QUICK)
    mark.click(turn_mark, [chosen, *asked], [*one, *view], **QUICK)
    remove.click(take_away, [chosen, *asked], [*one, *view], **QUICK)
    filled = [*plays.filled, tabs]
    use.click(
        lambda name, run: to_play(plays.set_from(album.get(name).path, run)), [chosen, plays.run], filled, **QUICK
    )
    seed.click(lambda name: to_play(plays.set_seed(album.get(name).recipe.seed)), chosen, filled, **QUICK)
    source.upload(lambda path, run: to_play(plays.set_from(Path(path), run)), [source, plays.run], filled, **QUICK)


def _counted(count: int, page: int, searched: bool) -> str:
    if not count:
        nothing = "No picture is like that. Search for less." if searched else ""
        return figures.note(nothing or "No picture yet. Draw some under Play, and all of them are kept here.")
    first, last = page * AT_ONCE + 1, min(count, (page + 1) * AT_ONCE)
    which = f"{first} to {last} of {count} pictures" if count > AT_ONCE else f"{count} picture{'s' * (count > 1)}"
    return f'<p class="about">{which}, the newest first.</p>'
