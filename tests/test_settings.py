"""Settings of the process that do not reach results: defaults of PyTorch and numpy, modes of a thread, threads."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import numpy as np
import planted
import pytest
import torch
from cases import case
from planted import Planted
from tiny import synthetic_batch, tiny_model, tiny_prompts, tiny_run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thinwire import TASKS, CompactCircuit, Tokenizer, load
from thinwire.compiled import compile_sparse, load_compiled
from thinwire.model.sample import SampleConfig, generate
from thinwire.prune import PruneConfig, prune
from thinwire.prune.learn import task_losses
from thinwire.tasks import PairBatch
from thinwire.train.step import new_state, train_step
from thinwire.train.whole_gradient import with_whole_gradients

MODEL = "python-2x256"
CONFIG = PruneConfig(
    steps=4,
    batch_pairs=4,
    train_pairs=8,
    validation_pairs=8,
    heldout_pairs=8,
    target_loss=0.6,
    trials=1,
    restarts=0,
    simplify=False,
)
TINY = tiny_model(density=1 / 16, d_model=32)
PROMPTS = tiny_prompts(TINY, rows=2)
Results = dict[str, Tensor]


@pytest.fixture(scope="module")
def plant() -> Planted:
    return planted.attention()


@pytest.fixture(scope="module")
def batch(plant: Planted) -> PairBatch:
    return plant.task.pairs(8, "heldout", 1, cast(Tokenizer, None))


def results(plant: Planted, batch: PairBatch) -> Results:
    """A model is loaded, compiled, scored and continued; a circuit is pruned and runs compactly."""
    found: Results = {}
    tokens = PROMPTS
    for name, model in (("dense", TINY), ("compiled", compile_sparse(TINY))):
        found[f"text, {name}"] = torch.stack([*generate(model, tokens, SampleConfig(tokens=3))])
    score = TASKS["for_while"].score(load_compiled(MODEL), Tokenizer.load(MODEL), "heldout", 1)
    found["loss"] = torch.tensor(score.loss, dtype=torch.float64, device="cpu")
    circuit = prune(plant.model, plant.task, cast(Tokenizer, None), plant.means, CONFIG)
    found |= {f"node {node}": torch.zeros((), device="cpu") for node in circuit.nodes}
    compact = CompactCircuit(circuit, plant.model)
    return found | {"margins": compact.margins(batch), "activations": compact.activations(batch)}


@contextmanager
def set_to(setter: Callable[[Any], object], value: Any, before: Any) -> Iterator[None]:
    setter(value)
    try:
        yield
    finally:
        setter(before)


def default(dtype: torch.dtype) -> AbstractContextManager[None]:
    return set_to(torch.set_default_dtype, dtype, torch.float32)


SETTINGS: dict[str, Callable[[], AbstractContextManager[object]]] = {
    "default float64": lambda: default(torch.float64),
    "default bfloat16": lambda: default(torch.bfloat16),
    "no gradients": torch.no_grad,
    "inference mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "deterministic algorithms": lambda: set_to(torch.use_deterministic_algorithms, True, False),
    "two threads": lambda: set_to(torch.set_num_threads, 2, torch.get_num_threads()),
    "no denormals": lambda: set_to(torch.set_flush_denormal, True, False),
    "errors of numpy": lambda: np.errstate(all="raise"),
    "default device": lambda: torch.device("meta"),
}


def test_results_do_not_depend_on_settings(plant: Planted, batch: PairBatch) -> None:
    expected = results(plant, batch)
    for name, setting in SETTINGS.items():
        with setting():
            found = results(plant, batch)
        with case(name):
            assert found.keys() == expected.keys()
            for part, value in found.items():
                if not part.startswith("node"):
                    torch.testing.assert_close(value, expected[part], rtol=0, atol=0, msg=part)


class Leaks(TorchDispatchMode):
    """Operations that make a tensor of a dtype that none of their tensors has."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype, self.found = dtype, set[str]()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **kwargs or {})
        if self._has(out) and not self._has((args, kwargs)):
            self.found.add(str(function))
        return out

    def _has(self, tree: object) -> bool:
        return any(isinstance(x, Tensor) and x.dtype == self.dtype for x in tree_leaves(tree))


def test_nothing_has_the_default_dtype() -> None:
    """In training and on models of all shapes, where numbers are not compared."""
    config = tiny_run()
    with default(torch.float16), Leaks(torch.float16) as leaks:
        state = new_state(config)
        train_step(state, synthetic_batch(0, config), config)
        for changes in ({"sink": True}, {"positions": "concatenated"}, {"positions": "added", "activation": "relu"}):
            model = compile_sparse(tiny_model(density=1 / 16, **changes))
            model(tiny_prompts(model))
    assert leaks.found == set()


def test_threads_of_a_program_share_models(plant: Planted, batch: PairBatch) -> None:
    """A compiled model, and a compact circuit whose tables grow as it is asked."""
    model = compile_sparse(load(MODEL))
    tokens = [torch.arange(i, i + 64)[None] for i in range(0, 96, 16)]
    circuit = prune(plant.model, plant.task, cast(Tokenizer, None), plant.means, CONFIG)
    parts = [batch.take(torch.tensor([i])) for i in range(8)]
    expected = [model(each) for each in tokens], [CompactCircuit(circuit, plant.model).margins(each) for each in parts]
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            compact = CompactCircuit(circuit, plant.model)
            found = threads.map(model, tokens), threads.map(compact.margins, parts)
            for ours, right in zip(found, expected, strict=True):
                assert all(a.equal(b) for a, b in zip(ours, right, strict=True))


def test_second_derivatives_are_refused_where_they_would_be_wrong() -> None:
    """The calibration of a task loss follows its margins; the dense gradient of a sparse product is its first one."""
    margins = torch.linspace(-1, 2, 16)[None].requires_grad_()
    model = tiny_model(density=1 / 16).requires_grad_(True)
    whole = with_whole_gradients(model, compile_sparse(model), "fp32")
    refused: dict[str, tuple[Tensor, Tensor]] = {
        "calibrated loss": (task_losses(margins, PruneConfig()).sum(), margins),
        "whole gradient": (whole(tiny_prompts(model)).logsumexp(-1).sum(), model.blocks[0].attn.w_q.weight),
    }
    for name, (loss, of) in refused.items():
        with case(name):
            torch.autograd.grad(loss, of, retain_graph=True)
            with pytest.raises(NotImplementedError, match="leave create_graph out"):
                torch.autograd.grad(loss, of, create_graph=True)
    plain = task_losses(margins, PruneConfig(calibrated=False)).sum()
    (slope,) = torch.autograd.grad(plain, margins, create_graph=True)
    (curvature,) = torch.autograd.grad(slope.sum(), margins)
    odds = margins.sigmoid()
    torch.testing.assert_close(curvature, odds * (1 - odds) / 16)
