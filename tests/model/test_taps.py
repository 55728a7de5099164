"""Taps, interventions and hooks on the dense model: what they see, and what they change."""

import torch
from tiny import tiny_model, tiny_prompts
from torch import Tensor

from thinwire.model.taps import ablate, chain, identity, patch, record
from thinwire.sites import Node, ResidPoint, Site, all_sites

RESID = torch.linspace(-1, 1, 16)


def test_records_only_the_chosen_places() -> None:
    model = tiny_model()
    chosen = [Site.parse("1.attn.k"), ResidPoint(2), Site.parse("0.mlp.post_act")]
    seen = record(iter(chosen))
    model(tiny_prompts(model), tap=seen)
    assert list(seen.values) == [Site.parse("0.mlp.post_act"), ResidPoint(2), Site.parse("1.attn.k")]


def test_forward_hooks_see_the_tensors_that_taps_see() -> None:
    model = tiny_model(density=0.5, positions="concatenated")
    hooked: dict[str, Tensor] = {}
    for site in all_sites(model.config):
        module = model.get_submodule(f"blocks.{site}")
        module.register_forward_hook(lambda m, args, out, name=str(site): hooked.__setitem__(name, out))
    seen = record()
    model(tiny_prompts(model), tap=seen)
    assert {str(site) for site in seen.values} == hooked.keys()
    assert all(hooked[str(site)] is x for site, x in seen.values.items())


def test_hook_that_changes_a_site_acts_like_a_patch() -> None:
    model = tiny_model()
    tokens = tiny_prompts(model)
    node = Node(Site.parse("0.mlp.post_act"), 3)
    patched = model(tokens, tap=patch({node: 2.5}))

    def change(module: torch.nn.Module, args: tuple, out: Tensor) -> Tensor:
        out = out.clone()
        out[..., 3] = 2.5
        return out

    model.get_submodule("blocks.0.mlp.post_act").register_forward_hook(change)
    assert model(tokens).equal(patched)


def test_patch_sets_only_its_nodes() -> None:
    model = tiny_model()
    tokens = tiny_prompts(model)
    before, after = record(), record()
    model(tokens, tap=before)
    first, second = Node(Site.parse("0.attn.v"), 2), Node(Site.parse("0.attn.v"), 5)
    per_position = torch.arange(27.0).view(3, 9)
    model(tokens, tap=chain(patch({first: -1.5, second: per_position}), after))
    changed = after.values[first.site]
    assert (changed[..., 2] == -1.5).all()
    assert changed[..., 5].equal(per_position)
    others = [i for i in range(16) if i not in (2, 5)]
    assert changed[..., others].equal(before.values[first.site][..., others])
    assert after.values[Site.parse("0.attn.k")].equal(before.values[Site.parse("0.attn.k")])
    assert not after.values[Site.parse("0.mlp.act_in")].equal(before.values[Site.parse("0.mlp.act_in")])
    assert (before.values[first.site][..., 2] != -1.5).all(), "the recorded tensor is not changed in place"


def test_ablate_sets_nodes_that_are_not_kept_to_their_values() -> None:
    model = tiny_model()
    tokens = tiny_prompts(model)
    site = Site.parse("1.attn.act_in")
    keep = torch.arange(16) % 3 == 0
    values = torch.linspace(-1, 1, 16)
    before, after = record(), record()
    model(tokens, tap=before)
    model(tokens, tap=chain(ablate({site: keep}, {site: values}), after))
    assert after.values[site][..., keep].equal(before.values[site][..., keep])
    assert after.values[site][..., ~keep].equal(values[~keep].expand(3, 9, -1))


def test_ablating_nothing_or_to_the_own_values_changes_nothing() -> None:
    model = tiny_model()
    tokens = tiny_prompts(model, rows=1, length=1)
    whole, seen = model(tokens), record()
    model(tokens, tap=seen)
    everything = {site: torch.ones(x.shape[-1], dtype=torch.bool) for site, x in seen.values.items()}
    nothing = {site: ~mask for site, mask in everything.items()}
    own = {site: x[0, 0] for site, x in seen.values.items()}
    assert model(tokens, tap=ablate(everything, own)).equal(whole)
    assert model(tokens, tap=ablate(nothing, own)).equal(whole)
    assert model(tokens, tap=identity).equal(whole)


def test_chain_applies_from_left_to_right() -> None:
    model = tiny_model()
    tokens = tiny_prompts(model)
    node = Node(Site.parse("0.attn.q"), 0)
    seen = record()
    model(tokens, tap=chain(patch({node: 1.0}), patch({node: 2.0}), seen))
    assert (seen.values[node.site][..., 0] == 2).all()


def test_a_chain_of_functions_and_interventions_touches_residual_points() -> None:
    model = tiny_model()
    tokens, before, after = tiny_prompts(model), record(), record([Site.parse("0.attn.q"), ResidPoint(1)])
    model(tokens, tap=before)
    tap = chain(lambda site, x: 2 * x if site == Site.parse("0.attn.q") else x, after, patch({ResidPoint(1): RESID}))
    logits = model(tokens, tap=tap)
    assert after.values[Site.parse("0.attn.q")].equal(2 * before.values[Site.parse("0.attn.q")])
    assert not after.values[ResidPoint(1)].equal(RESID.expand(3, 9, 16))
    assert logits.equal(model.unembed(model.run(RESID.expand(3, 9, 16), 1), tokens))
    assert model(tokens, tap=chain()).equal(model(tokens))
    assert chain(identity).parts == []
