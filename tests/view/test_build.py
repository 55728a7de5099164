import math
from dataclasses import replace

import pytest
import torch

from thinwire.circuit import Calibration, Circuit
from thinwire.data import DataConfig, Tokens, build
from thinwire.errors import UserError
from thinwire.model import ModelConfig, Transformer
from thinwire.model.taps import record
from thinwire.sites import Node, Site, all_sites
from thinwire.tasks import TASKS, PairBatch, last_logits, margin, margin_losses
from thinwire.verify import Curve, Interval, Measurement, Verdict
from thinwire.verify.claims import word_of
from thinwire.verify.measurement import Threshold
from thinwire.verify.patterns import head_patterns
from thinwire.view import page
from thinwire.view.behaviour import behaviour
from thinwire.view.build import Case, Origin, payload_from
from thinwire.view.config import PageConfig
from thinwire.view.describe import short
from thinwire.view.payload import Payload

TASK = "single_double_quote"
NAMES = (
    "0.attn.act_in:3",
    "0.attn.act_in:34",
    "0.attn.q:1.2",
    "0.attn.v:1.0",
    "0.attn.resid_delta:5",
    "1.mlp.act_in:5",
    "1.mlp.post_act:40",
    "1.mlp.resid_delta:7",
)
CONFIG = PageConfig(text_tokens=2048, windows=3, pairs=2, measured_pairs=6)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Tokens:
    return build(DataConfig(idioms=2500, stdlib=False), tmp_path_factory.mktemp("view") / "tokens")


@pytest.fixture(scope="module")
def model(tokens: Tokens) -> Transformer:
    size = tokens.tokenizer.vocab_size
    shape = ModelConfig(
        n_layers=2,
        d_model=32,
        d_head=8,
        mlp_ratio=1.5,
        context=64,
        vocab_size=size,
        positions="concatenated",
        d_pos=4,
        sink=True,
    )
    made = Transformer(shape, seed=3).eval().requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in made.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.1, generator=generator)
    return made


@pytest.fixture(scope="module")
def batch(model: Transformer, tokens: Tokens) -> PairBatch:
    return TASKS[TASK].pairs(6, "heldout", CONFIG.seed, tokens.tokenizer, model.config.context)


@pytest.fixture(scope="module")
def circuit(model: Transformer, batch: PairBatch) -> Circuit:
    generator = torch.Generator().manual_seed(1)
    means = {site: 0.2 * torch.randn(site.width(model.config), generator=generator) for site in all_sites(model.config)}
    nodes = tuple(sorted(Node.parse(name, model.config) for name in NAMES))
    answers = tuple(sorted({*batch.target.tolist()}))
    prompts = tuple(sorted({*batch.tokens.flatten().tolist()}))
    return Circuit(
        TASK, model.config, nodes, means, Calibration(1.5, 0.1), prompt_tokens=prompts, answer_tokens=answers
    )


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    curve = Curve("step", (1.0, 2.0), (0.6, 0.7))
    return Verdict(
        TASK,
        8,
        3,
        0.15,
        (
            Measurement(
                "one.loss", "one", 0.1, "nats", 64, Interval(0.05, 0.2), "heldout", "mean", "It is.", "9 draws"
            ),
            Measurement("one.share", "one", 0.9, "fraction", 64, None, "heldout", "none", "", None, "fail", "too low"),
            Measurement("two.effort", "two", 30.0, "steps", 8, None, "train", "zero", "It was.", curve=curve),
        ),
    )


@pytest.fixture(scope="module")
def payload(model: Transformer, tokens: Tokens, circuit: Circuit, verdict: Verdict) -> Payload:
    return payload_from(model, tokens, [Case(circuit, verdict)], Origin("abcd", 2.5, 0), CONFIG)


