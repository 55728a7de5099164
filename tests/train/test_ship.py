"""Shipping a trained model: small, measured as stored, told apart from its source, and refused where it must be."""

from pathlib import Path

import pytest
from penalized import Penalized
from tiny import tiny_run

import thinwire
from thinwire import artifact
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model.weights import count_nonzeros
from thinwire.train import Sources, TrainConfig, read_result, train
from thinwire.train.result import OBJECTIVE
from thinwire.train.ship import ship
from thinwire.train.stats import validation_losses

CONFIG = tiny_run()


@pytest.fixture(scope="module")
def trained(tiny_tokens: Tokens, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("ship") / "model"
    train(CONFIG, tiny_tokens, out)
    return out


def test_shipped_model_is_measured_as_it_is_stored(trained: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    result = ship(trained, tiny_tokens, tmp_path / "shipped")
    before, model = read_result(trained), thinwire.load(tmp_path / "shipped")
    assert read_result(tmp_path / "shipped") == result
    assert result.val_losses == validation_losses(model, tiny_tokens, CONFIG)
    assert result.val_loss == result.val_losses["idioms"] != before.val_loss
    assert result.val_loss == pytest.approx(before.val_loss, abs=1e-3)
    assert (result.tokens, result.seconds) == (before.tokens, before.seconds)
    assert result.nonzeros == count_nonzeros(model) == before.nonzeros
    assert [path.name for path in tmp_path.iterdir()] == ["shipped"]


def test_shipped_artefact(trained: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    ship(trained, tiny_tokens, tmp_path / "shipped")
    source, made = artifact.open_artifact(trained, "model"), artifact.open_artifact(tmp_path / "shipped", "model")
    assert made.meta.parents == {"tokens": tiny_tokens.artifact.id, "model": source.id}
    assert made.meta.seed == CONFIG.seed
    assert made.config(TrainConfig) == CONFIG
    assert made.id != source.id
    sizes = [found.meta.files["weights.safetensors"].bytes for found in (source, made)]
    assert sizes[1] < sizes[0] - 3 * 300**2 + 2000  # the bigram table at one byte an entry instead of four
    for name in ("tokenizer.json", "metrics.jsonl", "model.json"):
        assert (made.path / name).read_bytes() == (source.path / name).read_bytes()


def test_the_objective_is_shipped(tiny_tokens: Tokens, tmp_path: Path) -> None:
    train(CONFIG.replace(steps=1), tiny_tokens, tmp_path / "model", Sources(objective=Penalized(strength=0.5)))
    ship(tmp_path / "model", tiny_tokens, tmp_path / "shipped")
    made = artifact.open_artifact(tmp_path / "shipped", "model")
    assert OBJECTIVE in made.meta.files
    assert (made.path / OBJECTIVE).read_bytes() == (tmp_path / "model" / OBJECTIVE).read_bytes()


def test_shipped_again_only_when_the_model_is_another(trained: Path, tiny_tokens: Tokens, tmp_path: Path) -> None:
    out = tmp_path / "shipped"
    first = ship(trained, tiny_tokens, out)
    stamp = (out / "meta.json").stat().st_mtime_ns
    assert ship(trained, tiny_tokens, out) == first
    assert (out / "meta.json").stat().st_mtime_ns == stamp
    train(CONFIG.replace(steps=3), tiny_tokens, tmp_path / "other")
    assert ship(tmp_path / "other", tiny_tokens, out).tokens == 3 * CONFIG.batch_size * CONFIG.model.context
    assert read_result(out).val_loss != first.val_loss


def test_refusals(trained: Path, tiny_tokens: Tokens, other_tokens: Tokens, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="was not made from"):
        ship(trained, other_tokens, tmp_path / "shipped")
    with pytest.raises(UserError, match="holds a tokens where a model is to be written"):
        ship(trained, tiny_tokens, tiny_tokens.artifact.path)
    with pytest.raises(UserError, match="no device 'nonsense'"):
        ship(trained, tiny_tokens, tmp_path / "shipped", device="nonsense")
    with pytest.raises(UserError, match="is not a folder"):
        ship(tmp_path / "nowhere", tiny_tokens, tmp_path / "shipped")
    assert not (tmp_path / "shipped").exists()
