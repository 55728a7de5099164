"""The recipe of the shipped models at toy scale: what it ships, says and reuses, and how it finds the dense twin."""

import importlib.util
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny import SHAPE

import thinwire
from thinwire import shipped
from thinwire.data import DataConfig, Tokens, build
from thinwire.errors import UserError
from thinwire.stages import Opened
from thinwire.tasks import TASKS
from thinwire.train import TrainConfig, read_result
from thinwire.train.stats import validation_losses

SCRIPT = Path(__file__).parents[1] / "recipes/models.py"
DATA = DataConfig(idioms=300, stdlib=False, vocab_size=600)
RUN = TrainConfig(
    model=SHAPE.replace(vocab_size=600, context=128), steps=40, batch_size=4, density=1 / 8, floor=1, learning_rate=0.05
).replace(validation_tokens=512, precision="fp32")


def imported() -> Any:
    """The recipe as a module; with few steps, one more or less changes the loss by more than the real tolerance."""
    spec = importlib.util.spec_from_file_location("recipe_of_models", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.PAIRS = 16
    module.TOLERANCE, module.SEARCHED = 0.04, 0.03
    return module


RECIPE = imported()
TWIN = RECIPE.dense_twin(RUN)


def stamps(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of change of every file: equal when nothing was written."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != ".lock")
    return {path.relative_to(folder).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns) for path in files}


def places(root: Path) -> Any:
    return RECIPE.Places("toy", root / "work", root / "models", root / "docs/results/models.json")


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the recipe leaves; not to be written in."""
    root = tmp_path_factory.mktemp("release")
    RECIPE.release(RUN, TWIN, DATA, places(root), "make toy")
    return root


def test_both_models_are_shipped_as_measured(released: Path) -> None:
    assert shipped.names(released / "models") == ("toy", "toy-dense")
    tokens = Tokens.open(released / "work/tokens")
    losses = []
    for name in ("toy", "toy-dense"):
        folder = released / "models" / name
        result = read_result(folder)
        assert validation_losses(thinwire.load(folder), tokens, RUN) == result.val_losses
        losses.append(result.val_loss)
    assert abs(losses[0] - losses[1]) <= RECIPE.TOLERANCE
    sparse, dense = (Opened.open(released / "models" / name) for name in ("toy", "toy-dense"))
    assert sparse.artifact.config(TrainConfig) == RUN
    assert dense.model.config == sparse.model.config.replace(active_fraction=1.0)
    assert dense.artifact.config(TrainConfig).density == 1.0
    assert sparse.tokenizer.id == dense.tokenizer.id == tokens.tokenizer.id


def test_results_and_cards_say_what_the_files_hold(released: Path) -> None:
    rows = json.loads((released / "docs/results/models.json").read_text())["models"]
    assert [row["name"] for row in rows] == ["toy", "toy-dense"]
    for row in rows:
        folder = released / "models" / row["name"]
        opened, result = Opened.open(folder), read_result(folder)
        assert (row["id"], row["val_loss"]) == (opened.artifact.id, result.val_loss)
        assert row["density"] == result.nonzeros / result.entries
        assert row["tokens"] == opened.artifact.config(TrainConfig).steps * 4 * 128
        assert [score["task"] for score in row["tasks"]] == list(TASKS)
        again = TASKS["bracket_counting"].score(opened.model, opened.tokenizer, "heldout", RECIPE.PAIRS)
        found = next(score for score in row["tasks"] if score["task"] == "bracket_counting")
        assert (found["loss"], found["accuracy"]) == (again.loss, again.accuracy)
        card = (folder / "README.md").read_text("utf-8")
        for said in (
            f"# {row['name']}\n",
            f"{row['val_loss']:.4f}",
            f"{row['nonzeros']:,}",
            "`make toy`",
            "100%: short",
        ):
            assert said in card
        assert all(f"| {score['task']} | {score['loss']:.3f} |" in card for score in row["tasks"])
        assert "| model.d_model | 16 |" in card
        assert "beta1" not in card, "only what differs from the defaults"


def test_the_same_again_trains_and_ships_nothing(released: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(released, tmp_path / "copy"))
    before = stamps(root / "work") | stamps(root / "models")
    RECIPE.release(RUN, TWIN, DATA, places(root), "make toy")
    after = stamps(root / "work") | stamps(root / "models")
    assert {name for name in after if after[name] != before.get(name)} == {"toy/README.md", "toy-dense/README.md"}


def test_goes_on_where_it_was_stopped(released: Path, tmp_path: Path) -> None:
    """Without the last dense model, the shipped ones and the results, the same comes out again."""
    root = Path(shutil.copytree(released, tmp_path / "copy"))
    rows = json.loads((root / "docs/results/models.json").read_text())["models"]
    (dense,) = (root / "work").glob(f"dense-*-{rows[1]['steps']}")
    shutil.rmtree(dense)
    shutil.rmtree(root / "models")
    shutil.rmtree(root / "docs")
    kept = stamps(root / "work")
    again = RECIPE.release(RUN, TWIN, DATA, places(root), "make toy")
    assert [row["id"] for row in again] == [row["id"] for row in rows]
    assert stamps(root / "work").items() >= kept.items()


def test_other_models_keep_their_results_while_they_are_there(released: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(released, tmp_path / "copy"))
    results = root / "docs/results/models.json"
    rows = json.loads(results.read_text())["models"]
    shutil.copytree(root / "models/toy", root / "models/older")
    results.write_text(json.dumps({"models": [{"name": "older"}, {"name": "gone"}, *rows]}))
    RECIPE.release(RUN, TWIN, DATA, places(root), "make toy")
    assert [row["name"] for row in json.loads(results.read_text())["models"]] == ["older", "toy", "toy-dense"]


def test_twin_trains_at_the_rate_of_the_sparse_run_while_dense() -> None:
    from thinwire.train.schedule import learning_rate_at

    for rule in ("final", "absolute", "off"):
        sparse = RUN.replace(l0_factor=rule, warmup=0, decay="none", anneal_start=0.5, anneal_stop=0.9)
        twin = RECIPE.dense_twin(sparse)
        assert learning_rate_at(0, twin) == pytest.approx(learning_rate_at(0, sparse))


def test_twin_of_a_sparsely_computed_run_is_dense() -> None:
    twin = RECIPE.dense_twin(RUN.replace(compute="sparse", density=1 / 64))
    assert (twin.compute, twin.density) == ("dense", 1.0)


def test_twin_may_be_narrower() -> None:
    twin = RECIPE.dense_twin(RUN.replace(model=RUN.model.replace(d_model=64)), 0.004, RUN.model.d_model)
    assert twin.model == TWIN.model
    assert twin.learning_rate == 0.004


@pytest.mark.parametrize("first", [20, 800, 40_000])
@pytest.mark.parametrize("power", [0.2, 0.5, 1.0])
def test_search_finds_steps_of_equal_loss(first: int, power: float) -> None:
    tried = []

    def loss_at(steps: int) -> float:
        tried.append(steps)
        return 2.5 + 40 * steps**-power

    found = RECIPE.match(loss_at(3000), loss_at, first, 0.005)
    assert abs(loss_at(found) - loss_at(3000)) <= 0.005
    assert len(set(tried)) <= RECIPE.MOST + 1


def test_search_gives_up_in_one_sentence() -> None:
    with pytest.raises(UserError, match=r"No dense model has a loss within 0.005 of 1.0000 \(.*; try another"):
        RECIPE.match(1.0, lambda steps: 3.0, 100, 0.005)
    with pytest.raises(UserError, match="No dense model"):  # a step where no length of training fits
        RECIPE.match(1.0, lambda steps: 2.0 if steps < 777 else 0.5, 100, 0.005)
    assert RECIPE.match(1.0, lambda steps: 1.004 - math.log(steps) * 1e-9, 100, 0.005) == 100


def test_refuses_tokens_of_another_vocabulary(tmp_path: Path) -> None:
    build(DATA, tmp_path / "work/tokens")
    with pytest.raises(UserError, match="vocabulary"):
        RECIPE.release(RUN.replace(model=SHAPE), TWIN, DATA, places(tmp_path), "make toy")
