"""Geometric means and ratios over tasks, against values worked out by hand."""

import itertools

import pytest

from thinwire.prune import summary
from thinwire.prune.summary import edge_ratio, geometric_mean, mean_edges, without_edges


def test_geometric_mean_by_hand() -> None:
    assert geometric_mean([1, 10, 100]) == pytest.approx(10)
    assert geometric_mean([2, 8]) == pytest.approx(4)
    assert geometric_mean([7]) == pytest.approx(7)
    with pytest.raises(AssertionError, match="a circuit without edges"):
        geometric_mean([0, 16])


def test_mean_leaves_out_and_counts_missed_tasks() -> None:
    found = mean_edges({"a": 4, "b": None, "c": 9})
    assert found is not None
    assert found.value == pytest.approx(6)
    assert (found.tasks, found.excluded) == (2, 1)
    assert mean_edges({"a": None}) is None
    assert mean_edges({}) is None


def test_tasks_that_need_no_edges_are_counted_apart() -> None:
    """A circuit without edges is in no mean and no ratio, on neither side; it never counts as one edge."""
    found = mean_edges({"a": 4, "b": 0, "c": 9, "d": None})
    assert found is not None
    assert found.value == pytest.approx(6)
    assert (found.tasks, found.excluded, found.unneeded) == (2, 1, 1)
    assert mean_edges({"b": 0}) is None
    ratio = edge_ratio({"a": 100, "b": 0, "c": 7, "d": None}, {"a": 10, "b": 5, "c": 0, "d": 3})
    assert ratio is not None
    assert ratio.value == pytest.approx(10)
    assert (ratio.tasks, ratio.excluded, ratio.unneeded) == (1, 1, 2)
    assert edge_ratio({"a": 0}, {"a": 0}) is None
    assert without_edges({"z": 0, "a": 1}, {"a": 0, "b": None}) == ["a", "z"]


def test_ratio_by_hand() -> None:
    """100 and 400 over 10 and 10: 10 and 40, whose geometric mean is 20. The other tasks lack one circuit."""
    found = edge_ratio({"a": 100, "b": 400, "c": None, "d": 5}, {"a": 10, "b": 10, "c": 3, "e": 7})
    assert found is not None
    assert found.value == pytest.approx(20)
    assert (found.tasks, found.excluded) == (2, 3)
    assert (found.low, found.high) == pytest.approx((10, 40)), "a quarter of the draws is one task twice"
    assert edge_ratio({"a": 1}, {"b": 1}) is None


def test_ratio_is_paired() -> None:
    """Sizes that differ a lot from task to task with the same ratio everywhere leave no doubt about the ratio."""
    below = {str(i): 10**i for i in range(5)}
    found = edge_ratio({task: 3 * size for task, size in below.items()}, below)
    assert found is not None
    assert (found.low, found.value, found.high) == pytest.approx((3, 3, 3))


def test_interval_is_that_of_all_resamplings() -> None:
    """Against the exact bootstrap distribution of four tasks: all 256 draws."""
    sizes = {"a": 2, "b": 30, "c": 7, "d": 90}
    found = mean_edges(sizes)
    assert found is not None
    exact = sorted(geometric_mean(draw) for draw in itertools.product(sizes.values(), repeat=4))
    assert exact[4] <= found.low <= exact[9]
    assert exact[-10] <= found.high <= exact[-5]
    assert found.low < found.value < found.high
    assert found == mean_edges(sizes), "the same seed gives the same interval"


def test_more_tasks_narrow_the_interval() -> None:
    few = mean_edges({str(i): 2 if i % 2 else 50 for i in range(4)})
    many = mean_edges({str(i): 2 if i % 2 else 50 for i in range(40)})
    assert few is not None
    assert many is not None
    assert many.value == pytest.approx(few.value)
    assert many.high / many.low < few.high / few.low
    assert summary.DRAWS == 10_000
