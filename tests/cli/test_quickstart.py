"""Every stage once, in small: what it writes and prints, and that a second run reuses every stage."""

import runpy
from functools import partial
from pathlib import Path

import pytest
from cli_workspace import TASK, Thinwire, stamps

from thinwire import shipped
from thinwire.cli import quickstart
from thinwire.data import Tokens
from thinwire.data.config import DataConfig
from thinwire.model.config import ModelConfig
from thinwire.prune.config import PruneConfig
from thinwire.stages import Opened
from thinwire.train.config import TrainConfig
from thinwire.train.ship import ship
from thinwire.verify.config import VerifyConfig

ENOUGH = {"target_loss": 5.0, "steps": 3, "trials": 1, "train_pairs": 16, "mean_tokens": 2048}
ENOUGH |= {"validation_pairs": 8, "heldout_pairs": 8}


HEADLINES = {
    "circuit alone": "loss",
    "accuracy": "accuracy",
    "uncalibrated loss": "uncalibrated_loss",
    "uncalibrated accuracy": "uncalibrated_accuracy",
    "AUC": "auc",
    "share": "share",
    "other pair": "resample_loss",
    "whole model": "unpruned_loss",
    "circuit removed": "necessity_loss",
    "AUC removed": "removed_auc",
    "random circuits": "random_loss",
}
"""Rows of the tables, and the flat values that they show."""


def recipe() -> dict:
    """The names of the recipe that writes README's table."""
    return runpy.run_path(str(Path(__file__).parents[2] / "recipes/quickstart_results.py"))


