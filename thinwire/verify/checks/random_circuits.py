"""Would any circuit do? Random circuits with as many nodes at every site, each with its own calibration."""

import statistics
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from thinwire.display import plural
from thinwire.prune.calibrate import fit_calibration
from thinwire.tasks import accuracy_of, loss_of
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.intervals import bootstrap
from thinwire.verify.margins import Condition, against_guessing
from thinwire.verify.measurement import Curve, Headline, Interval, Measurement

MEANING = (
    "Median over random circuits with as many nodes at every site; only the random circuit runs. "
    "Guessing gives 0.693 nats. At 97 % of that or above, it passes: size alone does not explain the circuit. "
    "The interval is over the random circuits."
)


@check("random", order=40)
def random_circuits(inputs: CheckInput) -> list[Measurement]:
    """Median loss and accuracy over random circuits of the same size.

    Each has every edge between its nodes, all tokens, and its own calibration. The intervals are percentile bootstraps
    of the median over the random circuits. The curve has the loss of each.
    """
    seed, count = inputs.config.seed, inputs.config.random_circuits
    generator = torch.Generator().manual_seed(seed)
    each = [_margins(inputs, generator) for _ in range(count)]
    losses = sorted(loss_of(margins).item() for margins in each)
    accuracies = [accuracy_of(margins).item() for margins in each]
    budget = plural(count, "random circuit")
    condition = Condition("random", "random circuits", inputs.ablation, len(inputs.heldout), budget=budget)
    loss = condition.loss(statistics.median(losses), _of_median(losses, seed), MEANING)
    loss = loss.judged(against_guessing(loss.value))
    curve = Curve("random circuit, lowest loss first", tuple(map(float, range(1, count + 1))), tuple(losses))
    return [
        replace(loss, headline=Headline("random circuits", "random_loss"), curve=curve),
        condition.accuracy(statistics.median(accuracies), _of_median(accuracies, seed)),
    ]


def _margins(inputs: CheckInput, generator: torch.Generator) -> Tensor:
    """Calibrated margins [2n] of one random circuit on the held-out pairs."""
    keep = {site: _shuffled(mask, generator) for site, mask in inputs.circuit.keep.items()}
    calibration = fit_calibration(inputs.kept_margins(inputs.fit, keep), inputs.config.max_logit_scale)
    return calibration.apply(inputs.kept_margins(inputs.heldout, keep))


def _of_median(values: list[float], seed: int) -> Interval:
    """Bootstrap interval of the median of the values."""
    return bootstrap(torch.tensor(values, dtype=torch.float32, device="cpu"), seed, np.median)


def _shuffled(mask: Tensor, generator: torch.Generator) -> Tensor:
    """A mask with as many nodes, bool [width], chosen anew."""
    return mask[torch.randperm(len(mask), generator=generator, dtype=torch.int64, device="cpu")]
