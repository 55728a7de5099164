"""Search over the hyper-parameters of mask training (A.5, step 6), in rounds of trials that are trained together.

1. The first round has the config's own point, and others from log-scale ranges around the paper's centres.
2. A sampler proposes every later round from the results of all trials before it.
3. A finished round is appended to `trials.jsonl`, so that an interrupted search continues after it.
4. The search ends with its last trial, or after some rounds without a smaller circuit.

A round depends only on the trials before it, the config's seed and its own number. So a search that was interrupted and
continued proposes the same trials as one that was not.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from pydantic import TypeAdapter, ValidationError

from thinwire import artifact
from thinwire.config import Config, explain, read_record
from thinwire.display import plural
from thinwire.errors import UserError
from thinwire.files import read_bytes
from thinwire.progress import Report, silent
from thinwire.prune.config import Point, PruneConfig
from thinwire.prune.trial import Trial, best

if TYPE_CHECKING:
    from optuna.samplers import BaseSampler

Evaluate = Callable[[Sequence[Point], int, Report], list[Trial]]
"""Trains the points of a round together, from the round's seed, and returns one trial for each, in their order."""

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
"""Smallest and largest value of each searched hyper-parameter, on a log scale.

The ranges contain the centres of Table 2 (Gao et al. 2025), the first number of each comment, and a good point
published elsewhere, the second. Those that training is most sensitive to span a decade, so that few trials fail.
"""
STARTUP = 8
"""Trials that are drawn at random before the sampler uses their results: one round of the paper's search."""
HEAD = "search.json"
TRIALS = "trials.jsonl"
FREE = ("search", "patience", "simplify", "finalists", "ladder", "heldout_pairs")
"""Fields of the config that no trial depends on; a search can be continued with other values of them."""


class Head(Config):
    """Contents of `search.json`: identifies the search that the trials in the same folder belong to."""

    version: Literal[1] = 1
    subject: str
    config: PruneConfig


def search(
    evaluate: Evaluate, config: PruneConfig, folder: Path | None, report: Report = silent, subject: str = ""
) -> list[Trial]:
    """The trials of a search in order: `config.search` of them, or fewer if rounds no longer improve.

    Finished rounds are written to `folder`, if given, and an interrupted search continues from it. `subject` identifies
    what is pruned, such as the task and the content hash of the model. Raises UserError when the folder has a search of
    something else, is damaged, cannot be written, or is being written by another process.
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
            assert [trial.point for trial in made] == points, "one trial for each point, in their order"
            if folder:
                append(folder / TRIALS, made)
            trials += made
            report(len(trials), config.search, status(trials, config))
    return trials[: config.search]


def part_of(report: Report, before: int, count: int, whole: int) -> Report:
    """A report of the progress of `count` trials as a part of `whole`, after `before` others."""

    def part(done: int, total: int, status: str) -> None:
        report(before * total + count * done, whole * total, status)

    return part


def status(trials: Sequence[Trial], config: PruneConfig) -> str:
    """Progress of a search and its smallest circuit, such as `round 3, 14 edges`."""
    smallest = best(trials)
    found = plural(smallest.edges or 0, "edge") if smallest else "target missed"
    return f"round {math.ceil(len(trials) / config.trials)}, {found}"


def idle_rounds(trials: Sequence[Trial], config: PruneConfig) -> int:
    """Number of rounds since the smallest circuit was found, or of all rounds if none was."""
    idle, smallest = 0, (math.inf, math.inf)
    for start in range(0, len(trials), config.trials):
        found = min(trial.size for trial in trials[start : start + config.trials])
        idle, smallest = (0, found) if found < smallest else (idle + 1, smallest)
    return idle


def round_seed(config: PruneConfig, number: int) -> int:
    """The seed of a round's initial masks; in the first round the config's own, as without a search."""
    return _derived(config.seed, number, 0) if number else config.seed


def _derived(seed: int, number: int, purpose: int) -> int:
    import numpy as np

    return int(np.random.SeedSequence([seed, number, purpose]).generate_state(1)[0])


def propose(trials: Sequence[Trial], config: PruneConfig, count: int) -> list[Point]:
    """The points of the next round; a function of the arguments alone.

    Each point is proposed while those before it in the round are pending. The sampler uses estimates of their results,
    so the points differ.
    """
    import optuna
    from optuna.distributions import FloatDistribution

    space = {name: FloatDistribution(low, high, log=True) for name, (low, high) in RANGES.items()}
    with _quiet_optuna():
        study = optuna.create_study(sampler=_sampler(config, len(trials) // config.trials))
        for trial, value in zip(trials, objectives(trials), strict=True):
            past = optuna.create_trial(params=coordinates(trial.point), distributions=dict(space), value=value)
            study.add_trial(past)
        given = [] if trials else [config.point]
        proposed = [study.ask(dict(space)).params for _ in range(count - len(given))]
    return given + [point_at(params) for params in proposed]


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
    """Silences Optuna's log lines on stderr."""
    from optuna import logging

    level = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(level)


