"""Search over the hyper-parameters of mask training (A.5, step 6): rounds of trials folded into one forward each.

1. The first round holds the config's own point, and others from log-scale ranges around the paper's centres.
2. Every later round is proposed by a sampler that is told all trials before it, in a study made for that round alone.
3. A finished round is appended to `trials.jsonl`, so a search goes on where it was cut off.
4. The search ends with its last trial, or after some rounds without a smaller circuit.

A round depends on the trials before it, the config's seed and its own number, and on nothing else: a search that was
cut off and goes on proposes what an undisturbed one does.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import TypeAdapter, ValidationError

from thinwire import artifact
from thinwire.config import Config, explain, read_record
from thinwire.errors import UserError
from thinwire.progress import Report, silent
from thinwire.prune.config import Point, PruneConfig
from thinwire.prune.trial import Trial, best

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

Evaluate = Callable[[Sequence[Point], int, Report], list[Trial]]
"""Trains the points of a round in one forward, from the round's seed: one trial a point, in their order."""

RANGES: dict[str, tuple[float, float]] = {
    "k_coef": (1e-5, 2e-2),  # 1e-4; 8.2e-3
    "init_noise_scale": (1e-3, 0.1),  # 1e-2
    "init_noise_bias": (0.03, 0.3),  # 0.1
    "weight_decay": (1e-4, 1e-2),  # 1e-3
    "learning_rate": (1.5e-3, 0.03),  # 3e-3; 0.015
    "1-beta2": (0.02, 0.2),  # 0.05; 0.035
    "warmup": (5e-3, 0.2),  # 0.05
    "heaviside_temp": (0.1, 4.0),  # 1; 2.3
}
"""What is varied, on a log scale: lowest and highest value.

They hold the centres of Table 2 (Gao et al. 2025), the first number of each comment, and a good point published
elsewhere, the second. What training is most sensitive to spans a decade, so that few trials are lost to masks that
collapse or stand still.
"""
STARTUP = 8
"""Trials that are drawn at random before a sampler draws conclusions: one round of the paper's."""
HEAD = "search.json"
TRIALS = "trials.jsonl"
FREE = ("search", "patience", "simplify", "finalists", "ladder", "heldout_pairs")
"""Fields of the config that no trial depends on, so that a search may go on with others."""


class Head(Config):
    """Contents of `search.json`: what the trials beside it belong to."""

    version: Literal[1] = 1
    subject: str
    config: PruneConfig


def search(
    evaluate: Evaluate, config: PruneConfig, folder: Path | None, report: Report = silent, subject: str = ""
) -> list[Trial]:
    """Trials in the order they were made: `config.search` of them, or fewer where nothing improves any more.

    `folder` keeps finished rounds; with None nothing is kept. `subject` says what is pruned, such as the task and the
    content hash of the model, and is part of what a folder belongs to. Raises UserError when the folder holds a search
    of something else, is damaged, cannot be written, or is being written by another process.
    """
    with artifact.sole_writer(folder) if folder else nullcontext():
        trials = resume(folder, config, subject) if folder else []
        if trials:
            report(min(len(trials), config.search), config.search, status(trials, config))
        while len(trials) < config.search and idle_rounds(trials, config) < config.patience:
            number = len(trials) // config.trials
            points = propose(trials, config, min(config.trials, config.search - len(trials)))
            made = evaluate(
                points, round_seed(config, number), part_of(report, len(trials), len(points), config.search)
            )
            assert [trial.point for trial in made] == points, "one trial a point, in their order"
            if folder:
                append(folder / TRIALS, made)
            trials += made
            report(len(trials), config.search, status(trials, config))
    return trials[: config.search]


def part_of(report: Report, before: int, count: int, whole: int) -> Report:
    """The report of `count` trials, all at once, that come after `before` of `whole`."""

    def part(done: int, total: int, status: str) -> None:
        report(before * total + count * done, whole * total, status)

    return part


def status(trials: Sequence[Trial], config: PruneConfig) -> str:
    """How far a search is and what it has found, such as `round 3, 14 edges`."""
    smallest = best(trials)
    found = f"{smallest.edges} edges" if smallest else "target missed"
    return f"round {math.ceil(len(trials) / config.trials)}, {found}"


def idle_rounds(trials: Sequence[Trial], config: PruneConfig) -> int:
    """Rounds since the one that found the smallest circuit, or all of them when none was found."""
    idle, smallest = 0, (math.inf, math.inf)
    for start in range(0, len(trials), config.trials):
        found = min(trial.size for trial in trials[start : start + config.trials])
        idle, smallest = (0, found) if found < smallest else (idle + 1, smallest)
    return idle


def round_seed(config: PruneConfig, number: int) -> int:
    """The seed that a round's masks start from; the first round's is the config's own, as without a search."""
    return _derived(config.seed, number, 0) if number else config.seed


def _derived(seed: int, number: int, purpose: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([seed, number, purpose]).generate_state(1)[0])


