"""Thorough rows without reruns: hypothesis tests, curves over sizes, meanings, steps, queries, single nodes."""

from collections.abc import Callable
from dataclasses import replace

import planted
import pytest
import torch
from planted import SIGNAL, A, B, X, Y, matrix_at
from test_rows import inputs_of, missed

from thinwire.circuit import weight_edges
from thinwire.sites import Node, Site
from thinwire.tasks import loss_of
from thinwire.verify import CheckInput
from thinwire.verify.binary import Step, binarized_margins, candidates
from thinwire.verify.checks.curves import curves
from thinwire.verify.checks.hypotheses import hypotheses
from thinwire.verify.checks.mechanism import active_share, binarize, constant_query, monosemantic
from thinwire.verify.checks.scrubbing import scrubbing
from thinwire.verify.hypotheses import dependence, exceeded, independence_test, sign_test
from thinwire.verify.knockouts import Knockouts
from thinwire.verify.scrubbing import MEANINGS, Hypothesis, Scrubber, automatic, partners, side, token
from thinwire.verify.sizes import area, prefixes, ranking

SECOND = 12
"""Residual channel that a second way writes."""


def with_second_way() -> CheckInput:
    """The planted neuron, and another one outside that reads and writes channels of its own and does the task too."""
    plant = planted.mlp()
    model = plant.model
    with torch.no_grad():
        matrix_at(model, 1, "w_in")[6] = 0
        for layer in range(2):
            matrix_at(model, layer, "w_o")[[SECOND, 14]] = 0
            matrix_at(model, layer, "w_out")[[SECOND, 14]] = 0
        model.embedding.weight[:, [SECOND, 14]] = 0
        model.embedding.weight[[A, B], 14] = torch.tensor([3.0, -3.0])
        model.unembedding.weight[[X, Y], SECOND] = torch.tensor([1.5, -1.5])
    return inputs_of(plant, [(1, "w_in", 6, 14, 1.0), (1, "w_out", SECOND, 6, 1.0)])


def test_the_sign_test_is_binomial() -> None:
    assert sign_test(0, 0) == 1
    assert sign_test(5, 10) == 1
    assert sign_test(1, 5) == sign_test(4, 5) == pytest.approx(2 * (1 + 5) / 32)
    assert sign_test(0, 256) == pytest.approx(2.0**-255)


def test_dependence_is_found_where_there_is_no_correlation() -> None:
    values = torch.randn(100, generator=torch.Generator().manual_seed(0))
    other = torch.randn(100, generator=torch.Generator().manual_seed(1))
    assert independence_test(values, values.square(), 0) == pytest.approx(1e-3)
    assert independence_test(values, other, 0) > 0.1
    assert dependence(values, 3 - 2 * values) == pytest.approx(1)
    assert (dependence(values, torch.ones(100)), independence_test(values, torch.ones(100), 0)) == (0, 1)
    assert (exceeded(2.0, [1, 2, 3]), exceeded(4.0, [1, 2, 3])) == (0.75, 0.25)


@pytest.mark.parametrize("name", planted.PLANTED)
def test_a_true_circuit_passes_the_three_tests(name: str) -> None:
    found = hypotheses(inputs_of(planted.PLANTED[name]()))
    assert not missed(found)
    assert [one.unit for one in found if one.status == "pass"] == ["p"] * 3


def broken() -> CheckInput:
    inputs = inputs_of(planted.chain())
    return replace(inputs, circuit=replace(inputs.circuit, nodes=inputs.circuit.nodes[1:]))


@pytest.mark.parametrize(
    ("make", "fails"),
    [
        (broken, ["hypotheses.equivalence", "hypotheses.minimality"]),
        (with_second_way, ["hypotheses.independence"]),
        (lambda: inputs_of(planted.crossed()), ["hypotheses.minimality"]),
    ],
    ids=["worse than the model", "a second way", "edges that carry nothing"],
)
def test_each_test_fails_where_its_claim_is_false(make: Callable[[], CheckInput], fails: list[str]) -> None:
    found = hypotheses(make())
    assert missed(found) == fails
    curve = found[-1].curve
    assert curve is not None
    if fails == ["hypotheses.minimality"]:
        each = dict(zip(curve.labels, curve.y, strict=True))
        assert {name for name, p in each.items() if p > 0.05} == {
            "1.mlp.act_in:0 -> 1.mlp.post_act:6",
            "1.mlp.act_in:7 -> 1.mlp.post_act:5",
        }


