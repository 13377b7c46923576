"""Styles computed from the sets: each gives any content a true picture, so that the base learns to compose.

None enlarges pixels or draws light edges on black: these are what the held-out styles pixel art and neon do.
Every function takes an RGBA picture, uint8 (64, 64, 4), and gives an RGB one, in whole numbers, so that the bits are
the same on every machine.
"""

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from training.treatments import LUMA, edges

Colour = tuple[int, int, int]
Style = Callable[[np.ndarray], np.ndarray]

WHITE, BLACK = (255, 255, 255), (0, 0, 0)
SIZE = 64
ROWS, COLUMNS = np.mgrid[:SIZE, :SIZE]


# What the styles share.


def on(picture: np.ndarray, ground: Colour = WHITE) -> np.ndarray:
    """The picture on a ground, int64 (64, 64, 3)."""
    whole = Image.new("RGBA", (SIZE, SIZE), ground)
    whole.alpha_composite(Image.fromarray(picture))
    return np.asarray(whole.convert("RGB")).astype(np.int64)


def luma(colours: np.ndarray) -> np.ndarray:
    """Brightness, int64 (64, 64), 0 to 255."""
    return (colours * LUMA).sum(-1) // 1000


def mixed(share: np.ndarray, low: Colour | np.ndarray, high: Colour | np.ndarray) -> np.ndarray:
    """Between two colours, by a share of 255 for each pixel."""
    share = np.clip(share, 0, 255)[..., None]
    return (np.asarray(low) * (255 - share) + np.asarray(high) * share) // 255


def outline(picture: np.ndarray, width: int = 1) -> np.ndarray:
    """The edges of colours as lines, a share of 255 for each pixel."""
    lines = np.minimum(edges(on(picture), 255).max(-1) * 4, 255).astype(np.uint8)
    return filtered(lines, ImageFilter.MaxFilter(width)) if width > 1 else lines.astype(np.int64)


def filtered(values: np.ndarray, how: ImageFilter.Filter) -> np.ndarray:
    return np.asarray(Image.fromarray(values.astype(np.uint8)).filter(how)).astype(np.int64)


def blurred(values: np.ndarray, radius: float) -> np.ndarray:
    return filtered(values, ImageFilter.GaussianBlur(radius))


def alpha(picture: np.ndarray) -> np.ndarray:
    return picture[..., 3].astype(np.int64)


def moved(values: np.ndarray, down: int, right: int) -> np.ndarray:
    """Shifted, zeros where nothing was."""
    found = np.zeros_like(values)
    found[down:, right:] = values[: SIZE - down, : SIZE - right]
    return found


def done(values: np.ndarray) -> np.ndarray:
    return np.clip(values, 0, 255).astype(np.uint8)


# The kinds.