def objectives(trials: Sequence[Trial]) -> list[float]:
    """Values that the sampler minimizes: log(1 + edges); a missed target counts as about twice the largest size."""
    found = [math.log1p(trial.edges) for trial in trials if trial.edges is not None]
    penalty = max(found, default=0.0) + math.log(2)
    return [penalty if trial.edges is None else math.log1p(trial.edges) for trial in trials]


def coordinates(point: Point) -> dict[str, float]:
    """A point as parameters of the sampler, clipped to the ranges (no warm-up, for example, to the smallest one)."""
    values = point.model_dump()
    values["1-beta2"] = 1 - values.pop("beta2")
    return {name: min(max(values[name], low), high) for name, (low, high) in RANGES.items()}


def point_at(params: dict[str, float]) -> Point:
    """The point with a sampler's parameters."""
    rest = {name: value for name, value in params.items() if name != "1-beta2"}
    return Point(beta2=1 - params["1-beta2"], **rest)


def search_folder(circuit: Path) -> Path:
    """The folder of the trials of a search for the circuit in `circuit`."""
    return circuit.with_name(f"{circuit.name}-search")


def finished_trials(folder: Path) -> list[Trial]:
    """The trials of a search's finished rounds; none if there is no search. Raises UserError for a damaged file."""
    path = folder / TRIALS
    return _read(path, f"delete {folder} to start a new search").trials if path.exists() else []


def forget(folder: Path) -> None:
    """Delete the trials in a folder, so that a new search starts."""
    with artifact.sole_writer(folder):
        for name in (TRIALS, HEAD):
            (folder / name).unlink(missing_ok=True)


def resume(folder: Path, config: PruneConfig, subject: str) -> list[Trial]:
    """The trials of finished rounds in a folder, and prepare the folder for further rounds.

    An unfinished round, which may end in the middle of a line, is deleted: it will be run again.
    """
    advice = f"delete {folder} to start a new search"
    path, head = folder / TRIALS, Head(subject=subject, config=config)
    if (folder / "meta.json").exists():
        raise UserError(f"{folder} is an artefact; trials of a search cannot be written there. Choose another --out.")
    if (folder / HEAD).exists():
        refusal = f"{folder / HEAD} is damaged; {advice}."
        other = _differences(read_record(Head, folder / HEAD, refusal), head)
        if other:
            raise UserError(f"{folder} holds a search with another {', '.join(other)}; {advice}.")
    elif path.exists():
        raise UserError(f"{path} has no {HEAD} beside it; {advice}.")
    artifact.write_text(folder / HEAD, head.to_json())
    if not path.exists():
        return []
    trials, complete = _read(path, advice)
    if trials and trials[0].point != config.point:
        raise UserError(f"{path} line 1 does not have the first point of {HEAD}; {advice}.")
    partial = len(trials) % config.trials if len(trials) < config.search else 0
    kept = trials[: len(trials) - partial]
    if partial or not complete:
        artifact.write_text(path, "".join(map(_line, kept)))
    return kept


def _differences(found: Head, head: Head) -> list[str]:
    """Names of the fields in which a search differs from the requested one."""
    fields = [name for name in PruneConfig.model_fields if name not in FREE]
    other = [name for name in fields if getattr(found.config, name) != getattr(head.config, name)]
    return ["model or task", *other] if found.subject != head.subject else other


class _Content(NamedTuple):
    """What a file of trials contains."""

    trials: list[Trial]
    """Of all complete lines."""
    complete: bool
    """Whether the file ends with a complete line."""


def _read(path: Path, advice: str) -> _Content:
    try:
        *lines, rest = read_bytes(path).split(b"\n")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); {advice}.") from None
    trials = []
    for number, line in enumerate(lines, 1):
        try:
            trials.append(TypeAdapter(Trial).validate_json(line, strict=True))
        except ValidationError as error:
            raise UserError(f"{path} line {number} is damaged ({explain(error)}); {advice}.") from None
    return _Content(trials, not rest)


def append(path: Path, trials: Sequence[Trial]) -> None:
    """Append a round to the file, one line of JSON for each trial. Raises UserError when it cannot be written."""
    try:
        with open(path, "a", encoding="utf-8") as file:
            file.write("".join(map(_line, trials)))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error.strerror}); make room there and run it again.") from None


def _line(trial: Trial) -> str:
    return TypeAdapter(Trial).dump_json(trial).decode() + "\n"
