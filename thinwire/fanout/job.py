"""One job of a fan-out, which prunes a task in a model, and its outcome.

The result is in the workspace: the folder of the circuit, or `OUT-missed.json` beside it where the model has no circuit
that meets the target. Either one, of the same model, tokens and config, is reused by later runs.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from pydantic import ConfigDict, TypeAdapter, with_config

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.circuit import Circuit, PruneScores
from thinwire.config import Config
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.progress import Report, silent
from thinwire.prune.config import PruneConfig
from thinwire.prune.reach import TargetMissed
from thinwire.stages import Opened, finished_circuit, prune_stage
from thinwire.tasks import CannotExpress, Task, find_task, task_from_file


class Job(Config):
    """A task to prune in a model, as it is sent to the process that runs it: absolute paths, no objects."""

    name: str
    """Name of the model in tables."""
    model: Path
    """Model artefact, or the name of a shipped model."""
    tokens: Path
    """Tokens of the tokenizer of the model."""
    task: str
    """Name of the task."""
    task_file: Path | None = None
    """File of pairs that may hold the task."""
    config: PruneConfig
    out: Path
    """Folder of the circuit."""
    again: bool = False
    """Prune even if a finished circuit is there."""

    @property
    def title(self) -> str:
        """Name of the job in messages."""
        return f"{self.name} {self.task}"

    @property
    def log(self) -> Path:
        """File for the stderr of the job's processes; it is kept when the job fails."""
        return self.out.with_name(f"{self.out.name}.log")

    @property
    def missed(self) -> Path:
        """File that records that the model has no circuit that meets the target."""
        return self.out.with_name(f"{self.out.name}-missed.json")

    def find_task(self) -> Task:
        """The task itself. Raises UserError for unknown names and bad files."""
        return find_task(self.task, None if self.task_file is None else task_from_file(self.task_file))


class Missed(Config):
    """Why a job has no circuit, and for which model, tokens, task and config."""

    model: str
    """Content hash of the model artefact."""
    tokens: str = ""
    """Content hash of the tokens; empty where an earlier version wrote this."""
    task_source: str
    """As in `Task.source`."""
    config: PruneConfig
    why: str


@with_config(ConfigDict(extra="forbid"))
@dataclass(frozen=True)
class Outcome:
    """The outcome of a job: a circuit, or why there is none."""

    model: str
    """Name of the model in tables."""
    task: str
    out: str
    nodes: int | None = None
    scores: PruneScores | None = None
    """Scores of the circuit; None where there is none."""
    missed: str | None = None
    """Why the model has no circuit that meets the target."""
    error: str | None = None
    """Why the job was parked."""
    reused: bool = False
    """Whether an earlier run finished the job."""

    @classmethod
    def of_circuit(cls, job: Job, circuit: Circuit, reused: bool = False) -> Self:
        """The outcome of a job with a circuit."""
        return cls(job.name, job.task, str(job.out), len(circuit.nodes), circuit.scores, reused=reused)

    @classmethod
    def without(cls, job: Job, missed: str | None = None, error: str | None = None, reused: bool = False) -> Self:
        """The outcome of a job without a circuit."""
        return cls(job.name, job.task, str(job.out), missed=missed, error=error, reused=reused)

    def to_json(self) -> str:
        """One line that `parse` reads; floats may be NaN."""
        return json.dumps(asdict(self))

    @classmethod
    def parse(cls, text: str | bytes) -> Self:
        """The outcome in a line of `to_json`. Raises ValueError for any other text."""
        return TypeAdapter(cls).validate_json(text)


def earlier_outcome(job: Job, task: Task, model: Artifact, tokens: Artifact) -> Outcome | None:
    """The outcome of the same job in an earlier run; None where it is not finished."""
    if job.again:
        return None
    circuit = finished_circuit(model, tokens, task, job.config, job.out)
    if circuit is not None:
        return Outcome.of_circuit(job, circuit, reused=True)
    try:
        kept = Missed.load(job.missed)
    except UserError:  # there is none, or it is damaged
        return None
    same = kept.replace(tokens=kept.tokens or tokens.id) == _missed(job, task, model, tokens, kept.why)
    return Outcome.without(job, missed=kept.why, reused=True) if same else None


def run_job(job: Job, report: Report = silent) -> Outcome:
    """Run a job and write its result into the workspace.

    Raises UserError for errors that would happen again at every attempt.
    """
    task, opened, tokens = job.find_task(), Opened.open(job.model), Tokens.open(job.tokens)
    try:
        circuit = prune_stage(opened, tokens, task, job.config, job.out, report, job.again)
    except (TargetMissed, CannotExpress) as missed:
        artifact.make_parents(job.missed)
        artifact.write_text(job.missed, _missed(job, task, opened.artifact, tokens.artifact, str(missed)).to_json())
        return Outcome.without(job, missed=str(missed))
    job.missed.unlink(missing_ok=True)
    return Outcome.of_circuit(job, circuit)


def _missed(job: Job, task: Task, model: Artifact, tokens: Artifact, why: str) -> Missed:
    return Missed(model=model.id, tokens=tokens.id, task_source=task.source, config=job.config, why=why)
