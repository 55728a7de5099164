"""Which parameters are sparse, how many nonzeros they have, and how they are stored.

A sparse matrix is stored as compressed rows (values, column indices, row starts) in a safetensors file, so that the
size of a file follows the nonzeros. A dense one is stored as it is or, where a file is to be small, as 8-bit integers
with one scale a row. Nothing is ever unpickled.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.artifact.tensors import UNREADABLE, is_finite, read_tensors, write_tensors
from thinwire.errors import UserError
from thinwire.model.config import ModelConfig
from thinwire.model.precision import own_modes
from thinwire.model.transformer import Transformer

STORED_DENSE_ABOVE = 0.4
"""A matrix with a larger fraction of nonzeros takes less room as it is than with its indices."""
LEVELS = 127
"""Largest 8-bit code: a row's largest magnitude is stored as this, so a value is off by at most 1/254 of that."""
_ROW_FLOOR = ("w_q.weight", "w_k.weight", "w_v.weight", "w_in.weight")
_COLUMN_FLOOR = ("w_o.weight", "w_out.weight")


def sparse_parameters(model: Transformer) -> Iterator[tuple[str, nn.Parameter]]:
    """Names and parameters that training makes sparse: every matrix, bias and embedding.

    Norm gains fold into the next matrix without changing its nonzeros; sink logits, position embeddings and the bigram
    table stay dense.
    """
    for name, parameter in model.named_parameters():
        dense = "norm" in name or name.endswith("sink") or name in ("positions", "bigram.weight")
        if not dense:
            yield name, parameter


def floor_dim(name: str) -> int | None:
    """Along which dimension of a matrix the floor of nonzeros runs: 1 counts a row's, 0 a column's, None has no floor.

    The channels with a floor are neurons and attention channels: rows (inputs) of q, k, v and the MLP's input matrix,
    columns (outputs) of the attention's and the MLP's output matrices (Gao et al. 2025, A.2).
    """
    if name.endswith(_ROW_FLOOR):
        return 1
    return 0 if name.endswith(_COLUMN_FLOOR) else None


def count_nonzeros(model: Transformer) -> int:
    """L0: number of nonzero entries over the sparse parameters."""
    return sum(int(parameter.count_nonzero()) for _, parameter in sparse_parameters(model))


def count_sparse_entries(shape: ModelConfig) -> int:
    """Number of entries of the sparse parameters of a model of this shape, zero or not.

    The shape decides, because a compiled model stores its nonzeros alone.
    """
    with torch.device("meta"):
        return sum(parameter.numel() for _, parameter in sparse_parameters(Transformer(shape)))


def save_weights(model: Transformer, path: Path, round_dense: bool = False) -> None:
    """Write the parameters as safetensors, sparse matrices as compressed rows.

    With `round_dense` matrices that are not sparse take a byte an entry, and lose what does not fit; all else is exact.
    """
    shapes: dict[str, list[int]] = {}
    tensors: dict[str, Tensor] = {}
    for name, parameter in model.state_dict().items():
        value = parameter.detach().cpu().contiguous()
        if value.ndim == 2 and value.count_nonzero() <= STORED_DENSE_ABOVE * value.numel():
            shapes[name] = list(value.shape)
            tensors |= _to_rows(name, value)
        elif value.ndim == 2 and round_dense:
            tensors |= _to_codes(name, value)
        else:
            tensors[name] = value
    # one entry of metadata: a file keeps several in no fixed order, and the same weights should give the same bytes
    write_tensors(path, tensors, {"sparse": json.dumps(shapes)})


@dataclass(frozen=True)
class Rows:
    """A matrix as it is stored: nonzeros row by row."""

    shape: tuple[int, int]
    rows: Tensor
    """int64 [nonzeros]"""
    columns: Tensor
    """int64 [nonzeros]"""
    values: Tensor
    """[nonzeros]"""

    def dense(self) -> Tensor:
        """The whole matrix [rows, columns]."""
        matrix = torch.zeros(self.shape, dtype=self.values.dtype, device="cpu")
        matrix[self.rows, self.columns] = self.values
        return matrix


def load_weights(model: Transformer, path: Path) -> None:
    """Fill a model from a file of `save_weights`. Raises UserError if it is damaged, of another shape or not finite."""
    stored = read_weights(model, path)
    whole = {name: value.dense() if isinstance(value, Rows) else value for name, value in stored.items()}
    model.load_state_dict({name: value.float() for name, value in whole.items()}, assign=True)


