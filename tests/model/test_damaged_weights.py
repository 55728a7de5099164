"""Weight files that are damaged, foreign or of another model: refused with a sentence, the model left as it was."""

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import tiny_model
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model.weights import load_weights, save_weights

MATRIX = "blocks.0.attn.w_q.weight"
Change = Callable[[Tensor], Tensor | None]
"""What becomes of a stored tensor; None where it is left out."""


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


def replace_part(path: Path, name: str, change: Change) -> None:
    """Write the file again with one of its tensors changed."""
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    changed = change(tensors.pop(name))
    if changed is not None:
        tensors[name] = changed.contiguous()
    save_file(tensors, path, metadata=metadata)


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
def test_inconsistent_rows_are_refused(saved: Path, part: str, change: Change) -> None:
    replace_part(saved, f"{MATRIX}/{part}", change)
    refused(saved)


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
def test_inconsistent_codes_are_refused(part: str, change: Change, tmp_path: Path) -> None:
    path = tmp_path / "w"
    save_weights(tiny_model(density=0.1), path, round_dense=True)
    replace_part(path, f"bigram.weight/{part}", change)
    refused(path)


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
