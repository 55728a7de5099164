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

from thinwire.circuit.edges import Wire, keep_masks, weights_between
from thinwire.compiled.edit import bias_of, with_values
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Site


def held_weights(
    model: Transformer, nodes: Iterable[Node], wires: Iterable[Wire], means: Mapping[Site, Tensor]
) -> dict[str, Tensor]:
    """Parameters that differ from the model's when, between these nodes, only these wires are kept.

    Weights and biases by name, of the matrices that lose a wire; `means[site]` is [width]. Biases are named whether or
    not the model has any.
    """
    keep = keep_masks(nodes, model.config)
    staying: dict[tuple[Site, Site], list[int]] = {}
    for source, target in wires:
        place = target.index * source.site.width(model.config) + source.index
        staying.setdefault((source.site, target.site), []).append(place)
    changed: dict[str, Tensor] = {}
    for name, source, target, found in weights_between(model, keep):
        places = found.rows * source.width(model.config) + found.columns
        dropped = ~torch.isin(places, torch.tensor(staying.get((source, target), []), dtype=torch.int64))
        if dropped.any():
            rows, columns, values = found.rows[dropped], found.columns[dropped], found.values[dropped]
            changed |= with_values(model, name, found.positions[dropped], torch.zeros_like(values))
            changed[f"{name}.bias"] = bias_of(model, name).index_add(
                0, rows, values * means[source].to(values)[columns]
            )
    return changed
