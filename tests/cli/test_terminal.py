"""Terminals of every kind: encodings, widths, closed and full streams, hostile texts, progress that fits."""

import os
import subprocess
import sys
from io import StringIO
from pathlib import Path

import pytest
from cli_workspace import TASK, Thinwire
from rich.console import Console
from rich.table import Table
from rich.text import Text

from thinwire.cli import bars, train
from thinwire.cli.common import emit
from thinwire.cli.terminal import READABLE, bound_size, console
from thinwire.display import visible
from thinwire.view.inline import safe

COMMAND = f"{sys.executable} -m thinwire"


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """What a line for the shell does; THINWIRE in it is the command."""
    changed = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])} | environment
    return subprocess.run(["bash", "-c", line.replace("THINWIRE", COMMAND)], env=changed, capture_output=True)


def test_every_encoding_takes_every_verb() -> None:
    cases = [("ascii", "train --help"), ("latin-1:strict", f"tasks show {TASK} --pairs 1"), ("cp1252", "info '→ 😀'")]
    for encoding, words in cases:
        ran = shell(f"THINWIRE {words}", PYTHONIOENCODING=encoding)
        assert ran.returncode == (2 if "→" in words else 0), (encoding, words, ran.stderr)
        assert b"Traceback" not in ran.stderr
        assert b"\\u2192" not in ran.stdout + ran.stderr, "an arrow has an ASCII for it"
        (ran.stdout + ran.stderr).decode(encoding.partition(":")[0])


def test_characters_that_an_encoding_lacks() -> None:
    cases = {"a → b × c …": b"a > b x c ~", "━─│╭": b"=-|+", "é": b"\\xe9", "\udcff": b"\\udcff", "≤ 3": b"<= 3"}
    for text, written in cases.items():
        assert text.encode("ascii", READABLE) == written
    assert "→\udcff".encode("utf-8", READABLE) == "→\\udcff".encode()


def test_stdout_that_is_closed_or_full() -> None:
    for line, unbuffered in (
        ("THINWIRE --help >&- <&-", ""),
        ("THINWIRE info --json >/dev/full", "1"),
        ("THINWIRE --version >/dev/full", ""),
        ("THINWIRE data --help >/dev/full", ""),
    ):
        ran = shell(line, PYTHONUNBUFFERED=unbuffered)
        assert ran.returncode == 1, line
        assert ran.stderr.startswith(b"thinwire: stdout"), line
        assert ran.stderr.count(b"\n") == 1, ran.stderr
    assert shell("THINWIRE --help >&- 2>&-").returncode == 1
    assert shell("THINWIRE nothing 2>/dev/full").returncode == 2
    assert shell("THINWIRE --version 2>&-").stdout.startswith(b"thinwire ")


