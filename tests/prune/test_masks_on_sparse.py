"""Circuits and masks on the model with sparse kernels: the margins, edges and gradients of the dense one."""

from dataclasses import replace
from itertools import product

import pytest
import torch
from tiny import tiny_model
from torch import Tensor

from thinwire.circuit import Circuit, weight_edges
from thinwire.circuit.edges import count_edges, embedding_edges, unembedding_edges
from thinwire.compiled.compile import compile_sparse
from thinwire.compiled.modules import Sparse
from thinwire.model import Transformer
from thinwire.model.taps import record
from thinwire.prune import PruneConfig
from thinwire.prune.edge_masks import EdgeMasks
from thinwire.prune.masks import NodeMasks
from thinwire.prune.means import PromptEmbeddings
from thinwire.prune.passes import Parts, Passes, Replaceable, Token
from thinwire.sites import Node, Site, all_sites
from thinwire.tasks import PairBatch, last_logits, margin, margin_losses

CLOSE = {"rtol": 1e-4, "atol": 1e-4}
VARIANTS: dict[str, dict[str, object]] = {
    "plain": {},
    "sink": {"sink": True, "positions": "concatenated"},
    "no biases": {"biases": False, "activation": "relu"},
    "active residual": {"active_residual": True, "positions": "added"},
}


@pytest.fixture(params=VARIANTS)
def dense(request: pytest.FixtureRequest) -> Transformer:
    """A model with one matrix that stays dense, in float32."""
    model = tiny_model(density=0.1, **VARIANTS[request.param]).requires_grad_(False)
    model.get_submodule("blocks.0.attn.w_v").get_parameter("weight").normal_(
        0, 0.3, generator=torch.Generator().manual_seed(0)
    )
    # a stream of zeros has no derivative: its norm divides by zero, and any channel may be among the k largest
    embedding = model.embedding.weight
    embedding[(embedding == 0).all(1), 0] = 1
    model.precision = "fp32"
    return model


def batch_of(model: Transformer, pairs: int = 5, longest: int = 12) -> PairBatch:
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(model.config.vocab_size, (2 * pairs, longest), generator=generator)
    last = torch.randint(longest, (2 * pairs,), generator=generator)
    target = torch.randint(model.config.vocab_size, (pairs,), generator=generator)
    foil = (target + 1) % model.config.vocab_size
    return PairBatch(tokens, last, torch.cat([target, foil]), torch.cat([foil, target]))


def means_of(model: Transformer) -> dict[Site, Tensor]:
    seen = record()
    model(batch_of(model, 8).tokens, tap=seen)
    return {site: x.mean((0, 1)).contiguous() for site, x in seen.values.items()}


def part_of(items: list, share: float, seed: int = 0) -> tuple:
    draws = torch.rand(len(items), generator=torch.Generator().manual_seed(seed)).tolist()
    return tuple(item for item, draw in zip(items, draws, strict=True) if draw < share)


def circuit_of(model: Transformer, nodes: float = 0.6, kept_edges: float = 0.7) -> Circuit:
    every = [Node(site, i) for site in all_sites(model.config) for i in range(site.width(model.config))]
    kept = part_of(every, nodes)
    listed = [edge.ends for edge in weight_edges(model, kept)]
    ablated = torch.linspace(-1, 1, model.config.d_model)
    circuit = Circuit("tiny", model.config, kept, means_of(model), kept_edges=part_of(listed, kept_edges))
    return replace(circuit, removed_tokens=(0, 3, 11), ablated_embedding=ablated)


