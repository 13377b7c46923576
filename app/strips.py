"""The samples of a run, one step's large, and a slider that goes through the steps."""

import json
from collections.abc import Sequence
from html import escape
from pathlib import Path

from app.copies import address

# Where a person has put the slider it stays while more come; at its end it goes along with them.
SCRIPT = """
let chosen = null, of = null;
const show = () => {
  const view = element.querySelector(".strips");
  if (!view) return;
  if (view.dataset.run !== of) [of, chosen] = [view.dataset.run, null];
  const all = JSON.parse(view.dataset.all), slider = view.querySelector("input"), last = all.length - 1;
  const at = Math.min(chosen ?? last, last);
  [slider.max, slider.value] = [last, at];
  const [place, title] = all[at], [image, link] = [view.querySelector("img"), view.querySelector("a")];
  if (image.getAttribute("src") !== place) image.src = place;
  image.alt = `Samples, ${title}`;
  link.href = place;
  view.querySelector("output").textContent = title;
  slider.setAttribute("aria-valuetext", title);
  for (const next of [at - 1, at + 1]) if (all[next]) new Image().src = all[next][0];
};
element.addEventListener("input", ({ target }) => {
  chosen = target.valueAsNumber < target.max ? target.valueAsNumber : null;
  show();
});
watch("value", show);
show();
"""


def strips(run: str, shown: Sequence[tuple[Path, str]]) -> str:
    """The view of a run's samples, of which the last is shown first.

    Args:
        shown: copies that may be served, with the words for their step.
    """
    if not shown:
        return ""
    data, (newest, title) = json.dumps([(address(copy), title) for copy, title in shown]), shown[-1]
    last = len(shown) - 1
    slider = (
        f'<input type="range" min="0" max="{last}" value="{last}" aria-label="Step of the samples" '
        f'aria-valuetext="{escape(title)}"{" disabled" * (not last)}>'
    )
    return (
        f'<figure class="strips" data-run="{escape(run)}" data-all="{escape(data)}">'
        "<h4>Samples as it learns: the same seeds for base, content, style and both joined</h4>"
        f'<figcaption>{slider}<output>{escape(title)}</output><a href="{address(newest)}" download>Download</a>'
        f'</figcaption><img src="{address(newest)}" alt="Samples, {escape(title)}"></figure>'
    )
