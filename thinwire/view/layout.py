"""Coordinates of a circuit's picture: computed once, drawn by the page and by `figure`.

1. Blocks: a head's q, k and v stay together; a bus has a slim waypoint in every row it passes without an item.
2. `arrange` orders and places the blocks of every row; ranks without items do not exist.
3. Rows that are too wide are split into several lanes, at the width that shows the whole picture largest.
4. Ends of links spread over the width of their items, in the order of their far ends, so that few cross.
"""

from collections import defaultdict
from itertools import pairwise

from thinwire.view.arrange import Block, arrange, relax, tie
from thinwire.view.drawing import Band, Box, Bus, Drawing, Item, Link, Row
from thinwire.view.payload import TaskView
from thinwire.view.sketch import INPUT, OUTPUT, Rank, Sketch, row_label, sketch

HEIGHT, GAP, INNER_GAP, HEAD_ROOM, MARGIN = 26.0, 16.0, 7.0, 22.0, 24.0
"""Height of an item; room between blocks, within a block, above a head, around the picture."""
ROOMY, FEW = 84.0, 6
"""Room between blocks when no row has more than FEW items: weights then fit beside their edges."""
PITCH, DENSE_PITCH, MANY_ROWS = 70.0, 56.0, 12
"""From row to row, and the same in pictures with more than MANY_ROWS lanes."""
WIDTHS, WINDOW = (
    (480.0, 560.0, 620.0, 700.0, 850.0, 1050.0, 1300.0, 1700.0, 2200.0, 3000.0, 4000.0, 6000.0),
    (740.0, 640.0),
)
"""Widths at which rows may be split, and the window that the picture is to fill (a page on a laptop)."""
BUS_PULL = 4.0

Lanes = list[tuple[Rank, list[Block]]]


def lay_out(task: TaskView, vocab: tuple[str, ...]) -> Drawing:
    """The picture of a task's circuit. A circuit without nodes gives a Drawing without items."""
    content = sketch(task, vocab)
    if not task.nodes:
        return Drawing(width=0.0, height=0.0, item_height=HEIGHT)
    rows = _rows(content)
    paths = _tie_all(content, rows)
    gap = ROOMY if max(sum(len(block.items) for block in blocks) for blocks in rows.values()) <= FEW else GAP
    arrange(list(rows.values()), gap)
    lanes = _lanes(rows)
    relax([blocks for _, blocks in lanes], gap)
    return _draw(content, lanes, paths)


def _rows(content: Sketch) -> dict[Rank, list[Block]]:
    """Blocks of items by rank, from the bottom up."""
    rows: dict[Rank, list[Block]] = {rank: [] for rank in sorted(set(content.ranks))}
    of_head: dict[tuple[Rank, int], Block] = {}
    for index, (item, rank, head) in enumerate(zip(content.items, content.ranks, content.heads, strict=True)):
        block = of_head.get((rank, head)) if head is not None else None
        if block is None:
            block = Block(INNER_GAP if head is not None else 0.0, head=head)
            rows[rank].append(block)
            if head is not None:
                of_head[rank, head] = block
        block.width += item.width + (INNER_GAP if head is not None else 0.0)
        block.items.append(index)
    return rows


def _tie_all(content: Sketch, rows: dict[Rank, list[Block]]) -> dict[int, list[Block]]:
    """Tie blocks that lines join; returns each bus's blocks and waypoints from bottom to top."""
    home = {index: block for blocks in rows.values() for block in blocks for index in block.items}
    offset = {index: x for block in home.values() for index, x in _offsets(block, content.items)}
    for source, target, _ in content.links:
        tie(home[source], home[target], offset[source], offset[target], 1.0)
    buses = {channel: items for channel, items in content.channels.items() if len(items) > 1}
    slim = 10.0 if len(buses) <= 30 else 1.0
    order = list(rows)
    paths = {}
    for channel, items in buses.items():
        stops = {content.ranks[index]: home[index] for index in items}
        paths[channel] = []
        for rank in order[order.index(content.ranks[items[0]]) : order.index(content.ranks[items[-1]]) + 1]:
            if rank not in stops:
                rows[rank].append(Block(slim))
            paths[channel].append(stops.get(rank, rows[rank][-1]))
        for below, above in pairwise(paths[channel]):
            tie(below, above, 0.0, 0.0, BUS_PULL)
    return paths


def _offsets(block: Block, items: list[Item]) -> list[tuple[int, float]]:
    """Each item of a block with the distance of its centre from the block's."""
    x = -block.width / 2 + (INNER_GAP if block.head is not None else 0.0)
    found = []
    for index in block.items:
        found.append((index, x + items[index].width / 2))
        x += items[index].width + INNER_GAP
    return found


