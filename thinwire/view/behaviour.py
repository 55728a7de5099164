"""What a circuit's nodes do on the task: activations on prompts, how the sides differ, what each node is worth."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thinwire.circuit import Circuit
from thinwire.model.taps import ablate, record
from thinwire.model.transformer import Transformer
from thinwire.sites import Node
from thinwire.tasks import PairBatch, last_logits, margin, margin_losses


@dataclass(frozen=True)
class Behaviour:
    """Measurements on a batch of n pairs, rows as in `PairBatch`: one side first, then the other."""

    activations: dict[Node, np.ndarray]
    """In the whole model, float32 [2n, pos]; padding holds zeros."""
    sides: dict[Node, tuple[float, float]]
    """Per side, the mean over prompts of the activation of largest magnitude within the prompt."""
    p_circuit: np.ndarray
    """Probability of the right answer against its foil with only the circuit, calibrated. float32 [2n]"""
    p_model: np.ndarray
    """The same of the whole model. float32 [2n]"""
    strengths: dict[Node, float]
    """Rise of the calibrated task loss when one more node is frozen; empty for circuits with too many nodes."""


@torch.no_grad()
def behaviour(model: Transformer, circuit: Circuit, batch: PairBatch, most_ablations: int) -> Behaviour:
    """Measure a circuit on a batch; strengths only when it has at most `most_ablations` nodes."""
    tap = record({node.site for node in circuit.nodes})
    whole = margin(last_logits(model, batch, tap=tap), batch)
    inside = torch.arange(batch.tokens.shape[1]) <= batch.last[:, None]
    seen = {node: (tap.values[node.site][..., node.index].float() * inside).numpy() for node in circuit.nodes}
    kept = circuit_margins(model, circuit, batch)
    strengths = {}
    if len(circuit.nodes) <= most_ablations:
        base = margin_losses(kept).mean().item()
        for node in circuit.nodes:
            without = circuit_margins(model, circuit, batch, node)
            strengths[node] = margin_losses(without).mean().item() - base
    return Behaviour(
        activations=seen,
        sides={node: _sides(values) for node, values in seen.items()},
        p_circuit=kept.sigmoid().numpy(),
        p_model=whole.sigmoid().numpy(),
        strengths=strengths,
    )


def circuit_margins(model: Transformer, circuit: Circuit, batch: PairBatch, without: Node | None = None) -> Tensor:
    """Calibrated margins [2n] with only the circuit, less one node if given."""
    keep = dict(circuit.keep)
    if without is not None:
        keep[without.site] = keep[without.site].clone()
        keep[without.site][without.index] = False
    return circuit.calibration.apply(margin(last_logits(model, batch, tap=ablate(keep, circuit.means)), batch))


def _sides(values: np.ndarray) -> tuple[float, float]:
    peaks = values[np.arange(len(values)), np.abs(values).argmax(1)]
    first, second = np.split(peaks, 2)
    return float(first.mean()), float(second.mean())
