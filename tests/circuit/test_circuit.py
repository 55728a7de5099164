"""The circuit as an object: taps, folders, graphs and text."""

from dataclasses import replace
from pathlib import Path

import planted
import pytest
from safetensors.torch import load_file, save_file

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.circuit import Calibration, Circuit, PruneScores, render
from thinwire.errors import UserError
from thinwire.model.taps import chain, record
from thinwire.prune import PruneConfig
from thinwire.sites import Node, Site
from thinwire.tasks import last_logits, margin
from thinwire.train import TrainConfig

PLANT = planted.chain()
SCORES = PruneScores(0.15, 0.125, 0.5, 0.13, 1.0, 0.01, 1.0, 4, 2, 4, 3.5)


def circuit(**changes: object) -> Circuit:
    whole = Circuit(
        task="planted_chain",
        shape=PLANT.model.config,
        nodes=PLANT.nodes,
        means=PLANT.means,
        calibration=Calibration(2.5, -0.125),
        strengths={node: 1 - i / 8 for i, node in enumerate(PLANT.nodes)},
        prompt_tokens=(planted.A, planted.B, 5),
        answer_tokens=(planted.X, planted.Y),
        scores=SCORES,
    )
    return replace(whole, **changes)  # pyright: ignore


@pytest.fixture
def parent(tmp_path: Path) -> Artifact:
    (tmp_path / "model").mkdir()
    return artifact.finish(tmp_path / "model", "model", TrainConfig(), {}, [])


@pytest.fixture
def saved(tmp_path: Path, parent: Artifact) -> Path:
    circuit().save(tmp_path / "circuit", PruneConfig(), parent, seed=4)
    return tmp_path / "circuit"


def test_round_trip(saved: Path, parent: Artifact) -> None:
    loaded = Circuit.load(saved)
    whole = circuit()
    for field in ("task", "shape", "nodes", "calibration", "strengths", "prompt_tokens", "answer_tokens", "scores"):
        assert getattr(loaded, field) == getattr(whole, field), field
    assert list(loaded.means) == list(whole.means) or loaded.means.keys() == whole.means.keys()
    assert all(loaded.means[site].equal(mean) for site, mean in whole.means.items())
    assert loaded.artifact is not None
    assert loaded.artifact.meta.parents == {"model": parent.id}
    assert loaded.artifact.meta.seed == 4
    assert loaded.artifact.config(PruneConfig) == PruneConfig()


def test_round_trip_of_a_circuit_drawn_by_hand(tmp_path: Path, parent: Artifact) -> None:
    bare = circuit(strengths={}, scores=None, prompt_tokens=(), answer_tokens=(), calibration=Calibration())
    made = bare.save(tmp_path / "bare", PruneConfig(), parent)
    assert made.path == tmp_path / "bare"
    loaded = Circuit.load(tmp_path / "bare")
    assert (loaded.nodes, loaded.strengths, loaded.scores) == (bare.nodes, {}, None)


def test_saving_again_replaces(saved: Path, parent: Artifact) -> None:
    circuit(nodes=PLANT.nodes[:2]).save(saved, PruneConfig(), parent)
    assert Circuit.load(saved).nodes == PLANT.nodes[:2]


def test_a_model_is_never_replaced_by_a_circuit(parent: Artifact) -> None:
    with pytest.raises(UserError, match="holds a model where a circuit is to be written"):
        circuit().save(parent.path, PruneConfig(), parent)
    artifact.open_artifact(parent.path, "model")


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"shape": 3}'])
def test_damaged_circuit_file_is_refused(saved: Path, parent: Artifact, text: str) -> None:
    (saved / "circuit.json").write_text(text)
    with pytest.raises(UserError, match="missing, truncated or altered"):
        Circuit.load(saved)
    artifact.finish(saved, "circuit", PruneConfig(), {"model": parent}, ["circuit.json", "means.safetensors"])
    with pytest.raises(UserError, match=r"does not hold a readable circuit|is not a valid ModelConfig"):
        Circuit.load(saved)


def test_circuit_with_foreign_nodes_or_means_is_refused(saved: Path, parent: Artifact) -> None:
    files = ["circuit.json", "means.safetensors"]
    text = (saved / "circuit.json").read_text()
    (saved / "circuit.json").write_text(text.replace("0.attn.v:0.1", "7.attn.v:0.1"))
    artifact.finish(saved, "circuit", PruneConfig(), {"model": parent}, files)
    with pytest.raises(UserError, match=r"Node 7.attn.v:0.1 lies outside the model"):
        Circuit.load(saved)
    (saved / "circuit.json").write_text(text)
    means = load_file(saved / "means.safetensors")
    means.pop("0.attn.q")
    save_file(means, saved / "means.safetensors")
    artifact.finish(saved, "circuit", PruneConfig(), {"model": parent}, files)
    with pytest.raises(UserError, match="holds means for other sites than its model has"):
        Circuit.load(saved)


