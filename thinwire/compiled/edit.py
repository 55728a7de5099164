"""Reading and replacing single nonzeros of a model's matrices, whether it is dense or compiled."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from thinwire.compiled.modules import Sparse, sparse_module
from thinwire.model.transformer import Transformer


@dataclass(frozen=True)
class Nonzeros:
    """Some nonzeros of a matrix, row by row."""

    rows: Tensor
    """int64 [n]"""
    columns: Tensor
    """int64 [n]"""
    values: Tensor
    """[n], without gradient"""
    positions: Tensor
    """Their positions in the tensor that `with_values` changes. int64 [n]"""


def nonzeros(model: Transformer, name: str, rows: Tensor | None = None, columns: Tensor | None = None) -> Nonzeros:
    """The nonzeros of the matrix of a module, where bool masks [n_rows] and [n_columns] are true."""
    module = model.get_submodule(name)
    if isinstance(module, Sparse):
        pattern, values = module.pattern, module.values.detach()
        own_rows, own_columns = pattern.row_of_each(), pattern.indices.long()
        kept = values != 0  # a cut leaves zeros
        kept = kept if rows is None else kept & rows.to(kept.device)[own_rows]
        kept = kept if columns is None else kept & columns.to(kept.device)[own_columns]
        positions = kept.nonzero().flatten()
        return Nonzeros(own_rows[positions], own_columns[positions], values[positions], positions)
    weight = module.get_parameter("weight").detach()
    own_rows, own_columns = (
        torch.arange(n, dtype=torch.int64, device="cpu") if chosen is None else chosen.nonzero().flatten()
        for n, chosen in zip(weight.shape, (rows, columns), strict=True)
    )
    block = weight[own_rows][:, own_columns]
    row, column = block.nonzero(as_tuple=True)
    found = own_rows[row], own_columns[column]
    return Nonzeros(*found, block[row, column], found[0] * weight.shape[1] + found[1])


def with_values(model: Transformer, name: str, positions: Tensor, values: Tensor) -> dict[str, Tensor]:
    """The parameter of a module, by name, in which the nonzeros at some positions [n] have other values [n]."""
    module = model.get_submodule(name)
    if isinstance(module, Sparse):
        return {f"{name}.values": module.values.detach().index_put((positions,), values)}
    weight = module.get_parameter("weight").detach()
    return {f"{name}.weight": weight.flatten().index_put((positions,), values).view_as(weight)}


def bias_of(model: Transformer, name: str) -> Tensor:
    """The bias of a linear map [out], without gradient; zeros where it has none."""
    module = model.get_submodule(name)
    bias = module.bias
    return module.weight.new_zeros(len(module.weight)) if bias is None else bias.detach()  # pyright: ignore


def sharing(model: Transformer, changed: Mapping[str, Tensor]) -> Transformer:
    """A model with a bias on every linear map that shares all parameters but the `changed` ones; not to be trained.

    `changed` has values by the names of parameters, in their shapes; a bias is [out]. Biases that `model` does not have
    are zero unless changed.
    """
    shared = {id(p): nn.Parameter(p.detach(), requires_grad=False) for p in model.parameters()}
    other = copy.deepcopy(model, shared | {id(buffer): buffer for buffer in model.buffers()})
    for module in other.modules():
        if isinstance(module, nn.Linear) and module.bias is None:
            module.bias = nn.Parameter(module.weight.new_zeros(len(module.weight)), requires_grad=False)
    for name, value in changed.items():
        owner, _, last = name.rpartition(".")
        setattr(other.get_submodule(owner), last, nn.Parameter(value, requires_grad=False))
    return other.eval()


def with_rows(embedding: nn.Module, rows: Sequence[int], row: Tensor) -> nn.Module:
    """The embedding with some rows replaced by one [width]."""
    at = torch.tensor(rows, dtype=torch.int64, device="cpu")
    weight = embedding.weight.detach().index_put((at,), row)  # pyright: ignore
    if isinstance(embedding, Sparse):
        return sparse_module(nn.Embedding.from_pretrained(weight)).requires_grad_(False)
    return type(embedding).from_pretrained(weight)  # pyright: ignore