def test_knockouts_measure_the_circuit_without_an_edge() -> None:
    inputs = inputs_of(planted.chain())
    edges = tuple(edge.ends for edge in inputs.circuit.edges(inputs.model))
    effects = Knockouts(inputs, inputs.first(8)).effects(100, 6, 2)
    assert set(effects.own) == set(edges)
    assert len(effects.random) == 6
    whole = inputs.circuit.margins(inputs.model, inputs.first(8))
    for edge, effect in effects.own.items():
        rest = replace(inputs.circuit, kept_edges=tuple(other for other in edges if other != edge))
        first, second = (rest.margins(inputs.model, inputs.first(8)) - whole).unflatten(0, (2, -1))
        assert effect == pytest.approx(torch.cat([first, -second]).std(correction=0).item(), abs=1e-4)
    assert min(effects.own.values()) > max(effects.random)


def test_curves_reach_the_model_from_the_circuit() -> None:
    inputs = inputs_of(planted.chain())
    strengths = {node: 1 - i / 10 for i, node in enumerate(reversed(inputs.circuit.nodes))}
    inputs = replace(inputs, circuit=replace(inputs.circuit, strengths=strengths))
    ranked = ranking(inputs)
    assert ranked[:6] == list(reversed(inputs.circuit.nodes))
    assert len(set(ranked)) == len(ranked) == sum(map(len, inputs.circuit.keep.values()))
    every = len(list(weight_edges(inputs.model, ranked)))
    for share, count in zip((0.01, 0.3, 1.0), prefixes(inputs.model, ranked, (0.01, 0.3, 1.0)), strict=True):
        held, fewer = (len(list(weight_edges(inputs.model, ranked[:n]))) for n in (count, count - 1))
        assert fewer < share * every <= held
    cpr, cmd, _, _, right = curves(inputs)
    assert cpr.curve is not None
    assert cpr.curve.y[-1] == pytest.approx(1)
    assert cpr.value == pytest.approx(1, abs=0.02)
    assert cmd.value < 0.02
    assert right.value > 0.9
    for one in curves(inputs):
        assert one.interval is not None
        assert one.interval.low - 1e-9 <= one.value <= one.interval.high + 1e-9
    first = [Node(Site.of(0, kind), i) for kind in ("mlp.act_in", "mlp.post_act") for i in range(16)]
    late = replace(inputs, circuit=replace(inputs.circuit, nodes=tuple(first)))
    assert curves(late)[4].value < right.value, "other nodes come first"


def test_an_area_is_a_mean_height() -> None:
    assert area(torch.tensor([1.0, 1.0, 3.0]), (0.0, 1.0, 2.0)).item() == pytest.approx(1.5)
    assert area(torch.ones(2, 4), (0.1, 0.2, 0.5, 0.9)).tolist() == pytest.approx([1, 1])


def test_partners_share_a_label_and_each_place_is_taken_once() -> None:
    labels = torch.tensor([3, 1, 3, 3, 1, 7])
    for seed in range(5):
        found = partners(labels, torch.Generator().manual_seed(seed))
        assert labels[found].equal(labels)
        assert sorted(found.tolist()) == list(range(6))
        assert [i for i in range(6) if found[i] == i] == [5], "the only 7"


@pytest.mark.parametrize("name", planted.PLANTED)
def test_nodes_of_a_true_circuit_mean_what_the_labeller_says(name: str) -> None:
    inputs = inputs_of(planted.PLANTED[name]())
    worst, area_of_worst, together = scrubbing(inputs)
    assert (worst.status, area_of_worst.value) == ("pass", 1)
    assert together.value < 0.3
    seen = Scrubber(inputs, inputs.fit)
    meanings = {str(one.node): one.meaning for one in automatic(seen, inputs.circuit.nodes)}
    if name == "attention":
        assert meanings["0.attn.act_in:0"] == "token", "A and B write it, whatever came before"
    if name == "mlp":
        assert set(meanings.values()) == {"side"}


