import math

import pytest
import torch
from tiny import tiny_model, tiny_prompts

from thinwire.model import ModelConfig, Transformer
from thinwire.tasks import REST, PairBatch, accuracy, last_logits, margin, sequence_losses, task_loss


def batch(target: list[int], foil: list[int]) -> PairBatch:
    """A batch whose answers matter and whose prompts do not."""
    n = len(target)
    return PairBatch(
        torch.zeros(n, 1, dtype=torch.int64),
        torch.zeros(n, dtype=torch.int64),
        torch.tensor(target),
        torch.tensor(foil),
    )


WORKED = batch(target=[1, 2], foil=[2, 1])
WORKED_LOGITS = torch.tensor([[9.0, math.log(3), 0.0, -9.0], [-5.0, math.log(4), 0.0, 7.0]])
"""One pair, four tokens. The answers are tokens 1 and 2; tokens 0 and 3 do not count, whatever their logits.

First side:  p(1) = 3 / (3 + 1) = 3/4, loss ln(4/3) = 0.287682.
Second side: p(2) = 1 / (4 + 1) = 1/5, loss ln 5     = 1.609438.
Task loss: their mean, 0.948560 (the pair's sum, 1.897120, would be twice that).
"""


def test_the_worked_example():
    assert sequence_losses(WORKED_LOGITS, WORKED).tolist() == pytest.approx([0.287682, 1.609438], abs=1e-6)
    assert float(task_loss(WORKED_LOGITS, WORKED)) == pytest.approx(0.948560, abs=1e-6)
    assert float(accuracy(WORKED_LOGITS, WORKED)) == 0.5
    assert margin(WORKED_LOGITS, WORKED).tolist() == pytest.approx([math.log(3), -math.log(4)])


def test_the_worked_example_with_not_x():
    # tokens 0, 2, 3 against token 1: weights 1, 5 | 2 and 3 in the first row; 1, 1 | 6 and 2 in the second
    logits = torch.tensor([[1.0, 5.0, 2.0, 3.0], [1.0, 1.0, 6.0, 2.0]]).log()
    either = batch(target=[1, REST], foil=[REST, 1])
    # first: 5 / (5 + 6); second: (1 + 6 + 2) / (9 + 1)
    assert sequence_losses(logits, either).tolist() == pytest.approx([math.log(11 / 5), math.log(10 / 9)], abs=1e-6)
    assert margin(logits, either).tolist() == pytest.approx([math.log(5 / 6), math.log(9)], abs=1e-6)
    assert float(accuracy(logits, either)) == 0.5


def test_equal_logits_cost_ln_2_and_count_as_wrong():
    assert float(task_loss(torch.zeros(2, 4), WORKED)) == pytest.approx(math.log(2))
    assert float(accuracy(torch.zeros(2, 4), WORKED)) == 0


@pytest.mark.parametrize("pair", [WORKED, batch([1, REST], [REST, 1]), batch([3, 0], [0, 3])])
def test_leading_dimensions_are_trials(pair: PairBatch):
    logits = torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(0))
    together = sequence_losses(logits, pair)
    assert together.shape == (3, 2)
    assert torch.allclose(together, torch.stack([sequence_losses(each, pair) for each in logits]))
    assert accuracy(logits, pair).tolist() == [float(accuracy(each, pair)) for each in logits]


def test_it_is_the_cross_entropy_over_the_two_answers():
    logits = torch.randn(2, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    two = torch.stack([logits[0, [1, 2]], logits[1, [2, 1]]])
    expected = torch.nn.functional.cross_entropy(two, torch.zeros(2, dtype=torch.int64))
    assert float(task_loss(logits, WORKED)) == pytest.approx(float(expected), abs=1e-6)


def test_half_precision_logits_are_scored_in_float32_without_overflow():
    logits = torch.tensor([[0.0, -3e4, 3e4, 0.0], [0.0, 1.0, 2.0, 0.0]], dtype=torch.bfloat16)
    losses = sequence_losses(logits, WORKED)
    assert losses.dtype == torch.float32
    assert float(losses[0]) == pytest.approx(59904)  # the margin itself: bfloat16 rounds 3e4 to 29952
    assert torch.isfinite(losses).all()


def test_gradients_reach_only_the_answers():
    logits = WORKED_LOGITS.clone().requires_grad_()
    task_loss(logits, WORKED).backward()
    assert logits.grad is not None
    assert logits.grad[0].tolist() == pytest.approx([0, -0.125, 0.125, 0])  # -(1 - 3/4) / 2
    assert logits.grad[1].tolist() == pytest.approx([0, 0.4, -0.4, 0])  # (1 - 1/5) / 2


def test_not_x_gradients_are_finite():
    logits = torch.zeros(2, 4, requires_grad=True)
    task_loss(logits, batch([1, REST], [REST, 1])).backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


@pytest.fixture(scope="module")
def model() -> Transformer:
    return Transformer(ModelConfig(n_layers=2, d_model=16, d_head=4, context=8, vocab_size=11))


@pytest.mark.parametrize("positions", ["none", "added", "concatenated"])
@pytest.mark.parametrize("sink", [False, True])
def test_last_logits_are_those_of_the_full_pass_at_the_last_token(positions: str, sink: bool):
    model = tiny_model(positions=positions, sink=sink, active_residual=sink)
    tokens = tiny_prompts(model, rows=4, length=6)
    last = torch.tensor([5, 2, 0, 4])
    prompts = PairBatch(tokens, last, last, last)
    expected = torch.stack([model(tokens)[row, place] for row, place in enumerate(last.tolist())])
    torch.testing.assert_close(last_logits(model, prompts), expected)


def test_padding_changes_nothing(model: Transformer):
    tokens = torch.randint(1, 11, (2, 4), generator=torch.Generator().manual_seed(3))
    last = torch.tensor([3, 3])
    short = PairBatch(tokens, last, last, last)
    padded = PairBatch(torch.nn.functional.pad(tokens, (0, 4)), last, last, last)
    assert torch.allclose(last_logits(model, short), last_logits(model, padded), atol=1e-5)


def test_a_tap_reaches_every_sublayer(model: Transformer):
    seen = []
    last_logits(model, WORKED, tap=lambda site, x: seen.append(str(site)) or x)
    assert len(seen) == len(set(seen)) == 16


def test_taking_pairs_keeps_sides_together_and_cuts_padding():
    tokens = torch.arange(12).view(6, 2)
    last = torch.tensor([1, 0, 0, 1, 0, 0])
    whole = PairBatch(tokens, last, tokens[:, 0], tokens[:, 1])
    part = whole.take(torch.tensor([2, 1]))
    assert len(whole) == 3
    assert len(part) == 2
    assert part.target.tolist() == [4, 2, 10, 8]
    assert part.foil.tolist() == [5, 3, 11, 9]
    assert part.tokens.shape == (4, 1)
    assert whole.take(torch.tensor([0])).tokens.tolist() == [[0, 1], [6, 7]]