@pytest.fixture(scope="module")
def models(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shipped models that holds a tiny one under the name of the default; not to be written in."""
    root = tmp_path_factory.mktemp("shipped") / "models"
    ship(finished / "model", Tokens.open(finished / "tokens"), root / quickstart.DEFAULT_MODEL)
    return root


@pytest.fixture(autouse=True)
def tiny_configs(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the configs and the shipped model that quickstart takes by default."""
    shape = ModelConfig(n_layers=1, d_model=32, d_head=8, context=128, vocab_size=600)
    run = TrainConfig(model=shape, steps=20, batch_size=4, density=0.25, validation_tokens=512)
    monkeypatch.setattr(shipped, "root", lambda: models)
    # other idioms than the shipped model's, so that a tokenizer learned from them would be another
    monkeypatch.setattr(quickstart, "DataConfig", partial(DataConfig, idioms=300, stdlib=False, vocab_size=600, seed=1))
    monkeypatch.setattr(quickstart, "PRESETS", {"tiny": lambda: run})
    monkeypatch.setattr(quickstart, "PruneConfig", partial(PruneConfig, **ENOUGH))
    monkeypatch.setattr(quickstart, "VerifyConfig", partial(VerifyConfig, pairs=8, random_circuits=1))


@pytest.mark.parametrize("how", [[], ["--train", "--steps", "10"]])
def test_quickstart(how: list[str], tmp_path: Path, thinwire: Thinwire) -> None:
    out = tmp_path / "run"
    found = thinwire("quickstart", "--out", out, *how, "--json").json
    assert found["out"] == str(out)
    assert found["page"] == str(out / "index.html")
    assert found["model"] == (None if how else quickstart.DEFAULT_MODEL)
    for name in ("val_loss", "nonzeros", "entries", "tokens_per_second", "training_seconds", "seconds"):
        assert found[name] > 0
    assert [row["task"] for row in found["tasks"]] == list(quickstart.TASKS)
    for row in found["tasks"]:
        assert row["refused"] is None
        for name in ("nodes", "edges", "loss", "accuracy", "unpruned_loss", "necessity_loss", "random_loss"):
            assert row[name] >= 0
        values = {measured["name"]: measured["value"] for measured in row["rows"]}
        assert (row["loss"], row["accuracy"]) == (values["sufficiency.loss"], values["sufficiency.accuracy"])
        assert row["random_loss"] == values["random.loss"]
        assert Path(row["out"]) == out / "circuits" / row["task"]
    made = [f"{kind}/{task}" for kind in ("circuits", "verdicts") for task in quickstart.TASKS]
    for kind in ("tokens", "model", *made):
        assert thinwire("info", out / kind).code == 0
    before = stamps(out)
    again = thinwire("quickstart", "--out", out, *how)
    assert again.code == 0
    assert all(task in again.out for task in quickstart.TASKS)
    shown = {title: [f"{row[name]:.3f}" for row in found["tasks"]] for title, name in HEADLINES.items()}
    shown |= {name: [str(row[name]) for row in found["tasks"]] for name in ("nodes", "edges")}
    printed = [" ".join(line.split()) for line in again.out.splitlines()]
    assert [title for title, cells in shown.items() if " ".join([title, *cells]) not in printed] == []
    assert all(len(line) <= 80 for line in again.out.splitlines() if str(out) not in line)
    first = found["tasks"][0] | {"edges_paper_loss": 1234}
    lines = recipe()["table"](found | {"tasks": [first, {"task": "other", "refused": "Too hard."}]}).splitlines()
    assert lines[0].startswith(f"{found['weights']}. The demo took ")
    assert lines[2:4] == [f"| | {first['task']} | other |", "|---|---|---|"]
    cells = {"nodes": str(first["nodes"]), "edges": str(first["edges"])}
    cells |= {"edges, pruned on the uncalibrated loss": "1,234"}
    cells |= {"verdict": first["word"], "weakest": first["weakest"]} | {title: shown[title][0] for title in HEADLINES}
    assert lines[4:] == [f"| {title} | {value} | - |" for title, value in cells.items()]
    assert again.out.startswith("trained here: " if how else f"{quickstart.DEFAULT_MODEL}: ")
    assert f"thinwire view {out}/circuits/set_or_string --text" in again.out
    after = stamps(out)
    assert {name for name in after if after[name] != before.get(name)} <= {"index.html"}


@pytest.fixture
def no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quickstart up to the model, which takes little time."""
    monkeypatch.setattr(quickstart, "TASKS", ())


@pytest.mark.usefixtures("no_tasks")
def test_shipped_model_is_taken_as_it_is(models: Path, tmp_path: Path, thinwire: Thinwire) -> None:
    before = stamps(models)
    assert thinwire("quickstart", "--out", tmp_path / "run").code == 0
    taken, own = Opened.open(tmp_path / "run/model"), Opened.open(models / quickstart.DEFAULT_MODEL)
    assert taken.artifact.id == own.artifact.id
    assert Tokens.open(tmp_path / "run/tokens").tokenizer.id == own.tokenizer.id
    assert stamps(models) == before


@pytest.mark.usefixtures("no_tasks")
def test_work_on_another_model_is_not_replaced(tmp_path: Path, thinwire: Thinwire) -> None:
    """Neither the model nor, what comes first on the way, its tokens."""
    trained, taken = tmp_path / "trained", tmp_path / "taken"
    assert thinwire("quickstart", "--out", trained, "--train").code == 0
    assert thinwire("quickstart", "--out", taken).code == 0
    before = stamps(tmp_path)
    ran = thinwire("quickstart", "--out", trained, "--train", "--steps", "11")
    ran.refused("holds a model trained with another config; choose another --out")
    thinwire("quickstart", "--out", taken, "--train").refused("holds a model trained with another config")
    thinwire("quickstart", "--out", trained).refused("holds another model than", "choose another --out")
    assert stamps(tmp_path) == before


def test_steps_are_for_training(tmp_path: Path, thinwire: Thinwire) -> None:
    thinwire("quickstart", "--out", tmp_path / "run", "--steps", "10").refused("--steps is for training; give --train")
    assert not (tmp_path / "run").exists()


def test_installation_without_the_model(
    models: Path, tmp_path: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shipped, "root", lambda: models / "nowhere")
    ran = thinwire("quickstart", "--out", tmp_path / "run")
    ran.refused(f"lacks the shipped model {quickstart.DEFAULT_MODEL}; give --train to train one here")
    assert not (tmp_path / "run").exists()


def test_tasks_out_of_reach_are_passed_over(
    tmp_path: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart, "PruneConfig", partial(PruneConfig, **ENOUGH | {"target_loss": 0.01}))
    found = thinwire("quickstart", "--out", tmp_path / "run", "--json").json
    assert all("The whole model has loss" in row["refused"] for row in found["tasks"])
    assert (tmp_path / "run/index.html").exists()
    shown = thinwire("quickstart", "--out", tmp_path / "run").out
    assert f"on {TASK} and the target is 0.01" in shown
    assert "thinwire view" not in shown
    assert not (tmp_path / "run/circuits" / TASK).exists()
