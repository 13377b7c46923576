"""The pictures of a content or a style as cards: what is learned of each, its caption, and what is wrong with it."""

import re
from html import escape
from pathlib import Path

from PIL import Image

from app.checks import Finding
from app.copies import address
from app.given import Given
from training import captions

# Gradio puts new HTML over the old node by node, so what has the focus keeps it; what was typed stays too, and belongs
# to another card once one is gone.
SCRIPT = """
const card = (part) => part.closest(".card");
const send = (part, change) => trigger("input", { ...card(part).dataset, ...change });
const say = (part) => {
  clearTimeout(part.waiting);
  send(part, { [part.name]: part.name === "crop" ? part.valueAsNumber : part.value });
};
element.addEventListener("input", ({ target }) => {
  const place = `${100 * target.value}%`;
  if (target.name === "crop")
    for (const shown of card(target).querySelectorAll("img")) shown.style.objectPosition = `${place} ${place}`;
  clearTimeout(target.waiting);
  target.waiting = setTimeout(say, 400, target);
});
element.addEventListener("change", ({ target }) => { if (target.name === "caption") say(target); });
element.addEventListener("click", ({ target }) => {
  if (target.name === "remove") send(target, { remove: true });
  if (target.name === "unmask") send(target, { mask: false });
});
watch("value", () => {
  for (const text of element.querySelectorAll("textarea:not(:focus)")) text.value = text.defaultValue;
});
"""


def cards(
    pictures: list[tuple[Given, Path | None, Path | None]], found: list[Finding], caption: str, words: dict[str, str]
) -> str:
    """All of them.

    Args:
        pictures: each with copies of it and of its mask that may be served, or None where there is none.
        found: of those with the number of a picture.
        caption: that of pictures without one of their own.
        words: what {placeholder} and {class_word} stand for in captions.
    """
    every = (
        _card(number, given, copy, mask, [one for one in found if one.number == number], caption, words)
        for number, (given, copy, mask) in enumerate(pictures)
    )
    return f'<div class="cards">{"".join(every)}</div>' if pictures else ""


def _card(
    number: int,
    given: Given,
    copy: Path | None,
    mask: Path | None,
    found: list[Finding],
    caption: str,
    words: dict[str, str],
) -> str:
    name = escape(given.path.name)
    learned = captions.fill(given.caption or caption, given.path, words)
    return (
        f'<article class="card" data-number="{number}" data-name="{name}">'
        f'<div class="square">{_square(given, copy, mask, name) if copy else ""}</div>'
        f'<header><span title="{name}">{name}</span>'
        f'<button type="button" name="remove" aria-label="Remove {name}" title="Remove">×</button></header>'
        f'<textarea name="caption" rows="2" aria-label="Caption of {name}" placeholder="{escape(caption)}">'
        f"{escape(given.caption or '')}</textarea>"
        f'<p class="learned">{_with_chips(learned, words["placeholder"])}</p>'
        f"<ul>{''.join(_said(given.path.name, one) for one in found)}</ul></article>"
    )


def _square(given: Given, copy: Path, mask: Path | None, name: str) -> str:
    """The square that is learned, dark outside its mask; of a picture that is none, with a slider that moves it."""
    with Image.open(copy) as image:
        width, height = image.size
    place, ends = f"{100 * given.crop:g}%", "left to right" if width > height else "top to bottom"
    at = f'style="object-position: {place} {place};"'
    shown = f'<img src="{address(copy)}" alt="What is learned of {name}" {at}>'
    if mask:
        shown = (
            f'<div class="masked">{shown}<img class="mask" src="{address(mask)}" alt="Its mask" {at}>'
            f'<button type="button" name="unmask" aria-label="Take the mask of {name} out" title="Take the mask out">'
            "×</button></div>"
        )
    slider = (
        f'<input type="range" name="crop" min="0" max="1" step="0.01" value="{given.crop:g}" '
        f'title="Which part is learned, from {ends}" aria-label="Which part of {name} is learned, from {ends}">'
    )
    return shown + slider * (width != height)


def _with_chips(text: str, placeholder: str) -> str:
    """A caption with the placeholder shown as a chip."""
    parts = re.split(rf"(?<!\w)({re.escape(placeholder)})(?!\w)", text, flags=re.IGNORECASE) if placeholder else [text]
    return "".join(f"<mark>{escape(one)}</mark>" if at % 2 else escape(one) for at, one in enumerate(parts))


def _said(name: str, finding: Finding) -> str:
    """A finding below the name that it begins with."""
    text = finding.text.removeprefix(f"{name}: ")
    text = text[0].upper() + text[1:] if text != finding.text else text
    return f'<li class="{"error" if finding.blocks else "warning"}">{escape(text)}</li>'
