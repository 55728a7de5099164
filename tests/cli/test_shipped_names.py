"""The verbs with the name of a shipped model in place of a folder: nothing is written where the model lies."""

from pathlib import Path

import pytest
from cli_workspace import DATA, PRUNE, TASK, VERIFY, Thinwire, stamps

from thinwire import shipped
from thinwire.data import Tokens
from thinwire.train import read_result
from thinwire.train.ship import ship


@pytest.fixture(scope="module")
def models(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of shipped models that holds `toy`; not to be written in."""
    root = tmp_path_factory.mktemp("shipped") / "models"
    ship(finished / "model", Tokens.open(finished / "tokens"), root / "toy")
    return root


@pytest.fixture(autouse=True)
def here(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder."""
    monkeypatch.setattr(shipped, "root", lambda: models)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_info_lists_the_shipped_models(models: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = thinwire("info", "--json").json["models"]
    assert [row["name"] for row in rows] == ["toy"]
    assert rows[0]["val_loss"] == read_result(models / "toy").val_loss
    assert rows[0]["bytes"] == sum(
        path.stat().st_size for path in (models / "toy").iterdir() if path.name != "meta.json"
    )
    assert f"{rows[0]['nonzeros']:,}" in thinwire("info").out
    assert thinwire("info", "toy", "--json").json == thinwire("info", models / "toy", "--json").json
    monkeypatch.setattr(shipped, "root", lambda: models / "nowhere")
    assert thinwire("info").out == "This installation has no shipped models.\n"
    assert thinwire("info", "--json").json == {"models": []}


def test_score_by_name(models: Path, here: Path, thinwire: Thinwire) -> None:
    words = ["--task", TASK, "--pairs", "8", "--json"]
    by_name, by_folder = (thinwire("tasks", "score", model, *words).json for model in ("toy", models / "toy"))
    assert by_name["tasks"] == by_folder["tasks"]
    thinwire("tasks", "score", "toyz", *words).refused("toyz is not a folder", "or the name of a shipped one (toy)")
    assert list(here.iterdir()) == []


def test_from_a_name_to_a_page(models: Path, here: Path, thinwire: Thinwire) -> None:
    """What the refusal says to do first is what makes the next steps go through, all in runs/NAME."""
    before = stamps(models)
    ran = thinwire("prune", "toy", "--task", TASK, *PRUNE)
    ran.refused("There are no tokens of toy in runs/toy/tokens; make them with")
    assert list(here.iterdir()) == []
    advised = ran.err.split("`thinwire ")[1].split("`")[0].split()
    assert thinwire(*advised, *DATA).code == 0
    found = thinwire("prune", "toy", "--task", TASK, *PRUNE, "--json").json
    assert found["out"] == f"runs/toy/circuits/{TASK}"
    assert thinwire("verify", found["out"], *VERIFY).code == 0
    assert thinwire("view", found["out"]).code == 0
    assert sorted(path.name for path in (here / "runs/toy").iterdir()) == [
        "circuits",
        "index.html",
        "model",
        "tokens",
        "verdicts",
    ]
    assert stamps(models) == before


def test_circuit_elsewhere_takes_no_workspace(finished: Path, here: Path, thinwire: Thinwire) -> None:
    out = here / "circuit"
    words = ["--tokens", finished / "tokens", "--out", out]
    assert thinwire("prune", "toy", "--task", TASK, *PRUNE, *words).code == 0
    assert [path.name for path in here.iterdir()] == ["circuit"]
    found = thinwire("verify", out, "--model", "toy", "--out", here / "verdict", *VERIFY, "--json").json
    assert found["out"] == str(here / "verdict")


def test_tokens_of_another_tokenizer_are_refused(here: Path, thinwire: Thinwire) -> None:
    assert thinwire("data", "--out", "runs/toy/tokens", *DATA, "--seed", "1").code == 0
    ran = thinwire("prune", "toy", "--task", TASK, *PRUNE)
    ran.refused("was made with another tokenizer than")
