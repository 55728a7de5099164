"""Interventions on dense and compiled models: what they see, and which layers they leave fused."""

from collections.abc import Callable

import pytest
import torch
from tiny import tiny_prompts
from torch import Tensor
from twins import (
    CLOSE,
    KINDS,
    LAYERS,
    NEAR,
    at_last_positions,
    batch_of,
    constant_ablation,
    model_of,
    random_masks,
    twins,
)

from thinwire.model import Transformer, next_token_loss
from thinwire.model.taps import Ablate, Intervention, ablate, ablate_masks, chain, patch, record
from thinwire.sites import Node, ResidPoint, Site, resid_points
from thinwire.tasks import last_logits
from thinwire.tasks.batch import whole_sublayers

ALL = tuple(range(LAYERS))
Fused = list[tuple[int, ...]]


@pytest.mark.parametrize("variant", ["plain", "concatenated", "active residual"])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_residual_points_in_one_pass(kind: str, variant: str) -> None:
    """Those that one sublayer after the other returns; every run from one of them is the rest of the pass."""
    model = model_of(kind, variant)
    tokens, seen = tiny_prompts(model, 2, 20), record(resid_points(model.config))
    logits = model(tokens, tap=seen)
    torch.testing.assert_close(logits, model(tokens), **NEAR)
    assert list(seen.values) == list(resid_points(model.config))
    resid = model.embed(tokens)
    assert seen.values[ResidPoint(0)].equal(resid)
    for i in range(2 * LAYERS):
        resid = model.run(resid, i, i + 1)
        assert seen.values[ResidPoint(i + 1)].equal(resid)
    for point, x in seen.values.items():
        for stream in (x, x.contiguous()):
            torch.testing.assert_close(model.unembed(model.run(stream, point.index), tokens), logits, **NEAR)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_residual_points_of_last_logits(kind: str) -> None:
    """The whole sequence up to the last layer, and the last positions alone in it; from any start."""
    model = model_of(kind, "concatenated")
    batch, everywhere, seen = batch_of(model), record(resid_points(model.config)), record(resid_points(model.config))
    logits = model(batch.tokens, tap=everywhere)
    torch.testing.assert_close(last_logits(model, batch, seen), at_last_positions(logits, batch), **CLOSE)
    assert list(seen.values) == list(resid_points(model.config))
    for point, x in everywhere.values.items():
        at_end = point.index > whole_sublayers(model)
        expected = at_last_positions(x, batch)[:, None] if at_end else x
        assert seen.values[point].shape == ((6, 1, 32) if at_end else (6, 20, 32))
        torch.testing.assert_close(seen.values[point], expected, **CLOSE)
    for start in range(whole_sublayers(model) + 1):
        part = record(resid_points(model.config))
        last_logits(model, batch, part, seen.values[ResidPoint(start)], start)
        assert list(part.values) == list(resid_points(model.config))[start + 1 :]


class Observer(Intervention):
    """Calls of every site and residual point, in order; it changes nothing."""

    def __init__(self) -> None:
        super().__init__(sites=None, points=None)
        self.places: list[Site | ResidPoint] = []
        self.alive: dict[Site, Tensor] = {}
        self.largest: dict[ResidPoint, float] = {}

    def at_site(self, site: Site, x: Tensor, last: Tensor | None = None) -> Tensor:
        self.places.append(site)
        self.alive[site] = self.alive.get(site, False) | (x != 0).flatten(0, -2).any(0)
        return x

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        self.places.append(point)
        self.largest[point] = max(self.largest.get(point, 0.0), resid.abs().max().item())
        return resid


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_an_observer_sees_everything_in_one_pass(kind: str, recompute: bool) -> None:
    """What a loop over sublayers with a tap sees, over several batches, in the order of the computation."""
    model, observer, looped = model_of(kind), Observer(), Observer()
    for seed in (0, 1):
        tokens = tiny_prompts(model, 2, 20, seed)
        observed = model(tokens, tap=observer, recompute=recompute)
        resid = looped.at_point(ResidPoint(0), model.embed(tokens))
        for i in range(2 * LAYERS):
            resid = model.run(resid, i, i + 1, tap=lambda site, x: looped.at_site(site, x))
            looped.at_point(ResidPoint(i + 1), resid)
        assert observed.equal(model.unembed(resid, tokens))
    assert observer.places == looped.places
    assert len(observer.places) == 2 * (8 * LAYERS + 2 * LAYERS + 1)
    assert observer.largest == looped.largest
    assert all(observer.alive[site].equal(alive) for site, alive in looped.alive.items())


