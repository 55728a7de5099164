"""Compact circuits against the masked model: margins and activations, whatever the model's shape and the circuit.

Both round in float32, so near ties could make AbsTopK keep different channels. On these seeds nothing lies that near;
exact ties go to the lowest channel in both, which has a test of its own.
"""

import ast
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import planted
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import tiny_model
from torch import Tensor

import thinwire
from thinwire import CompactCircuit
from thinwire.circuit import Circuit, weight_edges
from thinwire.compact import kernel
from thinwire.compact.kernel import _survives
from thinwire.compact.parts import bars_of
from thinwire.compiled.compile import compile_sparse
from thinwire.engine import jit
from thinwire.engine.topk.reference import keep_mask
from thinwire.errors import UserError
from thinwire.model import Transformer
from thinwire.model.norms import Norms, ScaleRecorder, frozen, own_scales
from thinwire.model.taps import chain, record
from thinwire.sites import Node, Site, all_sites
from thinwire.tasks import REST, PairBatch, last_logits, margin

TOLERANCE = 1e-4
SHAPES = {
    "plain": {},
    "no biases": {"biases": False},
    "sink": {"sink": True},
    "every channel active": {"active_fraction": 1.0},
    "relu without bigram": {"activation": "relu", "bigram": False},
    "few active": {"active_fraction": 0.1, "norm_eps": 0.01},
    "some sites active": {"active_sites": ("attn.q", "attn.act_in", "mlp.post_act"), "n_layers": 3},
    "added": {"positions": "added"},
    "concatenated": {"positions": "concatenated", "sink": True},
    "concatenated and active": {"positions": "concatenated", "active_fraction": 1.0},
}


def batch_of(model: Transformer, pairs: int = 4, longest: int = 12, seed: int = 0, rest: bool = False) -> PairBatch:
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(model.config.vocab_size, (2 * pairs, longest), generator=generator)
    last = torch.randint(longest, (2 * pairs,), generator=generator)
    target = torch.randint(model.config.vocab_size, (pairs,), generator=generator)
    foil = torch.full_like(target, REST) if rest else (target + 1) % model.config.vocab_size
    return PairBatch(tokens, last, torch.cat([target, foil]), torch.cat([foil, target]))


def circuit_of(model: Transformer, share: float, seed: int = 0, edges: float | None = None, **more: object) -> Circuit:
    """A random part of the nodes, with a random part of the edges between them or all."""
    generator = torch.Generator().manual_seed(seed)
    seen = record()
    model(torch.randint(model.config.vocab_size, (8, model.config.context), generator=generator), tap=seen)
    means = {site: x.mean((0, 1)) for site, x in seen.values.items()}
    every = [Node(site, i) for site in all_sites(model.config) for i in range(site.width(model.config))]
    nodes = part_of(every, share, generator)
    listed = [edge.ends for edge in weight_edges(model, nodes)] if edges is not None else []
    kept = None if edges is None else part_of(listed, edges, generator)
    return Circuit("tiny", model.config, nodes, means, kept_edges=kept, **more)  # pyright: ignore


def part_of(items: list, share: float, generator: torch.Generator) -> tuple:
    draws = torch.rand(len(items), generator=generator).tolist()
    return tuple(item for item, draw in zip(items, draws, strict=True) if draw < share)


@torch.no_grad()
def masked_margins(circuit: Circuit, model: Transformer, batch: PairBatch) -> Tensor:
    norms = circuit.norms(model, batch)
    return margin(last_logits(circuit.cut_model(model), batch, circuit.to_tap(), norms=norms), batch)


@torch.no_grad()
def masked_activations(circuit: Circuit, model: Transformer, batch: PairBatch) -> Tensor:
    """Kept nodes at all positions, float32 [2n, pos, node]; zero past the ends."""
    norms: Norms = own_scales
    if circuit.frozen_norms:
        scales = ScaleRecorder()
        model(batch.tokens, norms=scales)
        norms = frozen(scales.scales)
    seen = record()
    circuit.cut_model(model)(batch.tokens, tap=chain(circuit.to_tap(), seen), norms=norms)
    kept = torch.stack([seen.values[node.site][..., node.index] for node in circuit.nodes], -1)
    inside = torch.arange(batch.tokens.shape[1]) <= batch.last[:, None]
    return torch.where(inside[..., None], kept, 0)


def check(circuit: Circuit, model: Transformer, batch: PairBatch) -> Tensor:
    """Compare both ways; the margins [2n]."""
    compact = CompactCircuit(circuit, model)
    margins = compact.margins(batch)
    torch.testing.assert_close(margins, masked_margins(circuit, model, batch), rtol=0, atol=TOLERANCE)
    activations = compact.activations(batch)
    torch.testing.assert_close(activations, masked_activations(circuit, model, batch), rtol=1e-5, atol=TOLERANCE)
    return margins


