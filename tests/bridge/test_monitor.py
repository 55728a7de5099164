"""Monitored values against the whole encoder, the sparse model's own activations, and a target that is not ours."""

from collections.abc import Mapping

import pytest
import torch
from bridge_pieces import identity_bridge, random_bridge
from cases import case
from tiny import SHAPE, tiny_model, tiny_prompts
from torch import Tensor

from thinwire.bridge.maps import Bridge, Junction
from thinwire.bridge.monitor import Monitor
from thinwire.bridge.targets import OwnTarget, Target
from thinwire.bridge.watched import Watched, watched_of
from thinwire.compiled import compile_sparse
from thinwire.errors import UserError
from thinwire.model import Transformer
from thinwire.model.config import SampleConfig
from thinwire.model.sample import generate
from thinwire.model.taps import record
from thinwire.sites import Node

POINTS = 5
HIDDEN = ("0.attn.q:1.2", "1.mlp.post_act:30", "0.attn.act_in:3", "1.attn.v:3.0", "1.mlp.act_in:15", "0.mlp.post_act:0")


def named(*names: str, **changes: object) -> list[Watched]:
    return [Watched.parse(name, SHAPE.replace(**changes)) for name in names]


class Foreign(Target):
    """A target that hides that it is a model of this package."""

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.own = OwnTarget(model)
        self.n_points, self.d_model = self.own.n_points, self.own.d_model
        self.vocab_size, self.context = self.own.vocab_size, self.own.context

    def embed(self, tokens: Tensor) -> Tensor:
        return self.own.embed(tokens)

    def run(self, resid: Tensor, start: int, stop: int) -> Tensor:
        return self.own.run(resid, start, stop)

    def unembed(self, resid: Tensor, tokens: Tensor) -> Tensor:
        return self.own.unembed(resid, tokens)

    def gain(self, point: int) -> Tensor:
        raise NotImplementedError

    def moved(self, tokens: Tensor, moves: Mapping[int, Tensor]) -> Tensor:
        raise NotImplementedError

    def reads(self, tokens: Tensor) -> dict[int, Tensor]:
        raise NotImplementedError


def test_channels_are_those_of_the_whole_encoder_at_every_point() -> None:
    dense, sparse, bridge = tiny_model(seed=1), tiny_model(0.2, seed=2), random_bridge(POINTS, 16)
    tokens = tiny_prompts(dense)
    nodes = named(*(f"h_{point}:{channel}" for channel in (15, 0, 7) for point in (4, 0, 2, 1, 3)))
    for exact in (False, True):
        values = Monitor(OwnTarget(dense), bridge, sparse, nodes, exact).values(tokens)
        assert values.shape == (3, 9, 15)
        for place, node in enumerate(nodes):
            encoded = bridge.encode(node.point, dense.run(dense.embed(tokens), 0, node.point))
            assert torch.allclose(values[..., place], encoded[..., node.index], atol=1e-5), node.name


@pytest.mark.parametrize("positions", ["none", "concatenated"])
def test_exact_values_are_the_sparse_models_own_where_nothing_is_bridged(positions: str) -> None:
    model = tiny_model(0.2, positions=positions)
    tokens, seen = tiny_prompts(model), record()
    model(tokens, tap=seen)
    nodes = named(*HIDDEN)
    for sparse in (model, compile_sparse(model, below=1.1)):
        values = Monitor(OwnTarget(model), identity_bridge(POINTS, 16), sparse, nodes, exact=True).values(tokens)
        for place, node in enumerate(nodes):
            assert node.site is not None
            assert torch.allclose(values[..., place], seen.values[node.site][..., node.index], atol=1e-5), node.name