def test_a_wrong_meaning_is_caught() -> None:
    """By the last token alone, a node that carries the sign of an earlier token has values of both sides."""
    inputs = inputs_of(planted.chain())
    node, scrubber = Node(Site.of(1, "mlp.post_act"), 5), Scrubber(inputs, inputs.first(64))
    right, wrong = (
        loss_of(inputs.calibration.apply(scrubber.margins([Hypothesis(node, label)]))) for label in (side, token)
    )
    assert right < 0.01
    assert wrong > 1
    assert scrubber.explained(node, side) > 0.9 > scrubber.explained(node, token)
    with pytest.raises(ValueError, match="not in the circuit"):
        scrubber.margins([Hypothesis(Node(node.site, 6), side)])
    with pytest.raises(ValueError, match="a label is"):
        scrubber.margins([Hypothesis(node, lambda tokens: tokens[0])])
    assert scrubber.explained(node, MEANINGS["nothing"]) < 1e-6


@pytest.mark.parametrize("frozen_norms", [False, True])
def test_values_that_are_put_back_change_nothing(frozen_norms: bool) -> None:
    inputs = inputs_of(planted.chain())
    inputs = replace(inputs, circuit=replace(inputs.circuit, frozen_norms=frozen_norms))
    batch = inputs.first(8)
    alone = inputs.circuit.margins(inputs.model, batch)
    each = torch.arange(batch.tokens.numel()).view_as(batch.tokens)
    same = [Hypothesis(node, lambda tokens: each) for node in inputs.circuit.nodes]
    assert Scrubber(inputs, batch).margins(same).allclose(alone, atol=1e-5)


def test_planted_neurons_are_steps_and_a_graded_one_is_not() -> None:
    inputs = inputs_of(planted.mlp())
    loss, accuracy, _ = binarize(inputs)
    assert (loss.value < 0.01, accuracy.value, loss.status) == (True, 1, "info")
    (step, *_) = candidates(torch.tensor([0.0, 1.0, 8.0, 10.0]))
    assert step == Step(2.5, 0.5, 9.0)
    last = inputs.circuit.nodes[-1]
    flat = binarized_margins(inputs, inputs.first(8), {last: Step(1e9, 1.0, 2.0)})
    assert flat[:8].allclose(-flat[8:], atol=1e-4), "one level says the same on both sides"


def test_queries_that_vary_are_needed() -> None:
    inputs = inputs_of(planted.attention())
    loss, _ = constant_query(inputs)
    assert (loss.budget, loss.value < 0.01) == ("0 kept queries", True)
    plant = planted.attention()
    with torch.no_grad():
        matrix_at(plant.model, 0, "w_k")[:4] = 0
        matrix_at(plant.model, 0, "w_q")[:4] = 0
        matrix_at(plant.model, 0, "w_q")[0, SIGNAL] = 1.0
    kept = inputs_of(plant, further=["0.attn.q:0.0"])
    assert constant_query(kept)[0].budget == "1 kept query"


def test_single_nodes_tell_the_sides_apart_and_are_counted_in_pretraining() -> None:
    inputs = inputs_of(planted.mlp())
    tokens = torch.tensor([[A, B, *planted.FILLERS][:8]] * 4)
    detects, active = monosemantic(replace(inputs, pretraining=tokens))
    assert (detects.value, detects.status) == (1, "info")
    assert active.curve is not None
    share = dict(zip(active.curve.labels, active.curve.y, strict=True))["1.mlp.post_act:5"]
    assert share == pytest.approx(1 / 8), "of eight tokens, A alone"
    none = replace(inputs, circuit=replace(inputs.circuit, nodes=()), pretraining=tokens)
    assert [one.value for one in monosemantic(none)] == [0.5]
    assert active_share(torch.ones(3), -torch.ones(3), torch.tensor([0.9, -0.9, -0.9, -0.9])) == 0.25
