"""The time left: taken from recent work, unknown until there is something to take it from, written for people."""

from thinwire.progress import Pace, duration


def pace_of(*points: tuple[float, int], total: int = 100) -> Pace:
    pace = Pace()
    for now, done in points:
        pace.add(now, done, total)
    return pace


def test_first_unit_only_starts_the_clock() -> None:
    pace = pace_of((0, 0), (120, 1))
    assert pace.left(121) is None, "two minutes of compilation are no pace"
    pace = pace_of((0, 0), (120, 1), (121, 2), (122, 3))
    assert pace.left(122) == 97


def test_recent_work_counts() -> None:
    slow = [(60.0 * i, i) for i in range(1, 21)]
    quick = [(1200 + i, 20 + i) for i in range(1, 41)]
    left = pace_of(*slow, *quick).left(1240)
    assert left is not None
    assert 35 < left < 60


def test_a_pace_begins_anew() -> None:
    pace = pace_of((1, 1), (2, 2), (4, 4), total=10)
    assert pace.left(4) == 6
    pace.add(5, 1, 20)
    assert pace.left(5) is None, "the work changed its size"
    pace = pace_of((1, 1), (2, 2), (4, 4), (5, 1), total=10)
    assert pace.left(5) is None, "the work began again"


def test_time_without_reports_counts() -> None:
    pace = pace_of((1, 1), (11, 2), total=3)
    assert (pace.left(11), pace.left(15), pace.left(99)) == (10, 6, 0)


def test_durations() -> None:
    cases = {0: "0 s", 8.4: "8 s", 59.6: "1 min", 200: "3 min", 3599: "1 h", 4800: "1 h 20 min", 97200: "1 d 3 h"}
    assert {seconds: duration(seconds) for seconds in cases} == cases
