"""A circuit's nodes, prompts and edges as records of the payload."""

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from thinwire.circuit import Circuit, TokenEdge
from thinwire.circuit.edges import MATRICES
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.sites import Node
from thinwire.tasks import REST, PairBatch
from thinwire.view.behaviour import Behaviour
from thinwire.view.payload import Activity, NodeView, Prompt, TokenEdgeView, Window
from thinwire.view.samples import Excerpt, Profile

MATRIX_INTO = {target: name for name, (_, target) in MATRICES.items()}
"""For each kind of site, the matrix that writes it and whose bias it has."""


@dataclass
class Vocabulary:
    """Tokens that occur on the page, in order of first use; calling it with a token id gives the token's index."""

    indices: dict[int, int] = field(default_factory=dict)

    def __call__(self, token: int) -> int:
        return self.indices.setdefault(int(token), len(self.indices))


def node_view(
    model: Transformer,
    circuit: Circuit,
    node: Node,
    known: Profile,
    acts: Behaviour,
    batch: PairBatch,
    shown: list[int],
    word: Vocabulary,
) -> NodeView:
    """Everything that the page shows of one node; `shown` has the rows of the batch that are example prompts."""
    strength = acts.strengths.get(node)
    return plain_node(circuit, node).replace(
        bias=_bias(model, node),
        strength=None if strength is None else short(strength),
        sides=(short(acts.sides[node][0]), short(acts.sides[node][1])),
        activity=activity_of(known),
        positive=tuple(_window(excerpt, word) for excerpt in known.positive),
        negative=tuple(_window(excerpt, word) for excerpt in known.negative),
        on_prompts=tuple(shorts(acts.activations[node][row, : int(batch.last[row]) + 1]) for row in shown),
    )


def activity_of(known: Profile) -> Activity:
    """The distribution of a node's activations."""
    return Activity(
        low=short(known.low),
        high=short(known.high),
        nonzero=short(known.nonzero),
        tokens=known.tokens,
        bounds=distinct(known.bounds),
        counts=tuple(known.counts.tolist()),
    )


def plain_node(circuit: Circuit, node: Node) -> NodeView:
    """What a circuit knows of a node without its model."""
    site, shape = node.site, circuit.shape
    head, channel = divmod(node.index, shape.d_head) if site.headed else (None, node.index)
    position = site.kind.endswith("act_in") and channel >= shape.d_model
    return NodeView(
        name=node.name(shape),
        layer=site.layer,
        kind=site.kind,
        head=head,
        channel=channel - shape.d_model if position else channel,
        position=position,
        mean=short(circuit.means[site][node.index].item()),
    )


def _bias(model: Transformer, node: Node) -> float | None:
    """The bias of the matrix that writes the node; None for reads of the residual stream and bias-free models."""
    name = MATRIX_INTO.get(node.site.kind)
    if name is None or not model.config.biases:
        return None
    sublayer = model.sublayers[node.site.sublayer]
    return short(sublayer.get_parameter(f"{name}.bias")[node.index].item())


def prompt_view(batch: PairBatch, acts: Behaviour, row: int, word: Vocabulary) -> Prompt:
    """One prompt of a batch, with its answers and their probabilities."""
    answer, foil = int(batch.target[row]), int(batch.foil[row])
    return Prompt(
        tokens=prompt_tokens(batch, row, word),
        answer=None if answer == REST else word(answer),
        foil=None if foil == REST else word(foil),
        p_circuit=short(acts.p_circuit[row].item()),
        p_model=short(acts.p_model[row].item()),
    )


def prompt_tokens(batch: PairBatch, row: int, word: Vocabulary) -> tuple[int, ...]:
    """The tokens of one prompt of a batch."""
    return _words(batch.tokens[row, : int(batch.last[row]) + 1], word)


def _window(excerpt: Excerpt, word: Vocabulary) -> Window:
    return Window(
        tokens=_words(torch.from_numpy(excerpt.tokens), word),
        activations=shorts(excerpt.activations),
        peak=excerpt.peak,
        source=excerpt.source,
    )


def token_edges(edges: list[TokenEdge], word: Vocabulary) -> tuple[TokenEdgeView, ...]:
    """Weights of the embedding or unembedding as records of the page."""
    return tuple(TokenEdgeView(token=word(e.token), channel=e.channel, weight=short(e.weight)) for e in edges)


def _words(tokens: Tensor, word: Vocabulary) -> tuple[int, ...]:
    return tuple(word(token) for token in tokens.tolist())


def short(value: float) -> float:
    """Four significant digits: more than anyone reads, and a third of the bytes.

    Raises UserError for infinity and NaN, which no page can show.
    """
    if not math.isfinite(value):
        raise UserError(
            f"The model or the circuit gives {value} where a page needs a finite number; check its weights and means."
        )
    return float(f"{value:.4g}")


def shorts(values: np.ndarray) -> tuple[float, ...]:
    """`short` of every entry of an array [n]."""
    return tuple(short(value) for value in values.tolist())


def distinct(bounds: np.ndarray) -> tuple[float, ...]:
    """Rising bounds of equal bins, float64 [n], with as many digits as keep them apart."""
    if len(bounds) < 2:
        return shorts(bounds)
    step, most = (bounds[-1] - bounds[0]) / (len(bounds) - 1), max(abs(bounds[0]), abs(bounds[-1]))
    digits = min(17, max(4, 3 + math.ceil(math.log10(most) - math.log10(step))))
    return tuple(float(f"{value:.{digits}g}") for value in bounds.tolist())
