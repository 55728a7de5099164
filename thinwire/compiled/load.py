"""Loading a model straight onto sparse kernels."""

from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from thinwire.artifact import Artifact, open_artifact
from thinwire.compiled.compile import assemble, pays
from thinwire.compiled.modules import MATRICES, Sparse, SparseEmbedding, SparseLinear
from thinwire.engine.spmm.pattern import SparsePattern
from thinwire.model.precision import own_modes
from thinwire.model.transformer import Transformer
from thinwire.model.weights import Rows, empty_model, read_weights


@own_modes()
def load_compiled(folder: Path | str | Artifact) -> Transformer:
    """`compile_sparse(load(folder))`, without ever holding a sparse matrix whole. Raises UserError as `load` does.

    The files of an artefact that is open already are not checked again.
    """
    opened = folder if isinstance(folder, Artifact) else open_artifact(Path(folder), "model")
    model, path = empty_model(opened)
    stored = read_weights(model, path)
    sparse: dict[str, Sparse] = {}
    rest: dict[str, Tensor] = {}
    for name, value in stored.items():
        owner, _, last = name.rpartition(".")
        if isinstance(value, Rows) and last == "weight" and owner.rpartition(".")[2] in MATRICES and _pays(value):
            pattern = SparsePattern.of(value.rows, value.columns, value.shape)
            bias = stored.get(f"{owner}.bias")
            assert not isinstance(bias, Rows)
            bias = None if bias is None else bias.float()
            kind = SparseEmbedding if owner == "embedding" else partial(SparseLinear, bias=bias)
            sparse[owner] = kind(pattern, value.values.float())
        else:
            rest[name] = (value.dense() if isinstance(value, Rows) else value).float()
    if not sparse:
        model.load_state_dict(rest, assign=True)
        return model.eval().requires_grad_(False)
    rest = {name: value for name, value in rest.items() if name.rpartition(".")[0] not in sparse}
    return assemble(model.config, sparse, rest)


def _pays(value: Rows) -> bool:
    return pays(len(value.values), value.shape[0] * value.shape[1], torch.device("cpu"))
