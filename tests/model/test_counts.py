"""One count of weights: the same for a model, compiled or not, wherever it is shown, and by hand."""

from pathlib import Path

import pytest
import torch

from thinwire import shipped
from thinwire.compiled.compile import compile_sparse
from thinwire.model import ModelConfig, Transformer, load
from thinwire.model.counts import WeightCounts
from thinwire.model.weights import sparse_parameters
from thinwire.stages import Opened
from thinwire.train import read_result

SHAPES = {
    "plain": {},
    "no table": {"bigram": False},
    "other biases and positions": {"positions": "concatenated", "d_pos": 4},
}
ROOT = Path(__file__).parents[2]


def thinned(**changes: object) -> Transformer:
    """A small model with a hundredth of its weights."""
    torch.manual_seed(0)
    shape = ModelConfig(n_layers=2, d_model=32, d_head=8, context=16, vocab_size=64).replace(**changes)
    model = Transformer(shape).eval().requires_grad_(False)
    for _, parameter in sparse_parameters(model):
        parameter.mul_(torch.rand(parameter.shape) < 0.01)
    return model


@pytest.mark.parametrize("changes", SHAPES.values(), ids=SHAPES)
def test_compiling_changes_no_count(changes: dict[str, object]) -> None:
    model = thinned(**changes)
    compiled = compile_sparse(model, below=1.0)
    assert compiled is not model
    table = 64 * 64 if model.config.bigram else 0
    nonzeros, entries = (
        sum(int(number(parameter)) for _, parameter in sparse_parameters(model))
        for number in (torch.count_nonzero, torch.numel)
    )
    assert WeightCounts.of(compiled) == WeightCounts.of(model) == WeightCounts(nonzeros, entries, table)
    assert WeightCounts.from_shape(nonzeros, model.config) == WeightCounts.of(model)


def test_words() -> None:
    assert str(WeightCounts(5, 1000, 0)) == "5 of 1,000 weights nonzero"
    assert str(WeightCounts(1000, 2000, 64)) == "1,000 of 2,000 weights nonzero, plus a dense bigram table of 64"


def test_the_shipped_model_and_what_is_written_about_it() -> None:
    if "python-2x256" not in shipped.names():
        pytest.skip("this checkout has no shipped model")
    opened = Opened.open("python-2x256")
    counts = WeightCounts.of(opened.model)
    assert counts == WeightCounts.of(load("python-2x256")) == read_result("python-2x256").weights(opened.model.config)
    assert str(counts) == "41,064 of 2,628,096 weights nonzero, plus a dense bigram table of 4,194,304"
    for page in ("README.md", "models/python-2x256/README.md"):
        assert str(counts) in " ".join((ROOT / page).read_text("utf-8").split()), page
