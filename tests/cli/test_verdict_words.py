"""The verdict's word, share and weakest measurement, wherever a verdict is read; and its table in a terminal."""

import io
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from cli_workspace import TASK, VERIFY, Thinwire

from thinwire.cli import quickstart
from thinwire.cli.common import emit, number
from thinwire.cli.verdicts import interval, table
from thinwire.model.counts import WeightCounts
from thinwire.train.result import TrainResult
from thinwire.verify import Headline, Interval, Measurement, Verdict
from thinwire.verify.measurement import Threshold

LOSS = Measurement("sufficiency.loss", "circuit alone", 0.1, "nats", 256, Interval(0.08, 0.12), "heldout", "mean", "…")


def verdict(task: str = "set_or_string") -> Verdict:
    """Of a circuit that fails with other values outside; 20 checks with titles of two or three words."""
    share = replace(LOSS, name="log_odds.share", title="the circuit's log-odds", unit="fraction", value=0.25)
    share = replace(share.held_against(Threshold(0.7, at_most=False)), headline=Headline("share", "share"))
    other = replace(LOSS, name="other_side.loss", title="other side's values outside", value=13.067)
    other = replace(other, interval=Interval(12.726, 13.411), meaning="The other prompt's values.")
    more = [replace(LOSS, name=f"more{n}.AUC", title="values outside, exchanged", unit="fraction") for n in range(17)]
    return Verdict(
        task, 16, 16, 0.15, (LOSS.held_against(Threshold(0.15)), share, other.held_against(Threshold(0.3)), *more)
    )


def printed(content: object) -> list[str]:
    out = io.StringIO()
    with redirect_stdout(out):
        emit({}, False, content)  # pyright: ignore[reportArgumentType]
    return out.getvalue().splitlines()


@pytest.mark.parametrize("columns", [200, 80, 60, 40])
@pytest.mark.parametrize("every", [False, True])
def test_the_table_breaks_no_word_and_no_number(columns: int, every: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    lines = printed(table(verdict(), every))
    assert max(map(len, lines)) <= columns
    words = " ".join(" ".join(lines).split())
    whole = {word for one in verdict().measurements for word in f"{one.title} {one.quantity}".split()}
    assert [word for word in whole if word not in words] == []
    assert "fail" in words
    assert "13.067" in words
    assert ("≤ 0.15" in words) == (columns > 40)
    assert ("12.7 … 13.4" in words) == (columns >= 80), "narrow terminals go without the intervals"
    assert "…" not in words.replace(" … ", ""), "nothing is cut short"


def test_intervals_have_as_many_digits_as_they_need() -> None:
    ends = {(0.0312, 0.0413): "0.031 … 0.041", (1.4251, 1.461): "1.43 … 1.46", (12.726, 13.411): "12.7 … 13.4"}
    for (low, high), text in ends.items():
        assert interval(replace(LOSS, interval=Interval(low, high))) == text
    assert interval(replace(LOSS, unit="fraction", interval=Interval(0.985, 1.0))) == "0.985 … 1.000"
    assert interval(replace(LOSS, unit="steps", interval=Interval(0.985, 12345.0))) == "0.985 … 1.23e+04"
    assert interval(replace(LOSS, interval=None)) == ""


def test_quickstart_shows_word_share_and_weakest_of_three_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    trained = TrainResult(1.0, {}, 1, 1, 1, 1.0, 1.0)
    outcomes = [quickstart.Outcome(task, verdict=verdict(task)) for task in quickstart.TASKS]
    lines = printed(quickstart.table(None, trained, WeightCounts(1, 1, 0), outcomes))
    assert max(map(len, lines)) <= 80
    words = " ".join(" ".join(lines).split())
    assert " ".join(quickstart.TASKS) in words
    assert "share 0.250 0.250 0.250" in words
    rows = [line.split("  ")[0].strip() for line in lines]
    assert rows.index("verdict") < rows.index("share") < rows.index("weakest")
    below = " ".join(lines[rows.index("weakest") :])
    assert below.count("13.067") == 3
    assert "…" not in words


def test_every_place_says_the_same(finished: Path, work: Path, thinwire: Thinwire) -> None:
    circuit = finished / "circuits" / TASK
    checked = thinwire("verify", circuit, *VERIFY, "--json").json
    names = ("word", "weakest", "share")
    assert checked["verdict"].startswith(f"Verdict: {checked['word']}; ")
    for place in (circuit, finished / "verdicts" / TASK):
        found = thinwire("info", place, "--json").json
        assert [found[name] for name in names] == [checked[name] for name in names]
    listed = " ".join(thinwire("info", finished).out.split())
    assert f"{checked['word']}; share {number(checked['share'])}; {checked['weakest']}" in listed
    text = thinwire("view", circuit, "--text").out
    assert f"\nverdict: {checked['word']}\nshare of the model's log-odds: {checked['share']:.3f}\n" in text
    assert text.endswith(f"weakest: {checked['weakest']}\n")
    (work / "verdicts" / TASK / "meta.json").unlink()
    alone = work / "circuits" / TASK
    assert "word" not in thinwire("info", alone, "--json").json
    assert thinwire("view", alone, "--text").out.endswith("verdict: no verdict on it here; thinwire verify makes one\n")
