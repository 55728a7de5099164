"""Circuit transfer: does a circuit found in the sparse model matter to the dense model?

The circuit's reads are set to their means in the sparse model, and the change goes through the decoder into the dense
model's reads. Where the circuit says something about the dense model, its task loss rises; as large a change through
random nodes, or along random directions, leaves it as it is.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from pydantic import with_config
from torch import Tensor

from thinwire.bridge.reads import Decoder, Read, all_reads
from thinwire.bridge.steer import Moves, Steering, differences, moved_logits
from thinwire.bridge.targets import Target
from thinwire.config import STRICT
from thinwire.display import one_line
from thinwire.model.transformer import Transformer
from thinwire.prune.means import inside
from thinwire.tasks import PairBatch, accuracy, task_loss


@with_config(STRICT)
@dataclass(frozen=True)
class Loss:
    """The dense model on a task."""

    loss: float
    """Task loss, nats."""
    accuracy: float


@one_line
@with_config(STRICT)
@dataclass(frozen=True)
class Transfer:
    """The dense model when reads of a circuit are ablated through a bridge, with controls."""

    task: str
    ablation: str
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
    def over_random(self) -> float:
        """The circuit's loss over the 90th percentile of random nodes'."""
        return self.circuit.loss / float(
            torch.tensor(self.random_nodes, dtype=torch.float64, device="cpu").quantile(0.9)
        )


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


def transfer(case: Case, reads: Sequence[Read], ablation: str = "mean", draws: int = 20, seed: int = 0) -> Transfer:
    """Ablate reads of a circuit in the dense model, and as many random ones, `draws` times."""
    batch = case.batch
    seen = all_reads(case.sparse, batch.tokens)
    deltas = mean_reads(seen, batch) if ablation == "mean" else differences(seen, batch)
    before = moved_logits(case.target, batch, {})
    steering = Steering(case.target, case.decoder, batch, deltas, before)
    moves = steering.moves(reads)
    generator = torch.Generator().manual_seed(seed)

    def loss(moved: Moves) -> Loss:
        return _loss(moved_logits(case.target, batch, moved), batch)

    nodes = [steering.random_nodes(reads, moves, generator) for _ in range(draws)]
    directions = [steering.random_direction(moves, generator) for _ in range(draws)]
    return Transfer(
        task=case.task,
        ablation=ablation,
        reads=len(reads),
        own=_loss(before, batch),
        circuit=loss(moves),
        random_nodes=sorted(loss(each).loss for each in nodes),
        random_directions=sorted(loss(each).loss for each in directions),
    )


def _loss(logits: Tensor, batch: PairBatch) -> Loss:
    return Loss(float(task_loss(logits, batch)), float(accuracy(logits, batch)))
