"""Rows of the battery on planted models: a true circuit passes, and each planted failure is caught by its row."""

from collections.abc import Sequence
from dataclasses import replace

import planted
import pytest
import torch
from planted import MIDDLE, OUT, SIGNAL, A, B, matrix_at

from thinwire.circuit import Circuit, PruneScores, count_edges, keep_masks
from thinwire.circuit.edges import channel_links
from thinwire.model.taps import ablate
from thinwire.prune.calibrate import fit_calibration
from thinwire.prune.means import task_means
from thinwire.sites import Node, Site
from thinwire.tasks import loss_of
from thinwire.verify import CheckInput, Measurement, VerifyConfig
from thinwire.verify.attack import Outside, attack
from thinwire.verify.checks.adversarial import adversarial
from thinwire.verify.checks.agreement import agreement, correlation, relative_error
from thinwire.verify.checks.constants import task_mean, zero
from thinwire.verify.checks.exchange import other_side_outside, resample
from thinwire.verify.checks.frozen_norms import frozen_norms
from thinwire.verify.checks.groups import exchange_by_site, own_values
from thinwire.verify.checks.patterns import patterns
from thinwire.verify.checks.subsets import subsets
from thinwire.verify.nulls import Alike

ROWS = (task_mean, zero, subsets, frozen_norms, own_values, exchange_by_site, adversarial, agreement, patterns)
SCORES = PruneScores(0.15, 0.1, 0.2, 0.1, 1.0, 0.1, 1.0, 4, 0, 0, 1.0)


def inputs_of(plant: planted.Planted, entries: Sequence[planted.Entry] = (), further: Sequence[str] = ()) -> CheckInput:
    """The planted circuit, with further nodes, in its model with further weights."""
    with torch.no_grad():
        for layer, matrix, row, column, weight in entries:
            matrix_at(plant.model, layer, matrix)[row, column] = weight
    plant = replace(plant, means=planted._means(plant.model))
    nodes = sorted({*plant.nodes, *(Node.parse(name, plant.model.config) for name in further)})
    circuit = Circuit(plant.planted.name, plant.model.config, tuple(nodes), plant.means, answer_tokens=(3, 4))
    heldout, fit = (plant.planted.pairs(64, split, 3) for split in ("heldout", "train"))
    return calibrated(CheckInput(plant.model, replace(circuit, scores=SCORES), heldout, fit, VerifyConfig()))


def calibrated(inputs: CheckInput) -> CheckInput:
    margins = inputs.circuit.margins(inputs.model, inputs.fit)
    return replace(inputs, circuit=replace(inputs.circuit, calibration=fit_calibration(margins, 3.0)))


def missed(found: Sequence[Measurement]) -> list[str]:
    return [one.name for one in found if one.status in ("fail", "warn")]


@pytest.mark.parametrize("name", planted.PLANTED)
def test_a_true_circuit_passes_every_row(name: str) -> None:
    inputs = inputs_of(planted.PLANTED[name]())
    for row in ROWS:
        assert not missed(list(row(inputs))), row.__name__


PAIR = [(1, "w_in", 6, SIGNAL, 1.0), (1, "w_in", 7, SIGNAL, 1.0), (1, "w_out", OUT, 6, 6.0), (1, "w_out", OUT, 7, -6.0)]
"""Two neurons outside whose votes cancel as long as both stand or fall together."""


def cancelling() -> CheckInput:
    plant = planted.mlp()
    with torch.no_grad():
        matrix_at(plant.model, 1, "w_in")[6:8] = 0
        matrix_at(plant.model, 1, "w_out")[:, 6:8] = 0
    return inputs_of(plant, PAIR)


def test_a_cancelling_pair_is_caught_by_subsets_and_the_adversary_alone() -> None:
    inputs = cancelling()
    for row in (resample, other_side_outside, task_mean, zero, frozen_norms, own_values, agreement, patterns):
        assert not missed(row(inputs)), row.__name__
    assert "subsets.loss" in missed(subsets(inputs))
    loss, rounded, way, agree = adversarial(inputs)
    assert (loss.status, loss.value > 0.65, rounded.value > 0.65) == ("fail", True, True)
    assert loss.curve is not None
    assert loss.curve.y[0] < loss.curve.y[-1]
    assert way.value >= loss.value - 1e-6
    assert -1 <= agree.value <= 1