@torch.no_grad()
def test_circuits_cut_the_same_edges(dense: Transformer) -> None:
    compiled, circuit, batch = compile_sparse(dense), circuit_of(dense), batch_of(dense)
    assert sum(isinstance(module, Sparse) for module in compiled.modules()) == 13
    assert circuit.edges(compiled) == circuit.edges(dense)
    assert len(circuit.edges(dense)) > 50
    assert count_edges(compiled, circuit.keep) == count_edges(dense, circuit.keep)
    for edges, tokens in ((embedding_edges, range(0, 40, 3)), (unembedding_edges, [1, 2, 30])):
        assert edges(compiled, circuit.nodes, tokens) == edges(dense, circuit.nodes, tokens)
    before = [model(batch.tokens) for model in (compiled, dense)]
    torch.testing.assert_close(*before, **CLOSE)
    edgeless, tokenless = replace(circuit, kept_edges=()), replace(circuit, removed_tokens=(), ablated_embedding=None)
    for each in (circuit, replace(circuit, frozen_norms=True), replace(circuit, kept_edges=None), edgeless, tokenless):
        margins = []
        for model in (compiled, dense):
            norms = each.norms(model, batch)
            margins.append(margin(last_logits(each.cut_model(model), batch, each.to_tap(), norms=norms), batch))
        torch.testing.assert_close(*margins, **CLOSE)
        assert not torch.allclose(margins[0], margin(last_logits(dense, batch), batch), atol=1e-2)
    for model, logits in zip((compiled, dense), before, strict=True):
        assert model(batch.tokens).equal(logits)


def gradients(masks: NodeMasks | EdgeMasks, hard: Tensor, batch: PairBatch) -> tuple[Tensor, Tensor]:
    """Margins, and the gradient of the task loss with respect to the masks."""
    hard = hard.clone().requires_grad_()
    margins = masks.margins(hard, batch)
    (slope,) = torch.autograd.grad(margin_losses(margins).sum(), hard)
    return margins.detach(), slope


def some_masks(trials: int, n: int, share: float | None) -> Tensor:
    """Zeros and ones, or numbers between."""
    drawn = torch.rand(trials, n, generator=torch.Generator().manual_seed(4))
    return drawn if share is None else (drawn < share).float()


def test_masks_of_nodes_and_tokens(dense: Transformer) -> None:
    for frozen_norms, share in product([False, True], [0.6, 1.0, None]):
        batch, means, config = batch_of(dense), means_of(dense), PruneConfig(frozen_norms=frozen_norms)
        embeddings = PromptEmbeddings((1, 4, 9, 20), torch.linspace(-1, 1, dense.config.d_model))
        both = [NodeMasks(model, means, config, embeddings) for model in (compile_sparse(dense), dense)]
        assert both[0].units == both[1].units
        hard = some_masks(3, both[0].n, share)
        (margins, slopes), (expected, expected_slopes) = (gradients(masks, hard, batch) for masks in both)
        torch.testing.assert_close(margins, expected, **CLOSE)
        torch.testing.assert_close(slopes, expected_slopes, rtol=1e-3, atol=1e-4)
        assert (slopes != 0).float().mean() > 0.05, (frozen_norms, share)


def test_masks_of_edges(dense: Transformer) -> None:
    for frozen_norms, share in product([False, True], [0.6, 1.0, None]):
        batch, circuit, compiled = batch_of(dense), circuit_of(dense), compile_sparse(dense)
        both = [
            EdgeMasks(model, circuit.means, circuit.nodes, circuit.nodes[:3], frozen_norms=frozen_norms)
            for model in (compiled, dense)
        ]
        assert both[0].units == both[1].units
        assert both[0].loose == both[1].loose
        hard = some_masks(2, both[0].n, share)
        (margins, slopes), (expected, expected_slopes) = (gradients(masks, hard, batch) for masks in both)
        torch.testing.assert_close(margins, expected, **CLOSE)
        torch.testing.assert_close(slopes, expected_slopes, rtol=1e-3, atol=1e-4)
        assert (slopes != 0).float().mean() > 0.05, (frozen_norms, share)


def test_candidates_from_where_they_differ(dense: Transformer) -> None:
    for frozen_norms in (False, True):
        batch, circuit = batch_of(dense), circuit_of(dense)
        both = [
            Passes(Replaceable(model), circuit.means, batch, frozen_norms, circuit.ablated_embedding)
            for model in (compile_sparse(dense), dense)
        ]
        assert circuit.kept_edges is not None
        parts = Parts(frozenset(circuit.nodes), frozenset(circuit.kept_edges), frozenset({Token(3)}))
        for passes in both:
            passes.start_from(parts)
        late = [node for node in circuit.nodes if node.site.layer][::9]
        for gone in ([], late, circuit.kept_edges[::7], [Token(5)], [circuit.nodes[0]]):
            ours, expected = (passes.margins(parts.without(gone)) for passes in both)
            torch.testing.assert_close(ours, expected, **CLOSE)
