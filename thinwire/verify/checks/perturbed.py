"""Does the circuit predict what the model does outside the task's distribution (Gao et al. 2025, Fig. 8)?

The prompts are perturbed, such as by an unmatched bracket in a comment. A circuit may be right where its model is
wrong; it then does something else than the model.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from thinwire.errors import UserError
from thinwire.tasks import PairBatch
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.intervals import bootstrap
from thinwire.verify.margins import Condition
from thinwire.verify.measurement import Curve, Measurement
from thinwire.verify.thresholds import PERTURBED

PAIRS, CURVE_PAIRS = 64, 16
"""Pairs for each perturbation, and for each point of a curve, where the prompts of so many fit the context."""
READ = (
    "p(correct) is the probability of the right answer of the two, calibrated for the circuit and as it is for the "
    "model. The difference is that of the means over prompts of one side, the one where it is larger."
)


@dataclass(frozen=True)
class Answered:
    """p(correct) on the same n pairs, float32 [2, n] each: one row for each side."""

    circuit: Tensor
    model: Tensor

    @classmethod
    def to(cls, batch: PairBatch, inputs: CheckInput) -> "Answered":
        """The answers of the circuit, calibrated, and of the whole model."""
        alone = inputs.margins(batch, inputs.circuit.to_tap(), inputs.cut)
        both = inputs.calibration.apply(alone), inputs.margins(batch)
        return cls(*(margins.sigmoid().unflatten(0, (2, -1)) for margins in both))

    @property
    def side(self) -> int:
        """The side on which the means of circuit and model differ more."""
        return int((self.circuit - self.model).mean(1).abs().argmax())

    def difference(self, inputs: CheckInput, quantity: str, prompts: str) -> Measurement:
        """The difference of the means on that side; its interval is a percentile bootstrap over the pairs."""
        gap = (self.circuit - self.model)[self.side]
        gap = -gap if gap.mean() < 0 else gap
        means = (p[self.side].mean().item() for p in (self.circuit, self.model))
        said = "Prompts {}: the {} side's mean p(correct) is {:.3f} in the circuit and {:.3f} in the model. {}"
        meaning = said.format(prompts, ("first", "second")[self.side], *means, READ)
        interval = bootstrap(gap, inputs.config.seed)
        return _condition(inputs, gap.shape[0]).share(gap.mean().item(), interval, meaning, quantity)


@check("perturbed", order=35)
def perturbed(inputs: CheckInput) -> list[Measurement]:
    """Difference of mean p(correct) between circuit and model: the largest over perturbations, then each, and curves.

    A task without perturbations, such as one from a file, has only the difference on its pairs as they are.
    """
    few = torch.arange(min(PAIRS, len(inputs.heldout)), dtype=torch.int64, device="cpu")
    plain = Answered.to(inputs.heldout.take(few), inputs).difference(inputs, "unperturbed", "as they are")
    each, curves = [], []
    for name, found in (inputs.task.perturbations if inputs.task and inputs.tokenizer else {}).items():
        if (answered := _answered(inputs, name, found.strength, PAIRS)) is not None:
            each.append(answered.difference(inputs, name, f"{found.summary} (here {found.strength:g})"))
        curves += _curves(inputs, name, found.curve)
    return [*_largest(each), plain, *each, *curves]


def _largest(each: list[Measurement]) -> list[Measurement]:
    """The largest of the differences, held against its threshold."""
    if not each:
        return []
    worst = max(each, key=lambda one: one.value)
    judged = replace(worst, name="perturbed.largest difference").held_against(PERTURBED)
    return [replace(judged, reason=f"{judged.reason}: {worst.quantity}", budget=f"{len(each)} perturbations")]


def _curves(inputs: CheckInput, name: str, strengths: tuple[float, ...]) -> Iterator[Measurement]:
    """Mean p(correct) of circuit and model over strengths, on the side where the model's is least in the end."""
    found: dict[float, Answered] = {}
    for strength in sorted(strengths):
        answered = _answered(inputs, name, strength, CURVE_PAIRS)
        if answered is None:
            break  # no longer prompt fits the context either
        found[strength] = answered
    if not found:
        return
    last = found[max(found)]
    side = int(last.model.mean(1).argmin())
    for who, quantity in (("circuit", f"p over {name}"), ("model", f"model's p over {name}")):
        values = {strength: getattr(one, who)[side] for strength, one in found.items()}
        means = tuple(p.mean().item() for p in values.values())
        meaning = f"Mean p(correct) of the {who} on the {('first', 'second')[side]} side, at the largest strength."
        p = values[max(values)]
        one = _condition(inputs, len(p)).share(means[-1], bootstrap(p, inputs.config.seed), meaning, quantity)
        yield replace(one, curve=Curve(name, tuple(values), means), ablation="none" if who == "model" else one.ablation)


def _condition(inputs: CheckInput, n: int) -> Condition:
    return Condition("perturbed", "perturbed prompts", inputs.ablation, n)


def _answered(inputs: CheckInput, name: str, strength: float, pairs: int) -> Answered | None:
    """The answers to perturbed prompts; None where no prompt fits the context, or no token tells the sides apart."""
    assert inputs.task is not None
    assert inputs.tokenizer is not None
    n, seed, context = min(pairs, inputs.config.pairs), inputs.config.seed, inputs.model.config.context
    try:
        batch = inputs.task.perturbed(name, strength).pairs(n, "heldout", seed, inputs.tokenizer, context)
    except UserError:
        return None
    return Answered.to(batch, inputs)
