"""What heads attend to: against a hand computation, with sinks, padding and every kind of circuit."""

import math

import pytest
import torch
from tiny import tiny_model, tiny_prompts

from thinwire.circuit import Circuit, EdgeEnds
from thinwire.model import Transformer
from thinwire.model.taps import chain, record
from thinwire.sites import Node, Site, all_sites
from thinwire.tasks import PairBatch
from thinwire.verify.patterns import HeadPattern, Pattern, head_patterns

NAMES = ("0.attn.act_in:3", "0.attn.q:1.2", "0.attn.k:1.0", "0.attn.k:1.2", "1.attn.v:2.3", "1.mlp.post_act:4")


def batch_of(model: Transformer) -> PairBatch:
    """Two pairs of prompts of 3, 9, 5 and 1 tokens."""
    tokens, last = tiny_prompts(model, 4), torch.tensor([2, 8, 4, 0])
    tokens[torch.arange(9) > last[:, None]] = 0
    return PairBatch(tokens, last, torch.ones(4, dtype=torch.int64), torch.zeros(4, dtype=torch.int64))


def circuit_of(model: Transformer, names: tuple[str, ...] = NAMES) -> Circuit:
    generator = torch.Generator().manual_seed(5)
    means = {site: torch.randn(site.width(model.config), generator=generator) for site in all_sites(model.config)}
    nodes = tuple(sorted(Node.parse(name, model.config) for name in names))
    ends = EdgeEnds(*(Node.parse(name, model.config) for name in ("0.attn.act_in:3", "0.attn.q:1.2")))
    kept = (ends,) if set(ends) <= set(nodes) else ()
    return Circuit("tiny", model.config, nodes, means, kept_edges=kept)


def by_hand(
    model: Transformer, batch: PairBatch, layer: int, head: int, tap=None
) -> tuple[list[list[float]], list[float]]:
    """Weights of the tokens, and of the sink, of one head at each prompt's last token: one exponential at a time."""
    width, seen = model.config.d_head, record()
    model(batch.tokens, tap=seen if tap is None else chain(tap, seen))
    q, k = (seen.values[Site.of(layer, f"attn.{kind}")][..., head * width : (head + 1) * width] for kind in "qk")
    sink = model.sublayers[2 * layer].sink
    rows, sinks = [], []
    for row, last in enumerate(batch.last.tolist()):
        scores = [math.exp(float(q[row, last] @ k[row, place]) / math.sqrt(width)) for place in range(last + 1)]
        rest = 0.0 if sink is None else math.exp(sink[head].item())
        total = sum(scores) + rest
        rows.append([score / total for score in scores] + [0.0] * (batch.tokens.shape[1] - last - 1))
        sinks.append(rest / total)
    return rows, sinks


@pytest.mark.parametrize("sink", [True, False])
@torch.no_grad()
def test_patterns_are_those_of_a_hand_computation(sink: bool) -> None:
    model = tiny_model(sink=sink)
    batch, circuit = batch_of(model), circuit_of(model)
    found = head_patterns(model, circuit, batch)
    assert [(one.layer, one.head, len(one.nodes)) for one in found] == [(0, 1, 3), (1, 2, 1)]
    for one in found:
        whole = by_hand(model, batch, one.layer, one.head)
        alone = by_hand(circuit.cut_model(model), batch, one.layer, one.head, circuit.to_tap())
        for pattern, (rows, sinks) in ((one.model, whole), (one.circuit, alone)):
            assert torch.allclose(pattern.tokens, torch.tensor(rows), atol=1e-5)
            assert (pattern.sink is None) == (not sink)
            if pattern.sink is not None:
                assert torch.allclose(pattern.sink, torch.tensor(sinks), atol=1e-5)
        apart = [
            sum(abs(a - b) for a, b in zip((*ours, own), (*theirs, other), strict=True)) / 2
            for ours, own, theirs, other in zip(*alone, *whole, strict=True)
        ]
        assert one.distance.tolist() == pytest.approx(apart, abs=1e-5)
        assert max(apart) > 0.01, "the circuit changes the pattern"
        uneven = [
            sum(abs(weight / sum(row) - 1 / (last + 1)) for weight in row[: last + 1]) / 2
            for row, last in zip(alone[0], batch.last.tolist(), strict=True)
        ]
        assert one.circuit.from_uniform.tolist() == pytest.approx(uneven, abs=1e-5)


def test_a_circuit_of_every_node_attends_as_the_model_does() -> None:
    model = tiny_model()
    every = tuple(node.name(model.config) for site in all_sites(model.config) for node in nodes_of(model, site))
    kept = circuit_of(model, every)
    for circuit in (
        Circuit("a", model.config, kept.nodes, kept.means, frozen_norms=frozen) for frozen in (False, True)
    ):
        found = head_patterns(model, circuit, batch_of(model))
        assert len(found) == model.config.n_layers * model.config.n_heads
        assert all(one.distance.max() < 1e-5 and one.judgement.status == "pass" for one in found)


def nodes_of(model: Transformer, site: Site) -> list[Node]:
    return [Node(site, index) for index in range(site.width(model.config))]


def test_a_circuit_without_heads_has_no_pattern() -> None:
    model = tiny_model()
    assert head_patterns(model, circuit_of(model, ("0.attn.act_in:3", "1.mlp.post_act:4")), batch_of(model)) == []


def pattern(*rows: list[float]) -> Pattern:
    """With the rest in the sink."""
    tokens = torch.tensor(rows)
    return Pattern(tokens, 1 - tokens.sum(1), torch.full((len(rows),), tokens.shape[1] - 1))


@pytest.mark.parametrize(
    ("circuit", "model", "names", "status", "words"),
    [
        ([0.3, 0.3, 0.3], [0.0, 0.9, 0.0], ["0.attn.k:1.0"], "fail", "uniform in the circuit, not in the whole model"),
        ([0.2, 0.2, 0.2], [0.0, 0.9, 0.0], ["0.attn.v:1.0"], "fail", "which keeps no key of it"),
        ([0.6, 0.0, 0.3], [0.0, 0.9, 0.0], ["0.attn.k:1.0"], "warn", "another pattern"),
        ([0.2, 0.6, 0.2], [0.1, 0.8, 0.1], ["0.attn.k:1.0"], "pass", "as in the whole model"),
        ([0.3, 0.3, 0.3], [0.3, 0.3, 0.3], ["0.attn.v:1.0"], "pass", "as in the whole model"),
        ([0.1, 0.1, 0.1], [0.3, 0.3, 0.3], ["0.attn.v:1.0"], "warn", "another pattern"),
    ],
    ids=["uniform", "no key", "elsewhere", "alike", "both uniform", "the sink has it"],
)
def test_judgements(circuit: list[float], model: list[float], names: list[str], status: str, words: str) -> None:
    nodes = tuple(Node.parse(name, tiny_model().config) for name in names)
    found = HeadPattern(0, 1, nodes, pattern(circuit, circuit), pattern(model, model)).judgement
    assert found.status == status
    assert words in found.reason


def test_one_side_is_enough() -> None:
    """A mean over all prompts would hide it: the second side looks where the model does."""
    nodes = (Node.parse("0.attn.k:1.0", tiny_model().config),)
    circuit, model = pattern([0.3, 0.3, 0.3], [0.0, 0.9, 0.0]), pattern([0.9, 0.0, 0.0], [0.0, 0.9, 0.0])
    found = HeadPattern(0, 1, nodes, circuit, model).judgement
    assert (found.status, found.reason) == ("fail", "uniform in the circuit on the first side, not in the whole model")
