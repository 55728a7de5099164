"""Sampling: against a loop that runs everything again for every token, and against probabilities by hand."""

import pytest
import torch
from tiny import SHAPE, tiny_model, tiny_prompts
from torch import Tensor

from thinwire.errors import UserError
from thinwire.model import SampleConfig, Transformer, generate
from thinwire.model.norms import ScaleRecorder, frozen
from thinwire.model.sample import draw, probabilities
from thinwire.model.taps import Intervention, chain, patch
from thinwire.sites import Node, ResidPoint

GREEDY = SampleConfig(temperature=0)


class Shift(Intervention):
    """Adds a vector to every residual point, the first included."""

    def __init__(self) -> None:
        super().__init__(points=None)

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        return resid + torch.linspace(-1, 1, SHAPE.d_model)


def sampled(*args, **options) -> Tensor:
    """The tokens [batch, step] of all steps."""
    return torch.stack(list(generate(*args, **options)), 1)


@torch.no_grad()
@pytest.mark.parametrize("positions", ["none", "added", "concatenated"])
def test_greedy_is_the_likeliest_token_until_the_context_is_full(positions: str) -> None:
    model = tiny_model(positions=positions, sink=True)
    nodes = patch({Node.parse("0.attn.v:1.2", SHAPE): 3.0, Node.parse("1.mlp.post_act:5", SHAPE): -2.0})
    tap = chain(Shift(), nodes)
    tokens = tiny_prompts(model, rows=4, length=5)
    found = sampled(model, tokens, GREEDY, tap=tap)
    assert found.shape == (4, SHAPE.context - 5 + 1)
    for step in found.T:
        assert step.equal(model(tokens, tap=tap)[:, -1].argmax(-1))
        tokens = torch.cat([tokens, step[:, None]], 1)
    assert sampled(model, tokens[:, :5], GREEDY.replace(tokens=3), tap=tap).equal(found[:, :3])
    assert sampled(model, tokens[:, :16], GREEDY, tap=tap).shape == (4, 1)
    with pytest.raises(UserError, match="17 tokens does not fit the context of 16"):
        generate(model, tokens, GREEDY)


def test_rows_are_samples_of_their_own() -> None:
    model = tiny_model()
    tokens = tiny_prompts(model, rows=1).expand(6, -1)
    config = SampleConfig(tokens=8, seed=3)
    before = torch.get_rng_state()
    found = sampled(model, tokens, config)
    assert torch.get_rng_state().equal(before)
    assert len({tuple(row.tolist()) for row in found}) == 6
    for row in range(6):
        alone = sampled(model, tokens[:1], config.replace(seed=3 + row))
        assert alone[0].equal(found[row])


def test_a_row_that_has_stopped_stays_so() -> None:
    model = tiny_model()
    tokens = tiny_prompts(model, rows=1, length=3).expand(5, -1)
    config = SampleConfig(seed=1)
    free = sampled(model, tokens, config)
    stop = int(free[0, 4])
    found = sampled(model, tokens, config, stop=stop)
    lengths = []
    for row, whole in zip(found.tolist(), free.tolist(), strict=True):
        end = whole.index(stop) + 1 if stop in whole else len(whole)
        lengths.append(end)
        assert row[:end] == whole[: len(row)][:end]
        assert all(token == stop for token in row[end:])
    assert found.shape[1] == max(lengths)
    assert sampled(model, tokens[:1], config, stop=stop).shape[1] == lengths[0]


@torch.no_grad()
def test_scales_of_another_model() -> None:
    model, whole = tiny_model(seed=1), tiny_model(seed=2)
    tokens = tiny_prompts(model, length=4)
    found = sampled(model, tokens, GREEDY.replace(tokens=6), scales_of=whole)
    for step in found.T:
        seen = ScaleRecorder()
        whole(tokens, norms=seen)
        assert step.equal(model(tokens, norms=frozen(seen.scales))[:, -1].argmax(-1))
        tokens = torch.cat([tokens, step[:, None]], 1)
    assert not found.equal(sampled(model, tokens[:, :4], GREEDY.replace(tokens=6)))


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 4, 2, 1]),
        ({"temperature": 0.5}, [1, 16, 4, 1]),
        ({"temperature": 1e-320}, [0, 1, 0, 0]),
        ({"temperature": 1e300}, [1, 1, 1, 1]),
        ({"top_k": 1}, [0, 1, 0, 0]),
        ({"top_k": 3}, [1, 4, 2, 0]),
        ({"top_k": 99}, [1, 4, 2, 1]),
        ({"top_p": 0.51}, [0, 4, 2, 0]),
        ({"top_p": 0.5}, [0, 1, 0, 0]),
        ({"top_p": 1e-9}, [0, 1, 0, 0]),
        ({"top_k": 2, "top_p": 0.6}, [0, 1, 0, 0]),
        ({"temperature": 0.5, "top_p": 0.75}, [0, 16, 4, 0]),
    ],
)
def test_probabilities_and_draws(options: dict, expected: list[float]) -> None:
    config = SampleConfig(**options)
    logits = torch.tensor([[1.0, 4.0, 2.0, 1.0]]).log()
    found = probabilities(logits.repeat(2, 1), config)
    shares = torch.tensor(expected).double() / sum(expected)
    torch.testing.assert_close((found / found.sum(-1, keepdim=True)), shares.repeat(2, 1), rtol=1e-6, atol=1e-9)
    points = (torch.arange(1000).double() + 0.5) / 1000
    drawn = draw(logits.expand(1000, -1), config, points)
    torch.testing.assert_close(drawn.bincount(minlength=4) / 1000.0, shares.float(), rtol=0, atol=2e-3)
    ends = torch.tensor([0.0, 1 - 2.0**-53], dtype=torch.float64)
    possible = shares.nonzero()[:, 0]
    assert draw(logits.expand(2, -1), config, ends).tolist() == [int(possible[0]), int(possible[-1])]


def test_logits_that_are_not_finite_are_refused() -> None:
    model: Transformer = tiny_model()
    with torch.no_grad():
        model.unembedding.bias[3] = torch.nan
    for config in (GREEDY, SampleConfig()):
        with pytest.raises(UserError, match="not finite numbers"):
            next(iter(generate(model, tiny_prompts(model), config)))
