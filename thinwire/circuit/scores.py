"""What pruning measures on a circuit, stored beside it."""

from dataclasses import dataclass

from pydantic import with_config

from thinwire.config import STRICT
from thinwire.display import one_line
from thinwire.tasks import PairUse


@with_config(STRICT)
@dataclass(frozen=True)
class Rung:
    """The smallest circuit of a ranking that meets a target loss; sizes are None if the whole ranking misses it."""

    target: float
    """Loss that validation pairs must meet, nats."""
    nodes: int | None
    edges: int | None
    loss: float | None
    """Calibrated task loss on validation pairs."""


@one_line
@with_config(STRICT)
@dataclass(frozen=True)
class PruneScores:
    """Scores of a circuit on pairs that its masks were not trained on."""

    target_loss: float
    loss: float
    """Task loss on validation pairs, which chose the number of nodes."""
    loss_one_fewer: float
    """Least validation loss after removing one node or edge and fitting the calibration again; it misses the target. Of
    a circuit that was not simplified, only the node or edge ranked last is removed."""
    heldout_loss: float
    """Calibrated task loss on held-out templates and names: the pairs that `thinwire verify` measures on too."""
    heldout_accuracy: float
    """Calibrated too."""
    unpruned_loss: float
    """Held-out loss of the whole model."""
    unpruned_accuracy: float
    edges: int
    embedding_edges: int
    """Nonzero embedding weights from tokens of the task's prompts to channels that the circuit reads."""
    unembedding_edges: int
    """Nonzero unembedding weights from channels that the circuit writes to the answers."""
    seconds: float
    nodes_unsimplified: int | None = None
    """Nodes before simplification; None in older files."""
    edges_unsimplified: int | None = None
    """Edges before simplification; None in older files."""
    ladder: tuple[Rung, ...] = ()
    """Smaller circuits of the same ranking, not simplified, for further targets; strictest first."""
    heldout_pairs: int | None = None
    """Held-out pairs behind these numbers; None in older files, and so are the next three."""
    uncalibrated_loss: float | None = None
    """Held-out loss of the circuit's log-odds without the calibration's scale and shift."""
    uncalibrated_accuracy: float | None = None
    auc: float | None = None
    """Probability that a held-out pair's log-odds of the first answer are higher where it is right than another's where
    it is wrong. No calibration changes it."""
    pairs: tuple[PairUse, ...] = ()
    """Pairs of each split that were used and passed over; empty in older files."""