@pytest.mark.parametrize("positions", ["none", "concatenated"])
def test_probes_are_the_sublayer_with_a_constant_norm_and_no_abstopk(positions: str) -> None:
    dense, sparse = tiny_model(seed=1), tiny_model(0.3, seed=2, positions=positions, active_fraction=1.0)
    tokens, bridge, nodes = tiny_prompts(dense), random_bridge(POINTS, 16), named(*HIDDEN)
    for model in (sparse, compile_sparse(sparse, below=1.1)):
        values = Monitor(OwnTarget(dense), bridge, model, nodes).values(tokens)
        for place, node in enumerate(nodes):
            seen, scale = record([node.site] if node.site else []), bridge.sparse_scales[node.point]
            encoded = bridge.encode(node.point, dense.run(dense.embed(tokens), 0, node.point))

            def constant(point: int, norm: torch.nn.Module, resid: Tensor, scale: Tensor = scale) -> Tensor:
                return resid / scale * norm.get_parameter("weight")

            sparse.run(encoded, node.point, node.point + 1, tap=seen, norms=constant)
            assert torch.allclose(values[..., place], seen.values[node.site][..., node.index], atol=1e-5), node.name


def test_a_monitored_pass_has_the_dense_models_logits() -> None:
    dense, sparse = tiny_model(seed=1), tiny_model(0.2, seed=2)
    tokens = tiny_prompts(dense)
    for nodes in (named("h_0:1"), named("h_4:1", "h_1:2"), named(*HIDDEN)):
        monitor = Monitor(Foreign(dense), random_bridge(POINTS, 16), sparse, nodes)
        found = monitor.observe(tokens)
        assert torch.allclose(found.logits, dense(tokens), atol=1e-5)
        assert torch.equal(found.values, monitor.values(tokens))


@pytest.mark.parametrize("exact", [False, True])
@pytest.mark.parametrize("kind", [OwnTarget, Foreign])
def test_generation_streams_what_a_pass_over_the_whole_text_reads(kind: type[Target], exact: bool) -> None:
    dense, sparse = tiny_model(seed=1), tiny_model(0.2, seed=2, positions="concatenated")
    prompts, sampling = tiny_prompts(dense, 2, 5), SampleConfig(tokens=30, seed=3)
    monitor = Monitor(kind(dense), random_bridge(POINTS, 16), sparse, named("h_4:3", *HIDDEN), exact)  # pyright: ignore
    steps = list(monitor.generate(prompts, sampling))
    assert len(steps) == SHAPE.context - 5 + 1
    expected = list(generate(dense, prompts, sampling))
    assert all(torch.equal(step.tokens, drawn) for step, drawn in zip(steps, expected, strict=True))
    text = torch.cat([prompts, *(step.tokens[:, None] for step in steps[:-1])], 1)
    assert torch.allclose(torch.cat([step.values for step in steps], 1), monitor.values(text), atol=1e-4)


def test_what_cannot_be_watched_is_said() -> None:
    concatenated = {"positions": "concatenated"}
    cases = [
        ("1.attn.resid_delta:3", "as in h_3:3"),
        ("0.attn.act_in:17", "is a position channel"),
        ("h_5:0", "outside the model, which has the points h_0 to h_4 of 16 channels"),
        ("h_1:16", "outside the model"),
        ("h_1", "is not a site"),
        ("0.mlp.post_act:99", "outside the model"),
    ]
    for name, said in cases:
        with case(name), pytest.raises(UserError, match=said):
            named(name, **concatenated)
    model = tiny_model()
    with pytest.raises(UserError, match="no node to watch"):
        Monitor(OwnTarget(model), identity_bridge(POINTS, 16), model, [])
    parallel = Bridge((Junction(0, 0), Junction(1, 2), Junction(2, 4)), 16, 16)  # no point between attention and MLP
    with pytest.raises(UserError, match="is read at h_1, where the bridge has no map"):
        Monitor(OwnTarget(model), parallel, model, named("0.mlp.act_in:2"))


def test_a_circuits_writes_are_watched_in_the_stream_from_there_on() -> None:
    shape = SHAPE.replace(positions="concatenated")
    names = ("1.attn.resid_delta:3", "0.attn.q:0.1", "1.mlp.act_in:5", "0.mlp.resid_delta:3", "0.attn.act_in:17")
    found = watched_of([Node.parse(name, shape) for name in names], shape)
    assert [node.name for node in found] == ["0.attn.q:0.1", "h_2:3", "h_3:3", "1.mlp.act_in:5", "h_4:3"]
