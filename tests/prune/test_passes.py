"""Passes that reuse what they can: the same margins as plain passes, whatever was measured before."""

import random

import planted
import pytest
import torch
from tiny import tiny_model
from torch import Tensor

from thinwire.circuit import Circuit, weight_edges
from thinwire.model import Transformer
from thinwire.model.taps import record
from thinwire.prune import passes
from thinwire.prune.passes import Parts, Passes, Replaceable, first_change
from thinwire.sites import Node, Site, all_sites
from thinwire.tasks import PairBatch, last_logits, margin, whole_sublayers

PAIRS = 11


def batch_of(model: Transformer, seed: int = 0) -> PairBatch:
    """Prompts of many lengths."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(1, model.config.vocab_size, (2 * PAIRS, model.config.context), generator=generator)
    last = torch.randint(2, model.config.context, (2 * PAIRS,), generator=generator)
    tokens[torch.arange(model.config.context) > last[:, None]] = 0
    target = torch.randint(1, model.config.vocab_size, (2 * PAIRS,), generator=generator)
    return PairBatch(tokens, last, target, (target + 1) % model.config.vocab_size)


def means_of(model: Transformer) -> dict[Site, Tensor]:
    seen = record()
    model(batch_of(model, seed=9).tokens, tap=seen)
    return {site: x.mean((0, 1)) for site, x in seen.values.items()}


def plain(model: Transformer, means: dict[Site, Tensor], batch: PairBatch, parts: Parts) -> Tensor:
    kept_edges = None if parts.kept_edges is None else tuple(parts.kept_edges)
    circuit = Circuit("plain", model.config, tuple(sorted(parts.nodes)), means, kept_edges=kept_edges)
    return margin(last_logits(circuit.cut_model(model), batch, tap=circuit.to_tap()), batch)


@pytest.mark.parametrize("stored", [2**29, 1, 4 * 2 * PAIRS * 16 * 16 * 3])
@pytest.mark.parametrize("positions", ["none", "concatenated"])
def test_any_sequence_of_candidates_has_the_margins_of_plain_passes(
    positions: str, stored: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passes, "CHUNK", 4)
    monkeypatch.setattr(passes, "STORED_BYTES", stored)
    model = tiny_model(density=0.3, positions=positions, n_layers=3).requires_grad_(False)
    means, batch = means_of(model), batch_of(model)
    every = [Node(site, i) for site in all_sites(model.config) for i in range(site.width(model.config))]
    runs = Passes(Replaceable(model), means, batch)
    rng = random.Random(0)
    nodes = frozenset(rng.sample(every, 200))
    parts = Parts(nodes, frozenset((e.source, e.target) for e in weight_edges(model, nodes)))
    torch.testing.assert_close(runs.margins(Parts(nodes)), plain(model, means, batch, Parts(nodes)))
    runs.start_from(parts)
    starts = set()
    for _ in range(14):
        assert parts.kept_edges is not None
        gone = rng.choice([rng.sample(sorted(parts.nodes), 3), rng.sample(sorted(parts.kept_edges), 5)])
        candidate = parts.without(gone)
        starts.add(runs._start(candidate))
        torch.testing.assert_close(runs.margins(candidate), plain(model, means, batch, candidate), rtol=1e-4, atol=1e-5)
        if rng.random() < 0.5:
            runs.start_from(candidate)
            parts = candidate
    assert len(starts) > 1 or stored == 1


def test_change_starts_at_the_sublayer_of_its_first_node_or_edge() -> None:
    node = {text: Node.parse(text, planted.SHAPE) for text in ("0.attn.act_in:0", "0.attn.v:0.1", "1.mlp.post_act:5")}
    attn, v, neuron = node.values()
    whole = Parts(frozenset(node.values()), frozenset([(attn, v)]))
    assert first_change(whole, whole, 4) == 4
    assert first_change(whole, whole.without([neuron]), 4) == 3
    assert first_change(whole, whole.without([(attn, v)]), 4) == 0
    assert first_change(whole, Parts(whole.nodes), 4) == 0
    assert first_change(Parts(whole.nodes), Parts(whole.nodes - {neuron}), 4) == 3
    assert whole.without([v]) == Parts(frozenset([attn, neuron]), frozenset())


@pytest.mark.parametrize("positions", ["none", "concatenated"])
def test_last_logits_from_any_residual_point(positions: str) -> None:
    model = tiny_model(positions=positions)
    batch = batch_of(model)
    resid = model.embed(batch.tokens)
    expected = last_logits(model, batch)
    assert whole_sublayers(model) == 2
    for start in range(whole_sublayers(model) + 1):
        torch.testing.assert_close(last_logits(model, batch, resid=resid, start=start), expected)
        resid = model.run(resid, start, start + 1)
