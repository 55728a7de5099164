"""Values that removed nodes are ablated to, by default their means over the pretraining data (A.5, step 1)."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from thinwire.data import Tokens
from thinwire.display import one_line
from thinwire.model.precision import own_modes
from thinwire.model.taps import record
from thinwire.model.transformer import Transformer
from thinwire.prune.config import Ablation
from thinwire.sites import Site
from thinwire.tasks import PairBatch

ROWS = 16
"""Pretraining sequences per forward pass."""
TASK_PAIRS = 256
"""Pairs over which a task mean is computed."""


@own_modes()
@torch.no_grad()
def mean_activations(model: Transformer, tokens: Tokens, n_tokens: int, seed: int = 0) -> dict[Site, Tensor]:
    """Mean after AbsTopK of every node, float32 [width] per site, over at least `n_tokens` pretraining tokens."""
    context = model.config.context
    n_batches = -(-n_tokens // (ROWS * context))
    sums: dict[Site, Tensor] = {}
    for index in range(n_batches):
        seen = record()
        model(torch.from_numpy(tokens.batch(index, seed, ROWS, context))[:, :-1], tap=seen)
        for site, x in seen.values.items():
            sums[site] = sums.get(site, 0) + x.float().mean((0, 1))
    return {site: total / n_batches for site, total in sums.items()}


@torch.no_grad()
def task_means(model: Transformer, pairs: PairBatch) -> dict[Site, Tensor]:
    """Mean of every node over all tokens of a task's prompts, both sides together: float32 [width] per site."""
    chosen = pairs.take(torch.arange(min(len(pairs), TASK_PAIRS), dtype=torch.int64, device="cpu"))
    seen = record()
    model(chosen.tokens, tap=seen)
    real = inside(chosen)
    return {site: x[real].float().mean(0) for site, x in seen.values.items()}


@one_line
@dataclass(frozen=True)
class PromptEmbeddings:
    """Tokens of a task's prompts, and the value that the embedding of a removed one is ablated to."""

    tokens: tuple[int, ...]
    """Ids, sorted."""
    ablated_to: Tensor
    """float32 [d_model]"""


@torch.no_grad()
def prompt_embeddings(model: Transformer, pairs: PairBatch, ablation: Ablation) -> PromptEmbeddings:
    """All tokens of a task's prompts, ablated to zero or to the mean embedding over all positions of the prompts."""
    tokens, counts = pairs.tokens[inside(pairs)].unique(return_counts=True)
    mean = counts.float() @ model.embedding(tokens).float() / counts.sum()
    return PromptEmbeddings(tuple(tokens.tolist()), torch.zeros_like(mean) if ablation == "zero" else mean)


def inside(pairs: PairBatch) -> Tensor:
    """True where a batch has no padding: bool [2n, pos]."""
    return torch.arange(pairs.tokens.shape[1], dtype=torch.int64, device="cpu") <= pairs.last[:, None]


def ablation_values(
    model: Transformer, means: Mapping[Site, Tensor], pairs: PairBatch, ablation: Ablation
) -> dict[Site, Tensor]:
    """Values that removed nodes are ablated to, float32 [width] per site; `means` are over the pretraining data."""
    match ablation:
        case "mean":
            return dict(means)
        case "zero":
            return {site: torch.zeros_like(mean) for site, mean in means.items()}
        case "task_mean":
            return task_means(model, pairs)
