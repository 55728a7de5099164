"""The recipe of the planted results: what is measured again, what totals come to, and what the docs show."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from thinwire.planted import Found, Planted
from thinwire.planted.catalogue import families

ROOT = Path(__file__).parents[1]


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The recipe with two pruners, no checks, and results below a temporary folder."""
    monkeypatch.syspath_prepend(ROOT / "recipes")
    module = importlib.import_module("planted_results")
    for name in ("RESULTS", "PAGE"):
        monkeypatch.setattr(module, name, tmp_path / getattr(module, name))
    monkeypatch.setattr(module, "all_checks", list)
    module.PAGE.parent.mkdir()
    module.PAGE.write_text("\n".join(module.MARKS))
    calls: list[str] = []

    def perfect(planted: Planted) -> Found:
        calls.append(planted.name)
        return Found(planted.edges if planted.solvable else None, dict.fromkeys(planted.nodes, 1.0), 2.0)

    monkeypatch.setattr(module, "PRUNERS", {"perfect": perfect, "to come": None})
    module.calls = calls
    return module


def test_a_run_is_resumed_and_shown(recipe: Any) -> None:
    chosen = [one for name in ("neuron", "backup") for one in _family(name).make(0, 0)]
    measured = recipe.stored(0)
    for _ in range(2):
        recipe.measure(measured, chosen, ["perfect", "to come"], float("inf"))
        recipe.publish(measured)
        measured = recipe.stored(0)
    assert recipe.calls == ["neuron_0", "backup_0"], "what is known is not run again"
    total = measured["totals"]["perfect"]["all"]
    assert total["exact"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    assert total["auroc"]["value"] == 1.0
    assert total["seconds"] == 2.0
    assert recipe.table(measured) in recipe.PAGE.read_text()
    assert "| backup_0 | 2, " in recipe.table(measured)
    assert recipe.stored(1)["rows"] == [], "another seed starts anew"


def test_the_docs_show_the_stored_results(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "recipes")
    module = importlib.import_module("planted_results")
    measured = json.loads((ROOT / module.RESULTS).read_text("utf-8"))
    assert module.table(measured) in (ROOT / module.PAGE).read_text("utf-8")
    assert measured["totals"] == module.totals(measured)


def _family(name: str) -> Any:
    (one,) = [one for one in families() if one.name == name]
    return one