def propose(trials: Sequence[Trial], config: PruneConfig, count: int) -> list[Point]:
    """The points of the next round; the same whenever asked again.

    Each point is asked for while those before it in the round are pending: the sampler reckons with their outcomes, so
    the points differ.
    """
    import optuna
    from optuna.distributions import FloatDistribution

    space = {name: FloatDistribution(low, high, log=True) for name, (low, high) in RANGES.items()}
    with _quiet_optuna():
        study = optuna.create_study(sampler=_sampler(config, len(trials) // config.trials))
        for trial, value in zip(trials, objectives(trials), strict=True):
            told = optuna.create_trial(params=coordinates(trial.point), distributions=dict(space), value=value)
            study.add_trial(told)
        given = [] if trials else [config.point]
        asked = [study.ask(dict(space)).params for _ in range(count - len(given))]
    return given + [point_at(params) for params in asked]


def _sampler(config: PruneConfig, number: int) -> "BaseSampler":
    from optuna import samplers

    seed = _derived(config.seed, number, 1)
    if config.sampler == "gp":
        return samplers.GPSampler(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)
    if config.sampler == "tpe":
        return samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, constant_liar=True)
    return samplers.RandomSampler(seed=seed)


@contextmanager
def _quiet_optuna() -> Iterator[None]:
    """Optuna without its log lines, which it writes to stderr of its own accord."""
    from optuna import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def objectives(trials: Sequence[Trial]) -> list[float]:
    """What the sampler minimizes: log(1 + edges); a missed target counts as twice the most edges seen."""
    found = [math.log1p(trial.edges) for trial in trials if trial.edges is not None]
    penalty = max(found, default=0.0) + math.log(2)
    return [penalty if trial.edges is None else math.log1p(trial.edges) for trial in trials]


def coordinates(point: Point) -> dict[str, float]:
    """A point as the sampler sees it; what lies outside the ranges, such as no warm-up, counts as their rim."""
    values = point.model_dump()
    values["1-beta2"] = 1 - values.pop("beta2")
    return {name: min(max(values[name], low), high) for name, (low, high) in RANGES.items()}


def point_at(params: dict[str, float]) -> Point:
    """The point that a sampler's parameters stand for."""
    rest = {name: value for name, value in params.items() if name != "1-beta2"}
    return Point(beta2=1 - params["1-beta2"], **rest)


def search_folder(circuit: Path) -> Path:
    """Where a search for the circuit of a folder keeps its trials."""
    return circuit.with_name(f"{circuit.name}-search")


def finished_trials(folder: Path) -> list[Trial]:
    """The trials of a search's finished rounds, none where there was no search. Raises UserError for a damaged file."""
    path = folder / TRIALS
    return _read(path, f"delete {folder} to search anew")[0] if path.exists() else []


def forget(folder: Path) -> None:
    """Drop the trials in a folder, so that a search begins anew."""
    with artifact.sole_writer(folder):
        for name in (TRIALS, HEAD):
            (folder / name).unlink(missing_ok=True)


def resume(folder: Path, config: PruneConfig, subject: str) -> list[Trial]:
    """The trials of finished rounds in a folder, which is made ready for those to come.

    A round that was cut off, in the middle of a line or between two, is dropped: it will be made again.
    """
    advice = f"delete {folder} to search anew"
    path, head = folder / TRIALS, Head(subject=subject, config=config)
    if (folder / "meta.json").exists():
        raise UserError(f"{folder} holds an artefact where trials of a search are to be kept; choose another --out.")
    if (folder / HEAD).exists():
        refusal = f"{folder / HEAD} is damaged; {advice}."
        other = _differences(read_record(Head, folder / HEAD, refusal), head)
        if other:
            raise UserError(f"{folder} holds a search with another {', '.join(other)}; {advice}.")
    elif path.exists():
        raise UserError(f"{path} lies there without the {HEAD} that says what it belongs to; {advice}.")
    artifact.write_text(folder / HEAD, head.to_json())
    if not path.exists():
        return []
    trials, whole = _read(path, advice)
    if trials and trials[0].point != config.point:
        raise UserError(f"{path} line 1 does not have the point that {HEAD} begins at; {advice}.")
    partial = len(trials) % config.trials if len(trials) < config.search else 0
    kept = trials[: len(trials) - partial]
    if partial or not whole:
        artifact.write_text(path, "".join(map(_line, kept)))
    return kept


def _differences(found: Head, head: Head) -> list[str]:
    """Names of what sets a search apart from the one that is wanted."""
    fields = [name for name in PruneConfig.model_fields if name not in FREE]
    other = [name for name in fields if getattr(found.config, name) != getattr(head.config, name)]
    return ["model or task", *other] if found.subject != head.subject else other


def _read(path: Path, advice: str) -> tuple[list[Trial], bool]:
    """Trials of all whole lines, and whether the file ends with one."""
    try:
        *lines, rest = path.read_bytes().split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {advice}.") from None
    trials = []
    for number, line in enumerate(lines, 1):
        try:
            trials.append(TypeAdapter(Trial).validate_json(line, strict=True))
        except ValidationError as error:
            raise UserError(f"{path} line {number} is damaged ({explain(error)}); {advice}.") from None
    return trials, not rest


def append(path: Path, trials: Sequence[Trial]) -> None:
    """Add a round to the file, one line of JSON a trial. Raises UserError when it cannot be written."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write("".join(map(_line, trials)))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); make room there and run it again.") from None


def _line(trial: Trial) -> str:
    return TypeAdapter(Trial).dump_json(trial).decode() + "\n"