def tones(*stops: Colour) -> Style:
    """Brightness as a way through colours, the darkest first."""
    ways = np.array(stops)

    def style(picture: np.ndarray) -> np.ndarray:
        place = luma(on(picture)) * (len(stops) - 1)
        lower = np.minimum(place // 255, len(stops) - 2)
        return done(mixed(place - 255 * lower, ways[lower], ways[lower + 1]))

    return style


def palette(*colours: Colour, ground: Colour = WHITE) -> Style:
    """Each pixel as the nearest of a few colours."""
    few = np.array(colours)

    def style(picture: np.ndarray) -> np.ndarray:
        distance = ((on(picture, ground)[:, :, None] - few) ** 2).sum(-1)
        return done(few[distance.argmin(-1)])

    return style


def wash(ink: Colour, colour: Colour, paper: Colour) -> Style:
    """An outline in ink, and one colour by darkness."""

    def style(picture: np.ndarray) -> np.ndarray:
        washed = mixed((255 - luma(on(picture))) * 3 // 2, paper, colour)
        return done(mixed(outline(picture), washed, ink))

    return style


def halftone(pitch: int, ink: Colour, paper: Colour, turned: bool = False) -> Style:
    """Dots whose size follows darkness."""
    x, y = (COLUMNS + ROWS, COLUMNS - ROWS) if turned else (COLUMNS, ROWS)
    across = np.abs(2 * (x % pitch) - pitch + 1) + np.abs(2 * (y % pitch) - pitch + 1)
    limit = across * 255 // (2 * pitch)

    def style(picture: np.ndarray) -> np.ndarray:
        dark = 255 - luma(on(picture))
        return done(mixed((dark * 5 // 4 - limit) * 8, paper, ink))

    return style


def colour_dots(pitch: int, paper: Colour) -> Style:
    """Dots in the drawing's own colours."""
    across = (2 * (COLUMNS % pitch) - pitch + 1) ** 2 + (2 * (ROWS % pitch) - pitch + 1) ** 2
    dots = np.clip((pitch * pitch - across) * 40, 0, 255)

    def style(picture: np.ndarray) -> np.ndarray:
        return done(mixed(dots * alpha(picture) // 255, paper, on(picture, paper)))

    return style


def hatching(ink: Colour, paper: Colour, crossed: bool = True, pitch: int = 4, lines: bool = True) -> Style:
    """Strokes, more of them the darker it is, with an outline."""
    first, second = (COLUMNS + ROWS) % pitch == 0, (COLUMNS - ROWS) % pitch == 0

    def style(picture: np.ndarray) -> np.ndarray:
        dark = 255 - luma(on(picture))
        drawn = (first & (dark > 45)) | (second & (dark > 110) & crossed) | ((ROWS % 2 == 0) & (dark > 190))
        share = drawn * 255
        return done(mixed(np.maximum(share, outline(picture) if lines else 0), paper, ink))

    return style


def pen(ink: Colour, paper: Colour, width: int = 1) -> Style:
    """Outlines in one ink."""
    return lambda picture: done(mixed(outline(picture, width), paper, ink))


def own_outlines(paper: Colour, width: int = 1) -> Style:
    """Outlines in the drawing's own colours, darkened."""

    def style(picture: np.ndarray) -> np.ndarray:
        colours = on(picture, BLACK)
        spread = np.stack([filtered(colours[..., i], ImageFilter.MaxFilter(3)) for i in range(3)], -1)
        return done(mixed(outline(picture, width), paper, spread * 3 // 4))

    return style


def engraving(ink: Colour, paper: Colour, pitch: int, upright: bool = False, waves: bool = False) -> Style:
    """Lines whose thickness follows darkness."""
    x, y = (COLUMNS, ROWS) if not upright else (ROWS, COLUMNS)
    y = y + (np.abs(x % 16 - 8) // 2 if waves else 0)
    limit = np.abs(2 * (y % pitch) - pitch + 1) * 255 // pitch

    def style(picture: np.ndarray) -> np.ndarray:
        dark = 255 - luma(on(picture))
        return done(mixed((dark * 5 // 4 - limit) * 6, paper, ink))

    return style


def silhouette(colour: Colour, ground: Colour) -> Style:
    return lambda picture: done(mixed(alpha(picture), ground, colour))


def sticker(border: Colour, ground: Colour, width: int = 5) -> Style:
    """The drawing with a border and a shadow below it."""

    def style(picture: np.ndarray) -> np.ndarray:
        around = filtered(alpha(picture), ImageFilter.MaxFilter(width))
        shadow = blurred(moved(around, 3, 2), 1.5)
        r, g, b = ground
        below = mixed(shadow * 2 // 3, ground, (r // 2, g // 2, b // 2))
        whole = mixed(around, below, border)
        return done(mixed(alpha(picture), whole, on(picture)))

    return style


def long_shadow(ground: Colour) -> Style:
    """The drawing in white with a shadow to the lower right."""

    def style(picture: np.ndarray) -> np.ndarray:
        shadow, step = alpha(picture), 1
        while step < SIZE:
            shadow = np.maximum(shadow, moved(shadow, step, step))
            step *= 2
        r, g, b = ground
        below = mixed(shadow, ground, (r * 2 // 3, g * 2 // 3, b * 2 // 3))
        return done(mixed(alpha(picture), below, 128 + on(picture) // 2))

    return style


def turned(*order: int, ground: Colour = WHITE) -> Style:
    """The colour channels in another order."""
    return lambda picture: done(mixed(alpha(picture), ground, on(picture)[..., list(order)]))


def dark_for_light(ground: Colour) -> Style:
    """Brightness turned round, hues kept."""

    def style(picture: np.ndarray) -> np.ndarray:
        colours = on(picture)
        shown = colours - luma(colours)[..., None] * 2 + 255
        return done(mixed(alpha(picture), ground, np.clip(shown, 0, 255)))

    return style


def solarised(ground: Colour) -> Style:
    """Bright colours turned to their opposites."""

    def style(picture: np.ndarray) -> np.ndarray:
        colours = on(picture, ground)
        return done(np.where(colours > 140, 2 * (255 - colours), colours))

    return style


def watercolour(paper: Colour, radius: float, ink: Colour) -> Style:
    """Colours that run, under a thin line."""

    def style(picture: np.ndarray) -> np.ndarray:
        colours = on(picture, paper)
        run = np.stack([blurred(colours[..., i], radius) for i in range(3)], -1)
        grain = ((COLUMNS * 7 + ROWS * 13) % 11 + (COLUMNS * 3 + ROWS * 5) % 7)[..., None]
        return done(mixed(outline(picture) // 3, (run * 3 + np.asarray(paper)) // 4 - grain, ink))

    return style


def relief(dark: Colour, light: Colour) -> Style:
    """As if pressed into paper: slopes of brightness to the lower right."""

    def style(picture: np.ndarray) -> np.ndarray:
        bright = luma(on(picture))
        padded = np.pad(bright, 1, mode="edge")
        return done(mixed(128 + padded[2:, 2:] - padded[:-2, :-2], dark, light))

    return style


def tiles(pitch: int, joint: Colour, seed: int) -> Style:
    """Irregular tiles, each in its mean colour."""
    rng = np.random.default_rng(seed)
    count = SIZE // pitch
    centres = np.mgrid[:count, :count].reshape(2, -1).T * pitch + rng.integers(0, pitch, (count * count, 2))
    distance = (ROWS[..., None] - centres[:, 0]) ** 2 + (COLUMNS[..., None] - centres[:, 1]) ** 2
    which = distance.argmin(-1)
    between = np.minimum(edges(which, 0), 1) * 255

    def style(picture: np.ndarray) -> np.ndarray:
        colours, sizes = on(picture), np.maximum(np.bincount(which.ravel(), minlength=len(centres)), 1)
        means = np.stack(
            [
                np.bincount(which.ravel(), colours[..., i].ravel(), len(centres)).astype(np.int64) // sizes
                for i in range(3)
            ],
            -1,
        )
        return done(mixed(between * 2 // 3, means[which], joint))

    return style


def levels(count: int, ink: Colour, paper: Colour) -> Style:
    """Lines where brightness passes one of a few levels, as on a map."""

    def style(picture: np.ndarray) -> np.ndarray:
        step = blurred(luma(on(picture)), 1) * count // 256
        return done(mixed(np.minimum(edges(step, count - 1), 1) * 255, paper, ink))

    return style


def chalk(board: Colour) -> Style:
    """Light rough lines on a board of a middle tone."""
    rough = 160 + (COLUMNS * 31 + ROWS * 17) % 96

    def style(picture: np.ndarray) -> np.ndarray:
        tint = mixed(alpha(picture) // 5, board, on(picture))
        return done(mixed(outline(picture) * rough // 255, tint, (245, 245, 235)))

    return style


def gradient(top: Colour, bottom: Colour, tint: Colour) -> Style:
    """The drawing in shades of one tint on a ground that changes from top to bottom."""
    ground = mixed(ROWS * 255 // (SIZE - 1), top, bottom)
    return lambda picture: done(mixed(alpha(picture), ground, mixed(luma(on(picture)), tint, WHITE)))


def woodcut(ink: Colour, paper: Colour, level: int) -> Style:
    """Two tones with soft edges, and lines cut into the dark."""
    cut = (ROWS + COLUMNS // 4) % 5 == 0

    def style(picture: np.ndarray) -> np.ndarray:
        dark = 255 - blurred(luma(on(picture)), 0.8)
        share = (dark - level) * 10 - cut * (dark < 200) * 255
        return done(mixed(np.maximum(share, outline(picture)), paper, ink))

    return style


def stained_glass(lead: Colour, ground: Colour) -> Style:
    """Strong flat colours between thick dark lines."""

    def style(picture: np.ndarray) -> np.ndarray:
        colours = on(picture, ground)
        bright = luma(colours)[..., None]
        strong = np.clip(bright + (colours - bright) * 2, 0, 255) // 64 * 85
        return done(mixed(outline(picture, 3), np.minimum(strong, 255), lead))

    return style


def grounded(ground: Colour) -> Style:
    """The drawing as it is, on a coloured ground."""
    return lambda picture: done(on(picture, ground))


def striped(pitch: int, ground: Colour, upright: bool = False) -> Style:
    """The drawing in stripes of itself."""
    seen = ((COLUMNS if upright else ROWS) % pitch < (pitch + 1) // 2) * 255
    return lambda picture: done(mixed(seen * alpha(picture) // 255, ground, on(picture, ground)))


def stencil(colour: Colour, wall: Colour) -> Style:
    """Sprayed through a mask: bright parts stay wall, edges are dusty."""

    def style(picture: np.ndarray) -> np.ndarray:
        dark = (255 - luma(on(picture))) * alpha(picture) // 255
        dust = blurred(np.clip((dark - 50) * 4, 0, 255), 1.2)
        return done(mixed(dust, wall, colour))

    return style


NAVY, CREAM, GREY = (24, 34, 84), (250, 243, 224), (200, 200, 204)

COMPUTED: dict[str, tuple[str, Style]] = {
    "violet duotone": ("noto", tones((52, 16, 92), (244, 226, 252))),
    "teal duotone": ("fluent flat", tones((0, 62, 70), (232, 250, 236))),
    "crimson duotone": ("twemoji", tones((110, 0, 30), (255, 236, 214))),
    "navy duotone": ("blob", tones((16, 24, 80), (255, 226, 140))),
    "olive duotone": ("emojione", tones((52, 58, 8), (244, 244, 200))),
    "rust duotone": ("fluent 3d", tones((88, 32, 0), (180, 236, 240))),
    "rose duotone": ("blob", tones((120, 10, 90), (255, 232, 236))),
    "gold negative": ("noto", tones((255, 220, 110), (92, 52, 20))),
    "ice negative": ("twemoji", tones((224, 250, 255), (20, 70, 140))),
    "mint negative": ("fluent flat", tones((210, 255, 220), (16, 92, 70))),
    "sunset tritone": ("fluent flat", tones((60, 10, 90), (240, 90, 60), (255, 240, 180))),
    "forest tritone": ("noto", tones((10, 40, 20), (90, 150, 60), (240, 240, 200))),
    "candy tritone": ("twemoji", tones((90, 0, 120), (255, 90, 160), (200, 250, 255))),
    "sea tritone": ("blob", tones((0, 20, 70), (0, 150, 170), (240, 250, 230))),
    "pastel palette": (
        "noto",
        palette(
            (255, 209, 220), (193, 225, 193), (174, 198, 255), (255, 244, 189), (214, 188, 240), (120, 110, 130), WHITE
        ),
    ),
    "autumn palette": (
        "twemoji",
        palette(
            (84, 40, 20), (180, 70, 20), (230, 150, 40), (250, 225, 160), (110, 110, 40), (160, 30, 30), (252, 246, 230)
        ),
    ),
    "sea palette": (
        "fluent flat",
        palette((8, 40, 80), (20, 110, 160), (90, 190, 200), (220, 245, 240), (240, 210, 150), (250, 120, 100)),
    ),
    "print inks": ("emojione", palette((0, 174, 239), (236, 0, 140), (255, 242, 0), (30, 30, 30), WHITE)),
    "earth palette": (
        "blob",
        palette((60, 42, 30), (140, 100, 60), (200, 170, 120), (240, 230, 210), (90, 110, 80), (150, 60, 40)),
    ),
    "berry palette": (
        "emojione",
        palette((60, 10, 50), (150, 20, 80), (220, 80, 120), (250, 200, 210), (90, 60, 150), (240, 240, 250)),
    ),
    "red wash": ("twemoji", wash((30, 20, 20), (240, 130, 110), WHITE)),
    "blue wash": ("noto", wash((20, 20, 50), (120, 170, 240), (250, 250, 255))),
    "yellow wash": ("fluent flat", wash((40, 30, 10), (255, 205, 60), CREAM)),
    "green wash": ("emojione", wash((10, 40, 20), (120, 200, 130), WHITE)),
    "halftone dots": ("fluent flat", halftone(4, (20, 20, 24), WHITE)),
    "coarse halftone": ("noto", halftone(6, (200, 30, 40), CREAM)),
    "blue halftone": ("twemoji", halftone(4, (30, 60, 170), (240, 246, 255), turned=True)),
    "green halftone": ("blob", halftone(5, (20, 110, 60), (250, 250, 220))),
    "yellow paper halftone": ("fluent 3d", halftone(4, (60, 20, 70), (255, 222, 80), turned=True)),
    "colour dots": ("fluent 3d", colour_dots(4, WHITE)),
    "dots on blue": ("fluent flat", colour_dots(5, (86, 110, 176))),
    "ink hatching": ("noto", hatching((24, 24, 28), WHITE, crossed=False)),
    "cross hatching": ("fluent flat", hatching((24, 24, 28), CREAM)),
    "brown hatching": ("emojione", hatching((110, 60, 30), (250, 240, 220))),
    "blue hatching": ("twemoji", hatching((30, 50, 150), (238, 242, 252), crossed=False, pitch=3)),
    "red hatching": ("blob", hatching((190, 30, 40), WHITE, pitch=5)),
    "dark outlines": ("noto", pen((20, 20, 24), CREAM)),
    "thick outlines": ("blob", pen((30, 30, 36), WHITE, 3)),
    "blue pen": ("twemoji", pen((30, 60, 190), (252, 250, 244))),
    "red marker": ("emojione", pen((215, 40, 50), WHITE, 3)),
    "coloured outlines": ("fluent flat", own_outlines(WHITE)),
    "coloured outlines on grey": ("noto", own_outlines(GREY, 3)),
    "coloured outlines on cream": ("twemoji", own_outlines((255, 240, 205), 3)),
    "engraving": ("fluent 3d", engraving((24, 24, 30), WHITE, 4)),
    "upright engraving": ("noto", engraving((70, 30, 20), CREAM, 4, upright=True)),
    "wave engraving": ("twemoji", engraving((20, 70, 110), (240, 248, 250), 5, waves=True)),
    "red silhouette": ("twemoji", silhouette((200, 40, 50), CREAM)),
    "white silhouette": ("noto", silhouette(WHITE, (90, 130, 200))),
    "purple silhouette": ("high contrast", silhouette((90, 40, 140), (250, 220, 120))),
    "white sticker": ("fluent flat", sticker(WHITE, (80, 170, 170))),
    "yellow sticker": ("twemoji", sticker((255, 225, 90), (200, 90, 130))),
    "dark sticker": ("noto", sticker((40, 40, 48), (235, 225, 205), 3)),
    "long shadow": ("fluent flat", long_shadow((60, 160, 120))),
    "orange long shadow": ("blob", long_shadow((235, 130, 60))),
    "hue turned once": ("twemoji", turned(1, 2, 0)),
    "hue turned twice": ("fluent 3d", turned(2, 0, 1)),
    "swapped colours": ("emojione", turned(2, 1, 0, ground=(240, 240, 248))),
    "dark for light": ("noto", dark_for_light((235, 235, 225))),
    "solarised": ("fluent 3d", solarised((120, 120, 128))),
    "watercolour": ("noto", watercolour((252, 250, 242), 1.6, (60, 50, 60))),
    "running watercolour": ("fluent flat", watercolour(WHITE, 2.6, (30, 40, 80))),
    "grey relief": ("fluent 3d", relief((30, 30, 34), (226, 226, 230))),
    "blue relief": ("twemoji", relief((20, 40, 90), (170, 205, 250))),
    "clay relief": ("blob", relief((96, 46, 30), (250, 196, 160))),
    "mosaic": ("noto", tiles(6, (70, 70, 74), 1)),
    "large mosaic": ("fluent flat", tiles(9, WHITE, 2)),
    "level lines": ("fluent 3d", levels(6, (40, 90, 60), (244, 248, 236))),
    "dense level lines": ("noto", levels(10, (120, 40, 100), WHITE)),
    "chalk on green": ("twemoji", chalk((60, 116, 86))),
    "chalk on red": ("noto", chalk((178, 78, 70))),
    "violet gradient": ("fluent flat", gradient((90, 60, 170), (240, 150, 200), (50, 20, 90))),
    "sunrise gradient": ("twemoji", gradient((90, 170, 230), (255, 210, 140), (110, 40, 20))),
    "woodcut": ("noto", woodcut((26, 24, 22), (246, 238, 220), 90)),
    "red linocut": ("fluent flat", woodcut((180, 30, 36), WHITE, 70)),
    "stained glass": ("twemoji", stained_glass((24, 24, 30), (200, 225, 250))),
    "amber stained glass": ("emojione", stained_glass((50, 24, 10), (255, 214, 130))),
    "on navy": ("fluent 3d", grounded(NAVY)),
    "on dark green": ("noto", grounded((16, 60, 40))),
    "on brown": ("twemoji", grounded((96, 60, 36))),
    "on pink": ("fluent flat", grounded((250, 180, 200))),
    "stripes": ("twemoji", striped(4, WHITE)),
    "upright stripes on teal": ("fluent flat", striped(6, (40, 120, 130), upright=True)),
    "black stencil": ("high contrast", stencil((20, 20, 24), (214, 200, 180))),
    "blue stencil": ("noto", stencil((30, 60, 150), (225, 225, 220))),
}

# Of kinds with relatives that are learned: what a near style costs.
HELD_OUT = ("rose duotone", "green halftone", "brown hatching", "berry palette")
