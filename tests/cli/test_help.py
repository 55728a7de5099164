"""The help of every verb: it fits the terminal, lists what the parser takes, in groups, with examples that parse."""

import shlex
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import tyro
from cli_workspace import Thinwire

from thinwire.cli import common
from thinwire.cli import help as page
from thinwire.cli.examples import EXAMPLES, GROUPS, MAIN
from thinwire.cli.main import VERBS, run

HELPED = [*(verb for verb in VERBS if verb != "tasks"), "tasks list", "tasks show", "tasks score"]


class Parsed(BaseException):
    """Raised in place of the work of a verb once its arguments are parsed."""


def test_help_fits_the_terminal(thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch) -> None:
    for columns, widest in ((80, 80), (120, 120), (5, 80), (1, 80), (0, 80), (10**9, 120)):
        monkeypatch.setenv("COLUMNS", str(columns))
        for verb in HELPED:
            ran = thinwire(*verb.split(), "--help")
            assert (ran.code, ran.err) == (0, ""), verb
            assert max(map(len, ran.out.splitlines())) <= widest, (verb, columns)
            assert not any(mark in ran.out for mark in ("{None}", "STR", "╭", "(default: None)")), verb
            assert "\nExamples:\n  thinwire " in ran.out


def test_help_lists_what_the_parser_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: dict[str, list[str]] = {}

    def compare(cls: type, verb: str, default: object | None) -> None:
        with pytest.warns(DeprecationWarning, match="get_parser"):
            parser = tyro.extras.get_parser(cls, prog=verb, default=default)  # pyright: ignore
        taken = {flag for action in parser._actions for flag in action.option_strings} - {"-h", "--help"}
        found = list(page.options(cls, default))
        listed = {f"--{option.name}" for option in found if not option.positional}
        listed |= {alias for option in found for alias in option.aliases}
        assert {flag for flag in taken if "no-" not in flag} == {flag for flag in listed if "no-" not in flag}, verb
        assert all(option.text for option in found), verb
        shown[verb] = [option.name for option in found]

    monkeypatch.setattr(page, "write_help", compare)
    for verb in HELPED:
        assert run([*verb.split(), "--help"]) == 0
    for verb, groups in GROUPS.items():
        named = [name for names in groups.values() for name in names if not name.endswith(".*")]
        assert len(named) == len(set(named)), verb
        there = {name for other in GROUPS if GROUPS[other] is groups for name in shown[other]}
        assert set(named) <= there, "every option that a group names is there"
        assert set(MAIN[verb]) <= {*shown[verb], "config", "preset"}


def test_examples_parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert set(EXAMPLES) == set(HELPED)

    def parsed(*args: Any, **options: Any) -> None:
        tyro_cli(*args, **options)
        raise Parsed

    tyro_cli = tyro.cli
    monkeypatch.setattr(common.tyro, "cli", parsed)
    for verb, examples in EXAMPLES.items():
        assert 2 <= len(examples) <= 3
        for example in examples:
            program, *words = shlex.split(example)
            assert (program, " ".join(words[: len(verb.split())])) == ("thinwire", verb)
            with pytest.raises(Parsed):
                import_module(f"thinwire.cli.{words[0]}").run(words[1:])
