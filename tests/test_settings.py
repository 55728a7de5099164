"""Settings of the process that do not reach results: defaults of PyTorch and numpy, modes of a thread, threads."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import numpy as np
import planted
import pytest
import torch
from cases import case
from tiny import sparse_run, synthetic_batch, tiny_run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thinwire import TASKS, CompactCircuit, Tokenizer, load
from thinwire.compiled import compile_sparse, load_compiled
from thinwire.model.sample import SampleConfig, generate
from thinwire.prune import PruneConfig, prune

MODEL = "python-2x256"
CONFIG = PruneConfig(
    steps=12, batch_pairs=8, train_pairs=16, validation_pairs=16, heldout_pairs=16, target_loss=0.6, trials=1
)
Results = dict[str, Tensor]


@pytest.fixture(scope="module")
def plant() -> planted.Planted:
    return planted.attention()


def results(plant: planted.Planted) -> Results:
    """A model is loaded, compiled, scored and continued; a circuit is pruned and runs compactly."""
    dense, tokenizer = load(MODEL), Tokenizer.load(MODEL)
    found: Results = {}
    tokens = torch.tensor([[0, *tokenizer.encode("def area(width, height):\n    return width")]], device="cpu")
    for name, model in (("dense", dense), ("compiled", compile_sparse(dense)), ("loaded", load_compiled(MODEL))):
        score = TASKS["for_while"].score(model, tokenizer, "heldout", 4)
        found[f"loss of {name}"] = torch.tensor(score.loss, dtype=torch.float64, device="cpu")
        found[f"text of {name}"] = torch.stack([*generate(model, tokens, SampleConfig(tokens=3))])
    circuit = prune(plant.model, plant.task, cast(Tokenizer, None), plant.means, CONFIG)
    found |= {f"node {node}": torch.ones((), dtype=torch.float32, device="cpu") for node in circuit.nodes}
    compact, batch = CompactCircuit(circuit, plant.model), pairs(plant)
    return found | {"margins": compact.margins(batch), "activations": compact.activations(batch)}


def pairs(plant):
    return plant.task.pairs(8, "heldout", 1, cast(Tokenizer, None))
