"""Hooks on modules of a compiled model are called as those of the dense one."""

import pytest
import torch
from tiny import tiny_prompts
from torch import Tensor
from twins import CLOSE, twins

from thinwire.model import AbsTopK
from thinwire.model.taps import record
from thinwire.sites import Site


@pytest.mark.parametrize("how", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_on_any_module_are_called_as_those_of_the_dense_model(how: str) -> None:
    """Each alone, so that the others stay part of their operators: those outside layers, and those of one layer."""
    dense, compiled = twins("concatenated")
    tokens = tiny_prompts(dense, 2, 16)
    leaves = [name for name, module in dense.named_modules() if name and not list(module.children())]
    for name in (name for name in leaves if not name.startswith(("blocks.0.", "blocks.2."))):
        called = {"dense": 0, "compiled": 0}
        for kind, model in (("dense", dense), ("compiled", compiled)):

            def hooked(*_: object, kind: str = kind, called: dict[str, int] = called) -> None:
                called[kind] += 1

            hook = getattr(model.get_submodule(name), how)(hooked)
            embedded = model.embedding(tokens).detach().requires_grad_()
            model.unembed(model.run(model.embed(tokens, embedded)), tokens).sum().backward()
            hook.remove()
        assert called["dense"] == called["compiled"], name


def test_a_hook_on_a_map_that_changes_its_result() -> None:
    dense, compiled = twins()
    tokens = tiny_prompts(dense, 2, 16)
    for model in (dense, compiled):
        model.get_submodule("blocks.1.attn.w_v").register_forward_hook(lambda module, args, out: 2 * out)
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens), dense(tokens), **CLOSE)
        assert not compiled(tokens).allclose(twins()[1](tokens))


def test_hooks_on_all_modules_at_once() -> None:
    dense, compiled = twins()
    tokens, called = tiny_prompts(dense, 2, 16), []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: called.append(type(module).__name__))
    try:
        compiled(tokens)
    finally:
        hook.remove()
    assert called.count("SparseLinear") == 1 + 6 * dense.config.n_layers
    assert called.count("RMSNorm") == 1 + 2 * dense.config.n_layers


@torch.no_grad()
def test_hooks_on_sites_see_what_taps_see() -> None:
    _, compiled = twins()
    hooked: dict[str, Tensor] = {}
    for name, module in compiled.named_modules():
        if isinstance(module, AbsTopK) and name != "resid":
            module.register_forward_hook(lambda _, args, out, name=name: hooked.__setitem__(name, out))
    seen = record()
    for rows, length in ((3, 9), (1, 3)):
        compiled(tiny_prompts(compiled, rows, length), tap=seen)
        assert {f"blocks.{site}" for site in seen.values} == set(hooked)
        assert all(hooked[f"blocks.{site}"] is x for site, x in seen.values.items())
    site = compiled.get_submodule("blocks.0.mlp.post_act")
    site.register_forward_hook(lambda module, args, out: 0 * out)
    compiled(tiny_prompts(compiled), tap=seen)
    assert not seen.values[Site.of(0, "mlp.post_act")].any()
