"""Masks of tokens: what a removed embedding is ablated to, the same circuit at every stage, and planted tokens kept."""

import copy
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast
from unittest import mock

import planted
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from test_passes import batch_of, means_of
from tiny import tiny_model
from torch import Tensor

from thinwire import artifact
from thinwire.circuit import Circuit, weight_edges
from thinwire.data import Tokenizer
from thinwire.errors import UserError
from thinwire.model import Transformer
from thinwire.prune import PruneConfig, passes
from thinwire.prune.attribution import attribution_scores
from thinwire.prune.masks import NodeMasks
from thinwire.prune.means import prompt_embeddings
from thinwire.prune.passes import Parts, Passes, Replaceable, Token
from thinwire.prune.run import PruningRun, prune
from thinwire.sites import Node, all_sites
from thinwire.tasks import TASKS, last_logits, margin, margin_losses
from thinwire.train import TrainConfig
from thinwire.verify import VerifyConfig, verify

pytestmark = pytest.mark.usefixtures("in_float32")

NO_TOKENIZER = cast(Tokenizer, None)
SCHEMES = ("none", "added", "concatenated")
PLANT = planted.crossed()
"""Needs A and B where the scale of the logits is bounded; the fillers do nothing."""
SPARED = {*PLANT.nodes, Node.parse("0.attn.v:0.2", planted.SHAPE), Node.parse("1.mlp.post_act:9", planted.SHAPE)}
DROP = tuple(
    name
    for site in all_sites(planted.SHAPE)
    for i in range(site.width(planted.SHAPE))
    if (name := Node(site, i).name(planted.SHAPE)) not in {node.name(planted.SHAPE) for node in SPARED}
)
CONFIG = PruneConfig(
    mask_tokens=True,
    max_logit_scale=0.5,
    target_loss=0.06,
    drop=DROP,
    learning_rate=0.02,
    steps=120,
    train_pairs=64,
    validation_pairs=64,
    heldout_pairs=64,
)


@pytest.fixture(scope="module", params=SCHEMES)
def model(request: pytest.FixtureRequest) -> Transformer:
    return tiny_model(density=0.5, positions=request.param).eval().requires_grad_(False)


def by_hand(model: Transformer, removed: Sequence[int], ablated: Tensor) -> Transformer:
    """The model with rows of its embedding written over."""
    other = copy.deepcopy(model)
    for token in removed:
        other.embedding.weight[token] = ablated
    return other


def nodes_at(masks: NodeMasks, row: Tensor) -> tuple[Node, ...]:
    return tuple(node for (node,), kept in zip(masks.units, row[: len(masks.units)].tolist(), strict=True) if kept)


def test_tokens_of_prompts_and_their_mean_leave_padding_out(model: Transformer) -> None:
    pairs = batch_of(model)
    rows = [row[: last + 1] for row, last in zip(pairs.tokens.tolist(), pairs.last.tolist(), strict=True)]
    every = [token for row in rows for token in row]
    found = prompt_embeddings(model, pairs, "mean")
    assert found.tokens == tuple(sorted(set(every)))
    by_hand_mean = torch.stack([model.embedding.weight[token] for token in every]).mean(0)
    torch.testing.assert_close(found.ablated_to, by_hand_mean)
    zero = prompt_embeddings(model, pairs, "zero")
    assert (zero.tokens, zero.ablated_to.tolist()) == (found.tokens, [0.0] * model.config.d_model)


