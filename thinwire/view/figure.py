"""A circuit's picture as a file for papers and docs: the drawing of the page, by matplotlib, on white."""

import warnings
from itertools import pairwise
from pathlib import Path as FilePath
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch, PathPatch, Rectangle
from matplotlib.path import Path

from thinwire.artifact import atomic, make_parents
from thinwire.errors import UserError
from thinwire.view.drawing import Drawing, Item, Link
from thinwire.view.formats import suffix_of
from thinwire.view.layout import lay_out
from thinwire.view.payload import TaskView

POSITIVE, NEGATIVE, BUS, INK, SOFT, BAND = "#1d69ad", "#c2540a", "#9aa0a8", "#1b1f24", "#5c636d", "#f3f3ef"
GUTTER, BEND = 158.0, 0.45
"""Room for the names of rows; how far an edge runs straight before it bends, as a fraction of its height."""
PIXELS_PER_INCH = 96.0
DOTS_PER_INCH = 2 * PIXELS_PER_INCH
"""Of a PNG, so that it is sharp on dense screens."""
UNDATED: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
"""Metadata without the time, by kind of file."""
LABELLED = 60
"""Most edges that get their weights written beside them."""
SPOTS = 0.5, 0.43, 0.57, 0.36, 0.64, 0.27, 0.73, 0.2, 0.8, 0.14, 0.86
"""Where along an edge its weight may stand, the best first."""
APART = 40, 11
"""Least distance between two weights: sideways, or else in height."""


def draw(task: TaskView, vocab: tuple[str, ...], path: FilePath) -> None:
    """Draw a task's circuit to an SVG, PNG or PDF file; the same circuit gives the same SVG.

    Raises UserError for other kinds of file and for a circuit without nodes.
    """
    path = FilePath(path)
    kind = suffix_of(path)[1:]
    if not task.nodes:
        raise UserError(f"The {task.name} circuit has no nodes to draw; write an .html page of its measurements.")
    make_parents(path)
    with atomic(path) as temporary, matplotlib.rc_context({"svg.hashsalt": "thinwire"}), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing")
        figure = picture(lay_out(task, vocab))
        figure.savefig(temporary, format=kind, dpi=DOTS_PER_INCH, metadata=UNDATED.get(kind), facecolor="white")


def picture(drawing: Drawing) -> Figure:
    """The drawing as a matplotlib Figure at the page's size."""
    width, height = drawing.width + GUTTER, drawing.height + 8
    figure = Figure(figsize=(width / PIXELS_PER_INCH, height / PIXELS_PER_INCH))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(-GUTTER, drawing.width), ylim=(drawing.height + 4, -4))
    axes.axis("off")
    for band in drawing.bands:
        box = Rectangle(
            (8 - GUTTER, band.top), width - 16, band.bottom - band.top - 2, color=BAND, linewidth=0, zorder=0
        )
        axes.add_patch(box)
        _text(axes, 16 - GUTTER, band.top + 13, band.label, 8.2, ha="left", weight="bold", color=SOFT)
    for row in drawing.rows:
        _text(axes, 62 - GUTTER, row.y, row.label, 8.0, ha="left", family="monospace", color=SOFT)
    for head in drawing.boxes:
        axes.add_patch(_rounded(head.x, head.y, head.width, head.height, 8, "none", "#d5d5ce", 2))
        _text(axes, head.x + 7, head.y + 10, head.label, 7.5, ha="left", color=SOFT)
    for bus in drawing.buses:
        axes.add_patch(PathPatch(_bus_path(bus.points), fill=False, edgecolor=BUS, linewidth=0.9, zorder=1))
    _edges(axes, drawing)
    for item in drawing.items:
        _item(axes, item, drawing.item_height)
    return figure