def test_edges_are_the_circuits(payload: Payload, circuit: Circuit, model: Transformer):
    task = payload.tasks[0]
    drawn = {(task.nodes[edge.source].name, task.nodes[edge.target].name): edge.weight for edge in task.edges}
    shape = model.config
    edges = circuit.edges(model)
    assert drawn == {(e.source.name(shape), e.target.name(shape)): short(e.weight) for e in edges}
    assert task.counts.edges == len(edges) > 0
    assert {edge.channel for edge in task.embedding} == {3, 5}
    assert {edge.channel for edge in task.unembedding} == {5, 7}


def test_nodes_are_described(payload: Payload, circuit: Circuit, model: Transformer):
    nodes = {node.name: node for node in payload.tasks[0].nodes}
    assert set(nodes) == set(NAMES)
    q = nodes["0.attn.q:1.2"]
    assert (q.layer, q.kind, q.head, q.channel) == (0, "attn.q", 1, 2)
    assert q.mean == short(circuit.means[Site.of(0, "attn.q")][10].item())
    assert q.bias == short(model.get_parameter("blocks.0.attn.w_q.bias")[10].item())
    assert nodes["0.attn.act_in:3"].bias is None
    assert (nodes["0.attn.act_in:34"].position, nodes["0.attn.act_in:34"].channel) == (True, 2)
    assert nodes["1.mlp.resid_delta:7"].bias == short(model.get_parameter("blocks.1.mlp.w_out.bias")[7].item())


def test_prompts_and_their_activations(payload: Payload, model: Transformer, batch: PairBatch, tokens: Tokens):
    task = payload.tasks[0]
    tap = record()
    model(batch.tokens, tap=tap)
    rows = [0, 6, 1, 7]
    for place, row in enumerate(rows):
        length = int(batch.last[row]) + 1
        spelled = "".join(payload.vocab[token] for token in task.prompts[place].tokens)
        assert spelled == "".join(tokens.tokenizer.token(int(token)) for token in batch.tokens[row, :length])
        answer = task.prompts[place].answer
        assert answer is not None
        assert payload.vocab[answer] == tokens.tokenizer.token(int(batch.target[row]))
        for node in task.nodes:
            exact = tap.values[node.site][row, :length, Node.parse(node.name, model.config).index]
            assert node.on_prompts[place] == pytest.approx(exact.tolist(), rel=1e-3, abs=1e-6)
    assert task.sides == ('answer ")⏎', "answer ')⏎")


@torch.no_grad()
def test_strengths_are_measured_ablations(model: Transformer, circuit: Circuit, batch: PairBatch):
    found = behaviour(model, circuit, batch, 100)

    def loss(part: Circuit) -> float:
        margins = margin(last_logits(model, batch, tap=part.to_tap()), batch)
        return margin_losses(circuit.calibration.apply(margins)).mean().item()

    for node in circuit.nodes:
        less = replace(circuit, nodes=tuple(other for other in circuit.nodes if other != node))
        assert found.strengths[node] == pytest.approx(loss(less) - loss(circuit), abs=1e-5)
    assert any(abs(strength) > 1e-4 for strength in found.strengths.values())
    exact = circuit.calibration.apply(margin(last_logits(model, batch, tap=circuit.to_tap()), batch)).sigmoid()
    assert found.p_circuit == pytest.approx(exact.numpy(), abs=1e-5)
    assert behaviour(model, circuit, batch, 7).strengths == {}


def test_padding_does_not_count(model: Transformer, circuit: Circuit, batch: PairBatch):
    wide = replace(batch, tokens=torch.nn.functional.pad(batch.tokens, (0, 5), value=9))
    narrow, padded = (behaviour(model, circuit, which, 0) for which in (batch, wide))
    for node in circuit.nodes:
        assert padded.sides[node] == pytest.approx(narrow.sides[node], abs=1e-5)


