"""Compiling a model, or loading one compiled: which modules are sparse, and what is shared."""

from pathlib import Path

import pytest
import torch
from tiny import tiny_model, tiny_prompts
from twins import CLOSE, twins

from thinwire import artifact
from thinwire.compiled import CompiledTransformer, compile_sparse, load_compiled
from thinwire.compiled.modules import FeatureLinear, Sparse
from thinwire.errors import UserError
from thinwire.model import Transformer, load
from thinwire.model.weights import save_weights
from thinwire.train import TrainConfig


def test_the_dense_model_is_not_changed() -> None:
    """It can still be trained; what is not sparse is shared."""
    dense = tiny_model(density=0.1, sink=True)
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    compiled = compile_sparse(dense)
    assert isinstance(compiled, CompiledTransformer)
    assert isinstance(dense.compile_sparse(), CompiledTransformer)
    assert dense.compile_sparse(below=0) is dense
    assert compiled.config == dense.config
    assert not compiled.training
    assert not any(p.requires_grad for p in compiled.parameters())
    assert all(p.requires_grad and p.grad is None for p in dense.parameters())
    assert dense.training
    assert not any(isinstance(module, Sparse | FeatureLinear) for module in dense.modules())
    dense(tiny_prompts(dense)).square().mean().backward()
    assert all(p.grad is not None for p in dense.parameters())
    assert all(before[name].equal(value) for name, value in dense.state_dict().items())
    for name in ("bigram.weight", "blocks.1.attn.sink", "norm.weight", "unembedding.bias"):
        assert compiled.get_parameter(name).data_ptr() == dense.get_parameter(name).data_ptr()


def test_models_that_compiling_would_not_change() -> None:
    """Dense ones, unless `below` says otherwise, and compiled ones, wholly or in part."""
    for dense in (tiny_model(), tiny_model(density=0.13)):
        assert compile_sparse(dense) is dense
    assert isinstance(compile_sparse(tiny_model(), below=2), CompiledTransformer)
    for mixed in (False, True):
        compiled = twins(mixed=mixed)[1]
        assert compile_sparse(compiled, below=2) is compiled


@torch.no_grad()
def test_matrices_without_nonzeros() -> None:
    dense = tiny_model(density=0.1)
    for name, weight in dense.blocks.named_parameters():
        weight.mul_("w_" not in name or name.endswith("bias"))
    tokens = tiny_prompts(dense, 3, 16)
    torch.testing.assert_close(compile_sparse(dense)(tokens), dense(tokens), **CLOSE)


def saved(model: Transformer, folder: Path) -> Path:
    """A finished artefact folder of a model."""
    folder.mkdir()
    save_weights(model, folder / "weights.safetensors", round_dense=True)
    artifact.write_text(folder / "model.json", model.config.to_json())
    artifact.finish(folder, "model", TrainConfig(), {}, ["model.json", "weights.safetensors"])
    return folder


@pytest.mark.parametrize("variant", ["no biases", "concatenated", "relu"])
@pytest.mark.parametrize("mixed", [False, True])
@torch.no_grad()
def test_a_loaded_model_is_the_compiled_one(variant: str, mixed: bool, tmp_path: Path) -> None:
    """Module by module and value by value, though no sparse matrix is ever whole."""
    path = saved(twins(variant, mixed=mixed)[0], tmp_path / "model")
    expected, found = compile_sparse(load(path)), load_compiled(path)
    assert isinstance(found, CompiledTransformer)
    assert [type(module) for module in found.modules()] == [type(module) for module in expected.modules()]
    assert found.state_dict().keys() == expected.state_dict().keys()
    assert all(value.equal(expected.state_dict()[name]) for name, value in found.state_dict().items())
    assert found.precision == "fp32"
    assert not found.training
    assert not any(p.requires_grad for p in found.parameters())
    tokens = tiny_prompts(found, 2, 41)
    assert found(tokens).equal(expected(tokens))


def test_loading_a_dense_or_a_damaged_model(tmp_path: Path) -> None:
    dense = tiny_model(density=0.5)
    path = saved(dense, tmp_path / "model")
    found = load_compiled(path)
    assert type(found) is Transformer
    assert not any(p.requires_grad for p in found.parameters())
    assert all(value.equal(load(path).state_dict()[name]) for name, value in found.state_dict().items())
    file = path / "weights.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(UserError, match="missing, truncated or altered"):
        load_compiled(path)