def read_weights(model: Transformer, path: Path) -> dict[str, Tensor | Rows]:
    """The contents of a file of `save_weights`, for a model: by name, tensors and `Rows` of the parameters' shapes.

    Raises UserError as `load_weights` does.
    """
    refusal = f"{path} is not a readable thinwire weight file; export or train the model again."
    read = read_tensors(path, refusal)
    parts, rounded = read.values, dict[str, Tensor]()
    try:
        shapes = json.loads(read.metadata.get("sparse", "{}"))
        stored: dict[str, Tensor | Rows] = {name: _from_rows(parts, name, shape) for name, shape in shapes.items()}
        for name in [key.removesuffix("/codes") for key in parts if key.endswith("/codes")]:
            stored[name] = rounded[name] = _from_codes(parts, name)
        stored |= parts
    except UNREADABLE:
        raise UserError(refusal) from None
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    found = {name: tuple(value.shape) for name, value in stored.items()}
    if expected != found:
        differing = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
        raise UserError(f"{path} does not fit the model: {differing[0]} is missing, extra or of another shape.")
    for name, value in rounded.items():  # a product of a code and a scale may be too large
        if not is_finite(value):
            raise UserError(f"{path} holds numbers that are not finite, in {name}; export or train the model again.")
    return stored


def _to_rows(name: str, value: Tensor) -> dict[str, Tensor]:
    rows, columns = value.nonzero(as_tuple=True)
    starts = torch.zeros(len(value) + 1, dtype=torch.int32, device="cpu")
    starts[1:] = torch.bincount(rows, minlength=len(value)).cumsum(0)
    return {
        f"{name}/values": value[rows, columns],
        f"{name}/columns": columns.to(torch.int32),
        f"{name}/starts": starts,
    }


def _from_rows(stored: dict[str, Tensor], name: str, shape: list[int]) -> Rows:
    values, columns, starts = (stored.pop(f"{name}/{part}") for part in ("values", "columns", "starts"))
    if len(shape) != 2 or not all(type(length) is int and 0 < length < 2**31 for length in shape):
        raise ValueError("not the shape of a matrix")
    if values.ndim != 1 or not values.is_floating_point() or columns.dtype not in (torch.int32, torch.int64):
        raise ValueError("not values with column indices")
    counts = np.diff(starts.numpy())
    if len(counts) != shape[0] or (counts < 0).any() or counts.sum() != len(values) or len(columns) != len(values):
        raise ValueError("inconsistent rows")
    rows = torch.from_numpy(np.repeat(np.arange(shape[0]), counts))
    if len(columns) and (int(columns.min()) < 0 or int(columns.max()) >= shape[1]):
        raise ValueError("column out of range")
    if (np.diff(rows.numpy() * shape[1] + columns.numpy()) <= 0).any():
        raise ValueError("an entry twice, or out of order")
    return Rows((shape[0], shape[1]), rows, columns.long(), values)


def _to_codes(name: str, value: Tensor) -> dict[str, Tensor]:
    scales = value.float().abs().amax(1) / LEVELS
    codes = (value / scales.clamp_min(torch.finfo(torch.float32).tiny)[:, None]).round()
    return {f"{name}/codes": codes.to(torch.int8), f"{name}/scales": scales}


def _from_codes(stored: dict[str, Tensor], name: str) -> Tensor:
    codes, scales = (stored.pop(f"{name}/{part}") for part in ("codes", "scales"))
    if codes.ndim != 2 or codes.dtype != torch.int8 or scales.shape != codes.shape[:1]:
        raise ValueError("inconsistent codes")
    return codes * scales[:, None]


@own_modes()
def load(folder: Path | str) -> Transformer:
    """The model in an artefact folder, or of a shipped name, in float32 on the CPU.

    Raises UserError when it is not a finished model.
    """
    model, path = empty_model(artifact.open_artifact(Path(folder), "model"))
    load_weights(model, path)
    return model.eval().requires_grad_(False)


def empty_model(opened: Artifact) -> tuple[Transformer, Path]:
    """A model without memory of its own, and its file of weights, which must fit before any memory is taken."""
    config = ModelConfig.load(opened.file("model.json"))
    with torch.device("meta"):
        return Transformer(config), opened.file("weights.safetensors")
