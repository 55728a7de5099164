"""Masks over edges: one for every nonzero weight, or for those between nodes that an earlier pruning kept.

A masked weight is ablated to its mean contribution (see `thinwire.circuit.cut`), a node without edges to its mean. So
masks of 0 and 1 compute exactly what their circuit computes. Trials run one after another, since their weights differ.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from thinwire.circuit import EdgeEnds, keep_masks, weight_edges
from thinwire.circuit.edges import weights_between
from thinwire.compiled.edit import bias_of, with_values
from thinwire.model.norms import Norms
from thinwire.model.precision import autocast
from thinwire.model.taps import Tap
from thinwire.model.transformer import Transformer
from thinwire.prune.passes import Replaceable
from thinwire.sites import Node, Site, all_sites, n_nodes
from thinwire.tasks import PairBatch, margin, norms_on


class EdgeMasks:
    """One mask for each edge. `units` are the edges, column by column, in the order of the forward pass.

    `nodes` are those that edges may join, None for all. `forced` nodes are kept in any case. `loose` nodes, of `nodes`,
    are those that no edge touches; they are kept too.
    """

    def __init__(
        self,
        model: Transformer,
        means: Mapping[Site, Tensor],
        nodes: Iterable[Node] | None = None,
        forced: Sequence[Node] = (),
        excluded: Iterable[Node] = (),
        frozen_norms: bool = False,
    ) -> None:
        """`means[site]` is float32 [width], the values that removed nodes are ablated to."""
        shape = model.config
        every = [Node(site, index) for site in all_sites(shape) for index in range(site.width(shape))]
        chosen = frozenset(every if nodes is None else nodes).union(forced).difference(excluded)
        self.model, self.means, self.frozen_norms = model, means, frozen_norms
        self._replaceable = Replaceable(model)
        self._matrices = list(weights_between(model, keep_masks(chosen, shape)))
        self.units: tuple[EdgeEnds, ...] = tuple(edge.ends for edge in weight_edges(model, chosen))
        self.n = len(self.units)
        self.forced = tuple(forced)
        touched = {node for edge in self.units for node in edge}
        self.loose = () if nodes is None else tuple(sorted(chosen - touched))
        self._widths = {site: site.width(shape) for site in all_sites(shape)}
        index_of = {node: i for i, node in enumerate(every)}
        ends = torch.tensor(
            [[index_of[node] for node in edge] for edge in self.units], dtype=torch.int64, device="cpu"
        ).reshape(-1, 2)
        self._sources, self._targets = ends.T
        self._always = torch.zeros(n_nodes(shape), dtype=torch.bool, device="cpu")
        self._always[[index_of[node] for node in (*self.forced, *self.loose)]] = True
        self._mortal = keep_masks(touched.difference(self.forced), shape)

    def margins(self, hard: Tensor, batch: PairBatch) -> Tensor:
        """Margins of every trial, float32 [trials, 2n pairs]; `hard` is float32 [trials, n], 1 for kept edges."""
        with autocast(self.model.precision, batch.tokens.device):
            norms = norms_on(self.model, batch, self.frozen_norms)
        return torch.stack([self._margins(masks, batch, norms) for masks in hard])

    def _margins(self, masks: Tensor, batch: PairBatch, norms: Norms) -> Tensor:
        alive = self.alive(masks)
        with autocast(self.model.precision, batch.tokens.device):
            outputs = self._replaceable.logits(self.parameters(masks, alive), batch, self.tap(alive), norms=norms)
        return margin(outputs.logits, batch)

    def alive(self, masks: Tensor) -> dict[Site, Tensor]:
        """Nodes that are not ablated, bool [width] per site: ends of kept edges, forced and loose ones.

        `masks` is float32 [n].
        """
        kept = masks.detach() > 0
        flat = self._always.clone()
        flat[self._sources[kept]] = True
        flat[self._targets[kept]] = True
        return dict(zip(self._widths, flat.split(list(self._widths.values())), strict=True))

    def parameters(self, masks: Tensor, alive: Mapping[Site, Tensor]) -> dict[str, Tensor]:
        """Weights W·m and biases b + W·(1 - m)·mean of every matrix with masks, with gradients to the masks [n].

        By parameter name: weights [target width, source width] and biases [target width]. Edges into an ablated node
        keep their full weight, as in a circuit, but pass the gradient of their mask.
        """
        changed: dict[str, Tensor] = {}
        model = self._replaceable.model
        own_masks = masks.split([len(matrix.found.values) for matrix in self._matrices])
        for (name, source, target, found), own in zip(self._matrices, own_masks, strict=True):
            own = torch.where(alive[target][found.rows], own, own + (1 - own).detach())
            constant = found.values * (1 - own) * self.means[source][found.columns]
            changed |= with_values(model, name, found.positions, found.values * own)
            changed[f"{name}.bias"] = bias_of(model, name).index_add(0, found.rows, constant)
        return changed

    def tap(self, alive: Mapping[Site, Tensor]) -> Tap:
        """Ablates nodes that are not `alive` (bool [width] per site) to their means.

        Ablated nodes pass gradients all the same, if some edge of theirs has a mask: otherwise a node without edges
        could never get one back.
        """

        def tap(site: Site, x: Tensor) -> Tensor:
            ablated = torch.where(alive[site], x, self.means[site].to(x.dtype))
            dead = self._mortal[site] & ~alive[site]
            if not dead.any() or not x.requires_grad:
                return ablated
            return ablated + (x - x.detach()) * dead

        return tap
