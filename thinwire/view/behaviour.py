"""A circuit's nodes on the task: activations on prompts, how the sides differ, how much each node matters."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from thinwire.circuit import Circuit
from thinwire.display import one_line
from thinwire.model.norms import Norms
from thinwire.model.precision import own_modes
from thinwire.model.taps import Tap, ablate, chain, record
from thinwire.model.transformer import Transformer
from thinwire.prune.means import inside
from thinwire.sites import Node, ResidPoint
from thinwire.tasks import PairBatch, last_logits, loss_of, margin, whole_sublayers


@one_line
@dataclass(frozen=True)
class Behaviour:
    """Measurements on a batch of n pairs, rows as in `PairBatch`: one side first, then the other."""

    activations: dict[Node, np.ndarray]
    """In the whole model, zero at padding. float32 [2n, pos]"""
    sides: dict[Node, tuple[float, float]]
    """Per side, the mean over prompts of the activation of largest magnitude within the prompt."""
    p_circuit: np.ndarray
    """Probability of the right answer against its foil with only the circuit, calibrated. float32 [2n]"""
    p_model: np.ndarray
    """The same of the whole model. float32 [2n]"""
    strengths: dict[Node, float]
    """Rise of the calibrated task loss, in nats, when one more node is ablated; empty for too large circuits."""


@own_modes()
@torch.no_grad()
def behaviour(model: Transformer, circuit: Circuit, batch: PairBatch, most_ablations: int) -> Behaviour:
    """Measure a circuit on a batch; strengths only when it has at most `most_ablations` nodes."""
    tap = record({node.site for node in circuit.nodes})
    logits = model(batch.tokens, tap=tap)[torch.arange(len(batch.tokens), dtype=torch.int64, device="cpu"), batch.last]
    whole = margin(logits, batch)
    real = inside(batch)
    activations = {node: (tap.values[node.site][..., node.index].float() * real).numpy() for node in circuit.nodes}
    cut = circuit.cut_model(model)
    norms = circuit.norms(model, batch)
    path = circuit_path(cut, circuit, batch, norms)
    kept = circuit.calibration.apply(margins_from(cut, path, len(path) - 1, circuit.to_tap(), batch, norms))
    measured = circuit.nodes if len(circuit.nodes) <= most_ablations else ()
    base = loss_of(kept).item()
    without = {node: margins_without(cut, circuit, batch, path, node, norms) for node in measured}
    losses = {node: loss_of(margins).item() for node, margins in without.items()}
    return Behaviour(
        activations=activations,
        sides={node: _sides(values) for node, values in activations.items()},
        p_circuit=kept.sigmoid().numpy(),
        p_model=whole.sigmoid().numpy(),
        strengths={node: loss - base for node, loss in losses.items()},
    )


def circuit_path(model: Transformer, circuit: Circuit, batch: PairBatch, norms: Norms) -> list[Tensor]:
    """Residual points h_0 … up to the last layer, each [2n, pos, d_model], with only the circuit.

    `model` is the cut model.
    """
    resid, points = model.embed(batch.tokens), [ResidPoint(i + 1) for i in range(whole_sublayers(model))]
    seen = record(points)
    model.run(resid, 0, len(points), chain(circuit.to_tap(), seen), norms=norms)
    return [resid, *(seen.values[point] for point in points)]


def margins_without(
    model: Transformer, circuit: Circuit, batch: PairBatch, path: list[Tensor], node: Node, norms: Norms
) -> Tensor:
    """Calibrated margins [2n] of the cut model with one more node ablated; only sublayers from it on run again.

    `path` has the residual points of the circuit, as `circuit_path` gives them.
    """
    mask = circuit.keep[node.site].clone()
    mask[node.index] = False
    tap = ablate({**circuit.keep, node.site: mask}, circuit.means)
    start = min(node.site.sublayer, len(path) - 1)
    return circuit.calibration.apply(margins_from(model, path, start, tap, batch, norms))


def margins_from(
    model: Transformer, path: list[Tensor], start: int, tap: Tap, batch: PairBatch, norms: Norms
) -> Tensor:
    """Margins [2n] from one of the residual points, not calibrated."""
    return margin(last_logits(model, batch, tap, path[start], start, norms), batch)


def _sides(values: np.ndarray) -> tuple[float, float]:
    peaks = values[np.arange(len(values)), np.abs(values).argmax(1)]
    first, second = np.split(peaks, 2)
    return float(first.mean()), float(second.mean())
