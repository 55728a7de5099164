"""The recipe of steering and circuit transfer: what rows come to, which are measured again, and what the docs show."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from thinwire.bridge.config import BridgeConfig
from thinwire.bridge.maps import Bridge, Junction
from thinwire.bridge.profile import Profile
from thinwire.bridge.store import BridgeSummary, save_bridge
from thinwire.data import Tokens

RECIPES = Path(__file__).parents[1] / "recipes"


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The recipe, writing below a temporary folder."""
    monkeypatch.syspath_prepend(RECIPES)
    module = importlib.import_module("bridge_results")
    for name in ("STEERING", "TRANSFER", "PICTURE", "PAGE"):
        monkeypatch.setattr(module, name, tmp_path / getattr(module, name))
    module.PAGE.parent.mkdir()
    module.PAGE.write_text("# Bridges\n\nText.\n", "utf-8")
    return module


def key(task: str, stage: str, seed: int, circuits: str = "ordinary", reads: str = "circuit") -> dict[str, Any]:
    found = {
        "task": task,
        "stage": stage,
        "bridge_seed": seed,
        "circuits": circuits,
        "config": {"reads": reads, "pairs": 128, "draws": 20},
    }
    return found | {"bridge_id": f"bridge {seed}", "circuit_id": f"circuit of {task}"}


def moved(over: float, ablation: str = "mean", **named: Any) -> dict[str, Any]:
    values = {"ablation": ablation, "own": {"loss": 0.05}, "circuit": {"loss": 0.1 * over}, "random_p90": 0.1}
    return key(**named) | values | {"over": over}


def steered(ratio: float, high: float, **named: Any) -> dict[str, Any]:
    both = {"sparse/dense all": [ratio, 2 * ratio]}
    return key(**named) | {
        "ratio": ratio,
        "random_p90": high,
        "ratios": both,
        "flips": {"sparse/dense all": [1.0, 0.5]},
    }


@pytest.fixture
def results() -> dict[str, Any]:
    """Two seeds at two stages; the stage `maps` and the ordinary circuits count."""
    quotes, loop = "single_double_quote", "while_return_true"
    transfer = [
        moved(9.0, task=quotes, stage="maps", seed=0),
        moved(6.0, task=quotes, stage="maps", seed=1),
        moved(1.0, "exchange", task=quotes, stage="maps", seed=1),
        moved(1.0, task=quotes, stage="ridge", seed=0),
        moved(8.0, task=loop, stage="maps", seed=0),
        moved(4.9, task=loop, stage="maps", seed=1),
        moved(99.0, task="var_swap", stage="maps", seed=0, circuits="robust"),
    ]
    steering = [
        steered(16.0, 1.2, task=quotes, stage="maps", seed=0),
        steered(12.0, 1.4, task=quotes, stage="maps", seed=1),
        steered(2.0, 9.0, task=quotes, stage="ridge", seed=0),
        steered(50.0, 3.0, task=quotes, stage="maps", seed=0, reads="scan"),
        steered(1.3, 1.1, task=loop, stage="maps", seed=0),
        steered(477.0, 19.0, task=loop, stage="maps", seed=0, reads="scan"),
    ]
    return {"transfer": transfer, "steering": steering}


def test_keys_are_those_of_the_worst_seed(recipe: Any, results: dict[str, Any]) -> None:
    steering, transfer = recipe.headlines(results, recipe.Options("maps", "sparse/dense", 128, 20))
    assert (transfer["tasks"], transfer["tasks_above_5x"], transfer["seeds"]) == (2, 1, [0, 1])
    assert (steering["quotes_ratio"], steering["quotes_random_p90"]) == (12.0, 1.4)
    assert (steering["quotes_scanned_ratio"], steering["while_return_true_ratio"]) == (50.0, 477.0)


def test_results_are_written_and_shown(recipe: Any, results: dict[str, Any]) -> None:
    recipe.write_results(results, recipe.Options("maps", "sparse/dense", 128, 20))
    assert json.loads(recipe.TRANSFER.read_text("utf-8"))["tasks_above_5x"] == 1
    recipe.publish()
    once = recipe.PAGE.read_text("utf-8")
    assert "| single_double_quote | ordinary | maps | 0.05 | 0.6 to 0.9 | 0.1 | 6 to 9 |" in once
    assert "| single_double_quote | maps | circuit | 12 to 16 / 24 to 32 | 1 / 0.5 | 1.2 to 1.4 |" in once
    assert "| var_swap | robust | maps |" in once
    recipe.publish()
    assert recipe.PAGE.read_text("utf-8") == once


