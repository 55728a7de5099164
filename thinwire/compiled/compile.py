"""The same model on sparse kernels, whose cost follows the nonzeros: for fixed weights."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from thinwire.compiled.fused import CompiledTransformer
from thinwire.compiled.modules import MATRICES, FeatureEmbedding, FeatureLinear, Sparse, sparse_module
from thinwire.engine.process_memory import hold_freed_memory
from thinwire.engine.spmm.operators import has_kernels
from thinwire.model.config import ModelConfig
from thinwire.model.precision import own_modes
from thinwire.model.transformer import Transformer

BREAK_EVEN = {"cpu": 1 / 8, "cuda": 1 / 256}
"""Density below which the sparse product is the faster one, by type of device, against a dense one in bf16: measured on
CPUs; on GPUs estimated from what both read and write, which `benchmarks/gpu.py` checks."""


@own_modes()
def compile_sparse(model: Transformer, below: float | None = None) -> Transformer:
    """The model with sparse kernels for every matrix of a smaller density than `below`; it shares the rest.

    Without `below`, for every matrix where they are faster on the model's device. The result is not to be trained. If
    nothing would change, the result is the model itself: it is dense, on a device without such kernels, or compiled
    already. The process keeps the memory that it frees from then on: the kernels allocate the same buffers again and
    again.
    """
    matrices = {name: module for name, module in model.named_modules() if name.rpartition(".")[2] in MATRICES}
    if any(isinstance(module, Sparse) for module in matrices.values()):
        return model
    chosen = {name: sparse_module(module) for name, module in matrices.items() if _pays(module, below)}
    if not chosen:
        return model
    rest = {name: value for name, value in model.state_dict().items() if name.rpartition(".")[0] not in chosen}
    return assemble(model.config, chosen, rest)


def assemble(config: ModelConfig, sparse: Mapping[str, Sparse], rest: Mapping[str, Tensor]) -> CompiledTransformer:
    """A model of sparse modules by name, and of the tensors of everything else by name, in the parameters' shapes."""
    hold_freed_memory()
    with torch.device("meta"):
        model = CompiledTransformer(config)
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Linear) and name not in sparse:
                shape = module.in_features, module.out_features, module.bias is not None
                model.set_submodule(name, FeatureLinear(*shape, dtype=torch.float32))
            elif isinstance(module, nn.Embedding) and name not in sparse:
                shape = module.num_embeddings, module.embedding_dim
                model.set_submodule(name, FeatureEmbedding(*shape, dtype=torch.float32))
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