def test_every_measurement_reaches_the_payload(payload: Payload, verdict: Verdict):
    task = payload.tasks[0]
    assert task.target_loss == 0.15
    assert task.guessing_loss == pytest.approx(math.log(2))
    assert [f"{shown.check}.{shown.quantity}" for shown in task.measurements] == ["one.loss", "one.share", "two.effort"]
    for shown, found in zip(task.measurements, verdict.measurements, strict=True):
        for name in ("title", "value", "unit", "n", "ablation", "budget", "status", "reason", "meaning"):
            assert getattr(shown, name) == getattr(found, name)
    one, share, effort = task.measurements
    assert (one.low, one.high, one.split) == (0.05, 0.2, "heldout")
    assert (share.low, share.high, share.curve) == (None, None, None)
    assert effort.curve is not None
    assert (effort.curve.x_label, effort.curve.x, effort.curve.y) == ("step", (1.0, 2.0), (0.6, 0.7))


def test_the_verdict_and_its_thresholds_reach_the_payload(
    model: Transformer, tokens: Tokens, circuit: Circuit, verdict: Verdict
):
    one, share, effort = verdict.measurements
    held = (one.held_against(Threshold(0.05)), share.held_against(Threshold(0.95, at_most=False), "warn"), effort)
    judged = replace(verdict, measurements=held)
    task = payload_from(model, tokens, [Case(circuit, judged)], Origin("x"), CONFIG).tasks[0]
    assert [(shown.limit, shown.at_most) for shown in task.measurements] == [(0.05, True), (0.95, False), (None, True)]
    assert task.verdict is not None
    assert (task.verdict.word, task.verdict.status) == (word_of(judged).word, word_of(judged).status)
    assert (task.verdict.weakest, task.verdict.deciding) == ((0,), (0, 2)), "one of each check, and none without limits"


def test_heads_are_shown_on_the_example_prompts(
    payload: Payload, model: Transformer, tokens: Tokens, circuit: Circuit, verdict: Verdict, batch: PairBatch
):
    task = payload.tasks[0]
    (head,) = task.heads
    assert (head.layer, head.head, head.sink, head.prompts) == (0, 1, True, 6)
    (exact,) = head_patterns(model, circuit, batch)
    for shown, found in ((head.circuit, exact.circuit), (head.model, exact.model)):
        for row, weights in zip((0, 6, 1, 7), shown, strict=True):
            assert sum(weights) == pytest.approx(1, abs=0.02)
            assert found.sink is not None
            length = int(batch.last[row]) + 1
            assert weights == pytest.approx([*found.tokens[row, :length].tolist(), found.sink[row].item()], abs=6e-4)
    assert head.distance[1] == pytest.approx(exact.distance[6:].mean().item(), rel=1e-3)
    few = payload_from(model, tokens, [Case(circuit, verdict)], Origin("x"), CONFIG.replace(most_heads=0))
    assert (few.tasks[0].heads[0].model, few.tasks[0].heads[0].distance) == ((), head.distance)


def test_the_page_of_it_can_be_written(payload: Payload):
    assert Payload.parse(payload.model_dump_json(), "it") == payload
    assert page.render(payload) == page.render(payload)


def test_what_does_not_belong_together_is_refused(
    model: Transformer, tokens: Tokens, circuit: Circuit, verdict: Verdict
):
    with pytest.raises(UserError, match="A verdict on bracket_counting came with"):
        payload_from(model, tokens, [Case(circuit, replace(verdict, task="bracket_counting"))], Origin("x"))
    other = replace(circuit, shape=model.config.replace(n_layers=1))
    with pytest.raises(UserError, match="model of another shape"):
        payload_from(model, tokens, [Case(other, verdict)], Origin("x"))


def test_an_empty_circuit_makes_a_page(model: Transformer, tokens: Tokens, circuit: Circuit, verdict: Verdict):
    nothing = replace(circuit, nodes=())
    made = payload_from(model, tokens, [Case(nothing, verdict)], Origin("x"), CONFIG)
    assert made.tasks[0].nodes == ()
    assert page.render(made)