def _edges(axes: Axes, drawing: Drawing) -> None:
    most = max((abs(link.weight) for link in drawing.links), default=1.0) or 1.0
    for link in drawing.links:
        x1, y1, x2, y2 = _ends(drawing, link)
        bend = (y1 - y2) * BEND
        curve = Path([(x1, y1), (x1, y1 - bend), (x2, y2 + bend), (x2, y2)], [1, 4, 4, 4])
        colour = NEGATIVE if link.weight < 0 else POSITIVE
        style = (0, (3.2, 1.6)) if link.weight < 0 else "solid"
        size = 0.7 + 2.4 * abs(link.weight) / most
        axes.add_patch(PathPatch(curve, fill=False, edgecolor=colour, linewidth=size, linestyle=style, zorder=3))
    if len(drawing.links) <= LABELLED:
        _weights(axes, drawing)


def _weights(axes: Axes, drawing: Drawing) -> None:
    """Weights beside their edges, moved along the edge until they cover no other weight.

    The strongest come first; those that find no room are left out.
    """
    taken: list[tuple[float, float]] = []
    for link in sorted(drawing.links, key=lambda link: -abs(link.weight)):
        spots = [_along(*_ends(drawing, link), t) for t in SPOTS]
        free = [
            spot for spot in spots if all(abs(spot[0] - x) > APART[0] or abs(spot[1] - y) > APART[1] for x, y in taken)
        ]
        if not free:
            continue
        x, y = free[0]
        taken.append((x, y))
        words = f"{link.weight:+.3g}".replace("-", "−")
        colour = NEGATIVE if link.weight < 0 else POSITIVE
        backdrop = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.2}
        _text(axes, x, y, words, 7.2, family="monospace", weight="bold", color=colour, bbox=backdrop, zorder=4)


def _ends(drawing: Drawing, link: Link) -> tuple[float, float, float, float]:
    half = drawing.item_height / 2
    return link.x1, drawing.items[link.source].y - half, link.x2, drawing.items[link.target].y + half


def _along(x1: float, y1: float, x2: float, y2: float, t: float) -> tuple[float, float]:
    """The point at t (0 … 1) of an edge's curve."""
    s, bend = 1 - t, (y1 - y2) * BEND
    x = s * s * (s + 3 * t) * x1 + t * t * (t + 3 * s) * x2
    y = s**3 * y1 + 3 * s * s * t * (y1 - bend) + 3 * s * t * t * (y2 + bend) + t**3 * y2
    return x, y


def _bus_path(points: tuple[tuple[float, float], ...]) -> Path:
    vertices, codes = [points[0]], [1]
    for (x1, y1), (x2, y2) in pairwise(points):
        middle = (y1 + y2) / 2
        vertices += [(x1, middle), (x2, middle), (x2, y2)]
        codes += [4, 4, 4]
    return Path(vertices, codes)


def _item(axes: Axes, item: Item, height: float) -> None:
    channel = item.label.startswith("ch ")
    plain = item.kind in ("token", "answer")
    edge = "none" if plain else INK if item.kind == "node" else BUS
    fill = "#ecece6" if plain else "white"
    left, top = item.x - item.width / 2, item.y - height / 2
    axes.add_patch(_rounded(left, top, item.width, height, 13 if channel else 5, fill, edge, 5))
    _text(axes, item.x, item.y, item.label, 8.6, family="monospace", weight="bold" if plain else "normal", zorder=6)


def _rounded(x: float, y: float, width: float, height: float, radius: float, fill: str, edge: str, level: int):
    style = f"round,pad=0,rounding_size={radius}"
    return FancyBboxPatch(
        (x, y), width, height, boxstyle=style, facecolor=fill, edgecolor=edge, linewidth=0.8, zorder=level
    )


def _text(axes: Axes, x: float, y: float, words: str, size: float, ha: str = "center", **style: Any) -> None:
    """Text as it is: a dollar sign in a token starts no formula."""
    style = {"color": INK, **style}
    axes.text(x, y, words, fontsize=size, ha=ha, va="center_baseline", parse_math=False, **style)
