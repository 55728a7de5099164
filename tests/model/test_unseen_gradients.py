"""Gradients of layers that nobody looks into, and nodes held there: those of the sites one by one."""

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor

from tests.model.layers import CONFIGS, LAYERS, hold, made
from thinwire.compiled.compile import compile_sparse
from thinwire.engine.layers import operator as layers
from thinwire.engine.simd.tiles import STREAMED_SIZE
from thinwire.model import Transformer, transformer, unseen
from thinwire.model.taps import ablate_masks as Hold
from thinwire.sites import Site

SHAPES = [(2, 64, 1), (4, 41, 2), (6, 70, 3), (3, 16, 3)]
"""Sequences, tokens of each, trials: whole tiles, parts of one, several a trial, as few as there may be."""
WITH_GRADIENTS = sorted(CONFIGS.keys() - {"sparse stream"})


class Found(NamedTuple):
    """What is found out about one way."""

    resid: Tensor
    gradients: list[Tensor]


def passed(model: Transformer, start: Tensor, tap: Hold) -> Found:
    """A residual point after all layers, and gradients of the one before and of masks that have one."""
    leaf = start.detach().requires_grad_()
    masks = [mask for mask in tap.masks.values() if mask.requires_grad]
    made = model.run(leaf, tap=tap)
    weights = torch.randn(made.shape, generator=torch.Generator().manual_seed(3))
    return Found(made, list(torch.autograd.grad((made * weights).sum(), [leaf, *masks])))


def one_by_one(model: Transformer, start: Tensor, tap: Hold, monkeypatch: pytest.MonkeyPatch) -> Found:
    """The same, site by site."""
    with monkeypatch.context() as patched:
        patched.setattr(transformer, "goes_unseen", lambda *args: False)
        return passed(model, start, tap)