def test_rows_of_circuits_that_were_replaced_are_dropped(recipe: Any, results: dict[str, Any]) -> None:
    def case(task: str, made: str) -> Any:
        circuit = SimpleNamespace(artifact=SimpleNamespace(id=made), task=task)
        return recipe.Case(Path("bridge"), "maps", "ordinary", circuit)

    left = recipe.kept(results, [case("while_return_true", "another"), case("single_double_quote", QUOTES_ID)])
    assert {row["task"] for row in left["transfer"]} == {"single_double_quote", "var_swap"}
    assert [row["stage"] for row in left["steering"]] == ["maps", "maps", "ridge", "maps"]


QUOTES_ID = "circuit of single_double_quote"


def test_which_steering_is_measured(recipe: Any) -> None:
    options = recipe.Options("maps", "dense/sparse", 64, 5)

    def measured(task: str, stage: str) -> list[tuple[int, str]]:
        case = recipe.Case(Path("bridge"), stage, "ordinary", SimpleNamespace(task=task))
        configs = list(options.steering(case))
        assert all((config.pairs, config.dose) == (64, "dense/sparse") for config in configs)
        return [(len(config.strengths), config.reads) for config in configs]

    assert measured("single_double_quote", "ridge") == [(6, "circuit"), (1, "scan")]
    assert measured("while_return_true", "maps") == [(1, "circuit"), (1, "scan")]
    assert measured("while_return_true", "joint") == [(1, "scan")]
    assert measured("var_swap", "maps") == [(1, "circuit")]
    assert measured("var_swap", "ridge") == []


def test_profiles_of_several_seeds(tmp_path: Path, tiny_tokens: Tokens, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last stage counts, of the worst seed; minutes are the first seed's."""
    monkeypatch.syspath_prepend(RECIPES)
    module = importlib.import_module("bridge_profile")
    for name in ("OUT", "PAGE"):
        monkeypatch.setattr(module, name, tmp_path / getattr(module, name))
    module.PAGE.parent.mkdir()
    module.PAGE.write_text(f"# Bridges\n\n{module.MARKS[0]}\nold\n{module.MARKS[1]}\n\nText.\n", "utf-8")
    parents = dict.fromkeys(("dense", "sparse", "tokens"), tiny_tokens.artifact)
    for seed, gap, sparse in ((0, 0.25, 3.25), (1, 0.5, 3.0)):
        for stage, worse, seconds in (("ridge", 1.0, 60.0), ("maps", 0.0, 120.0 + seed)):
            losses = [3.0 + worse, 3.0 + gap + worse]
            profile = Profile(3.0, sparse if worse == 0 else 3.125, losses, [*reversed(losses)], [0.5] * 2, [0.5] * 2)
            bridge = Bridge((Junction(0, 0), Junction(1, 1)), 4, 4).requires_grad_(False)
            summary = BridgeSummary(stage=stage, seconds=seconds, profile=profile)
            save_bridge(tmp_path / f"{seed}" / stage, bridge, BridgeConfig(seed=seed), parents, summary)
        (tmp_path / f"{seed}/runs/maps").mkdir(parents=True)
        line = {"step": 10} | dict.fromkeys(module.TERMS, 1.5)
        (tmp_path / f"{seed}/runs/maps/metrics.jsonl").write_text(f"{json.dumps(line)}\n{json.dumps({'step': 20})}\n")
    monkeypatch.setattr("sys.argv", ["bridge_profile", str(tmp_path / "0"), str(tmp_path / "1")])
    module.main()
    written = json.loads(module.OUT.read_text("utf-8"))
    assert (written["gap_dense_to_sparse"], written["gap_sparse_to_dense"]) == (0.5, 0.5)
    assert (written["sparse_ce_change"], written["minutes"], written["seeds"]) == (0.125, 2.0, [0, 1])
    assert [row["over_training"].get("kl_to_dense") for row in written["rows"]] == [None, [1.5], None, [1.5]]
    page = module.PAGE.read_text("utf-8")
    assert "| maps | 2.0 | dense → sparse | 3.000 to 3.250 | 0 | 0.25 to 0.5 | 0.25 to 0.5 |" in page
    assert "old" not in page
    assert page.endswith("Text.\n")