def test_folded_trials_are_circuits_of_the_model_with_other_embeddings(model: Transformer) -> None:
    pairs, means = batch_of(model), means_of(model)
    embeddings = prompt_embeddings(model, pairs, "mean")
    masks = NodeMasks(model, means, PruneConfig(), embeddings)
    assert masks.n == len(masks.units) + len(embeddings.tokens)
    hard = (torch.rand(3, masks.n, generator=torch.Generator().manual_seed(0)) < 0.7).float()
    for row, found in zip(hard, masks.margins(hard, pairs), strict=True):
        kept = row[len(masks.units) :].tolist()
        removed = tuple(token for token, stays in zip(embeddings.tokens, kept, strict=True) if not stays)
        tokens = {"removed_tokens": removed, "ablated_embedding": embeddings.ablated_to}
        circuit = Circuit("t", model.config, nodes_at(masks, row), means, **tokens)
        other = by_hand(model, removed, embeddings.ablated_to)
        expected = margin(last_logits(other, pairs, circuit.to_tap()), pairs)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        cut = circuit.cut_model(model)
        assert cut.embedding.weight.equal(other.embedding.weight)
        torch.testing.assert_close(margin(last_logits(cut, pairs, circuit.to_tap()), pairs), expected)
        assert cut.unembedding.weight is not model.embedding.weight
    whole = masks.margins(torch.ones(1, masks.n), pairs)[0]
    torch.testing.assert_close(whole, margin(last_logits(model, pairs), pairs), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("stored", [2**29, 1])
def test_candidates_in_any_order(model: Transformer, stored: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passes, "CHUNK", 4)
    monkeypatch.setattr(passes, "STORED_BYTES", stored)
    pairs, means, ablated = batch_of(model), means_of(model), torch.full((model.config.d_model,), 0.3)
    nodes = frozenset(Node(site, i) for site in means for i in range(len(means[site])) if i % 4)
    kept_edges = frozenset(edge.ends for edge in weight_edges(model, nodes))
    runs = Passes(Replaceable(model), means, pairs, ablated_embedding=ablated)
    base = Parts(nodes, kept_edges, frozenset([Token(3)]))
    last = max(nodes)
    one = base.without([Token(5), last])
    assert one.removed == {Token(3), Token(5)}
    assert (one.has(Token(5)), one.has(Token(6)), one.has(last)) == (False, True, False)
    for parts, rebase in ((base, True), (one, False), (base.without([last]), True), (one, True), (base, False)):
        circuit = Circuit(
            "t", model.config, tuple(sorted(parts.nodes)), means, kept_edges=tuple(parts.kept_edges or ())
        )
        other = by_hand(circuit.cut_model(model), [token.id for token in parts.removed], ablated)
        expected = margin(last_logits(other, pairs, circuit.to_tap()), pairs)
        torch.testing.assert_close(runs.margins(parts), expected, rtol=1e-4, atol=1e-5)
        if rebase:
            runs.start_from(parts)


@pytest.fixture(scope="module")
def found() -> Circuit:
    with mock.patch("torch.cpu._is_avx512_bf16_supported", return_value=False):
        return prune(PLANT.model, PLANT.task, NO_TOKENIZER, PLANT.means, CONFIG)


def test_only_the_tokens_that_decide_are_kept(found: Circuit) -> None:
    assert found.nodes == PLANT.nodes
    assert found.removed_tokens == tuple(planted.FILLERS), "A and B stay, and what no prompt has"
    pairs = PLANT.planted.pairs(CONFIG.train_pairs, "train", CONFIG.seed)
    assert found.ablated_embedding is not None
    assert found.ablated_embedding.equal(prompt_embeddings(PLANT.model, pairs, "mean").ablated_to)
    assert {planted.A, planted.B} <= set(found.prompt_tokens)
    assert not set(found.prompt_tokens) & set(found.removed_tokens)
    assert found.scores is not None
    assert found.scores.loss < CONFIG.validation_target
    assert found.scores.embedding_edges == 2
    assert found.scores.edges == len(PLANT.edges), "tokens count neither as nodes nor as edges"


def test_without_simplifying_the_ranking_decides_on_tokens_too() -> None:
    pruning = PruningRun.of(PLANT.model, PLANT.task, NO_TOKENIZER, PLANT.means, CONFIG)
    evaluator, n = pruning.evaluator, len(pruning.masks.units)
    tokens = [
        column for column in range(n, pruning.masks.n) if evaluator.tokens[column - n].id in (planted.A, planted.B)
    ]
    kept = [*range(n), *tokens]
    assert evaluator.parts(kept).removed == {Token(token) for token in planted.FILLERS}
    candidate = evaluator.candidate(kept, float("nan"))
    assert candidate.columns == tuple(kept)
    assert candidate.loss == pytest.approx(evaluator.measure(range(pruning.masks.n)).loss, abs=1e-3)
    assert evaluator.measure([*range(n), tokens[0]]).loss > CONFIG.validation_target
    assert evaluator.candidate_of(candidate.parts, range(pruning.masks.n), 0.0).columns == tuple(kept)


def test_attribution_ranks_the_tokens_that_decide_first() -> None:
    pruning = PruningRun.of(PLANT.model, PLANT.task, NO_TOKENIZER, PLANT.means, CONFIG.replace(method="attribution"))
    assert isinstance(pruning.masks, NodeMasks)
    scores = attribution_scores(pruning.masks, pruning.train, steps=8)[len(pruning.masks.units) :]
    best = scores.topk(2).indices.tolist()
    assert {pruning.masks.tokens[i].id for i in best} == {planted.A, planted.B}


def test_round_trip_and_verdict(found: Circuit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS._entries, PLANT.planted.name, PLANT.task)
    (tmp_path / "model").mkdir()
    parent = artifact.finish(tmp_path / "model", "model", TrainConfig(), {}, [])
    found.save(tmp_path / "circuit", CONFIG, parent)
    loaded = Circuit.load(tmp_path / "circuit")
    assert loaded.removed_tokens == found.removed_tokens
    assert found.ablated_embedding is not None
    assert loaded.ablated_embedding is not None
    assert loaded.ablated_embedding.equal(found.ablated_embedding)
    assert loaded.means.keys() == found.means.keys()
    pairs = PLANT.planted.pairs(32, "heldout", 1)
    with_all = replace(loaded, removed_tokens=(), ablated_embedding=None).cut_model(PLANT.model)
    other = by_hand(with_all, found.removed_tokens, found.ablated_embedding)
    kept = loaded.calibration.apply(margin(last_logits(other, pairs, loaded.to_tap()), pairs))
    checked = verify(PLANT.model, loaded, NO_TOKENIZER, VerifyConfig(pairs=32, random_circuits=2, max_logit_scale=0.5))
    assert checked["sufficiency.loss"].value == pytest.approx(margin_losses(kept).mean().item(), abs=1e-6)
    assert checked["sufficiency.loss"].value < CONFIG.target_loss


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"removed_tokens": (5, 5)}, "removes tokens that its model does not have"),
        ({"removed_tokens": (6, 5)}, "removes tokens that its model does not have"),
        ({"removed_tokens": (12,)}, "removes tokens that its model does not have"),
        ({"removed_tokens": (-1,)}, "removes tokens that its model does not have"),
        ({"removed_tokens": ()}, "has no valid embedding for its removed tokens"),
        ({"ablated_embedding": None}, "has no valid embedding for its removed tokens"),
        ({"ablated_embedding": torch.zeros(15)}, "has no valid embedding for its removed tokens"),
        ({"ablated_embedding": torch.full((16,), torch.nan)}, "has no valid embedding for its removed tokens"),
    ],
)
def test_invalid_removed_tokens_are_refused(found: Circuit, changes: dict, said: str) -> None:
    with pytest.raises(UserError, match=said):
        replace(found, **changes)


def test_a_file_without_the_ablated_embedding_is_refused(found: Circuit, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    parent = artifact.finish(tmp_path / "model", "model", TrainConfig(), {}, [])
    folder, files = tmp_path / "circuit", ["circuit.json", "means.safetensors"]
    replace(found, scores=None).save(folder, CONFIG, parent)
    means = load_file(folder / "means.safetensors")
    means.pop("embedding")
    save_file(means, folder / "means.safetensors")
    artifact.finish(folder, "circuit", CONFIG, {"model": parent}, files)
    with pytest.raises(UserError, match="has no valid embedding for its removed tokens"):
        Circuit.load(folder)


def test_there_is_no_ladder_of_circuits_that_remove_tokens() -> None:
    with pytest.raises(ValidationError, match="leave mask_tokens off"):
        PruneConfig(mask_tokens=True, ladder=(0.3,))


@pytest.mark.parametrize("granularity", ["edges", "nodes_then_edges"])
def test_masks_of_weights_leave_no_room_for_tokens(granularity: str) -> None:
    with pytest.raises(ValidationError, match="mask_tokens adds tokens to masks of nodes"):
        PruneConfig(mask_tokens=True, granularity=granularity)  # pyright: ignore[reportArgumentType]
