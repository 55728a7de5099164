"""The plot of circuit sizes: points by hand, and a file that is the same every time."""

from pathlib import Path

import pytest

from thinwire.errors import UserError
from thinwire.view.size_plot import SizeRecord, draw_sizes, lines

SIZES = {  # by model, task and target
    ("sparse", "quotes", 0.1): 8,
    ("sparse", "quotes", 0.3): 4,
    ("sparse", "brackets", 0.1): 2,
    ("sparse", "brackets", 0.3): 1,
    ("sparse", "only here", 0.1): 1000,
    ("dense", "quotes", 0.1): 100,
    ("dense", "quotes", 0.3): 50,
    ("dense", "quotes", 0.05): 500,
    ("dense", "brackets", 0.1): 400,
    ("dense", "brackets", 0.3): 8,
    ("dense", "brackets", 0.05): None,
}
RECORDS = [SizeRecord(*key, edges) for key, edges in SIZES.items()]


def test_points_by_hand() -> None:
    """Only tasks of both models count, and only targets that all their circuits meet."""
    found = lines(RECORDS)
    assert list(found) == ["sparse", "dense"]
    values = {model: [(point.target, point.edges.value) for point in line] for model, line in found.items()}
    assert values["sparse"] == [(0.1, pytest.approx(4)), (0.3, pytest.approx(2))]
    assert values["dense"] == [(0.1, pytest.approx(200)), (0.3, pytest.approx(20))]
    assert all(point.edges.tasks == 2 for line in found.values() for point in line)


def test_tasks_that_need_no_edges_are_left_out() -> None:
    """Of both models and every target, so that all points are of the same tasks."""
    needless = [SizeRecord(model, "needless", target, 0) for model in ("sparse", "dense") for target in (0.1, 0.3)]
    assert lines([*RECORDS, *needless]) == lines(RECORDS)
    assert lines([*RECORDS, *needless[:1], *(SizeRecord(r.model, r.task, r.target, 5) for r in needless[1:])]) == lines(
        RECORDS
    )


def test_the_plot_is_the_same_every_time(tmp_path: Path) -> None:
    one, other = tmp_path / "one.svg", tmp_path / "deep" / "other.svg"
    draw_sizes(RECORDS, one)
    draw_sizes(RECORDS, other)
    assert one.read_bytes() == other.read_bytes()
    text = one.read_text("utf-8")
    for said in ("sparse", "dense", "task loss, nats", "2 tasks", "10"):
        assert said in text


def test_models_without_a_common_task_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="prune the same tasks"):
        draw_sizes([SizeRecord("a", "x", 0.1, 3), SizeRecord("b", "y", 0.1, 3)], tmp_path / "no.svg")
    with pytest.raises(UserError, match="prune the same tasks"):
        draw_sizes([], tmp_path / "no.svg")
    assert not list(tmp_path.iterdir())
