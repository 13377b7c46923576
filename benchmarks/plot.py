"""Curves in a picture, drawn with Pillow alone."""

import math

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 440, 70, 210, 36, 50
COLOURS = ("#1b1b1b", "#c0562b", "#1f5fa8", "#3b8a4a", "#8c4fa8", "#b8860b")
COLOURS += ("#2a9d9d", "#d0679d", "#7a7a7a", "#6b4226", "#9acd32", "#e05050")

Points = list[tuple[float, float]]


def curves(series: dict[str, Points], title: str, x_name: str, logarithmic: bool = True) -> Image.Image:
    """One line for each name, its points marked; x and, where asked, y on logarithmic axes.

    Args:
        series: name -> points (x, y) in order, all positive where the axis is logarithmic.
    """
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(12)
    scale = math.log if logarithmic else float
    xs = [math.log(x) for points in series.values() for x, _ in points]
    ys = [scale(y) for points in series.values() for _, y in points]
    x0, x1, y0, y1 = min(xs), max(xs), min(ys), max(ys)
    margin = 0.05 * (y1 - y0) or 1.0
    y0, y1 = y0 - margin, y1 + margin

    def place(x: float, y: float) -> tuple[float, float]:
        across = (math.log(x) - x0) / ((x1 - x0) or 1)
        return LEFT + across * (WIDTH - LEFT - RIGHT), TOP + (y1 - scale(y)) / (y1 - y0) * (HEIGHT - TOP - BOTTOM)

    pen.text((LEFT, 10), title, fill="black", font=font)
    pen.text((LEFT, HEIGHT - 22), x_name, fill="#444", font=font)
    for k in range(6):
        y = y0 + k * (y1 - y0) / 5
        value = math.exp(y) if logarithmic else y
        height = place(1 if x0 <= 0 else math.exp(x0), value)[1]
        pen.line([(LEFT, height), (WIDTH - RIGHT, height)], fill="#e5e5e5")
        pen.text((LEFT - 8, height), f"{value:.3g}", fill="#444", font=font, anchor="rm")
    for x in sorted({x for points in series.values() for x, _ in points}):
        across = place(x, math.exp(y0) if logarithmic else y0)[0]
        pen.text((across, HEIGHT - BOTTOM + 4), f"{x:g}", fill="#444", font=font, anchor="ma")
    for k, (name, points) in enumerate(series.items()):
        colour, places = COLOURS[k % len(COLOURS)], [place(*point) for point in points]
        pen.line(places, fill=colour, width=2)
        for across, height in places:
            pen.ellipse([across - 3, height - 3, across + 3, height + 3], fill=colour)
        line = TOP + 4 + 18 * k
        pen.line([(WIDTH - RIGHT + 12, line + 6), (WIDTH - RIGHT + 28, line + 6)], fill=colour, width=3)
        pen.text((WIDTH - RIGHT + 34, line), name, fill="black", font=font)
    return picture
