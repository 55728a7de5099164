"""Trials: what a record may say, which trial is smallest, and which no other beats."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from thinwire.prune.config import Point
from thinwire.prune.trial import Trial, best, pareto

STORED = TypeAdapter(Trial)
POINT = Point()


def found(edges: int, nodes: int, loss: float = 0.1, seconds: float = 1.0) -> Trial:
    return Trial(POINT, (3,), (0.5,), edges, nodes, loss, seconds)


def missed(seconds: float = 1.0) -> Trial:
    return Trial(POINT, (), (), None, None, None, seconds)


costs = st.tuples(st.integers(0, 3), st.integers(0, 3), st.sampled_from([0.1, 0.2]), st.sampled_from([1.0, 2.0]))
some_trials = st.lists(st.one_of(costs.map(lambda c: found(*c)), st.builds(missed)), max_size=12)


@given(some_trials)
def test_pareto_is_what_no_other_beats(trials: list[Trial]) -> None:
    """Against the definition: left out is what another is at most equal to in each cost, and below in one."""
    table = pareto(trials)

    def beaten(trial: Trial) -> bool:
        for other in trials:
            if other.missed:
                continue
            pairs = [(getattr(other, c), getattr(trial, c)) for c in ("loss", "nodes", "edges", "seconds")]
            if all(a <= b for a, b in pairs) and any(a < b for a, b in pairs):
                return True
        return False

    assert sorted(map(repr, table)) == sorted(repr(t) for t in trials if not t.missed and not beaten(t))
    assert [trial.size for trial in table] == sorted(trial.size for trial in table)
    smallest = best(trials)
    assert (smallest is None) == (not table) == all(trial.missed for trial in trials)
    if smallest:
        assert smallest.size == table[0].size == min(trial.size for trial in trials)


def test_best_has_fewest_edges_then_nodes_then_came_first() -> None:
    trials = [missed(), found(4, 9), found(3, 8), found(3, 7, 0.11), found(3, 7, 0.1), missed()]
    assert best(trials) is trials[3]
    assert best([]) is best([missed()]) is None
    assert best([missed(), found(0, 0)]) == found(0, 0)


@given(
    st.lists(st.tuples(st.integers(0, 2**53 - 1), st.floats(-1, 1)), max_size=5),
    st.floats(0, 1, exclude_min=True),
    st.floats(0, 1e300),
)
def test_stored_trial_is_the_same_to_the_last_bit(kept: list[tuple[int, float]], rate: float, loss: float) -> None:
    columns, strengths = tuple(c for c, _ in kept), tuple(s for _, s in kept)
    trial = Trial(Point(learning_rate=rate), columns, strengths, 5, 4, loss, loss)
    assert STORED.validate_json(STORED.dump_json(trial), strict=True) == trial


GOOD = STORED.dump_json(found(5, 4)).decode()


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"edges":5', '"edges":null'),
        ('"edges":5', '"edges":-5'),
        ('"edges":5', '"edges":5.0'),
        ('"edges":5', '"edges":"5"'),
        ('"edges":5', '"edges":true'),
        ('"edges":5', f'"edges":{10**400}'),
        ('"loss":0.1', '"loss":NaN'),
        ('"loss":0.1', '"loss":1e999'),
        ('"loss":0.1', '"loss":-0.1'),
        ('"seconds":1.0', '"seconds":null'),
        ('"seconds":1.0', '"seconds":1.0,"more":1'),
        ("[0.5]", "[]"),
        ("[0.5]", "[NaN]"),
        ("[3]", "[-3]"),
        ("[3]", "[" * 100_000),
        ('"k_coef":0.0001', '"k_coef":-1'),
        ('"k_coef":0.0001', '"k_coef":"0.0001"'),
        ('"k_coef":0.0001', '"k_coef":NaN'),
        ('"k_coef":0.0001', '"steps":9'),
    ],
)
def test_invalid_records_are_refused(old: str, new: str) -> None:
    assert STORED.validate_json(GOOD, strict=True) == found(5, 4)
    assert old in GOOD
    with pytest.raises(ValidationError):
        STORED.validate_json(GOOD.replace(old, new), strict=True)


@pytest.mark.parametrize("given_", [c for c in itertools.product((None, 1), repeat=3) if 0 < c.count(None) < 3])
def test_sizes_are_all_known_or_all_missing(given_: tuple[int | None, int | None, float | None]) -> None:
    with pytest.raises(ValueError, match="all given or all null"):
        Trial(POINT, (), (), *given_, seconds=1.0)


def test_missed_trial_keeps_nothing() -> None:
    with pytest.raises(ValueError, match="none where the target was missed"):
        Trial(POINT, (3,), (0.5,), None, None, None, 1.0)
