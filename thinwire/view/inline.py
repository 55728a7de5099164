"""A drawing as SVG text inside an HTML page that is not ours: small, without scripts, in the page's own colours."""

from html import escape
from itertools import pairwise

from thinwire.display import visible
from thinwire.view.drawing import Drawing, Item, Link

POSITIVE, NEGATIVE = "#3d8bd4", "#d9722a"
"""Legible on white and on black."""
GROUND = "var(--jp-layout-color0,var(--vscode-editor-background,Canvas))"
"""What lies behind the picture in JupyterLab, in VS Code, and elsewhere."""
GUTTER, BEND, WIDEST = 128.0, 0.45, 760
"""Room for the names of rows, how far an edge runs straight, and pixels on screen."""
FONT = "ui-monospace,Menlo,Consolas,monospace"


def safe(text: str) -> str:
    """Text from outside as HTML text: markup is escaped, and characters that cannot be seen are spelled out."""
    return escape(visible(text))


def svg(drawing: Drawing, label: str) -> str:
    """SVG text of a drawing; `label` is what screen readers say. Widths of edges follow their weights."""
    width, height = drawing.width + GUTTER, drawing.height + 4
    most = max((abs(link.weight) for link in drawing.links), default=0.0) or 1.0
    parts = [
        f'<svg role="img" aria-label="{safe(label)}" xmlns="http://www.w3.org/2000/svg" '
        f'viewBox="{-GUTTER:g} -2 {width:g} {height:g}" width="{min(width, WIDEST):g}" '
        f'style="max-width:100%;height:auto;color:inherit;background:{GROUND}">'
    ]
    for band in drawing.bands:
        parts.append(
            f'<rect x="{4 - GUTTER:g}" y="{band.top:g}" width="{width - 8:g}" height="{band.bottom - band.top - 2:g}" '
            'rx="6" fill="currentColor" fill-opacity=".05"/>'
        )
        parts.append(_text(12 - GUTTER, band.top + 13, band.label, 11, "start", bold=True))
    parts += [_text(12 - GUTTER, row.y, row.label, 10, "start", faint=True) for row in drawing.rows]
    for head in drawing.boxes:
        parts.append(
            f'<rect x="{head.x:g}" y="{head.y:g}" width="{head.width:g}" height="{head.height:g}" rx="7" fill="none" '
            'stroke="currentColor" stroke-opacity=".3"/>'
        )
        parts.append(_text(head.x + 6, head.y + 10, head.label, 9, "start", faint=True))
    for bus in drawing.buses:
        curve = "".join(
            f"C{a:g} {(b + d) / 2:g} {c:g} {(b + d) / 2:g} {c:g} {d:g}" for (a, b), (c, d) in pairwise(bus.points)
        )
        start = f"M{bus.points[0][0]:g} {bus.points[0][1]:g}"
        parts.append(f'<path d="{start}{curve}" fill="none" stroke="currentColor" stroke-opacity=".4"/>')
    parts += [_link(drawing, link, abs(link.weight) / most) for link in drawing.links]
    parts += [_item(item, drawing.item_height) for item in drawing.items]
    return "".join([*parts, "</svg>"])


def _link(drawing: Drawing, link: Link, size: float) -> str:
    half = drawing.item_height / 2
    y1, y2 = drawing.items[link.source].y - half, drawing.items[link.target].y + half
    bend = (y1 - y2) * BEND
    dash = ' stroke-dasharray="5 3"' if link.weight < 0 else ""
    return (
        f'<path d="M{link.x1:g} {y1:g}C{link.x1:g} {y1 - bend:g} {link.x2:g} {y2 + bend:g} {link.x2:g} {y2:g}" '
        f'fill="none" stroke="{NEGATIVE if link.weight < 0 else POSITIVE}" stroke-width="{1 + 2.6 * size:.2g}"{dash}>'
        f"<title>{link.weight:+.3g}</title></path>"
    )


def _item(item: Item, height: float) -> str:
    radius = 13 if item.label.startswith("ch ") else 4
    edge = {"token": ".15", "answer": ".15", "node": ".85"}.get(item.kind, ".4")
    return (
        f'<rect x="{item.x - item.width / 2:g}" y="{item.y - height / 2:g}" width="{item.width:g}" height="{height:g}" '
        f'rx="{radius}" style="fill:{GROUND}" stroke="currentColor" stroke-opacity="{edge}"/>'
        + _text(item.x, item.y, item.label, 11, "middle")
    )


def _text(x: float, y: float, words: str, size: int, anchor: str, bold: bool = False, faint: bool = False) -> str:
    weight = ' font-weight="600"' if bold else ""
    opacity = ".65" if faint else "1"
    return (
        f'<text x="{x:g}" y="{y:g}" font-family="{FONT}" font-size="{size}" text-anchor="{anchor}" '
        f'dominant-baseline="central" fill="currentColor" fill-opacity="{opacity}"{weight}>{safe(words)}</text>'
    )
