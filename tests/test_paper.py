"""PAPER.md: the places it names exist, and the defaults it lists are those of the configs."""

import re
from pathlib import Path

import pytest

from thinwire.model import ModelConfig
from thinwire.sites import KINDS
from thinwire.train import TrainConfig

ROOT = Path(__file__).parent.parent
PAPER = (ROOT / "PAPER.md").read_text(encoding="utf-8")
CHOICES = PAPER.split("## Every choice of training and its field")[1]
ROWS = [
    [cell.strip().strip("`") for cell in line.strip("|").split("|")]
    for line in CHOICES.splitlines()
    if line.startswith("| ") and not line.startswith("| choice")
]
NOT_A_CHOICE = {
    *("model", "steps", "batch_size", "seed", "sparsity_options", "precision", "recompute", "validate_every"),
    *("validation_tokens", "checkpoint_every", "log_every", "distill_weight", "distill_temperature"),
    *("model.n_layers", "model.d_model", "model.mlp_ratio", "model.context", "model.vocab_size", "model.d_pos"),
}


@pytest.mark.parametrize("row", ROWS, ids=[row[0] for row in ROWS])
def test_defaults_are_those_of_the_configs(row: list[str]) -> None:
    field, default = row[1], row[4]
    holder = ModelConfig() if field.startswith("model.") else TrainConfig()
    value = getattr(holder, field.removeprefix("model."))
    assert default == ("all eight" if value == KINDS else str(value))


def test_every_choice_is_listed() -> None:
    fields = set(TrainConfig.model_fields) | {f"model.{name}" for name in ModelConfig.model_fields}
    assert {row[1] for row in ROWS} == fields - NOT_A_CHOICE


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`(thinwire/[\w/]+\.py)(?::\w+)?`", PAPER))))
def test_named_files_exist(place: str) -> None:
    assert (ROOT / place).is_file()


@pytest.mark.parametrize("place", sorted(set(re.findall(r"`(thinwire/[\w/]+\.py:\w+)`", PAPER))))
def test_named_symbols_exist(place: str) -> None:
    path, _, symbol = place.partition(":")
    assert re.search(rf"^(def|class) {symbol}\b|^{symbol}\b", (ROOT / path).read_text(encoding="utf-8"), re.M)
