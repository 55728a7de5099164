"""Circuit transfer: does a circuit found in the sparse model matter to the dense model?

The circuit's reads are set to their means in the sparse model, and the change goes through the decoder into the dense
model's reads. Where the circuit says something about the dense model, its task loss rises; as large a change through
random nodes, or along random directions, leaves it as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import with_config
from torch import Tensor

from thinwire.bridge.curves import quantile
from thinwire.bridge.reads import Decoder, Read, all_reads
from thinwire.bridge.steer import Moves, Steering, differences, moved_logits
from thinwire.bridge.steer_config import Ablation
from thinwire.bridge.targets import Target
from thinwire.config import STRICT
from thinwire.display import one_line
from thinwire.model.transformer import Transformer
from thinwire.prune.means import inside
from thinwire.tasks import PairBatch, accuracy, sequence_losses
from thinwire.verify.intervals import bootstrap, wilson
from thinwire.verify.measurement import Interval


@with_config(STRICT)
@dataclass(frozen=True)
class Loss:
    """The dense model on a task."""

    loss: float
    """Task loss, nats."""
    accuracy: float
    loss_interval: Interval
    """95 % interval of the loss; bootstrap over pairs."""
    accuracy_interval: Interval
    """The same of the accuracy, Wilson's with pairs as trials."""


@one_line
@with_config(STRICT)
@dataclass(frozen=True)
class Transfer:
    """The dense model when reads of a circuit are ablated through a bridge, with controls."""

    task: str
    split: str
    """Split of the task that the pairs come from."""
    n: int
    """Pairs that all losses are measured on."""
    seed: int
    """Seed of the pairs, of the draws and of the intervals."""
    ablation: Ablation
    """`mean`: to the mean over the task's prompts; `exchange`: to the value under the other prompt of the pair."""
    reads: int
    """Reads that were moved."""
    own: Loss
    """The dense model by itself."""
    circuit: Loss
    random_nodes: list[float]
    """Task losses for random nodes at the same points, with moves of the same norm, one a draw; rising."""
    random_directions: list[float]
    """The same for random directions."""

    @property
    def nodes_high(self) -> float:
        """The 90th percentile of random nodes' losses, nats."""
        return quantile(self.random_nodes)

    @property
    def directions_high(self) -> float:
        """The same of random directions'."""
        return quantile(self.random_directions)

    @property
    def over_random(self) -> float:
        """The circuit's loss over the 90th percentile of random nodes'."""
        return self.circuit.loss / self.nodes_high


def mean_reads(reads: Mapping[int, Tensor], batch: PairBatch) -> dict[int, Tensor]:
    """What moves every read of the prompts' own tokens to its mean over them, [2n, pos, width] per point."""
    real = inside(batch)
    return {point: torch.where(real[..., None], x[real].mean(0) - x, 0.0) for point, x in reads.items()}


@one_line
@dataclass(frozen=True)
class Case:
    """A task's pairs with both models, and what is to be moved."""

    task: str
    target: Target
    sparse: Transformer
    decoder: Decoder
    batch: PairBatch
    split: str = "heldout"
    """Split of the task that the pairs come from."""


def transfer(
    case: Case,
    reads: Sequence[Read],
    ablation: Ablation = "mean",
    draws: int = 20,
    seed: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> Transfer:
    """Ablate reads of a circuit in the dense model, and as many random ones, `draws` times.

    `tick` is called after every pass of the dense model: twice, and twice a draw.
    """
    batch = case.batch
    seen = all_reads(case.sparse, batch.tokens)
    deltas = mean_reads(seen, batch) if ablation == "mean" else differences(seen, batch)
    before = moved_logits(case.target, batch, {})
    tick()
    steering = Steering(case.target, case.decoder, batch, deltas, before)
    moves = steering.moves(reads)
    generator = torch.Generator().manual_seed(seed)

    def logits(moved: Moves) -> Tensor:
        tick()
        return moved_logits(case.target, batch, moved)

    def losses(draws: Sequence[Moves]) -> list[float]:
        return sorted(float(sequence_losses(logits(moved), batch).mean()) for moved in draws)

    nodes = [steering.random_nodes(reads, moves, generator) for _ in range(draws)]
    directions = [steering.random_direction(moves, generator) for _ in range(draws)]
    return Transfer(
        task=case.task,
        split=case.split,
        n=len(batch),
        seed=seed,
        ablation=ablation,
        reads=len(reads),
        own=_loss(before, batch, seed),
        circuit=_loss(logits(moves), batch, seed),
        random_nodes=losses(nodes),
        random_directions=losses(directions),
    )


def _loss(logits: Tensor, batch: PairBatch, seed: int) -> Loss:
    per_pair = sequence_losses(logits, batch).unflatten(0, (2, -1)).mean(0)
    share = float(accuracy(logits, batch))
    return Loss(float(per_pair.mean()), share, bootstrap(per_pair, seed), wilson(share, len(batch)))
