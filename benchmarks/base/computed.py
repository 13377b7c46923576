"""What the computed styles look like: python -m benchmarks.base.computed

Writes docs/pictures/computed-styles.png, two contents in every style; those held out have a star.
"""

from pathlib import Path

from training import sheet
from training.base import data
from training.base.computed import COMPUTED, HELD_OUT

OUT = Path(__file__).parents[2] / "docs/pictures/computed-styles.png"
CONTENTS = ("bear", "house")
ACROSS, CELL = 12, 100  # styles in a row, pixels


def main() -> None:
    pictures, styles = data.load("computed"), list(COMPUTED)
    parts = []
    for first in range(0, len(styles), ACROSS):
        some = styles[first : first + ACROSS]
        rows = {content: [pictures.image((content, style)) for style in some] for content in CONTENTS}
        names = [("* " if style in HELD_OUT else "") + style[:16] for style in some]
        parts.append(sheet.compose(rows, "", names, CELL))
    sheet.save(sheet.stack(parts), OUT)


if __name__ == "__main__":
    main()
