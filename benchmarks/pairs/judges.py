"""Who looks at the pictures of a style: the judges that ship, or two that are trained here on more styles.

The wide judges are shown the computed styles and the share-alike sets as well. They stay in the data folder: nothing
that was trained on the share-alike sets ships.
"""

from functools import cache

from benchmarks.common.drawing import both_judges
from training.base import data, judge
from training.base.judge import Judge
from training.base.npm import base_folder
from training.base.recipes import JUDGES


@cache
def shipped() -> dict[str, Judge]:
    return both_judges()


def judges_of(style: str) -> dict[str, Judge]:
    """Two judges that know the style, the one that guides choices and the one that confirms."""
    known = all(style in one.config["styles"] for one in shipped().values())
    return shipped() if known else wide()


@cache
def wide() -> dict[str, Judge]:
    """Judges of all styles, trained at the first call and read after that; an hour of one core for both."""
    found = {}
    for name, recipe in JUDGES["small"].items():
        folder = base_folder() / f"{name}-wide"
        if not (folder / "model.safetensors").exists():
            clean = data.both(data.load(), data.load("unseen"))
            judge.make(f"{name}-steps", recipe, data.both(clean, data.load("computed"))).save(folder)
        found[name] = Judge.load(folder)
    return found
