"""Texts where nodes are strongest: held-out pretraining text through the whole model, with a recording tap.

Every node gets a histogram over all sampled tokens and its strongest windows of both signs: at most one from each
window of text and two with the same strongest token, so that neither one document nor one word fills the list.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch

from thinwire.data import Tokens
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.model.precision import own_modes
from thinwire.model.taps import record
from thinwire.model.transformer import Transformer
from thinwire.progress import Report, silent
from thinwire.sites import Node
from thinwire.view.config import SampleConfig

BATCH = 16
"""Windows per forward pass."""
NARROW = 1e-8
"""Values that differ by less than this part of them are drawn as one."""
SAME_TOKEN = 2
"""Most windows of one sign whose strongest token is the same."""


@one_line
@dataclass(frozen=True)
class Excerpt:
    """An excerpt of text around a strong activation."""

    tokens: np.ndarray
    """int64 [pos]"""
    activations: np.ndarray
    """float32 [pos]"""
    peak: int
    """Position of the strong activation."""
    source: str


@one_line
@dataclass(frozen=True)
class Profile:
    """What one node does over the sampled text."""

    low: float
    high: float
    nonzero: float
    """Fraction of tokens with an activation other than zero."""
    tokens: int
    bounds: np.ndarray
    """Rising edges of the histogram's bins. float64 [bins + 1]; empty for a node that is always zero."""
    counts: np.ndarray
    """Nonzero activations in each bin. int64 [bins]"""
    positive: tuple[Excerpt, ...]
    """Strongest first; only windows whose largest activation is above zero."""
    negative: tuple[Excerpt, ...]


@one_line
@dataclass(frozen=True)
class Texts:
    """Sampled windows of held-out text."""

    tokens: np.ndarray
    """int64 [windows, pos]"""
    sources: tuple[str, ...]
    """The part of the corpus each window comes from."""


def profiles(
    model: Transformer, tokens: Tokens, nodes: Iterable[Node], config: SampleConfig, report: Report = silent
) -> dict[Node, Profile]:
    """The profile of every node. Uses 4 bytes of memory per node and token.

    Raises UserError when no part of the corpus holds a whole window.
    """
    nodes = sorted(set(nodes))
    if not nodes:
        return {}
    texts = held_out(tokens, config.text_tokens, model.config.context)
    found = activations(model, texts.tokens, nodes, report)
    return {node: profile(found[index], texts, config) for index, node in enumerate(nodes)}


def held_out(tokens: Tokens, n_tokens: int, context: int) -> Texts:
    """Windows of held-out text, evenly from all parts. Raises UserError when no part holds a whole window."""
    rows, sources = [], []
    for part in tokens.parts:
        room = (tokens.n_tokens(part, "validation") - 1) // context
        wanted = min(room, max(1, n_tokens // (context * len(tokens.parts))))
        if wanted > 0:
            windows = tokens.validation(part, wanted * context, context)[:, :-1]
            rows.append(windows)
            sources += [f"{part}, held out"] * len(windows)
    if not rows:
        raise UserError(f"No held-out part is as long as the context of {context}; build tokens from a larger corpus.")
    return Texts(np.concatenate(rows), tuple(sources))


@own_modes()
@torch.no_grad()
def activations(model: Transformer, tokens: np.ndarray, nodes: list[Node], report: Report = silent) -> np.ndarray:
    """Activations of nodes over windows of tokens [windows, pos]: float32 [nodes, windows, pos]."""
    found = np.empty((len(nodes), *tokens.shape), dtype=np.float32)
    sites = sorted({node.site for node in nodes})
    for start in range(0, len(tokens), BATCH):
        tap = record(sites)
        model.run(model.embed(torch.from_numpy(tokens[start : start + BATCH])), tap=tap)
        for index, node in enumerate(nodes):
            found[index, start : start + BATCH] = tap.values[node.site][..., node.index].float().numpy()
        report(min(start + BATCH, len(tokens)), len(tokens), "sampling activations")
    return found


def profile(values: np.ndarray, texts: Texts, config: SampleConfig) -> Profile:
    """The profile of one node from its activations [windows, pos].

    Raises UserError for infinity and NaN among them.
    """
    if not np.isfinite(values).all():
        raise UserError("The model has activations that are not finite on held-out text; a page cannot show them.")
    nonzero = values[values != 0].astype(np.float64)
    bounds, counts = np.empty(0), np.empty(0, np.int64)
    if len(nonzero):
        counts, bounds = np.histogram(nonzero, bins=config.bins, range=_range(nonzero))
    return Profile(
        low=float(values.min()),
        high=float(values.max()),
        nonzero=len(nonzero) / values.size,
        tokens=values.size,
        bounds=bounds,
        counts=counts,
        positive=strongest(values, texts, config, 1),
        negative=strongest(values, texts, config, -1),
    )


def strongest(values: np.ndarray, texts: Texts, config: SampleConfig, sign: int) -> tuple[Excerpt, ...]:
    """The strongest windows of a sign in a node's activations, `values` [windows, pos], strongest first.

    At most SAME_TOKEN of them share their strongest token.
    """
    peaks = (sign * values).argmax(1)
    sizes = sign * values[np.arange(len(values)), peaks]
    order = np.argsort(-sizes, kind="stable")
    found, per_token = [], Counter()
    for row in order[sizes[order] > 0]:
        peak = int(peaks[row])
        token = int(texts.tokens[row, peak])
        per_token[token] += 1
        if len(found) == config.windows or per_token[token] > SAME_TOKEN:
            continue
        start, stop = max(0, peak - config.before), peak + config.after + 1
        found.append(Excerpt(texts.tokens[row, start:stop], values[row, start:stop], peak - start, texts.sources[row]))
    return tuple(found)


def _range(values: np.ndarray) -> tuple[float, float]:
    """Range of a histogram: that of the values, float64 and none zero; opened where float64 cannot tell its bins apart.

    Activations have float32's 24 bits, so values that differ at all are mostly far enough apart.
    """
    low, high = float(values.min()), float(values.max())
    size = max(abs(low), abs(high))
    room = 0.0 if high - low > NARROW * size else size / 2
    return low - room, high + room