def test_words_that_no_verb_can_use(thinwire: Thinwire, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    deep = "a/" * 2000
    cases = [
        (["generate", "python-2x256", "--prompt", "\udcff"], r"'\udcff' is not UTF-8 text"),
        (["train", "tokens", "--out", f"\udcff{'x' * 5000}"], "is not UTF-8 text"),
        (["train", deep, "--out", "x"], "--tokens is a path of 2000 names"),
        (["data", "--out", "x", "--folders", "y", deep], "--folders is a path of 2000 names"),
        (["train", "tokens", "--out", "x", "--config", deep], "cannot be read"),
        (["tasks", "show", TASK, "--pairs", str(2**63)], "--pairs is a number of 64 bits"),
        (["prune", "python-2x256", "-t", TASK, "--steps", f"{10**30}"], "steps: input should be less than"),
        (["verify", "circuit", "--pairs", "9" * 5000], "--pairs"),
        (["quickstart", "--train", "--steps", f"-{10**30}"], "--steps is a number"),
    ]
    for words, said in cases:
        ran = thinwire(*words)
        assert (ran.code, ran.out) == (2, ""), words
        assert ran.err.startswith("thinwire: ")
        assert said in ran.err
        assert len(ran.err) < 1400
    assert not list(tmp_path.iterdir())


def test_unexpected_errors_are_one_sentence(thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ZeroDivisionError("by\n\x1b[31mnought")

    def interrupted() -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            raise SystemError("returned a result with an exception set") from None

    monkeypatch.setattr("thinwire.cli.info.shipped.names", broken)
    monkeypatch.delenv("THINWIRE_TRACEBACK", raising=False)
    ran = thinwire("info")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == (
        r"thinwire: This is a fault in thinwire: ZeroDivisionError (by \x1b[31mnought); "
        "set THINWIRE_TRACEBACK=1 to see where.\n"
    )
    monkeypatch.setenv("THINWIRE_TRACEBACK", "1")
    ran = thinwire("info")
    assert ran.code == 1
    assert ran.err.startswith("Traceback (most recent call last):")
    assert "\x1b" not in ran.err
    monkeypatch.setattr("thinwire.cli.info.shipped.names", interrupted)
    assert thinwire("info").err.startswith("thinwire: Interrupted; ")


def test_launchers(monkeypatch: pytest.MonkeyPatch, thinwire: Thinwire) -> None:
    whole = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    for name in (*whole, "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for size in ("", "1", "4", "four", "-1", "½"):
        monkeypatch.setenv("WORLD_SIZE", size)
        assert not train.launched(), "a platform set it, no launcher"
        thinwire("train", "nowhere", "-o", "x").refused("nowhere is not a folder")
    for name, value in whole.items():
        monkeypatch.setenv(name, value)
    assert train.launched()
    monkeypatch.setenv("RANK", "first")
    thinwire("train", "nowhere", "-o", "x").refused("RANK is 'first' and has to be a number")


def test_sizes_of_terminals(monkeypatch: pytest.MonkeyPatch) -> None:
    cases = {"0": None, "": None, "-3": None, "²": None, "80x": None, "5": "40", "1": "40", "999999999": "400"}
    for value, bounded in (cases | {"80": "80", "120": "120"}).items():
        monkeypatch.setenv("COLUMNS", value)
        monkeypatch.setenv("LINES", "²")
        bound_size()
        assert (os.environ.get("COLUMNS"), os.environ.get("LINES")) == (bounded, None)
        assert 40 <= console().width <= 400


def test_hostile_text_is_shown_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    for character in "\x1b\x07\x9b\n\r\t\x00\u2028\u202e\u2066\u200b\u200d\ufeff\u00ad\u034f\u3164\ufe0f\udcff":
        assert visible(f"a{character}b").isprintable()
        assert character not in visible(f"a{character}b")
        assert safe(f"<{character}") == f"&lt;{visible(character)}", "in notebooks too"
    assert visible("Größe → 3 日本 [red]") == "Größe → 3 日本 [red]"
    table = Table("x", title="t\x1b[1m")
    table.add_row("ok\nfaithful: yes\x1b[2A\u202e")
    emit({}, False, table)
    emit({"na\nme": "one\ntwo"}, False)
    out = capsys.readouterr().out
    assert all(character.isprintable() or character == "\n" for character in out)
    assert "\nfaithful" not in out
    assert r"na\nme  one\ntwo" in out


def test_bars_fit_the_terminal() -> None:
    status = "loss 12.345, density 100.00%, 123.5k tok/s"
    for columns in (50, 80, 120):
        for title, text in (("training", status), ("3/9 prune single_double_quote", "reused " + "runs/x/" * 40)):
            screen = Console(file=StringIO(), force_terminal=True, width=columns, color_system=None)
            with bars.bars(screen) as bar:
                bar.add_task(title, total=20_000, completed=1200, status=text)
                line = bar.columns[0].render(bar.tasks[0])  # pyright: ignore
            assert isinstance(line, Text)
            assert len(line.plain) < columns
            assert "\n" not in line.plain
            assert line.plain.startswith(title) or columns == 50, "a title is not cut"
            assert "1,200/20,000" in line.plain
            assert text in line.plain or text != status or columns == 50, "loss and speed are not cut"


def test_lines_of_a_log(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 130.0, 131.0, 160.0, 161.0])
    monkeypatch.setattr(bars.time, "monotonic", lambda: next(clock))
    with bars.progress("training") as report:
        for done, total in ((1, 300), (2, 300), (31, 300), (300, 300)):
            report(done, total, "loss 2.5")
    assert capsys.readouterr().err.splitlines() == [
        "training: 1/300, loss 2.5",
        "training: 31/300, loss 2.5, 4 min left",
        "training: 300/300, loss 2.5",
    ]


def test_phases_are_counted_through(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(bars.time, "monotonic", lambda: now[0])
    phases = bars.Phases(("tokens", "prune", "check", "prune", "check"), {"tokens": 10, "prune": 40, "check": 10})
    assert phases.later() == 110
    for subject, seconds in (("", 20), ("a", 60)):
        with phases(subject) as report:
            now[0] += seconds
            report(1, 1, "done")
    assert phases.later() == 60 + 2 * 10 * 80 / 50, "the time of the same kind, else what the others lead to expect"
    phases.skip()
    with phases("b") as report:
        report(1, 1, "done")
    titles = [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()]
    assert titles == ["1/5 tokens", "2/5 prune a", "4/5 prune b"]