def test_taps_hold_the_right_nodes_at_their_means() -> None:
    batch = PLANT.planted.pairs(4, "heldout", 0)
    whole, only, without = record(), record(), record()
    last_logits(PLANT.model, batch, tap=whole)
    last_logits(PLANT.model, batch, tap=chain(circuit().to_tap(), only))
    last_logits(PLANT.model, batch, tap=chain(circuit().removed_tap(), without))
    first = Site.parse("0.attn.act_in")
    for site in whole.values:
        kept = circuit().keep[site]
        assert {Node(site, int(i)) for i in kept.nonzero()} == {node for node in PLANT.nodes if node.site == site}
        assert (only.values[site][..., ~kept] == PLANT.means[site][~kept]).all()
        assert (without.values[site][..., kept] == PLANT.means[site][kept]).all()
    kept = circuit().keep[first]
    assert only.values[first][..., kept].equal(whole.values[first][..., kept])
    assert without.values[first][..., ~kept].equal(whole.values[first][..., ~kept])


def test_circuit_alone_does_the_task_and_the_rest_does_not() -> None:
    batch = PLANT.planted.pairs(32, "heldout", 0)
    assert (margin(last_logits(PLANT.model, batch, tap=circuit().to_tap()), batch) > 2).all()
    rest = margin(last_logits(PLANT.model, batch, tap=circuit().removed_tap()), batch)
    assert ((rest[:32] > 0) != (rest[32:] > 0)).all(), "both sides of a pair get the same answer"


def test_networkx_graph_holds_nodes_edges_and_links() -> None:
    graph = circuit().to_networkx(PLANT.model)
    names = [node.name(planted.SHAPE) for node in PLANT.nodes]
    assert list(graph.nodes) == names
    assert graph.nodes["0.attn.v:0.1"] == {
        "site": "0.attn.v",
        "layer": 0,
        "index": 1,
        "mean": PLANT.means[Site.parse("0.attn.v")][1].item(),
    }
    found = list(graph.edges(data=True))
    weights = {(a, b): data["weight"] for a, b, data in found if data["kind"] == "weight"}
    assert weights == planted.named_weights(PLANT)
    links = [(a, b) for a, b, data in found if data["kind"] == "channel"]
    assert links == [("0.attn.resid_delta:7", "1.mlp.act_in:7")]
    assert len(found) == len(PLANT.edges) + 1
    assert graph.graph["task"] == "planted_chain"


def test_model_of_another_shape_is_refused() -> None:
    other = circuit(shape=planted.SHAPE.replace(d_head=8))
    for act in (other.edges, other.to_networkx, other.check_model):
        with pytest.raises(UserError, match="planted_chain circuit belongs to a model of another shape"):
            act(PLANT.model)


def test_text_names_heads_channels_neurons_weights_and_tokens() -> None:
    mean = PLANT.means[Site.parse("0.attn.v")][1].item()
    text = render(circuit(), PLANT.model, token_text=lambda token: f"<{token}>")
    lines = text.splitlines()
    assert lines[0] == "planted_chain: 6 nodes, 4 edges"
    assert lines[1] == "calibrated loss 0.125 on validation pairs (target 0.15), 0.130 held out, accuracy 1.000"
    assert f"  head 0 channel 1  mean {mean:+.3f}" in lines
    assert lines[lines.index("0.attn.v") + 2] == "    <- 0.attn.act_in:0 × +2.000"
    assert "    <- 0.attn.v:0.1 × +4.000" in lines
    assert "    <- 0.attn.resid_delta:7 (same channel)" in lines
    assert any(line.startswith("  neuron 5  mean ") for line in lines)
    assert "    <- tokens '<1>' × +3.00, '<2>' × -3.00" in lines
    assert "    -> logits '<3>' × +1.50, '<4>' × -1.50" in lines
    sites = [line for line in lines[2:] if not line.startswith(" ")]
    assert sites == list(dict.fromkeys(str(node.site) for node in PLANT.nodes))


def test_text_lists_the_strongest_tokens_and_counts_the_rest() -> None:
    node = Node(Site.parse("0.attn.act_in"), 3)
    tokens = tuple(range(planted.SHAPE.vocab_size))
    text = render(circuit(nodes=(node,), prompt_tokens=tokens, scores=None), PLANT.model)
    column = PLANT.model.embedding.weight[:, 3]
    strongest = max(tokens, key=lambda token: abs(column[token].item()))
    assert f"<- tokens '{strongest}' × {column[strongest].item():+.2f}, " in text
    assert text.endswith(f", and {int(column.count_nonzero()) - 6} more")
    assert text.splitlines()[0] == "planted_chain: 1 nodes, 0 edges"
