"""The whole way once, in small: what it writes, what it says, and that a second run reuses every stage."""

from functools import partial
from pathlib import Path

import pytest
from cli_workspace import TASK, Thinwire, stamps

from thinwire.cli import quickstart
from thinwire.data.config import DataConfig
from thinwire.model.config import ModelConfig
from thinwire.prune.config import PruneConfig
from thinwire.train.config import TrainConfig
from thinwire.verify.config import VerifyConfig

ENOUGH = {"target_loss": 5.0, "steps": 3, "trials": 1, "train_pairs": 16, "mean_tokens": 2048}
ENOUGH |= {"validation_pairs": 8, "heldout_pairs": 8, "calibration_pairs": 8}


@pytest.fixture(autouse=True)
def tiny_configs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stand-ins for the configs that quickstart takes by default."""
    shape = ModelConfig(n_layers=1, d_model=32, d_head=8, context=128, vocab_size=600)
    run = TrainConfig(model=shape, steps=20, batch_size=4, density=0.25, validation_tokens=512)
    monkeypatch.setattr(quickstart, "DataConfig", partial(DataConfig, idioms=300, stdlib=False, vocab_size=600))
    monkeypatch.setattr(quickstart, "PRESETS", {"tiny": lambda: run})
    monkeypatch.setattr(quickstart, "PruneConfig", partial(PruneConfig, **ENOUGH))
    monkeypatch.setattr(quickstart, "VerifyConfig", partial(VerifyConfig, pairs=8, random_circuits=1))


def test_quickstart(tmp_path: Path, thinwire: Thinwire) -> None:
    out = tmp_path / "run"
    found = thinwire("quickstart", "--out", out, "--steps", "10", "--json").json
    assert found["out"] == str(out)
    assert found["page"] == str(out / "index.html")
    for name in ("val_loss", "nonzeros", "entries", "tokens_per_second", "training_seconds", "seconds"):
        assert found[name] > 0
    assert [row["task"] for row in found["tasks"]] == list(quickstart.TASKS)
    for row in found["tasks"]:
        assert row["refused"] is None
        for name in ("nodes", "edges", "loss", "accuracy", "necessity_loss", "random_loss"):
            assert row[name] >= 0
        assert Path(row["out"]) == out / "circuits" / row["task"]
    made = [f"{kind}/{task}" for kind in ("circuits", "verdicts") for task in quickstart.TASKS]
    for kind in ("tokens", "model", *made):
        assert thinwire("info", out / kind).code == 0
    before = stamps(out)
    again = thinwire("quickstart", "--out", out, "--steps", "10")
    assert again.code == 0
    assert all(task in again.out for task in quickstart.TASKS)
    assert f"thinwire view {out}/circuits/set_or_string --text" in again.out
    after = stamps(out)
    assert {name for name in after if after[name] != before.get(name)} <= {"index.html"}
    ran = thinwire("quickstart", "--out", out, "--steps", "11")
    ran.refused("holds a model trained with another config; choose another --out")
    assert stamps(out) == after


def test_tasks_out_of_reach_are_passed_over(
    tmp_path: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quickstart, "PruneConfig", partial(PruneConfig, **ENOUGH | {"target_loss": 0.01}))
    found = thinwire("quickstart", "--out", tmp_path / "run", "--json").json
    assert all("The whole model has loss" in row["refused"] for row in found["tasks"])
    assert (tmp_path / "run/index.html").exists()
    shown = thinwire("quickstart", "--out", tmp_path / "run").out
    assert f"on {TASK}, where a target of 0.01" in shown
    assert "thinwire view" not in shown
    assert not (tmp_path / "run/circuits" / TASK).exists()