def of_layer(model: Transformer, layer: int, trials: int, gradient: bool = False) -> Intervention:
    masks = random_masks(model, trials, gradient)
    own = {site: mask for site, mask in masks.masks.items() if site.layer == layer}
    return ablate_masks(own, masks.constants)


def per_position_ablation(model: Transformer) -> Ablate:
    site = Site.of(1, "mlp.act_in")
    return ablate({site: torch.arange(32) > 20}, {site: torch.linspace(-1, 1, 4 * 20 * 32).view(4, 20, 32)})


CASES: dict[str, tuple[Callable[[Transformer], Intervention], Fused]] = {
    "nothing": (lambda model: chain(), [ALL]),
    "a recorded site": (lambda model: record([Site.of(1, "attn.q")]), [(0,), (2,)]),
    "a recorded site of the last layer": (lambda model: record([Site.of(2, "mlp.post_act")]), [(0, 1)]),
    "a recorded point in a layer": (lambda model: record([ResidPoint(3)]), [(0,), (2,)]),
    "a recorded point between layers": (lambda model: record([ResidPoint(2)]), [(0,), (1, 2)]),
    "recorded points between all layers": (lambda model: record(map(ResidPoint, (0, 2, 4, 6))), [(0,), (1,), (2,)]),
    "a patched node": (lambda model: patch({Node(Site.of(0, "attn.v"), 2): 0.7}), [(1, 2)]),
    "a patched point": (lambda model: patch({ResidPoint(4): torch.ones(32)}), [(0, 1), (2,)]),
    "constants": (constant_ablation, [ALL]),
    "constants that have a gradient": (
        lambda model: ablate({Site.of(1, "attn.k"): torch.arange(32) > 9}, {Site.of(1, "attn.k"): learned(32)}),
        [(0,)],
    ),
    "values by position": (per_position_ablation, [(0,), (2,)]),
    "constants at one site": (
        lambda model: ablate({Site.of(1, "attn.v"): torch.arange(32) > 9}, {Site.of(1, "attn.v"): torch.ones(32)}),
        [ALL],
    ),
    "masks": (lambda model: random_masks(model, 2), [ALL]),
    "masks of one layer": (lambda model: of_layer(model, 1, 2), [ALL]),
    "masks with a gradient": (lambda model: random_masks(model, 2, gradient=True), []),
    "masks of one layer with a gradient": (lambda model: of_layer(model, 1, 2, gradient=True), [(0,)]),
    "masks of different trials": (
        lambda model: chain(of_layer(model, 0, 2), of_layer(model, 1, 4), of_layer(model, 2, 4)),
        [(0,), (1, 2)],
    ),
    "constants and a recorded site": (
        lambda model: chain(constant_ablation(model), record([Site.of(0, "attn.act_in")])),
        [(1, 2)],
    ),
    "masks on top of constants": (lambda model: chain(constant_ablation(model), of_layer(model, 2, 2)), [(0, 1)]),
    "a patched node, constants and a recorded point": (
        lambda model: chain(
            patch({Node(Site.of(2, "mlp.resid_delta"), 3): 1.5}), of_layer(model, 0, 2), record([ResidPoint(2)])
        ),
        [(0,), (1,)],
    ),
}


def learned(width: int) -> Tensor:
    return torch.linspace(-1, 1, width).requires_grad_()


@pytest.mark.parametrize("name", CASES)
def test_layers_that_are_not_touched_stay_fused(name: str, fused_layers: Fused) -> None:
    """The result is that of all sites one by one, and of the dense model."""
    make, expected = CASES[name]
    dense, compiled = twins()
    tap, tokens = make(compiled), tiny_prompts(compiled, 4, 20)
    logits = compiled(tokens, tap=tap)
    assert fused_layers == expected
    torch.testing.assert_close(logits, compiled(tokens, tap=chain(tap, record())), **NEAR)
    assert fused_layers == expected
    torch.testing.assert_close(logits, dense(tokens, tap=tap), **CLOSE)
    assert logits.requires_grad == ("gradient" in name)
    assert name == "nothing" or "record" in name[:10] or not logits.allclose(compiled(tokens), atol=1e-2)


def test_gradients_reach_values_through_all_later_layers() -> None:
    """Of a patched node and a patched residual point: the layers after them are not fused."""
    found = []
    for model in twins():
        tokens, node, resid = tiny_prompts(model, 2, 20), torch.zeros(2, 20, requires_grad=True), learned(32)
        taps = patch({Node(Site.of(0, "mlp.post_act"), 5): node}), patch({ResidPoint(2): resid})
        loss = sum(next_token_loss(model(tokens, tap=tap), tokens) for tap in taps)
        found.append(torch.autograd.grad(loss, [node, resid]))  # pyright: ignore
        assert all(gradient.any() for gradient in found[-1])
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-6)
