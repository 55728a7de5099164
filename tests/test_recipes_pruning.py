"""The recipe of the pruning results: what rows come to, how calls come together, and what the docs show."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from thinwire.view.size_plot import SizeRecord

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """What the recipe makes of its measurements, writing below a temporary folder."""
    monkeypatch.syspath_prepend(RECIPES)
    module = importlib.import_module("pruning_results")
    for name in ("RESULTS", "CHART", "PAGE"):
        monkeypatch.setattr(module, name, tmp_path / getattr(module, name))
    module.PAGE.parent.mkdir()
    return module


def able(recipe: Any, task: str, **sizes: object) -> Any:
    scores = {"accuracy": 0.99, "validation_accuracy": 1.0, "unpruned_loss": 0.02, "unpruned_validation_loss": 0.01}
    return recipe.Row(task, **scores, **sizes)


def measured(recipe: Any) -> dict[str, Any]:
    """Two tasks pruned in both models, one that misses the target, one that is not done, one not expressed."""
    found: dict[str, Any] = {"models": {}, "ladder": [], "tasks": [], "dense": []}
    for name in ("sparse", "dense"):
        found["models"][name] = {"name": name, "id": name, "config": {"target_loss": 0.15, "aim": 1.0}}
    final = {"loss": 0.07, "heldout_loss": 0.12, "heldout_accuracy": 0.98, "nodes": 9, "seconds": 61.0}
    quotes = {"edges": 5, "edges_unsimplified": 12, "edges_plain": 20, "edges_attribution": 2000}
    brackets = {"edges": 20, "edges_unsimplified": 30, "edges_plain": 80, "edges_attribution": 800}
    rows = [
        able(recipe, "single_double_quote", **final, **quotes, edges_integrated=40),
        able(recipe, "bracket_counting", **final, **brackets, edges_integrated=80),
        able(recipe, "else_elif", **final | {"nodes": 0}, **dict.fromkeys([*quotes, "edges_integrated"], 0)),
        able(recipe, "var_swap"),
        recipe.Row("lambda_func", 0.6, 0.5, 0.9, 0.8),
        recipe.Row("class_init"),
    ]
    for row in rows:
        rungs = [SizeRecord("sparse", row.task, t, row.edges_plain) for t in (0.1, 0.2) if row.edges_plain]
        recipe.merge(found, "sparse", row, rungs)
    for task, edges in {"single_double_quote": 400, "bracket_counting": 6400, "else_elif": 0}.items():
        rungs = [SizeRecord("dense", task, target, edges) for target in (0.1, 0.2)]
        recipe.merge(found, "dense", able(recipe, task, edges_plain=edges), rungs)
    return found


def test_headlines_by_hand(recipe: Any) -> None:
    found = recipe.headlines(measured(recipe))
    assert found["geomean_edges"] == pytest.approx(10)
    assert found["geomean_edges_plain"] == pytest.approx(40)
    assert found["geomean_edges_attribution"] == pytest.approx(1600**0.5 * 1000**0.5)
    assert found["fixed_over_learned_edges"] is None, "nothing was measured for it"
    ratios = {name: found[name]["value"] for name in found if "_over_" in name and found[name]}
    assert ratios == {
        "dense_over_sparse_edges": pytest.approx(40),  # 20 and 80
        "attribution_over_learned_edges": pytest.approx(1000**0.5),  # 100 and 10
        "integrated_over_learned_edges": pytest.approx(2**0.5),  # 2 and 1
        "plain_over_final_edges": pytest.approx(4),
    }
    interval = found["dense_over_sparse_edges"]
    assert (interval["low"], interval["high"]) == (pytest.approx(20), pytest.approx(80))
    assert (interval["tasks"], interval["excluded"], interval["unneeded"]) == (2, 0, 1)
    assert found["tasks_without_edges"] == ["else_elif"]
    assert found["plain_over_final_edges"]["excluded"] == 1, "the task that missed the target"


def test_a_measured_task_takes_the_place_of_its_earlier_row(recipe: Any) -> None:
    found = measured(recipe)
    recipe.merge(found, "sparse", able(recipe, "bracket_counting", edges=3), [])
    tasks = [row["task"] for row in found["tasks"]]
    assert tasks == [task for task in recipe.TASKS if task in tasks], "in the order of the registry"
    assert next(row for row in found["tasks"] if row["task"] == "bracket_counting")["edges"] == 3
    left = {(record["model"], record["task"]) for record in found["ladder"]}
    assert ("sparse", "bracket_counting") not in left
    assert ("dense", "bracket_counting") in left


def test_table_and_plot_come_from_the_results_alone(recipe: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe.PAGE.write_text("# Pruning\n\nAnother part.\n", encoding="utf-8")
    recipe.publish(measured(recipe))
    files = [recipe.RESULTS, recipe.CHART, recipe.PAGE]
    before = [path.read_bytes() for path in files]
    monkeypatch.setattr("sys.argv", ["pruning.py", "--table"])
    importlib.import_module("pruning").main()
    assert [path.read_bytes() for path in files] == before
    page = recipe.PAGE.read_text(encoding="utf-8")
    assert "Another part." in page
    assert (
        "| single_double_quote | 0.990 | 0.070 | 0.120 | 9 | 5 | 12 | 20 | 2,000 | 40 | - | - | - | 400 | 61 |" in page
    )
    assert "| class_init | - | - |" in page
    assert "* 1 task needs no edges at all, and no mean or ratio includes it: else_elif." in page
    assert "2 tasks, 1 without edges)" in page
    assert "6 tasks scored, 4 with held-out accuracy" in page
    kept = json.loads(recipe.RESULTS.read_text(encoding="utf-8"))
    wanted = [
        "task",
        "accuracy",
        "loss",
        "heldout_loss",
        "nodes",
        "edges",
        "edges_unsimplified",
        "edges_attribution",
        "seconds",
    ]
    assert all(set(wanted) <= set(row) for row in kept["tasks"])
    assert {"geomean_edges", "geomean_edges_attribution", "dense_over_sparse_edges"} <= set(kept)


def test_page_and_results_are_made_where_there_are_none(recipe: Any) -> None:
    found = measured(recipe)
    found["ladder"], found["dense"] = [], []
    recipe.publish(found)
    assert recipe.PAGE.read_text(encoding="utf-8").startswith("# Pruning\n\n## Sizes of circuits\n\n<!-- sizes:start")
    assert not recipe.CHART.exists()
    assert json.loads(recipe.RESULTS.read_text(encoding="utf-8"))["dense_over_sparse_edges"] is None


@pytest.mark.parametrize("other", [{"id": "another"}, {"config": {"target_loss": 0.15, "aim": 0.5}}])
def test_rows_of_another_model_or_config_are_dropped(recipe: Any, other: dict[str, Any]) -> None:
    before = measured(recipe)
    recipe.write(before)
    told = before["models"]["sparse"]
    assert recipe.stored({"sparse": told})["tasks"] == measured(recipe)["tasks"]
    found = recipe.stored({"sparse": told | other})
    assert found["tasks"] == []
    assert found["dense"] == measured(recipe)["dense"]
    assert {record["model"] for record in found["ladder"]} == {"dense"}
