"""The picture of one circuit as plain records with coordinates, drawn by the page and by `figure`.

Units are CSS pixels at zoom 1; x grows to the right, y grows downwards, and the model runs from bottom to top.
"""

from typing import Literal

from thinwire.view.records import Record


class Item(Record):
    """One box of the picture; x and y are its centre."""

    id: str
    """A node's name, or `token:…`, `embed:…`, `unembed:…`, `answer:…`."""
    kind: Literal["token", "embed", "node", "unembed", "answer"]
    label: str
    node: int | None = None
    """Index in `TaskView.nodes`."""
    channel: int | None = None
    token: int | None = None
    """Index into `Payload.vocab`."""
    row: int = 0
    x: float = 0.0
    y: float = 0.0
    width: float


class Link(Record):
    """A signed weight between two items, from (x1, top of source) to (x2, bottom of target)."""

    source: int
    target: int
    weight: float
    x1: float
    x2: float


class Bus(Record):
    """A residual channel: one line through its items, written and read along the way."""

    channel: int
    items: tuple[int, ...]
    points: tuple[tuple[float, float], ...]


class Row(Record):
    """A labelled row; `layer` is None for tokens and answers. A row may be drawn as several lanes."""

    label: str
    layer: int | None
    y: float


class Box(Record):
    """The frame around a head's q, k and v; x and y are its top left corner."""

    label: str
    layer: int
    head: int
    x: float
    y: float
    width: float
    height: float


class Band(Record):
    """The rows of one layer, from `top` to `bottom`."""

    label: str
    top: float
    bottom: float


class Drawing(Record):
    """Everything drawn of one circuit."""

    width: float
    height: float
    item_height: float
    items: tuple[Item, ...] = ()
    links: tuple[Link, ...] = ()
    buses: tuple[Bus, ...] = ()
    rows: tuple[Row, ...] = ()
    boxes: tuple[Box, ...] = ()
    bands: tuple[Band, ...] = ()