@pytest.mark.parametrize("shape", SHAPES)
def test_margins_and_activations_are_those_of_the_masked_model(shape: str) -> None:
    model = tiny_model(density=0.3, **SHAPES[shape]).requires_grad_(False)
    for share in (0.06, 0.3, 1.0):
        one = check(circuit_of(model, share), model, batch_of(model))
        cut = check(circuit_of(model, share, edges=0.5), model, batch_of(model))
        assert share < 1 or not torch.allclose(one, cut, atol=1e-2), "edges make no difference"


@pytest.mark.parametrize("shape", ["plain", "sink", "concatenated"])
def test_many_random_circuits(shape: str) -> None:
    for seed in range(6):
        model = tiny_model(density=(0.1, 0.5)[seed % 2], seed=seed, **SHAPES[shape]).requires_grad_(False)
        circuit = circuit_of(model, 0.15 + 0.1 * seed, seed, edges=0.8 if seed % 3 else None)
        check(circuit, model, batch_of(model, 8, 14, seed))


@pytest.mark.parametrize("shape", ["plain", "sink", "added"])
@pytest.mark.parametrize("rest", [False, True])
def test_frozen_norms_removed_tokens_and_whole_vocabularies(shape: str, rest: bool) -> None:
    model = tiny_model(density=0.3, **SHAPES[shape]).requires_grad_(False)
    ablated = torch.randn(model.config.d_model, generator=torch.Generator().manual_seed(3))
    removed = {"removed_tokens": tuple(range(0, 30, 3)), "ablated_embedding": ablated}
    circuit = circuit_of(model, 0.4, edges=0.7, frozen_norms=True, **removed)
    batch = batch_of(model, rest=rest)
    margins = check(circuit, model, batch)
    for other in (replace(circuit, frozen_norms=False), replace(circuit, removed_tokens=(), ablated_embedding=None)):
        assert not torch.allclose(check(other, model, batch), margins, atol=1e-2)


@pytest.mark.parametrize("name", planted.PLANTED)
def test_planted_circuits(name: str) -> None:
    plant = planted.PLANTED[name]()
    circuit = Circuit(name, plant.model.config, plant.nodes, plant.means)
    margins = check(circuit, plant.model, plant.planted.pairs(32, "heldout", 0))
    assert (margins > 1).all()
    check(circuit_of(plant.model, 0.4), plant.model, plant.planted.pairs(8, "heldout", 0))


def test_shipped_model() -> None:
    model = thinwire.load("python-2x256")
    batch = batch_of(model, 8, 25)
    circuit = circuit_of(model, 0.05, edges=0.9)
    assert len(circuit.nodes) > 200
    assert check(circuit, model, batch).std() > 0.1


def test_model_on_sparse_kernels() -> None:
    model = tiny_model(density=0.1).requires_grad_(False)
    circuit = circuit_of(
        model, 0.4, edges=0.7, removed_tokens=(3, 5), ablated_embedding=torch.ones(model.config.d_model)
    )
    margins = CompactCircuit(circuit, compile_sparse(model)).margins(batch_of(model))
    torch.testing.assert_close(margins, masked_margins(circuit, model, batch_of(model)), rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kinds", [(), ("mlp.resid_delta",), ("attn.resid_delta", "attn.v"), ("attn.k", "mlp.act_in")])
def test_circuits_of_few_kinds(kinds: tuple[str, ...]) -> None:
    model = tiny_model(density=0.3, sink=True).requires_grad_(False)
    whole = circuit_of(model, 1.0)
    circuit = replace(whole, nodes=tuple(node for node in whole.nodes if node.site.kind in kinds))
    compact = CompactCircuit(circuit, model)
    for batch in (batch_of(model), batch_of(model, longest=1)):
        torch.testing.assert_close(
            compact.margins(batch), masked_margins(circuit, model, batch), rtol=0, atol=TOLERANCE
        )


def test_tables_grow_as_tokens_and_answers_are_met() -> None:
    model = tiny_model(density=0.3, positions="added").requires_grad_(False)
    circuit = circuit_of(model, 0.4)
    compact = CompactCircuit(circuit, model)
    for seed in range(4):
        batch = batch_of(model, pairs=seed + 1, longest=3 + 2 * seed, seed=seed, rest=seed == 2)
        expected = masked_margins(circuit, model, batch)
        for _ in range(2):
            torch.testing.assert_close(compact.margins(batch), expected, rtol=0, atol=TOLERANCE)


def test_exact_ties_go_to_the_lowest_channel() -> None:
    model = tiny_model(biases=False, n_layers=1).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        parameter.copy_(torch.randint(-1, 2, parameter.shape, generator=generator))
    model.embedding.weight.copy_(model.embedding.weight.sign() * 2 - 1)
    for norm in (module for name, module in model.named_modules() if name.endswith("norm")):
        norm.get_parameter("weight").fill_(1)
    circuit = circuit_of(model, 0.5)
    circuit = replace(circuit, means={site: torch.zeros_like(mean) for site, mean in circuit.means.items()})
    batch = batch_of(model)
    found, expected = CompactCircuit(circuit, model).activations(batch), masked_activations(circuit, model, batch)
    early = torch.tensor([node.site.kind in ("attn.act_in", "attn.q", "attn.k", "attn.v") for node in circuit.nodes])
    assert ((found != 0) == (expected != 0))[..., early].all()
    site = Site.parse("0.attn.act_in")
    kept = next(place for place, node in enumerate(circuit.nodes) if node.site == site)
    assert 0 < (found[..., kept] != 0).sum() < batch.last.sum() + len(batch.last)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-4, 4), min_size=1, max_size=12), st.data())
