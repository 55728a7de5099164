"""Weights on disk: exact round trips, sizes that follow the nonzeros, and the parts that are sparse."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from tiny import tiny_model

import thinwire
from thinwire import artifact
from thinwire.errors import UserError
from thinwire.model import Transformer
from thinwire.model.weights import (
    count_nonzeros,
    count_sparse_entries,
    floor_dim,
    load_weights,
    save_weights,
    sparse_parameters,
)
from thinwire.train import TrainConfig


def emptied(model: Transformer) -> Transformer:
    """The model with one matrix, one row and one column all zero."""
    with torch.no_grad():
        model.blocks[0].attn.w_q.weight.zero_()
        model.blocks[1].mlp.w_in.weight[3].zero_()
        model.blocks[1].mlp.w_out.weight[:, 2].zero_()
    return model


def models() -> dict[str, Transformer]:
    return {
        "sparse": tiny_model(density=0.05, positions="added", sink=True),
        "dense": tiny_model(positions="concatenated"),
        "empty": emptied(tiny_model(density=0.3)),
        "bare": tiny_model(density=0.1, biases=False, bigram=False),
    }


@pytest.mark.parametrize("which", models())
def test_round_trip_is_exact(which: str, tmp_path: Path) -> None:
    model = models()[which]
    save_weights(model, tmp_path / "w.safetensors")
    other = Transformer(model.config, seed=9)
    load_weights(other, tmp_path / "w.safetensors")
    for name, value in model.state_dict().items():
        assert other.state_dict()[name].equal(value), name
    assert count_nonzeros(other) == count_nonzeros(model)
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]


def test_file_size_follows_the_nonzeros(tmp_path: Path) -> None:
    sizes = {}
    for density in (1.0, 0.3, 0.02):
        model = tiny_model(density=density, bigram=False, d_model=64, vocab_size=300)
        path = tmp_path / f"{density}"
        save_weights(model, path)
        sizes[density] = path.stat().st_size
        values_and_columns = 8 * count_nonzeros(model)
        if density < 0.4:
            assert sizes[density] < values_and_columns + 20_000
    assert sizes[1.0] > 4 * count_sparse_entries(model.config)
    assert sizes[0.02] < sizes[0.3] / 4 < sizes[1.0] / 4


def test_stored_rows_by_hand(tmp_path: Path) -> None:
    model = tiny_model(density=0.05)
    with torch.no_grad():
        matrix = model.blocks[0].attn.w_q.weight
        matrix.zero_()
        matrix[0, 3], matrix[2, 1], matrix[2, 15] = 1.5, -2.0, 0.25
    save_weights(model, tmp_path / "w")
    with safe_open(tmp_path / "w", framework="pt") as file:
        part = "blocks.0.attn.w_q.weight"
        assert file.get_tensor(f"{part}/values").tolist() == [1.5, -2.0, 0.25]
        assert file.get_tensor(f"{part}/columns").tolist() == [3, 1, 15]
        assert file.get_tensor(f"{part}/starts").tolist() == [0, 1, 1, *[3] * 14]


def test_rounded_values_by_hand(tmp_path: Path) -> None:
    model = tiny_model(density=0.1)
    with torch.no_grad():
        table = model.bigram.weight
        table[0] = torch.linspace(-12.7, 12.7, 40)
        table[1] = 0.0
        table[2, :3] = torch.tensor([1.0, -0.5, 2**-9])
        table[2, 3:] = 1 / 127
    save_weights(model, tmp_path / "w", round_dense=True)
    with safe_open(tmp_path / "w", framework="pt") as file:
        codes = file.get_tensor("bigram.weight/codes")
        assert codes.dtype == torch.int8
        assert codes[0, [0, 1, 39]].tolist() == [-127, -120, 127]  # a step of 25.4 / 39 is 6.5 codes
        assert codes[2, :4].tolist() == [127, -64, 0, 1]
        assert file.get_tensor("bigram.weight/scales")[[0, 1]].tolist() == pytest.approx([0.1, 0.0])
        assert not codes[1].any()


@pytest.mark.parametrize("which", models())
def test_rounding_touches_dense_matrices_alone_and_little(which: str, tmp_path: Path) -> None:
    model = models()[which]
    save_weights(model, tmp_path / "whole")
    save_weights(model, tmp_path / "rounded", round_dense=True)
    other = Transformer(model.config, seed=9)
    load_weights(other, tmp_path / "rounded")
    changed = set()
    for name, value in model.state_dict().items():
        read = other.state_dict()[name]
        assert read.dtype == torch.float32
        if not read.equal(value):
            changed.add(name)
            largest = value.abs().amax(1, keepdim=True)
            assert ((read - value).abs() <= largest / 254 * 1.0001).all()
            assert (read.abs().amax(1, keepdim=True) - largest).abs().max() < 1e-6
            assert not read[value == 0].any()
    matrices = {name for name, value in model.state_dict().items() if value.ndim == 2}
    dense = {name for name in matrices if (model.state_dict()[name] != 0).float().mean() > 0.4}
    assert changed == dense
    saved = sum(3 * model.state_dict()[name].numel() for name in dense)
    assert (tmp_path / "rounded").stat().st_size <= (tmp_path / "whole").stat().st_size - saved + 300 * len(dense)


@pytest.mark.parametrize("round_dense", [False, True])
def test_same_weights_make_the_same_file(round_dense: bool, tmp_path: Path) -> None:
    """Artefacts are known by content, so a file must not depend on the order of a hash table."""
    for number in range(8):
        save_weights(tiny_model(density=0.1), tmp_path / f"{number}", round_dense=round_dense)
    assert len({path.read_bytes() for path in tmp_path.iterdir()}) == 1


def test_every_matrix_bias_and_embedding_is_sparse() -> None:
    model = tiny_model(positions="concatenated", sink=True)
    names = {name for name, _ in sparse_parameters(model)}
    everything = {name for name, _ in model.named_parameters()}
    assert everything - names == {
        "positions",
        "bigram.weight",
        "norm.weight",
        *(
            f"blocks.{i}.{part}.{norm}.weight"
            for i in (0, 1)
            for part in ("attn", "mlp")
            for norm in ("norm", "norm_pos")
        ),
        *(f"blocks.{i}.attn.sink" for i in (0, 1)),
    }
    rows = {name for name in names if floor_dim(name) == 1}
    columns = {name for name in names if floor_dim(name) == 0}
    assert rows == {f"blocks.{i}.{w}.weight" for i in (0, 1) for w in ("attn.w_q", "attn.w_k", "attn.w_v", "mlp.w_in")}
    assert columns == {f"blocks.{i}.{w}.weight" for i in (0, 1) for w in ("attn.w_o", "mlp.w_out")}


def test_load_opens_a_finished_model_folder(tmp_path: Path) -> None:
    model = tiny_model(density=0.1, sink=True)
    save_weights(model, tmp_path / "weights.safetensors")
    artifact.write_text(tmp_path / "model.json", model.config.to_json())
    with pytest.raises(UserError, match="is not a model artefact"):
        thinwire.load(tmp_path)
    artifact.finish(tmp_path, "model", TrainConfig(), {}, ["model.json", "weights.safetensors"])
    loaded = thinwire.load(tmp_path)
    assert loaded.config == model.config
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())
    assert all(loaded.state_dict()[name].equal(value) for name, value in model.state_dict().items())
    data = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(data[:-4])
    with pytest.raises(UserError, match="missing, truncated or altered"):
        thinwire.load(str(tmp_path))
