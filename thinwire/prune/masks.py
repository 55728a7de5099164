"""Masks over nodes, and optionally over tokens, of several trials in one forward pass (A.5, step 2).

The batches of the trials are stacked along the batch dimension, and the tap applies each trial's mask to its own share.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model.norms import Norms
from thinwire.model.precision import autocast
from thinwire.model.taps import ablate_masks
from thinwire.model.transformer import Transformer
from thinwire.prune.config import PruneConfig
from thinwire.prune.means import PromptEmbeddings
from thinwire.prune.passes import Token
from thinwire.sites import Node, Shape, Site, all_sites
from thinwire.tasks import PairBatch, last_logits, margin, norms_on

PART_BYTES = 2**27
"""A batch is computed in parts of pairs of similar length, whose widest activations take about this much memory."""


class NodeMasks:
    """One mask for each node; with `tied_qk` a channel of q shares its mask with the same channel of k.

    Nodes that the config keeps or drops have no mask. Masks of tokens, if any, come after those of nodes; a token has
    one mask for all its positions.
    """

    def __init__(
        self,
        model: Transformer,
        means: Mapping[Site, Tensor],
        config: PruneConfig,
        embeddings: PromptEmbeddings | None = None,
    ) -> None:
        """`means[site]` is float32 [width]; `embeddings` are the tokens with masks, if any.

        Raises UserError for kept or dropped nodes that the model does not have.
        """
        self.model, self.means, self.embeddings = model, means, embeddings
        self.frozen_norms = config.frozen_norms
        self.widths = {site: site.width(model.config) for site in all_sites(model.config)}
        self.forced = forced_nodes(config.keep, model.config)
        excluded = {*self.forced, *forced_nodes(config.drop, model.config)}
        if len(excluded) < len(config.keep) + len(config.drop):
            raise UserError("A node is named twice among those to keep and to drop; name each once.")
        self.units = tuple(node_units(model.config, config.tied_qk, excluded))
        self.tokens: tuple[Token, ...] = tuple(map(Token, embeddings.tokens)) if embeddings else ()
        self.n = len(self.units) + len(self.tokens)
        index_of = {node: i for i, node in enumerate(_every(self.widths))}
        columns = [index_of[node] for unit in self.units for node in unit]
        units = [i for i, unit in enumerate(self.units) for _ in unit]
        self._columns, self._units = (torch.tensor(each, dtype=torch.int64, device="cpu") for each in (columns, units))
        self._always = torch.zeros(len(index_of), dtype=torch.float32, device="cpu")
        self._always[[index_of[node] for node in self.forced]] = 1

    def split(self, hard: Tensor) -> dict[Site, Tensor]:
        """Masks float32 [trials, n] by site: [trials, width] each."""
        flat = self._always.expand(len(hard), -1).index_add(1, self._columns, hard[:, self._units])
        return dict(zip(self.widths, flat.split(list(self.widths.values()), dim=-1), strict=True))

    def margins(self, hard: Tensor, batch: PairBatch) -> Tensor:
        """Margins of every trial, float32 [trials, 2n pairs]; trials run together on each part of the batch.

        `hard` is float32 [trials, n]. Parts have pairs of similar length, so that little padding is computed.
        """
        trials, order, found = len(hard), [], []
        a_pair = 4 * max(self.widths.values()) * trials * 2 * batch.tokens.shape[1]
        for pairs, part in batch.by_length(max(1, PART_BYTES // a_pair)):
            with autocast(self.model.precision, part.tokens.device):
                norms = norms_on(self.model, part, self.frozen_norms, trials)
                logits = self.logits(hard, fold(part, trials), norms)
            found.append(margin(logits.unflatten(0, (trials, -1)), part).unflatten(1, (2, -1)))
            order.append(pairs)
        return torch.cat(found, -1)[..., torch.cat(order).argsort()].flatten(1)

    def logits(self, hard: Tensor, batch: PairBatch, norms: Norms) -> Tensor:
        """Logits [trials·sequences, vocab] of a batch with the sequences of each trial, trial by trial.

        `hard` is float32 [trials, n].
        """
        embedded = None if self.embeddings is None else self._embedded(hard, batch.tokens, self.embeddings)
        resid = self.model.embed(batch.tokens, embedded)
        return last_logits(self.model, batch, ablate_masks(self.split(hard), self.means), resid, norms=norms)

    def _embedded(self, hard: Tensor, tokens: Tensor, masked: PromptEmbeddings) -> Tensor:
        """Embeddings [trials·sequences, pos, d_model] of tokens [trials·sequences, pos]; a removed one is ablated."""
        kept = hard.new_ones(len(hard), self.model.config.vocab_size)
        columns = torch.tensor(masked.tokens, dtype=torch.int64, device="cpu")
        kept = kept.index_copy(1, columns, hard[:, len(self.units) :])
        mask = kept.gather(1, tokens.reshape(len(hard), -1)).view_as(tokens)
        return torch.lerp(masked.ablated_to, self.model.embedding(tokens), mask[..., None])


def _every(widths: Mapping[Site, int]) -> list[Node]:
    return [Node(site, index) for site, width in widths.items() for index in range(width)]


def forced_nodes(names: Sequence[str], shape: Shape) -> tuple[Node, ...]:
    """The nodes with these names. Raises UserError for names that are not nodes of the model."""
    return tuple(Node.parse(name, shape) for name in names)


def node_units(shape: Shape, tied_qk: bool, excluded: set[Node]) -> list[tuple[Node, ...]]:
    """The nodes of each mask, in the order of the forward pass: one node, or q and k of a channel together."""
    units: list[tuple[Node, ...]] = []
    for site in all_sites(shape):
        partner = Site.of(site.layer, "attn.k") if tied_qk and site.kind == "attn.q" else None
        if tied_qk and site.kind == "attn.k":
            continue
        for index in range(site.width(shape)):
            unit = (Node(site, index), *([Node(partner, index)] if partner else []))
            free = tuple(node for node in unit if node not in excluded)
            if free:
                units.append(free)
    return units


def fold(batch: PairBatch, trials: int) -> PairBatch:
    """The sequences of a batch repeated for each trial, trial by trial along the batch dimension."""
    return PairBatch(
        batch.tokens.repeat(trials, 1),
        batch.last.repeat(trials),
        batch.target.repeat(trials),
        batch.foil.repeat(trials),
    )
