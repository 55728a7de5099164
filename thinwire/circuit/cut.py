"""Models with some edges cut: a dropped weight is ablated to its mean contribution, a removed node to its mean.

The contribution of a weight is the weight times its source. Its mean is the weight times the source's mean: a constant,
which is added to the bias of the target. This is exact: when all edges out of a node are dropped, the model computes
the same as with the node removed. Two remarks:
* The output matrix reads v after attention has mixed it. The attention weights of a query sum to one, so the mean of v
  is unchanged. With a sink they sum to less, and the added constant neglects that difference.
* Only weights between kept nodes are edges. Weights from a kept node to a removed one stay: the removed node is ablated
  to its mean in any case, and these weights only influence what AbsTopK selects.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from thinwire.circuit.edges import EdgeEnds, keep_masks, weights_between
from thinwire.compiled.edit import bias_of, with_values
from thinwire.model.transformer import Transformer
from thinwire.sites import Node, Site


def ablated_weights(
    model: Transformer, nodes: Iterable[Node], kept_edges: Iterable[EdgeEnds], means: Mapping[Site, Tensor]
) -> dict[str, Tensor]:
    """The parameters that differ from the model's when only these edges between these nodes are kept.

    By parameter name: weights [target width, source width] and biases [target width] of the matrices that lose an edge,
    including biases that the model does not have. `means[site]` is [width].
    """
    keep = keep_masks(nodes, model.config)
    kept: dict[tuple[Site, Site], list[int]] = {}
    for source, target in kept_edges:
        entry = target.index * source.site.width(model.config) + source.index
        kept.setdefault((source.site, target.site), []).append(entry)
    changed: dict[str, Tensor] = {}
    for name, source, target, found in weights_between(model, keep):
        entries = found.rows * source.width(model.config) + found.columns
        dropped = ~torch.isin(entries, torch.tensor(kept.get((source, target), []), dtype=torch.int64, device="cpu"))
        if dropped.any():
            rows, columns, values = found.rows[dropped], found.columns[dropped], found.values[dropped]
            changed |= with_values(model, name, found.positions[dropped], torch.zeros_like(values))
            changed[f"{name}.bias"] = bias_of(model, name).index_add(
                0, rows, values * means[source].to(values)[columns]
            )
    return changed
