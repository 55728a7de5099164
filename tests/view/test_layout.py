import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thinwire.view.arrange import Block, arrange, crossings, place, tie
from thinwire.view.drawing import Drawing
from thinwire.view.layout import lay_out
from thinwire.view.payload import Payload
from thinwire.view.sketch import visible


def pulled(wishes: list[float], widths: list[float]) -> list[Block]:
    """A row of blocks, each with an anchor that it wishes to be at."""
    blocks = [Block(width, [number]) for number, width in enumerate(widths)]
    for block, wish in zip(blocks, wishes, strict=True):
        tie(block, Block(0.0, x=wish), 0.0, 0.0, 1.0)
    return blocks


places = st.integers(-20, 20).map(float)


@given(st.lists(st.tuples(places, st.integers(0, 6).map(float)), min_size=1, max_size=5))
def test_places_are_the_nearest_without_overlap(drawn: list[tuple[float, float]]):
    wishes, widths = [w for w, _ in drawn], [w for _, w in drawn]
    blocks = pulled(wishes, widths)
    place(blocks, 2.0)
    rooms = [(a.width + b.width) / 2 + 2.0 for a, b in itertools.pairwise(blocks)]
    for (left, right), room in zip(itertools.pairwise(blocks), rooms, strict=True):
        assert right.x - left.x >= room - 1e-9
    cost = sum((block.x - wish) ** 2 for block, wish in zip(blocks, wishes, strict=True))
    rng = random.Random(0)
    for _ in range(200):  # no feasible neighbour is better, which for a convex problem means none is
        other = [block.x + rng.gauss(0, 0.5) for block in blocks]
        if all(b - a >= room for (a, b), room in zip(itertools.pairwise(other), rooms, strict=True)):
            assert sum((x - wish) ** 2 for x, wish in zip(other, wishes, strict=True)) >= cost - 1e-9


def test_crossings_are_counted():
    lower, upper = (
        [Block(4.0, [i], x=10.0 * i) for i in range(3)],
        [Block(4.0, [i], x=10.0 * i, row=1) for i in range(3)],
    )
    for one, other in ((0, 2), (1, 1), (2, 0)):
        tie(lower[one], upper[other], 0.0, 0.0, 1.0)
    assert crossings([lower, upper]) == 3


def test_a_tangle_that_can_be_undone_is_undone():
    rng = random.Random(3)
    rows = [[Block(20.0, [i]) for i in range(6)] for _ in range(4)]
    for lower, upper in itertools.pairwise(rows):
        for one, other in zip(lower, rng.sample(upper, 6), strict=True):
            tie(one, other, 0.0, 0.0, 1.0)
    arrange(rows, 10.0)
    assert crossings(rows) == 0


@pytest.fixture(scope="module", params=[0, 1, 3])
def drawing(request: pytest.FixtureRequest, example: Payload) -> Drawing:
    return lay_out(example.tasks[request.param], example.vocab)


def test_nothing_overlaps_or_leaves_the_picture(drawing: Drawing):
    for one, other in itertools.combinations(drawing.items, 2):
        apart = abs(one.x - other.x) >= (one.width + other.width) / 2 or abs(one.y - other.y) >= drawing.item_height
        assert apart, (one.id, other.id)
    assert all(item.width / 2 <= item.x <= drawing.width - item.width / 2 for item in drawing.items)
    assert all(0 < item.y < drawing.height for item in drawing.items)


def test_the_model_runs_upwards(drawing: Drawing):
    assert all(drawing.items[link.source].y > drawing.items[link.target].y for link in drawing.links)
    for bus in drawing.buses:
        heights = [y for _, y in bus.points]
        assert heights == sorted(heights, reverse=True)
        assert {(drawing.items[i].x, drawing.items[i].y) for i in bus.items} <= set(bus.points)
    assert [row.y for row in drawing.rows] == sorted((row.y for row in drawing.rows), reverse=True)


def test_the_quote_circuit_is_drawn_whole(example: Payload):
    task = example.tasks[0]
    drawing = lay_out(task, example.vocab)
    weights = sorted(edge.weight for edge in (*task.edges, *task.embedding, *task.unembedding))
    assert sorted(link.weight for link in drawing.links) == weights
    assert {item.id for item in drawing.items if item.kind == "node"} == {node.name for node in task.nodes}
    assert [row.label for row in drawing.rows] == [
        "tokens",
        "embedding",
        "mlp.act_in",
        "mlp.post_act",
        "mlp.resid_delta",
        "attn.act_in",
        "attn.q · k · v",
        "attn.resid_delta",
        "unembedding",
        "answers",
    ]
    assert sorted(bus.channel for bus in drawing.buses) == [104, 460, 881, 985, 1249]
    assert [box.label for box in drawing.boxes] == ["head 82"]
    head = drawing.boxes[0]
    assert (head.layer, head.head) == (7, 82)
    inside = [
        item
        for item in drawing.items
        if head.x <= item.x <= head.x + head.width and head.y <= item.y <= head.y + head.height
    ]
    assert [item.label for item in inside] == ["q 82.1", "k 82.1", "v 82.6"]


def test_position_channels_join_no_residual_channel(example: Payload):
    task = example.tasks[0]
    moved = task.nodes[0].replace(position=True)
    drawing = lay_out(task.replace(nodes=(moved, *task.nodes[1:])), example.vocab)
    assert 104 not in {bus.channel for bus in drawing.buses}
    assert "pos 104" in {item.label for item in drawing.items}


def test_an_empty_circuit_has_an_empty_picture(example: Payload):
    assert lay_out(example.tasks[2], example.vocab).items == ()


def test_a_large_circuit_is_laid_out_the_same_every_time(large: Payload):
    one, other = (lay_out(large.tasks[0], large.vocab) for _ in range(2))
    assert one == other
    assert len(one.items) > 500
    assert one.width < 6000


def test_labels_show_what_cannot_be_seen():
    assert visible(' a\n\t\u2028\u202e"') == '·a⏎⇥‹2028›‹202e›"'
    assert visible("") == "∅"
