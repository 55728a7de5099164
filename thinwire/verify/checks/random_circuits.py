"""Would any circuit of this form do? Random connected circuits with as many nodes at every site."""

import statistics
from dataclasses import replace

import numpy as np
import torch

from thinwire.circuit import keep_masks
from thinwire.display import plural
from thinwire.tasks import auc_of, loss_of
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.intervals import bootstrap, wilson
from thinwire.verify.margins import Condition, against_guessing
from thinwire.verify.measurement import Curve, Headline, Interval, Measurement
from thinwire.verify.nulls import Alike
from thinwire.verify.thresholds import AS_GOOD

PAIRS = 64
MEANING = (
    "Median over random circuits with as many nodes at every site, joined to each other, to the tokens and to the "
    "answers as the circuit's are; only the random circuit runs, under the scale and shift that suit it best. Guessing "
    "gives 0.693 nats. At 97 % of that or above, it passes: form alone does not explain the circuit. The interval is "
    "over the random circuits."
)
AS_GOOD_MEANING = (
    "Share of the random circuits that reach the loss of the circuit itself, on the same pairs and calibrated the same "
    "way. Where many do, these nodes are nothing special. The interval is over the random circuits."
)


@check("random", order=40)
def random_circuits(inputs: CheckInput) -> list[Measurement]:
    """Median loss and AUC over random circuits of the same form, and how many are as good as the circuit.

    Each has every edge between its nodes, all tokens, and its own calibration. The intervals are percentile bootstraps
    of the median over the random circuits. The curve has the loss of each.
    """
    seed, count, batch = inputs.config.seed, inputs.config.random_circuits, inputs.first(PAIRS)
    generator, alike = torch.Generator().manual_seed(seed), Alike(inputs.model, inputs.circuit, inputs.heldout)
    shape = inputs.model.config
    kept = [keep_masks(alike.draw(generator), shape) for _ in range(count)]
    each = [inputs.kept_margins(batch, keep) for keep in kept]
    losses = sorted(loss_of(inputs.refitted(margins)).item() for margins in each)
    areas = [auc_of(margins).item() for margins in each]
    own = loss_of(inputs.refitted(inputs.margins(batch, inputs.circuit.to_tap(), inputs.cut))).item()
    share = sum(loss <= own for loss in losses) / count
    budget = plural(count, "random circuit")
    condition = Condition("random", "random circuits", inputs.ablation, len(batch), budget=budget)
    loss = condition.loss(statistics.median(losses), _of_median(losses, seed), MEANING)
    loss = loss.judged(against_guessing(loss.value))
    curve = Curve("random circuit, lowest loss first", tuple(map(float, range(1, count + 1))), tuple(losses))
    as_good = condition.share(share, wilson(share, count), AS_GOOD_MEANING, "as good")
    return [
        replace(loss, headline=Headline("random circuits", "random_loss"), curve=curve),
        condition.auc(statistics.median(areas), _of_median(areas, seed)),
        as_good.held_against(AS_GOOD),
    ]


def _of_median(values: list[float], seed: int) -> Interval:
    """Bootstrap interval of the median of the values."""
    return bootstrap(torch.tensor(values, dtype=torch.float32, device="cpu"), seed, np.median)
