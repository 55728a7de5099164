"""Pruning again, as a circuit was pruned: for another task, on other prompts, from other seeds, without some nodes.

A rerun has the config of the circuit's artefact, and ablates to the values that the circuit ablates to.
"""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import cast

import torch

from thinwire.circuit import Circuit, EdgeEnds
from thinwire.compiled.compile import compile_sparse
from thinwire.data.tokenizer import Tokenizer
from thinwire.display import plural
from thinwire.model.precision import own_modes
from thinwire.progress import silent
from thinwire.prune.bootstrap import TAIL
from thinwire.prune.config import PruneConfig
from thinwire.prune.reach import TargetMissed
from thinwire.prune.run import PruningRun, evaluator_of
from thinwire.sites import Node
from thinwire.tasks import PairBatch, Task
from thinwire.verify.inputs import CheckInput
from thinwire.verify.intervals import RESAMPLES
from thinwire.verify.measurement import Interval

CHEAP = {"steps": 100, "train_pairs": 256, "validation_pairs": 96}
"""Most of each in a cheap rerun."""


@dataclass(frozen=True)
class Rerun:
    """What is pruned again, and how."""

    task: Task
    config: PruneConfig
    resampled: int | None = None
    """Seed of a bootstrap of the training and validation pairs; None takes these as they are."""


def own_config(circuit: Circuit) -> PruneConfig | None:
    """The config that a circuit was pruned with, without its search and ladder; None where it has no artefact."""
    if circuit.artifact is None:
        return None
    return circuit.artifact.config(PruneConfig).replace(search=0, ladder=())


def cheap_config(circuit: Circuit) -> PruneConfig:
    """The same with one trial of few steps on few pairs: a fraction of the time, and perhaps larger circuits."""
    config = own_config(circuit) or PruneConfig()
    fewer = {name: min(most, getattr(config, name)) for name, most in CHEAP.items()}
    return config.replace(**fewer, trials=1, finalists=1, restarts=min(1, config.restarts), heldout_pairs=96)


def spent(config: PruneConfig) -> str:
    """What one rerun spends, in words."""
    if config.method != "learned":
        return f"{config.method.replace('_', ' ')} on {plural(config.train_pairs, 'pair')}"
    return f"{plural(config.steps, 'step')}, {plural(config.trials, 'trial')}, {plural(config.train_pairs, 'pair')}"


@own_modes()
def pruned(inputs: CheckInput, rerun: Rerun) -> Circuit | None:
    """The circuit that a rerun finds; None where none meets the target, or the task has no pairs that it needs."""
    began, circuit = time.perf_counter(), inputs.circuit
    tokenizer = cast(Tokenizer, inputs.tokenizer)  # None for tasks that need none
    # what the circuit ablates to is given as means; only embeddings of removed tokens are still computed
    ablation = "zero" if rerun.config.ablation == "zero" else "mean"
    config = rerun.config.replace(ablation=ablation)
    try:
        run = PruningRun.of(compile_sparse(inputs.model), rerun.task, tokenizer, circuit.means, config)
    except TargetMissed:
        return None
    if rerun.resampled is not None:
        run = _bootstrapped(run, rerun.resampled)
    met = sorted((trial for trial in run.trials(None, silent) if not trial.missed), key=lambda trial: trial.size)
    finals = [run.final(trial, silent) for trial in met[: run.config.finalists if run.config.finishes else 1]]
    if not finals:
        return None
    return run.circuit(min(finals, key=lambda final: (final.candidate.edges, len(final.candidate.nodes))), (), began)


def _bootstrapped(run: PruningRun, seed: int) -> PruningRun:
    """The run on pairs drawn with replacement from its training and validation pairs."""
    generator = torch.Generator().manual_seed(seed)
    train, validation = (_drawn(batch, generator) for batch in (run.train, run.evaluator.validation))
    return replace(run, train=train, evaluator=evaluator_of(run.masks, run.evaluator.means, validation, run.config))


def _drawn(batch: PairBatch, generator: torch.Generator) -> PairBatch:
    return batch.take(torch.randint(len(batch), (len(batch),), generator=generator, dtype=torch.int64, device="cpu"))


Parts = frozenset[Node] | frozenset[EdgeEnds]


def jaccard(one: Parts, other: Parts) -> float:
    """Share of what two sets have together that both have; 1 where both are empty."""
    return len(one & other) / len(one | other) if one | other else 1.0


def pairwise(found: Sequence[Parts], seed: int) -> tuple[float, Interval | None]:
    """Mean Jaccard index of every two of some sets, with an interval from resamples of the sets.

    A set is not compared with itself. Without two sets it is 0; without three it has no interval.
    """
    n = len(found)
    if n < 2:
        return 0.0, None
    alike = torch.zeros(n, n, dtype=torch.float64, device="cpu")
    for i, j in combinations(range(n), 2):
        alike[i, j] = alike[j, i] = jaccard(found[i], found[j])
    value = (alike.sum() / (n * (n - 1))).item()
    if n == 2:
        return value, None
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(n, (RESAMPLES, n), generator=generator, dtype=torch.int64, device="cpu")
    others = (drawn[:, :, None] != drawn[:, None]).double()
    sums = (alike[drawn[:, :, None], drawn[:, None]] * others).sum((1, 2))
    means = (sums / others.sum((1, 2)))[others.sum((1, 2)) > 0]
    low, high = means.quantile(torch.tensor([TAIL, 1 - TAIL], dtype=torch.float64, device="cpu")).tolist()
    return value, Interval(low, high)


def core_of(circuits: Iterable[Circuit]) -> frozenset[Node]:
    """The nodes that every one of some circuits has."""
    sets = [frozenset(circuit.nodes) for circuit in circuits]
    return frozenset.intersection(*sets) if sets else frozenset()
