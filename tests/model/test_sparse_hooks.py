"""Hooks on modules of a compiled model are called as those of the dense one."""

import pytest
import torch
from tiny import tiny_model, tiny_prompts

from thinwire.compiled.compile import compile_sparse
from thinwire.model import Transformer


def pair(**options: object) -> tuple[Transformer, Transformer]:
    """A model whose weights are fixed, and its compiled twin."""
    dense = tiny_model(density=0.1, **options).requires_grad_(False)
    dense.precision = "fp32"
    return dense, compile_sparse(dense)


@pytest.mark.parametrize("how", ["register_forward_hook", "register_forward_pre_hook", "register_full_backward_hook"])
def test_hooks_on_any_module_are_called_as_those_of_the_dense_model(how: str) -> None:
    """Each alone, so that the others stay part of their operators."""
    dense, compiled = pair(positions="concatenated", sink=True)
    tokens = tiny_prompts(dense, 2, 16)
    for name in (name for name, module in dense.named_modules() if name and not list(module.children())):
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
    dense, compiled = pair()
    tokens = tiny_prompts(dense, 2, 16)
    for model in (dense, compiled):
        model.get_submodule("blocks.1.attn.w_v").register_forward_hook(lambda module, args, out: 2 * out)
    with torch.no_grad():
        torch.testing.assert_close(compiled(tokens), dense(tokens), rtol=1e-4, atol=1e-4)
        assert not compiled(tokens).allclose(pair()[1](tokens))


def test_hooks_on_all_modules_at_once() -> None:
    dense, compiled = pair()
    tokens, called = tiny_prompts(dense, 2, 16), []
    hook = torch.nn.modules.module.register_module_forward_hook(lambda module, *_: called.append(type(module).__name__))
    try:
        compiled(tokens)
    finally:
        hook.remove()
    assert called.count("SparseLinear") == 1 + 6 * dense.config.n_layers
    assert called.count("RMSNorm") == 1 + 2 * dense.config.n_layers
