"""Curves in a picture, drawn by matplotlib."""

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter
from PIL import Image

SIZE = (7.6, 4.4)  # inches, of 100 pixels

Points = list[tuple[float, float]]


def curves(series: dict[str, Points], title: str, x_name: str, logarithmic: bool = True) -> Image.Image:
    """One line for each name, its points marked; x and, where asked, y on logarithmic axes.

    Args:
        series: name -> points (x, y) in order, all positive where the axis is logarithmic.
    """
    figure, axes = new_figure(SIZE)
    axes.set(title=title, xlabel=x_name, xscale="log", yscale="log" if logarithmic else "linear")
    for k, (name, points) in enumerate(series.items()):
        axes.plot(*zip(*points, strict=True), marker="o", markersize=4, label=name, color=colormaps["tab20"](k))
    places = sorted({x for points in series.values() for x, _ in points})
    axes.set_xticks(places, [f"{x:g}" for x in places])
    axes.xaxis.set_minor_formatter(NullFormatter())
    if logarithmic:
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    figure.legend(loc="outside right upper", frameon=False, fontsize="small")
    return picture(figure)


def new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """A figure of so many inches with one pair of axes, and lines across at the ticks of y."""
    figure = Figure(size, layout="constrained")
    axes = figure.add_subplot()
    axes.grid(axis="y", color="#e5e5e5")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def picture(figure: Figure) -> Image.Image:
    """What a figure shows, RGB, 100 pixels an inch."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
