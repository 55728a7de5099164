"""Values of the nodes outside a circuit, taken from other sequences: what a circuit that is alone must not depend on.

A `Donor` says where each node outside takes its value. `margins_under` runs the circuit with these values.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thinwire.model.taps import ablate, record
from thinwire.sites import Site
from thinwire.tasks import PairBatch
from thinwire.verify.inputs import CheckInput

PAIRS_AT_ONCE = 64
"""Pairs that are measured together: the values of all sites at all positions are held for them."""
ROWS_AT_ONCE = 16
"""Pretraining sequences whose values such pairs take."""
EVERYWHERE = ("attn.act_in", "attn.k", "attn.v")
"""Sites of the last layer that `Transformer.run_last` computes at all positions; the others it computes at one."""


class Donated(NamedTuple):
    """Where a batch of n pairs takes the values of the nodes outside from."""

    tokens: Tensor
    """Sequences that the whole model runs on, int64 [m, positions]."""
    rows: Tensor
    """Which of them each position takes its values from: int64 [2n, pos], or [2n, 1] where all positions agree."""
    positions: Tensor
    """And at which position of it: int64 [2n, pos]."""


Donor = Callable[[PairBatch, torch.Generator], Donated]
"""Chooses the sequences and positions for a batch, at random where there is a choice."""


def other_pair(batch: PairBatch, generator: torch.Generator) -> Donated:
    """A prompt of the next pair, of either side at random, aligned at the last token."""
    n = len(batch)
    side = torch.randint(2, (2, n), generator=generator, dtype=torch.int64, device="cpu")
    donors = (_count(n).roll(1) + n * side).flatten()
    return Donated(batch.tokens, donors[:, None], _aligned(batch, batch.last[donors]))


def other_side(batch: PairBatch, generator: torch.Generator) -> Donated:
    """The other prompt of the same pair, aligned at the last token."""
    donors = _count(2 * len(batch)).roll(len(batch))
    return Donated(batch.tokens, donors[:, None], _aligned(batch, batch.last[donors]))


def same_prompt(batch: PairBatch, generator: torch.Generator) -> Donated:
    """The prompt itself: what the whole model has there."""
    n, pos = batch.tokens.shape
    return Donated(batch.tokens, _count(n)[:, None], _count(pos).expand(n, -1))


def sequences(tokens: Tensor) -> Donor:
    """A stretch of one of these sequences, int64 [m, positions], at random; its order of positions is kept."""

    def donate(batch: PairBatch, generator: torch.Generator) -> Donated:
        n, pos = batch.tokens.shape
        rows = _some_rows(tokens, (n, 1), generator)
        room = max(tokens.shape[1] - pos, 0) + 1
        start = torch.randint(room, (n, 1), generator=generator, dtype=torch.int64, device="cpu")
        return Donated(tokens, rows, (start + _count(pos)).clamp(max=tokens.shape[1] - 1))

    return donate


def scattered(tokens: Tensor) -> Donor:
    """A position of one of these sequences, int64 [m, positions], drawn anew for every position of every prompt."""

    def donate(batch: PairBatch, generator: torch.Generator) -> Donated:
        size = batch.tokens.shape
        rows = _some_rows(tokens, size, generator)
        positions = torch.randint(tokens.shape[1], size, generator=generator, dtype=torch.int64, device="cpu")
        return Donated(tokens, rows, positions)

    return donate


@torch.no_grad()
def donated_values(inputs: CheckInput, found: Donated, sites: list[Site], last: Tensor) -> dict[Site, Tensor]:
    """The values of some sites that a donor chose, [2n, pos, width] each, as the whole model has them.

    Where the forward pass computes the last tokens alone, which stand at `last` [2n], they are [2n, 1, width].
    """
    seen = record(sites)
    needed, rows = found.rows.unique(return_inverse=True)
    everywhere = rows, found.positions
    inputs.model.run(inputs.model.embed(found.tokens[needed]), tap=seen)
    here = last[:, None]
    at_last = (rows if rows.shape[1] == 1 else rows.gather(1, here), found.positions.gather(1, here))
    final = inputs.model.config.n_layers - 1
    return {
        site: seen.values[site][at_last if site.layer == final and site.kind not in EVERYWHERE else everywhere]
        for site in sites
    }


def margins_under(
    inputs: CheckInput, donor: Donor, batch: PairBatch | None = None, sites: frozenset[Site] | None = None
) -> Tensor:
    """Margins float32 [2n] with the nodes outside at the values of a donor, not calibrated; on `inputs.exchanged`
    or the pairs of `batch`.

    With `sites`, nodes outside at other sites are ablated to their means. The config's seed decides every choice.
    """
    batch = inputs.exchanged if batch is None else batch
    return margins_by_group(inputs, donor, batch, [sites])[0]


def margins_by_group(
    inputs: CheckInput, donor: Donor, batch: PairBatch, groups: Sequence[frozenset[Site] | None]
) -> list[Tensor]:
    """The margins [2n] of `margins_under` for each of several groups of sites, all with the same donated values."""
    circuit, generator = inputs.circuit, torch.Generator().manual_seed(inputs.config.seed)
    n = len(batch)
    margins = torch.empty(len(groups), 2, n, dtype=torch.float32, device="cpu")
    keep = {site: mask for site, mask in circuit.keep.items() if not mask.all()}
    chosen = [site for site in keep if any(sites is None or site in sites for sites in groups)]
    order = torch.randperm(n, generator=generator, dtype=torch.int64, device="cpu")
    for pairs in order.chunk(-(-n // PAIRS_AT_ONCE)):  # of at least two pairs
        part = batch.take(pairs)
        donated = donated_values(inputs, donor(part, generator), chosen, part.last)
        for row, sites in zip(margins, groups, strict=True):
            there = {site: x for site, x in donated.items() if sites is None or site in sites}
            tap = ablate(keep, {**circuit.means, **there})
            row[:, pairs] = inputs.margins(part, tap, inputs.cut).unflatten(0, (2, -1))
    return list(margins.flatten(1))


def _some_rows(tokens: Tensor, size: Sequence[int], generator: torch.Generator) -> Tensor:
    """Random rows of `tokens` [m, positions], int64 of the given size; at most ROWS_AT_ONCE different ones."""
    some = torch.randperm(len(tokens), generator=generator, dtype=torch.int64, device="cpu")[:ROWS_AT_ONCE]
    return some[torch.randint(len(some), size, generator=generator, dtype=torch.int64, device="cpu")]


def _aligned(batch: PairBatch, last: Tensor) -> Tensor:
    """Positions [2n, pos] of donors whose last tokens stand at `last` [2n], aligned there; the first one fills up."""
    positions = _count(batch.tokens.shape[1]) + (last - batch.last)[:, None]
    return positions.clamp(min=0).minimum(last[:, None])


def _count(n: int) -> Tensor:
    return torch.arange(n, dtype=torch.int64, device="cpu")