def _lanes(rows: dict[Rank, list[Block]]) -> Lanes:
    """Rows as lanes from bottom to top; the blocks of a row that is too wide go to several lanes, in order."""
    widths = [sum(block.width + GAP for block in blocks) for blocks in rows.values()]

    def shrunk(widest: float) -> float:
        """How much the picture must shrink to fit the window when rows are split at this width."""
        counts = [max(1, round(width / widest)) for width in widths]
        wide = max(width / count for width, count in zip(widths, counts, strict=True))
        return max(wide / WINDOW[0], sum(counts) * DENSE_PITCH / WINDOW[1])

    widest = min(WIDTHS, key=shrunk)
    lanes: Lanes = []
    for (rank, blocks), width in zip(rows.items(), widths, strict=True):
        count = max(1, round(width / widest))
        lanes += [(rank, blocks[start::count]) for start in range(count)]
    return lanes


def _draw(content: Sketch, lanes: Lanes, paths: dict[int, list[Block]]) -> Drawing:
    """Final coordinates: the top left corner at zero, y growing downwards."""
    blocks = [block for _, lane in lanes for block in lane]
    left = min(block.x - block.width / 2 for block in blocks) - MARGIN
    pitch = PITCH if len(lanes) <= MANY_ROWS else DENSE_PITCH
    heights = [pitch + HEAD_ROOM * any(block.head is not None for block in lane) for _, lane in lanes]
    bottom = height = sum(heights)
    items, rows, boxes = list(content.items), [], []
    numbers = {rank: number for number, rank in enumerate(dict.fromkeys(rank for rank, _ in lanes))}
    for (rank, lane), tall in zip(lanes, heights, strict=True):
        y, bottom = round(bottom - pitch / 2, 1), bottom - tall
        if numbers[rank] == len(rows):
            rows.append(Row(label=row_label(rank), layer=None if rank[0] in (INPUT, OUTPUT) else rank[0], y=y))
        for block in lane:
            block.x, block.y = round(block.x - left, 1), y
            for index, offset in _offsets(block, items):
                items[index] = items[index].replace(x=round(block.x + offset, 1), y=y, row=numbers[rank])
            if block.head is not None:
                boxes.append(_box(block, rank[0], block.head))
    return Drawing(
        width=round(max(block.x + block.width / 2 for block in blocks) + MARGIN, 1),
        height=height,
        item_height=HEIGHT,
        items=tuple(items),
        links=ports(items, content.links),
        buses=tuple(_bus(channel, path, content.channels[channel], items) for channel, path in paths.items()),
        rows=tuple(rows),
        boxes=tuple(boxes),
        bands=_bands(lanes, heights, height),
    )


def _box(block: Block, layer: int, head: int) -> Box:
    top = round(block.y - HEIGHT / 2 - HEAD_ROOM, 1)
    left, height = round(block.x - block.width / 2, 1), HEIGHT + HEAD_ROOM + INNER_GAP
    width = round(block.width, 1)
    return Box(label=f"head {head}", layer=layer, head=head, x=left, y=top, width=width, height=height)


def _bus(channel: int, path: list[Block], stops: list[int], items: list[Item]) -> Bus:
    points = []
    for block in path:
        stop = next((items[index] for index in block.items if index in stops), None)
        points.append((stop.x, stop.y) if stop else (block.x, block.y))
    return Bus(channel=channel, items=tuple(stops), points=tuple(points))


def _bands(lanes: Lanes, heights: list[float], height: float) -> tuple[Band, ...]:
    """One band for each layer, around its lanes."""
    spans: dict[int, tuple[float, float]] = {}
    bottom = height
    for ((layer, _), _), tall in zip(lanes, heights, strict=True):
        spans[layer] = (bottom - tall, spans.get(layer, (0.0, bottom))[1])
        bottom -= tall
    layers = [layer for layer in spans if layer not in (INPUT, OUTPUT)]
    return tuple(Band(label=f"layer {layer}", top=spans[layer][0], bottom=spans[layer][1]) for layer in layers)


def ports(items: list[Item], links: list[tuple[int, int, float]]) -> tuple[Link, ...]:
    """Links with their ends spread over the width of the items they join, in the order of their far ends."""
    at: dict[tuple[int, int], float] = {}
    for near, far in ((0, 1), (1, 0)):
        fans: dict[int, list[int]] = defaultdict(list)
        for number, link in enumerate(links):
            fans[int(link[near])].append(number)
        for index, fan in fans.items():
            fan.sort(key=lambda number, far=far: items[int(links[number][far])].x)
            step = min(14.0, (items[index].width - 16.0) / max(1, len(fan) - 1))
            for order, number in enumerate(fan):
                at[number, near] = round(items[index].x + step * (order - (len(fan) - 1) / 2), 1)
    return tuple(
        Link(source=source, target=target, weight=weight, x1=at[number, 0], x2=at[number, 1])
        for number, (source, target, weight) in enumerate(links)
    )
