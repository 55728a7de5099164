"""Models with some wires cut: a dropped weight is held at its mean contribution, as a removed node is at its mean.

The contribution of a weight is the weight times its source, so its mean is the weight times the source's mean, a
constant that is added to the bias of the target. This is exact: with all wires out of a node dropped the model runs as
with the node removed. Two remarks:
* The output matrix reads v after attention has mixed it. Attention weights of a query sum to one, so the mean passes;
  with a sink they sum to less, and the fold neglects what the sink takes.
* Only weights between kept nodes are wires. Those from a kept node to one outside stay: that node is held at its mean
  whatever they bring, and they count only in what AbsTopK selects, as in a circuit whose wires are all kept.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from thinwire.circuit.edges import Wire, by_site, matrices
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Site


def held_weights(
    model: Transformer, nodes: Iterable[Node], wires: Iterable[Wire], means: Mapping[Site, Tensor]
) -> dict[str, Tensor]:
    """Parameters that differ from the model's when, between these nodes, only these wires are kept.

    Weights and biases by name, of the matrices that lose a wire; `means[site]` is [width]. Biases are named whether or
    not the model has any.
    """
    kept = by_site(nodes)
    places = {site: {index: place for place, index in enumerate(indices)} for site, indices in kept.items()}
    staying: dict[tuple[Site, Site], list[tuple[int, int]]] = {}
    for source, target in wires:
        ends = places[target.site][target.index], places[source.site][source.index]
        staying.setdefault((source.site, target.site), []).append(ends)
    changed: dict[str, Tensor] = {}
    for name, source, target, weight in matrices(model):
        if source not in kept or target not in kept:
            continue
        rows, columns = (torch.tensor(kept[site], device=weight.device) for site in (target, source))
        dropped = weight[rows][:, columns]  # a copy
        if (source, target) in staying:
            row, column = torch.tensor(staying[source, target], device=weight.device).T
            dropped[row, column] = 0
        if dropped.any():
            row, column = dropped.nonzero(as_tuple=True)
            changed[f"{name}.weight"] = weight.index_put((rows[row], columns[column]), weight.new_zeros(()))
            bias = (
                model.get_parameter(f"{name}.bias").detach() if model.config.biases else weight.new_zeros(len(weight))
            )
            held = dropped @ means[source].to(weight)[columns]
            changed[f"{name}.bias"] = bias.index_add(0, rows, held)
    return changed


def held_embeddings(model: Transformer, tokens: Iterable[int], held: Tensor) -> dict[str, Tensor]:
    """The embedding matrix by name, the rows of these tokens replaced by `held` [d_model]."""
    weight = model.embedding.weight.detach()
    places = torch.tensor(sorted(tokens), device=weight.device)
    return {"embedding.weight": weight.index_put((places,), held.to(weight))}


def sharing(model: Transformer, changed: Mapping[str, Tensor]) -> Transformer:
    """A model with a bias on every matrix that shares all parameters but the `changed` ones; it is not to be trained.

    Biases that the given model does not have are zero unless changed.
    """
    with torch.device("meta"):
        other = Transformer(model.config.replace(biases=True))
    state = {**model.state_dict(), **changed}
    for name, parameter in other.state_dict().items():
        if name not in state:
            weight = state[name.removesuffix("bias") + "weight"]
            state[name] = weight.new_zeros(parameter.shape)
    other.load_state_dict(state, assign=True)
    return other.eval().requires_grad_(False)
