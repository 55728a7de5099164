"""How fast does a ranking of the nodes recover the model? CPR, CMD and acc-AUC over circuits of every size."""

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from thinwire.circuit import keep_masks
from thinwire.prune.bootstrap import TAIL
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.intervals import RESAMPLES
from thinwire.verify.margins import Condition
from thinwire.verify.measurement import Curve, Interval, Measurement
from thinwire.verify.sizes import area, prefixes, ranking

PAIRS = 64
SHARES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
"""Of the model's edges."""
LOGS = tuple(map(math.log, SHARES))
SIZES = (
    "The nodes of the circuit come first, by the score that pruning ranked them by, then all others by attribution. A "
    "circuit of a size is the fewest of them with that share of the model's edges between them, from 0.1 to 100 %; an "
    "edge has the rank of the later of its ends, and none between them is cut. f is the mean log-odds of the right "
    "answer, not calibrated, less that of the model with every node at its mean, over the same of the whole model."
)
CPR = f"Mean of f over sizes, the area under its curve; above 1 where circuits do more than the model. {SIZES}"
CMD = f"Mean of |1 - f| over sizes: how far circuits are from the model. {SIZES}"
ACCURACY = f"Mean over sizes, on a logarithmic scale, of the share of prompts answered right. {SIZES}"


@check("curves", order=45, thorough=True)
def curves(inputs: CheckInput) -> list[Measurement]:
    """CPR and CMD over the sizes and over their logarithms, and acc-AUC; no status."""
    batch, ranked = inputs.first(PAIRS), ranking(inputs)
    shape, counts = inputs.model.config, prefixes(inputs.model, ranked, SHARES)
    each = torch.stack([inputs.kept_margins(batch, keep_masks(ranked[:count], shape)) for count in counts])
    empty, whole = inputs.kept_margins(batch, keep_masks((), shape)), inputs.margins(batch)
    rows = _resamples(len(batch), inputs.config.seed)
    f, right = recovered(each, empty, whole, rows), _means((each > 0).double(), rows)
    condition = Condition(
        "curves", "circuits of every size", inputs.ablation, len(batch), budget=f"{len(SHARES)} sizes"
    )

    def measured(curve: Tensor, at: Sequence[float], meaning: str, quantity: str) -> Measurement:
        value, *resampled = area(curve, at)
        ends = torch.stack(resampled).quantile(torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64, device="cpu"))
        return condition.share(value.item(), Interval(*ends.tolist()), meaning, quantity)

    return [
        replace(measured(f, SHARES, CPR, "CPR"), curve=Curve("share of the edges", SHARES, tuple(f[0].tolist()))),
        measured((1 - f).abs(), SHARES, CMD, "CMD"),
        measured(f, LOGS, CPR, "CPR over log size"),
        measured((1 - f).abs(), LOGS, CMD, "CMD over log size"),
        measured(right, LOGS, ACCURACY, "acc-AUC"),
    ]


def recovered(each: Tensor, empty: Tensor, whole: Tensor, rows: Tensor) -> Tensor:
    """f [resamples, sizes] from margins [sizes, 2n], and [2n] of the empty and the whole model.

    `rows` int64 [resamples, n] are the pairs of each resample.
    """
    nothing, all_of_it = _means(empty, rows)[:, None], _means(whole, rows)[:, None]
    gap = all_of_it - nothing
    tiny = torch.finfo(torch.float32).tiny
    return (_means(each, rows) - nothing) / torch.where(gap.abs() < tiny, tiny, gap)


def _resamples(n: int, seed: int) -> Tensor:
    """The pairs of a bootstrap int64 [1 + RESAMPLES, n]; first all pairs as they are."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator, dtype=torch.int64, device="cpu")
    return torch.cat([torch.arange(n, dtype=torch.int64, device="cpu")[None], drawn])


def _means(values: Tensor, rows: Tensor) -> Tensor:
    """Means [resamples, ...] over prompts of values [..., 2n]; `rows` int64 [resamples, n] are pairs."""
    per_pair = values.double().unflatten(-1, (2, -1)).mean(-2)
    return per_pair[..., rows].mean(-1).movedim(-1, 0)
