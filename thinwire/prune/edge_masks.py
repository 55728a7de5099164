"""Masks over wires: one for every nonzero weight, or for those between nodes that an earlier pruning kept.

A masked weight is held at its mean contribution (see `thinwire.circuit.cut`), a node without wires at its mean, so that
masks of 0 and 1 run exactly as the circuit they stand for. Trials run one after another: each has weights of its own.
"""

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from thinwire.circuit import Wire, keep_masks, weight_edges
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
    """One mask a wire. `units` are the wires, column by column, in the order of the forward pass.

    `nodes` are those that wires may join, None for all. Of them, `forced` and `loose` ones are kept without wires;
    loose are those that no wire touches to begin with, unless all nodes are there to choose from.
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
        shape = model.config
        every = [Node(site, index) for site in all_sites(shape) for index in range(site.width(shape))]
        chosen = frozenset(every if nodes is None else nodes).union(forced).difference(excluded)
        self.model, self.means, self.frozen_norms = model, means, frozen_norms
        self._replaceable = Replaceable(model)
        self._matrices = list(weights_between(model, keep_masks(chosen, shape)))
        self.units: tuple[Wire, ...] = tuple((edge.source, edge.target) for edge in weight_edges(model, chosen))
        self.n = len(self.units)
        self.forced = tuple(forced)
        touched = {node for wire in self.units for node in wire}
        self.loose = () if nodes is None else tuple(sorted(chosen - touched))
        self._widths = {site: site.width(shape) for site in all_sites(shape)}
        place = {node: i for i, node in enumerate(every)}
        ends = torch.tensor([[place[node] for node in wire] for wire in self.units], dtype=torch.int64).reshape(-1, 2)
        self._sources, self._targets = ends.T
        self._always = torch.zeros(n_nodes(shape), dtype=torch.bool)
        self._always[[place[node] for node in (*self.forced, *self.loose)]] = True
        self._mortal = keep_masks(touched.difference(self.forced), shape)

    def margins(self, hard: Tensor, batch: PairBatch) -> Tensor:
        """Margins of every trial [trials, 2n pairs]; `hard` is [trials, n], 1 for wires that are kept."""
        with autocast(self.model.precision, batch.tokens.device):
            norms = norms_on(self.model, batch, self.frozen_norms)
        return torch.stack([self._margins(masks, batch, norms) for masks in hard])

    def _margins(self, masks: Tensor, batch: PairBatch, norms: Norms) -> Tensor:
        alive = self.alive(masks)
        with autocast(self.model.precision, batch.tokens.device):
            _, logits = self._replaceable.logits(self.parameters(masks, alive), batch, self.tap(alive), norms=norms)
        return margin(logits, batch)

    def alive(self, masks: Tensor) -> dict[Site, Tensor]:
        """Which nodes stand: ends of kept wires, and those that are there without. bool [width] per site."""
        kept = masks.detach() > 0
        flat = self._always.clone()
        flat[self._sources[kept]] = True
        flat[self._targets[kept]] = True
        return dict(zip(self._widths, flat.split(list(self._widths.values())), strict=True))

    def parameters(self, masks: Tensor, alive: Mapping[Site, Tensor]) -> dict[str, Tensor]:
        """Weights W·m and biases b + W·(1 - m)·mean of every matrix with masks, with gradients to the masks [n].

        Wires into a node that is held have their weight in full, as in a circuit, but the gradient of their mask.
        """
        changed: dict[str, Tensor] = {}
        model = self._replaceable.model
        own_masks = masks.split([len(found.values) for _, _, _, found in self._matrices])
        for (name, source, target, found), own in zip(self._matrices, own_masks, strict=True):
            own = torch.where(alive[target][found.rows], own, own + (1 - own).detach())
            held = found.values * (1 - own) * self.means[source][found.columns]
            changed |= with_values(model, name, found.positions, found.values * own)
            changed[f"{name}.bias"] = bias_of(model, name).index_add(0, found.rows, held)
        return changed

    def tap(self, alive: Mapping[Site, Tensor]) -> Tap:
        """Holds nodes that do not stand at their means; those with masks around them pass gradients all the same.

        Otherwise a node without wires could never get one back.
        """

        def tap(site: Site, x: Tensor) -> Tensor:
            held = torch.where(alive[site], x, self.means[site].to(x.dtype))
            dead = self._mortal[site] & ~alive[site]
            if not dead.any() or not x.requires_grad:
                return held
            return held + (x - x.detach()) * dead

        return tap
