"""Thresholds by hand, and what the halves of labelled prompts must keep apart."""

import pytest
import torch
from torch import Tensor

from thinwire.bridge.thresholds import Threshold, auc, auc_interval, choose, detection, halves
from thinwire.errors import UserError
from thinwire.verify.intervals import wilson

LABELS = torch.tensor([True, True, True, False, False, False])


def values(*numbers: float) -> Tensor:
    return torch.tensor(numbers)


def test_the_threshold_of_largest_f1() -> None:
    assert choose(values(5, 4, 3, 1, 0, -2), LABELS) == Threshold(2.0, True)
    assert choose(values(-5, -4, -3, -1, 0, 2), LABELS) == Threshold(-2.0, False)
    # one true prompt among the false ones: flagging two of three gives F1 4/5, all down to it 6/7
    assert choose(values(5, 4, 1, 2, 0, -2), LABELS) == Threshold(0.5, True)
    # equal values are not parted: three flagged, two rightly, is 4/6; all is 6/9
    found = choose(values(5, 4, 1, 4, 4, 4), LABELS)
    assert found.above
    assert found.value == 1.0
    assert choose(values(1, 1, 1, 0, 0, -9), LABELS) == Threshold(0.5, True)


def test_detection_by_hand() -> None:
    found = detection(Threshold(2.0, True), values(5, 2, 1, 3, 0, -2), LABELS)
    assert (found.positive, found.negative) == (3, 3)
    assert (found.precision, found.recall) == (pytest.approx(2 / 3), pytest.approx(2 / 3))
    assert found.f1 == pytest.approx(2 / 3)
    assert found.auc == pytest.approx(7 / 9)
    assert found.precision_interval == wilson(2 / 3, 3)
    assert found.f1_interval.low < found.f1 < found.f1_interval.high
    turned = detection(Threshold(-2.0, False), -values(5, 2, 1, 3, 0, -2), LABELS)
    assert (turned.f1, turned.auc) == (found.f1, found.auc)
    nothing = detection(Threshold(9.0, True), values(5, 2, 1, 3, 0, -2), LABELS)
    assert (nothing.precision, nothing.precision_interval, nothing.recall, nothing.f1) == (None, None, 0, 0)


def test_area_and_its_interval() -> None:
    assert auc(values(3, 2, 1, 1, 0, 0), LABELS) == pytest.approx(8.5 / 9)
    assert auc(values(0, 0, 0, 0, 0, 0), LABELS) == 0.5
    # coverage: of 300 samples whose area is .8556 the interval contains it in about 95 %
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) < 30
    truth = float(torch.special.ndtr(torch.tensor(1.5 / 2**0.5)))
    inside = 0
    for _ in range(300):
        drawn = torch.randn(60, generator=generator) + 1.5 * labels
        interval = auc_interval(auc(drawn, labels), 30, 30)
        inside += interval.low <= truth <= interval.high
    assert 0.91 < inside / 300 < 0.99
    sure = auc_interval(1.0, 30, 30)
    assert sure.high == pytest.approx(1.0)
    assert 0.85 < sure.low < 0.99


def test_halves_keep_equal_texts_together_and_labels_balanced() -> None:
    texts = [f"{label}{i}" for label in "ab" for i in range(10)]
    texts += texts
    labels = [text[0] == "a" for text in texts]
    first, second = halves(texts, labels)
    assert sorted(first + second) == list(range(40))
    assert not {texts[row] for row in first} & {texts[row] for row in second}
    assert sum(labels[row] for row in first) == sum(labels[row] for row in second) == 10
    assert halves(texts, labels, seed=1) != (first, second)
    with pytest.raises(UserError, match="both true and false"):
        halves([*texts, "a0"], [*labels, False])
    with pytest.raises(UserError, match="3 different prompts labelled false"):
        halves(texts[:13], labels[:13])