def test_bars_decide_as_the_selection_does(values: list[int], data: st.DataObject) -> None:
    k = data.draw(st.integers(1, len(values)))
    varies = torch.tensor(data.draw(st.lists(st.booleans(), min_size=len(values), max_size=len(values))))
    x = torch.tensor(values, dtype=torch.float32)
    rows, rest = varies.nonzero()[:, 0], (~varies).nonzero()[:, 0]
    bars = [found[0].numpy() for found in bars_of(x[None, rest], rest, k, len(rows))]
    sizes = x[rows].abs().numpy()
    with np.errstate(all="ignore"):
        found = [_survives.py_func(sizes, row, rows.numpy(), *bars) for row in range(len(rows))]
    assert found == keep_mask(x, k)[rows].tolist()


def test_invalid_input_is_refused() -> None:
    model = tiny_model(active_residual=True).requires_grad_(False)
    with pytest.raises(UserError, match="active_residual cannot run compactly"):
        CompactCircuit(circuit_of(model, 0.2), model)
    model = tiny_model().requires_grad_(False)
    circuit = circuit_of(model, 0.2)
    with pytest.raises(UserError, match="belongs to a model of another shape"):
        CompactCircuit(circuit, tiny_model(n_layers=1))
    with pytest.raises(UserError, match="17 tokens does not fit the context of 16"):
        CompactCircuit(circuit, model).margins(batch_of(model, longest=17))
    compact, batch = CompactCircuit(circuit, model), batch_of(model)
    for tokens in (batch.tokens - 1 - batch.tokens.max(), batch.tokens + model.config.vocab_size):
        with pytest.raises(IndexError, match="the embedding has no other rows"):
            compact.activations(replace(batch, tokens=tokens))
    for last in (batch.last + batch.tokens.shape[1], batch.last - batch.tokens.shape[1], batch.last[1:]):
        with pytest.raises(IndexError, match="last position outside the prompt"):
            compact.activations(replace(batch, last=last))


def test_compiled_code_depends_on_no_file_whose_changes_go_unnoticed() -> None:
    """The cache notices changes of the kernel's own file and of the engine, so constants and parts come from there."""
    imported = {
        node.module or "" if isinstance(node, ast.ImportFrom) else node.names[0].name
        for node in ast.walk(ast.parse(Path(kernel.__file__).read_text("utf-8")))
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    own = {name for name in imported if name.startswith("thinwire")}
    assert own
    assert all(name.startswith("thinwire.engine.") for name in own)
    assert imported - own == {"math", "typing", "numpy", "numba"}


PARTS = """
from thinwire.compact.kernel import inline_function, no_reassociation

@inline_function
def _part(x):
    return x + {added}

@no_reassociation
def whole(x):
    return _part(x)
"""


def test_machine_code_is_compiled_anew_when_a_part_in_the_same_file_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jit, "_cache_folder", lambda: tmp_path / "cache")
    found = []
    for added in (1, 1, 20):
        path = tmp_path / "parts.py"
        if not found or added != 1:
            path.write_text(PARTS.format(added=added), encoding="utf-8")
        spec = importlib.util.spec_from_file_location("parts", path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found.append((module.whole(1), sum(module.whole.stats.cache_hits.values())))
    assert found == [(2, 0), (2, 1), (21, 0)]
