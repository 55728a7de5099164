"""A verdict and the heads' attention as records of the page."""

from collections.abc import Sequence
from dataclasses import astuple

from torch import Tensor

from thinwire.circuit import Circuit
from thinwire.model.transformer import Transformer
from thinwire.tasks import PairBatch
from thinwire.verify.claims import deciding, weakest, word_of
from thinwire.verify.measurement import Measurement
from thinwire.verify.patterns import HeadPattern, Pattern, head_patterns
from thinwire.verify.verdict import Verdict
from thinwire.view.describe import short
from thinwire.view.records import CurveView, HeadView, MeasurementView, VerdictView

DIGITS = 3
"""Decimals of an attention weight."""


def measurement_view(found: Measurement) -> MeasurementView:
    """One number of a verdict."""
    low, high = astuple(found.interval) if found.interval else (None, None)
    curve, threshold = found.curve, found.threshold
    return MeasurementView(
        check=found.check,
        title=found.title,
        quantity=found.quantity,
        value=found.value,
        unit=found.unit,
        n=found.n,
        low=low,
        high=high,
        split=found.split,
        ablation=found.ablation,
        budget=found.budget,
        limit=threshold.limit if threshold else None,
        at_most=threshold.at_most if threshold else True,
        status=found.status,
        reason=found.reason,
        meaning=found.meaning,
        curve=CurveView(x_label=curve.x_label, x=curve.x, y=curve.y, labels=curve.labels) if curve else None,
    )


def verdict_view(verdict: Verdict) -> VerdictView:
    """The verdict's word, and which of its measurements decide."""
    found, index = word_of(verdict), {one.name: index for index, one in enumerate(verdict.measurements)}
    return VerdictView(
        word=found.word,
        status=found.status,
        weakest=tuple(index[one.name] for one in weakest(verdict)),
        deciding=tuple(index[one.name] for one in deciding(verdict)),
    )


def head_views(
    model: Transformer, circuit: Circuit, batch: PairBatch, shown: Sequence[int], most: int
) -> tuple[HeadView, ...]:
    """The kept heads; `shown` has the rows of the batch that are example prompts.

    Patterns are kept of the `most` heads whose attention differs most between circuit and model.
    """
    found = head_patterns(model, circuit, batch)
    apart = [one.distance.mean().item() for one in found]
    kept = set(sorted(range(len(found)), key=lambda index: -apart[index])[:most])
    return tuple(_head_view(one, shown if index in kept else ()) for index, one in enumerate(found))


def _head_view(found: HeadPattern, shown: Sequence[int]) -> HeadView:
    judged, pair = found.judgement, (found.circuit, found.model)
    circuit, model = (tuple(_row(pattern, row) for row in shown) for pattern in pair)
    return HeadView(
        layer=found.layer,
        head=found.head,
        status=judged.status,
        reason=judged.reason,
        distance=_by_side(found.distance),
        circuit_uneven=_by_side(found.circuit.from_uniform),
        model_uneven=_by_side(found.model.from_uniform),
        prompts=len(found.circuit.last) // 2,
        sink=found.model.sink is not None,
        circuit=circuit,
        model=model,
    )


def _by_side(values: Tensor) -> tuple[float, float]:
    """The means over the prompts of each side, of values [2n]."""
    first, second = values.unflatten(0, (2, -1)).mean(1).tolist()
    return short(first), short(second)


def _row(pattern: Pattern, row: int) -> tuple[float, ...]:
    """The weights of one prompt's tokens, and the sink's."""
    weights: Tensor = pattern.tokens[row, : int(pattern.last[row]) + 1]
    rest = [] if pattern.sink is None else [pattern.sink[row].item()]
    return tuple(round(weight, DIGITS) for weight in [*weights.tolist(), *rest])
