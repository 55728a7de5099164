"""Weights on disk: exact round trips, sizes that follow the nonzeros, and refusals."""

import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
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
    assert sizes[1.0] > 4 * count_sparse_entries(model)
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


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("codes", lambda codes: codes[:-1]),
        ("codes", lambda codes: codes.float()),
        ("codes", lambda codes: codes[0]),
        ("scales", lambda scales: scales[:-1]),
        ("scales", lambda scales: scales[:, None]),
        ("scales", lambda scales: None),
    ],
)
def test_inconsistent_codes_are_refused(part: str, change, tmp_path: Path) -> None:
    path = tmp_path / "w"
    save_weights(tiny_model(density=0.1), path, round_dense=True)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    changed = change(tensors.pop(f"bigram.weight/{part}"))
    if changed is not None:
        tensors[f"bigram.weight/{part}"] = changed.contiguous()
    save_file(tensors, path, metadata=metadata)
    refused(path)


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


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "w.safetensors"
    save_weights(tiny_model(density=0.1), path)
    return path


def refused(path: Path, match: str = "not a readable thinwire weight file") -> None:
    model = tiny_model()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(UserError, match=match):
        load_weights(model, path)
    assert all(before[name].equal(value) for name, value in model.state_dict().items())


@pytest.mark.parametrize("left", [0, 5, 8, 100, 2000, -1])
def test_truncated_file_is_refused(saved: Path, left: int) -> None:
    saved.write_bytes(saved.read_bytes()[:left])
    refused(saved)


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_pickles_are_refused_and_never_unpickled(tmp_path: Path) -> None:
    torch.save({"embedding.weight": Bomb(tmp_path / "torch_ran")}, tmp_path / "a")
    (tmp_path / "b").write_bytes(pickle.dumps(Bomb(tmp_path / "pickle_ran")))
    refused(tmp_path / "a")
    refused(tmp_path / "b")
    assert not (tmp_path / "torch_ran").exists()
    assert not (tmp_path / "pickle_ran").exists()


def test_missing_file_is_refused(tmp_path: Path) -> None:
    refused(tmp_path / "nowhere")
    refused(tmp_path)


def test_foreign_safetensors_are_refused(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(3)}, tmp_path / "a")
    refused(tmp_path / "a", match="is missing, extra or of another shape")
    for number, sparse in enumerate(['{"x.weight": [2, 2]}', "[]", "5", "{", "null", '{"a": 3}', '{"a": [2]}']):
        save_file({"a": torch.zeros(3)}, tmp_path / f"{number}", metadata={"sparse": sparse})
        refused(tmp_path / f"{number}")


MATRIX = "blocks.0.attn.w_q.weight"


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("columns", lambda columns: columns + 16),
        ("columns", lambda columns: columns - 16),
        ("columns", lambda columns: columns[:-1]),
        ("values", lambda values: values[:-1]),
        ("starts", lambda starts: starts[:-1]),
        ("starts", lambda starts: starts.flip(0)),
        ("starts", lambda starts: starts + torch.arange(len(starts), dtype=torch.int32)),
        ("starts", lambda starts: starts.view(1, -1)),
        ("starts", lambda starts: starts.to(torch.bfloat16)),
        ("values", lambda values: None),
        ("values", lambda values: values[:, None]),
        ("columns", lambda columns: columns + 0.5),
    ],
)
def test_inconsistent_rows_are_refused(saved: Path, part: str, change) -> None:
    with safe_open(saved, framework="pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    changed = change(tensors.pop(f"{MATRIX}/{part}"))
    if changed is not None:
        tensors[f"{MATRIX}/{part}"] = changed.contiguous()
    save_file(tensors, saved, metadata=metadata)
    refused(saved)


@pytest.mark.parametrize("shape", ["[16.0, 16.0]", f"[16, {2**70}]", "[16, 16, 1]", "[true, 16]"])
def test_shapes_that_no_matrix_has_are_refused(saved: Path, shape: str) -> None:
    save_file(load_file(saved), saved, metadata={"sparse": f'{{"{MATRIX}": {shape}}}'})
    refused(saved)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"d_model": 32}, "blocks.0.attn.norm.weight"),
        ({"n_layers": 1}, "blocks.1"),
        ({"sink": True}, "blocks.0.attn.sink"),
        ({"vocab_size": 41}, "bigram.weight"),
    ],
)
def test_weights_of_another_shape_are_refused(saved: Path, changes: dict, named: str) -> None:
    with pytest.raises(UserError, match=f"does not fit the model: {named}"):
        load_weights(tiny_model(**changes), saved)


@pytest.mark.parametrize("number", [torch.nan, 1e300])
@pytest.mark.parametrize("name", [MATRIX, "bigram.weight"])
def test_numbers_that_are_not_finite_in_float32_are_refused(name: str, number: float, tmp_path: Path) -> None:
    model = tiny_model(density=0.05).double()
    with torch.no_grad():
        model.get_parameter(name).view(-1)[3] = number
    save_weights(model, tmp_path / "a")
    with pytest.raises(UserError, match=f"not finite, in {name}"):
        load_weights(tiny_model(), tmp_path / "a")


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