def check(found: Found, expected: Found) -> None:
    """Alike, up to the order of sums: what a gradient should be is often the small rest of large numbers."""
    torch.testing.assert_close(found.resid, expected.resid, rtol=1e-5, atol=1e-5)
    for ours, theirs in zip(found.gradients, expected.gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=2e-6 * float(1 + theirs.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", WITH_GRADIENTS)
def test_gradients_are_those_of_the_sites(
    kind: str, shape: tuple[int, int, int], calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = compile_sparse(made(**CONFIGS[kind]), below=1.0)
    *size, trials = shape
    resid, tap = model.embed(torch.randint(20, size)), hold(model, trials)
    found = passed(model, resid, tap)
    assert len(calls) == LAYERS + 1
    assert len(found.gradients) == 1 + 8 * LAYERS
    check(found, one_by_one(model, resid, tap, monkeypatch))
    with torch.no_grad():
        assert model.run(resid, tap=tap).equal(found.resid)
    assert len(calls) == LAYERS + 2


def test_gradients_of_some_alone(model: Transformer, calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the stream, of masks, of masks of a few sites; and nodes held without any gradient."""
    resid, tap = model.embed(torch.randint(20, (4, 41))), hold(model, 2)
    fixed = Hold({site: mask.detach() for site, mask in tap.masks.items()}, tap.means)
    partly = Hold({**fixed.masks, **{site: tap.masks[site] for site in list(tap.masks)[5:9]}}, tap.means)
    for each, n_gradients in ((fixed, 1), (partly, 5)):
        found = passed(model, resid, each)
        assert len(found.gradients) == n_gradients
        check(found, one_by_one(model, resid, each, monkeypatch))
    alone = torch.autograd.grad(model.run(resid, tap=partly).sum(), partly.masks[list(tap.masks)[5]])
    assert alone[0].any()
    with torch.no_grad():
        assert model.run(resid, tap=tap).equal(model.run(resid, tap=fixed))
    assert len(calls) == 3 * (LAYERS + 1) + 2


def test_free_nodes_are_as_without_a_mask(model: Transformer, calls: list[Any]) -> None:
    start = model.embed(torch.randint(20, (4, 41))).requires_grad_()
    free = hold(model, 2)
    free = Hold({site: torch.ones_like(mask) for site, mask in free.masks.items()}, free.means)
    found = [model.run(start), model.run(start, tap=free)]
    assert found[0].equal(found[1])
    gradients = [torch.autograd.grad(each.square().sum(), start)[0] for each in found]
    assert gradients[0].equal(gradients[1])
    assert len(calls) == 2 * (LAYERS + 1)


def test_goes_site_by_site_where_other_things_learn(calls: list[Any]) -> None:
    """Weights, position channels, a stream that is sparse; and where activations are to be computed twice."""
    for kind, parameter in (
        ("plain", "blocks.1.mlp.w_in.values"),
        ("beside", "positions"),
        ("sinks", "blocks.0.attn.sink"),
    ):
        model = compile_sparse(made(**CONFIGS[kind]), below=1.0)
        model.get_parameter(parameter).requires_grad_()
        resid = model.run(model.embed(torch.randint(20, (2, 70))), tap=hold(model, 1))
        (gradient,) = torch.autograd.grad(resid.square().sum(), model.get_parameter(parameter))
        assert gradient.any()
    sparse = compile_sparse(made(**CONFIGS["sparse stream"]), below=1.0)
    assert sparse.run(sparse.embed(torch.randint(20, (2, 70))), tap=hold(sparse, 1)).requires_grad
    assert not calls
    again = compile_sparse(made(), below=1.0)
    again.run(again.embed(torch.randint(20, (2, 70))), tap=hold(again, 1), recompute=True)
    assert not calls


def test_held_nodes_that_do_not_fit(model: Transformer, calls: list[Any]) -> None:
    tap, resid = hold(model, 3), model.embed(torch.randint(20, (4, 41)))
    with pytest.raises(ValueError, match=r"cannot hold 32 nodes of 164 tokens"):
        model.run(resid, tap=tap)
    site = Site.of(1, "mlp.post_act")
    narrow = Hold(tap.masks, {**tap.means, site: tap.means[site][:5]})
    with pytest.raises(ValueError, match=r"a mean \[5\] and a mask \[3, 128\] cannot hold 128 nodes of 246 tokens"):
        model.run(model.embed(torch.randint(20, (6, 41))), tap=narrow)
    assert calls


def test_gradients_on_any_number_of_threads(model: Transformer) -> None:
    resid, tap, threads = model.embed(torch.randint(20, (6, 200))), hold(model, 3), torch.get_num_threads()
    expected = passed(model, resid, tap)
    try:
        for n in (1, 2, 5):
            torch.set_num_threads(n)
            found = passed(model, resid, tap)
            assert all(ours.equal(theirs) for ours, theirs in zip(found.gradients, expected.gradients, strict=True))
    finally:
        torch.set_num_threads(threads)


def test_ties_and_zeros(calls: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers that are often the same, and tokens in which fewer are not zero than are kept."""
    dense = made(biases=False)
    for weight in dense.parameters():
        weight.data = weight.data.sign()
    model = compile_sparse(dense, below=1.0)
    resid = torch.randint(-1, 2, (4, 41, 32)).float() * (torch.rand(4, 41, 1) < 0.8)
    check(passed(model, resid, hold(model, 2)), one_by_one(model, resid, hold(model, 2), monkeypatch))
    assert len(calls) == LAYERS + 1


def test_masks_of_other_numbers_of_trials_go_site_by_site(model: Transformer, calls: list[Any]) -> None:
    tap, resid = hold(model, 2), model.embed(torch.randint(20, (4, 41)))
    site = Site.of(1, "attn.k")
    mixed = Hold({**tap.masks, site: tap.masks[site][:1]}, tap.means)
    assert torch.autograd.grad(model.run(resid, tap=mixed).sum(), mixed.masks[site])[0].any()
    assert not calls


def test_a_result_may_be_changed_and_gradients_passed_twice(model: Transformer, calls: list[Any]) -> None:
    start = model.embed(torch.randint(20, (4, 41))).requires_grad_()
    made = model.run(start, tap=hold(model, 2))
    loss = made.square().sum()
    first, second = (torch.autograd.grad(loss, start, retain_graph=True)[0] for _ in range(2))
    assert first.equal(second)
    changed = model.run(start, tap=hold(model, 2))
    changed += 1
    assert torch.autograd.grad(changed.sum(), start)[0].any()
    assert calls


def test_what_is_not_a_number_stays_with_its_trial(
    model: Transformer, calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    resid, tap = model.embed(torch.randint(20, (6, 41))), hold(model, 3)
    clean = passed(model, resid, tap)
    resid[2, 7, 3] = torch.nan
    found, expected = passed(model, resid, tap), one_by_one(model, resid, tap, monkeypatch)
    for ours, theirs, free in zip(found.gradients[1:], expected.gradients[1:], clean.gradients[1:], strict=True):
        assert ours[[0, 2]].equal(free[[0, 2]])
        assert ours[1].isnan().sum() <= theirs[1].isnan().sum() + 1
    assert found.gradients[0][[0, 1, 4, 5]].equal(clean.gradients[0][[0, 1, 4, 5]])
    assert calls


@pytest.mark.parametrize("places", [(0,), (1,), (2,), (3,), (0, 3), (1, 2)])
def test_gradients_of_some_results_alone(
    model: Transformer, places: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the others are zero; with an end of a layer before it, and without one."""
    results, run = [], layers.between_attentions

    def noted(*args: Any) -> Any:
        results.append((args, run(*args)))
        return results[-1][1]

    monkeypatch.setattr(unseen, "between_attentions", noted)
    tap = hold(model, 2)
    model.run(model.embed(torch.randint(20, (4, 41))).requires_grad_(), tap=tap)
    for (stream, heads, k_stream, end, begin, held), _ in results[:2]:
        leaves = [stream.detach().requires_grad_(), *(each.mask for each in held)]
        made = run(leaves[0], heads, k_stream, end, begin, held)
        weights = [torch.randn(x.shape) * (i in places) for i, x in enumerate(made)]
        some = sum((made[i] * weights[i]).sum() for i in places)
        every = sum((x * weight).sum() for x, weight in zip(made, weights, strict=True))
        for one, other in zip(*(torch.autograd.grad(x, leaves, retain_graph=True) for x in (some, every)), strict=True):
            assert one.equal(other)  # pyright: ignore
    with pytest.raises(ValueError, match="no gradient where 8 of 32 channels"):
        run(leaves[0], heads, 8, end, begin, held)


@pytest.mark.parametrize("shape", [(4, 1024, 2), (3, 1401, 3)])
def test_results_too_large_for_the_caches(
    shape: tuple[int, int, int], calls: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose trials begin with lines of the caches, and not."""
    model = compile_sparse(made(n_layers=1, d_model=256, d_head=32, context=1500, positions="none"), below=1.0)
    *size, trials = shape
    resid, tap = model.embed(torch.randint(20, size)), hold(model, trials)
    assert resid.numel() >= STREAMED_SIZE
    check(passed(model, resid, tap), one_by_one(model, resid, tap, monkeypatch))
    assert calls
