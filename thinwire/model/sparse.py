"""The same model on sparse kernels: linear maps and embeddings that hold their nonzeros alone.

`compile_sparse` swaps modules and nothing else. A sparse map returns feature-major activations, and every operator
after it goes by how they lie (see `thinwire.engine.layout`), so the forward pass stays the one of
`thinwire.model.transformer`.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from thinwire.engine.layout import activations, features
from thinwire.engine.memory import hold_freed_memory
from thinwire.engine.products import SparsePattern, has_kernels, table_rows

if TYPE_CHECKING:
    from thinwire.model.config import ModelConfig
    from thinwire.model.transformer import Transformer

BREAK_EVEN = {"cpu": 1 / 8, "cuda": 1 / 256}
"""Density below which the sparse product is the faster one, by type of device, against a dense one in bf16: measured on
CPUs; on GPUs reckoned from what both read and write, which `benchmarks/gpu.py` checks."""
MAPS = ("w_q", "w_k", "w_v", "w_o", "w_in", "w_out", "embedding", "unembedding")
"""Modules with a matrix that training makes sparse."""


class Sparse(nn.Module):
    """Base of modules that hold the nonzeros of a matrix: `values` [nonzeros], row by row, at the places `pattern`."""

    def __init__(self, pattern: SparsePattern, values: Tensor) -> None:
        super().__init__()
        self.shape = pattern.n_rows, pattern.n_columns
        for name in ("columns", "starts", "rows", "column_starts", "order"):
            self.register_buffer(name, getattr(pattern, name))
        self.values = nn.Parameter(values)

    @property
    def pattern(self) -> SparsePattern:
        """Where the nonzeros are."""
        tensors = (self.columns, self.starts, self.rows, self.column_starts, self.order)
        return SparsePattern(*self.shape, *tensors)  # pyright: ignore

    @property
    def weight(self) -> Tensor:
        """The whole matrix, made anew."""
        weight = self.values.new_zeros(self.shape)
        return weight.index_put((self.pattern.row_of_each(), self.pattern.columns.long()), self.values)

    def extra_repr(self) -> str:
        return f"{self.shape[0]}×{self.shape[1]}, {len(self.values)} nonzeros"


class SparseLinear(Sparse):
    """`torch.nn.Linear`; the bias is zero where the dense module has none."""

    def __init__(self, pattern: SparsePattern, values: Tensor, bias: Tensor | None) -> None:
        super().__init__(pattern, values)
        self.bias = nn.Parameter(values.new_zeros(pattern.n_rows) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:  # [..., in] to [..., out], feature-major float32
        return self.pattern.multiply(x, self.values, self.bias)


class FeatureLinear(nn.Linear):
    """`torch.nn.Linear` among sparse maps: too dense to be one, but its activations are feature-major too."""

    def forward(self, x: Tensor) -> Tensor:  # [..., in] to [..., out], feature-major
        bias = self.weight.new_zeros(len(self.weight)) if self.bias is None else self.bias
        return activations(torch.addmm(bias[:, None], self.weight, features(x)), x.shape[:-1])


class FeatureEmbedding(nn.Embedding):
    """`torch.nn.Embedding` among sparse maps, feature-major."""

    def forward(self, tokens: Tensor) -> Tensor:  # [...] to [..., width], feature-major
        weight = self.weight
        if weight.device.type == "cpu" and weight.dtype == torch.float32 and not weight.requires_grad:
            return table_rows(tokens, weight)
        return activations(features(super().forward(tokens)), tokens.shape)


class SparseEmbedding(Sparse):
    """`torch.nn.Embedding`."""

    def forward(self, tokens: Tensor) -> Tensor:  # [...] to [..., width], feature-major float32
        return self.pattern.gather(tokens, self.values)


def compile_sparse(model: "Transformer", below: float | None = None) -> "Transformer":
    """The model with sparse kernels for every matrix of a smaller density than `below`; the rest is shared.

    Without `below`, where they are the faster ones on the device of the model. It is not to be trained. The given
    model is returned where nothing would change: it is dense, on a device without such kernels, or compiled already.
    The process keeps the memory that it frees from then on: the kernels ask for the same buffers again and again.
    """
    maps = {name: module for name, module in model.named_modules() if name.rpartition(".")[2] in MAPS}
    if any(isinstance(module, Sparse) for module in maps.values()):
        return model
    chosen = {name: _sparse(module) for name, module in maps.items() if _pays(module, below)}
    if not chosen:
        return model
    rest = {name: value for name, value in model.state_dict().items() if name.rpartition(".")[0] not in chosen}
    return assembled(type(model), model.config, chosen, rest)


def assembled(
    kind: "type[Transformer]", config: "ModelConfig", sparse: "Mapping[str, Sparse]", rest: Mapping[str, Tensor]
) -> "Transformer":
    """A model of these sparse modules by name, and of the tensors of everything else."""
    hold_freed_memory()
    with torch.device("meta"):
        model = kind(config)
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and name not in sparse:
                shape = module.in_features, module.out_features, module.bias is not None
                model.set_submodule(name, FeatureLinear(*shape))
            elif isinstance(module, nn.Embedding) and name not in sparse:
                model.set_submodule(name, FeatureEmbedding(module.num_embeddings, module.embedding_dim))
    own: dict[str, Tensor] = {}
    for name, module in sparse.items():
        model.set_submodule(name, module)
        own |= {f"{name}.{tensor}": value for tensor, value in module.state_dict().items()}
    model.load_state_dict({**rest, **own}, assign=True)
    model.precision = "fp32"
    return model.eval().requires_grad_(False)


def pays(nonzeros: int, entries: int, device: torch.device, below: float | None = None) -> bool:
    """Whether a matrix of so many nonzeros is faster as a sparse map, or has a smaller density than `below`."""
    return nonzeros < (BREAK_EVEN[device.type] if below is None else below) * entries


def _pays(module: nn.Module, below: float | None) -> bool:
    if not isinstance(module, nn.Linear | nn.Embedding) or not has_kernels(module.weight.device):
        return False
    weight = module.weight
    return pays(int(weight.count_nonzero()), weight.numel(), weight.device, below)


def _sparse(module: nn.Module) -> Sparse:
    assert isinstance(module, nn.Linear | nn.Embedding)
    weight = module.weight.detach()
    rows, columns = weight.nonzero(as_tuple=True)
    pattern, values = SparsePattern.of(rows, columns, (weight.shape[0], weight.shape[1])), weight[rows, columns]
    if isinstance(module, nn.Embedding):
        return SparseEmbedding(pattern, values)
    return SparseLinear(pattern, values, None if module.bias is None else module.bias.detach())


@dataclass(frozen=True)
class Nonzeros:
    """Some nonzeros of a matrix, row by row."""

    rows: Tensor
    """int64 [n]"""
    columns: Tensor
    """int64 [n]"""
    values: Tensor
    """[n], without gradient"""
    places: Tensor
    """What `with_values` calls them. int64 [n]"""


def nonzeros(model: "Transformer", name: str, rows: Tensor | None = None, columns: Tensor | None = None) -> Nonzeros:
    """The nonzeros of the matrix of a module, where bool masks [n_rows] and [n_columns] are true."""
    module = model.get_submodule(name)
    if isinstance(module, Sparse):
        pattern, values = module.pattern, module.values.detach()
        own_rows, own_columns = pattern.row_of_each(), pattern.columns.long()
        kept = values != 0  # a cut leaves zeros
        kept = kept if rows is None else kept & rows.to(kept.device)[own_rows]
        kept = kept if columns is None else kept & columns.to(kept.device)[own_columns]
        places = kept.nonzero().flatten()
        return Nonzeros(own_rows[places], own_columns[places], values[places], places)
    weight = module.get_parameter("weight").detach()
    own_rows = torch.arange(len(weight)) if rows is None else rows.nonzero().flatten()
    own_columns = torch.arange(weight.shape[1]) if columns is None else columns.nonzero().flatten()
    block = weight[own_rows][:, own_columns]
    row, column = block.nonzero(as_tuple=True)
    found = own_rows[row], own_columns[column]
    return Nonzeros(*found, block[row, column], found[0] * weight.shape[1] + found[1])


def with_values(model: "Transformer", name: str, places: Tensor, values: Tensor) -> dict[str, Tensor]:
    """The parameter of a module, by name, in which the nonzeros at some places [n] have other values [n]."""
    module = model.get_submodule(name)
    if isinstance(module, Sparse):
        return {f"{name}.values": module.values.detach().index_put((places,), values)}
    weight = module.get_parameter("weight").detach()
    return {f"{name}.weight": weight.flatten().index_put((places,), values).view_as(weight)}


def bias_of(model: "Transformer", name: str) -> Tensor:
    """The bias of a linear map [out], without gradient; zeros where it has none."""
    module = model.get_submodule(name)
    bias = module.bias
    return module.weight.new_zeros(len(module.weight)) if bias is None else bias.detach()  # pyright: ignore


def sharing(model: "Transformer", changed: Mapping[str, Tensor]) -> "Transformer":
    """A model with a bias on every linear map that shares all parameters but the `changed` ones; not to be trained.

    Biases that the given model does not have are zero unless changed.
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
    weight = embedding.weight.detach().index_put((torch.tensor(rows),), row)  # pyright: ignore
    if isinstance(embedding, Sparse):
        return _sparse(nn.Embedding.from_pretrained(weight)).requires_grad_(False)
    return type(embedding).from_pretrained(weight)  # pyright: ignore