def test_constants_are_those_of_the_task_and_zero() -> None:
    """The calibration knows the mean of a neuron outside that pushes the answer; the task's mean is another one."""
    inputs = inputs_of(planted.mlp(), [(1, "w_out", OUT, 6, 3.0)])
    inputs.circuit.means[Site.parse("1.mlp.post_act")][6] = 9.0
    inputs = calibrated(inputs)
    loss, area, _ = task_mean(inputs)
    assert missed([loss, area]) == ["task_mean.loss"]
    for row, values in (
        (loss, task_means(inputs.model, inputs.fit)),
        (zero(inputs)[0], {site: torch.zeros_like(mean) for site, mean in inputs.circuit.means.items()}),
    ):
        margins = inputs.margins(inputs.exchanged, ablate(inputs.circuit.keep, values))
        if row is loss:
            assert row.value == pytest.approx(loss_of(inputs.calibration.apply(margins)).item(), rel=1e-4)
        else:
            assert (row.name, row.value, row.ablation) == ("zero.AUC", 1, "zero")


def test_frozen_norms_are_those_of_the_whole_model() -> None:
    inputs = inputs_of(planted.chain())
    frozen = replace(inputs.circuit, frozen_norms=True).margins(inputs.model, inputs.exchanged)
    loss, _, _ = frozen_norms(inputs)
    assert loss.value == pytest.approx(loss_of(inputs.refitted(frozen)).item(), abs=1e-7)
    assert loss.threshold is not None
    assert loss.threshold.limit == pytest.approx(0.3)
    bare = replace(inputs, circuit=replace(inputs.circuit, scores=None))
    assert frozen_norms(bare)[0].status == "info", "there is no target to compare with"
    broken = replace(inputs, circuit=replace(inputs.circuit, nodes=inputs.circuit.nodes[1:]))
    assert missed(frozen_norms(broken)) == ["frozen_norms.refitted loss"]


def test_own_values_name_the_site_where_the_model_does_the_opposite() -> None:
    inputs = inputs_of(planted.mlp(), [(1, "w_in", 6, SIGNAL, 1.0), (1, "w_out", OUT, 6, -3.0)])
    found = own_values(inputs)
    assert set(missed(found)) == {"own_values.loss", "own_values.AUC"}
    assert found[0].budget == "the worst of 16 sites: 1.mlp.post_act"
    assert found[0].curve is not None
    losses = dict(zip(found[0].curve.labels, found[0].curve.y, strict=True))
    assert losses["0.attn.v"] < 0.01 < losses["1.mlp.post_act"]
    assert exchange_by_site(inputs)[0].budget == "the worst of 16 sites: 1.mlp.post_act"


def test_an_attack_moves_between_the_circuit_and_the_model() -> None:
    inputs = inputs_of(planted.chain())
    outside = Outside(inputs, inputs.first(8))
    assert outside.n == sum(int((~mask).sum()) for mask in inputs.circuit.keep.values())
    ends = outside.margins(torch.stack([torch.zeros(outside.n), torch.ones(outside.n)]))
    assert ends[0].allclose(inputs.circuit.margins(inputs.model, outside.batch), atol=1e-5)
    assert ends[1].allclose(inputs.margins(outside.batch, model=inputs.cut), atol=1e-5)
    broken = cancelling()
    found = attack(Outside(broken, broken.first(8)), 12, 2)
    assert found.losses.shape == (13, 2)
    assert found.losses[-1].min() > 0.6
    assert ((found.masks >= 0) & (found.masks <= 1)).all()
    assert ((found.masks - found.start).abs() <= 1.2 + 1e-6).all()
    everything = [Node(site, i) for site, mask in broken.circuit.keep.items() for i in range(len(mask))]
    whole = replace(broken, circuit=replace(broken.circuit, nodes=tuple(everything)))
    still = attack(Outside(whole, whole.first(8)), 12, 2)
    assert (still.losses.shape, still.agreement) == ((1, 2), 0)


def test_a_node_that_does_the_opposite_in_the_model_is_caught() -> None:
    further = [(0, "w_v", 2, SIGNAL, -4.0), (0, "w_o", MIDDLE, 2, 4.0)]
    inputs = inputs_of(planted.chain(), further)
    worst, _, error = agreement(inputs)
    assert (worst.value < -0.9, worst.status) == (True, "fail")
    assert worst.budget is not None
    assert worst.curve is not None
    alike = dict(zip(worst.curve.labels, worst.curve.y, strict=True))
    assert "0.attn.act_in:0" not in alike, "it reads embeddings"
    assert alike["0.attn.v:0.1"] > 0.9 > alike[f"0.attn.resid_delta:{MIDDLE}"]
    assert error.value > 0.5


def test_correlation_and_error_of_values_that_do_not_vary() -> None:
    some, flat = torch.tensor([1.0, 2.0, 4.0]), torch.full((3,), 2.0)
    assert correlation(some, 3 - 2 * some) == pytest.approx(-1)
    assert (correlation(some, flat), correlation(flat, flat + 1), correlation(flat, torch.zeros(3))) == (0, 1, 1)
    assert (relative_error(some, some), relative_error(some, 2 * some)) == (0, pytest.approx(1))
    assert relative_error(flat, torch.zeros(3)) == pytest.approx(1)


def test_a_head_that_has_to_look_is_caught_when_it_does_not() -> None:
    """Head 0 looks at A and B by a key that the circuit lacks; with its query and key the circuit looks there too."""
    plant = planted.attention()
    with torch.no_grad():
        plant.model.embedding.weight[:, 14] = 0
        plant.model.embedding.weight[[A, B], 14] = 5
        attention = plant.model.blocks[0].attn
        matrix_at(plant.model, 0, "w_k")[:4] = 0
        matrix_at(plant.model, 0, "w_q")[:4] = 0
        matrix_at(plant.model, 0, "w_k")[0, 14] = 4.0
        attention.w_q.bias[0] = 4.0  # pyright: ignore
    blind = inputs_of(plant)
    gone, distance = patterns(blind)
    assert (gone.value, gone.status, gone.budget) == (1, "fail", "1 kept head, uniform: 0.0")
    assert (distance.value > 0.3, distance.status) == (True, "warn")
    seeing = inputs_of(plant, further=["0.attn.act_in:14", "0.attn.q:0.0", "0.attn.k:0.0"])
    assert not missed(patterns(seeing))
    headless = replace(seeing, circuit=replace(seeing.circuit, nodes=()))
    assert [(one.name, one.value, one.status) for one in patterns(headless)] == [("patterns.gone uniform", 0, "info")]


@pytest.mark.parametrize("name", planted.PLANTED)
def test_random_circuits_are_joined_like_the_circuit(name: str) -> None:
    plant = planted.PLANTED[name]()
    inputs, generator = inputs_of(plant), torch.Generator().manual_seed(0)
    alike, sites = Alike(plant.model, inputs.circuit, inputs.heldout), [node.site for node in inputs.circuit.nodes]
    drawn = [alike.draw(generator) for _ in range(40)]
    assert all([node.site for node in nodes] == sites and len(set(nodes)) == len(nodes) for nodes in drawn)
    assert len({tuple(nodes) for nodes in drawn}) > 10
    joined = [count_edges(plant.model, keep_masks(nodes, plant.model.config)) for nodes in drawn]
    assert sum(count >= len(plant.edges) for count in joined) > 35, "as many edges, where the model has such weights"


def test_random_circuits_of_a_writer_that_nothing_feeds() -> None:
    """A residual write without a source among the kept nodes, read by a later layer, as pruning may leave it."""
    plant = planted.chain()
    inputs, shape = inputs_of(plant), plant.model.config
    fed = {node for node in inputs.circuit.nodes if node.site in (Site.of(0, "attn.v"), Site.of(0, "attn.act_in"))}
    circuit = replace(inputs.circuit, nodes=tuple(node for node in inputs.circuit.nodes if node not in fed))
    writer = next(node for node in circuit.nodes if node.site == Site.of(0, "attn.resid_delta"))
    assert any(source == writer for source, _ in channel_links(circuit.nodes, shape.d_model))
    nodes = Alike(plant.model, circuit, inputs.heldout).draw(torch.Generator().manual_seed(0))
    assert [node.site for node in nodes] == [node.site for node in circuit.nodes]
