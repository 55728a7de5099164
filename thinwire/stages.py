"""Stages from folder to folder: each reads its parents' artefacts, reuses what is finished, and writes its own.

A workspace keeps one model's artefacts together, so that verbs find parents by place:
`WORK/tokens`, `WORK/model`, `WORK/circuits/TASK`, `WORK/verdicts/TASK`, `WORK/index.html`.
A training run that is watched leaves a workspace for each step its circuits were pruned at, `WORK/model-forming/STEP`.
The workspace of a shipped model is `runs/NAME` in the current folder, where a copy of the model comes to lie.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from thinwire import artifact, shipped
from thinwire.artifact import Artifact
from thinwire.circuit import Circuit, circuit_task
from thinwire.compiled.load import load_compiled
from thinwire.data import Tokenizer, Tokens
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.progress import Report, silent
from thinwire.prune.config import PruneConfig
from thinwire.prune.means import mean_activations
from thinwire.prune.run import TargetMissed, prune
from thinwire.prune.tune import forget, search_folder
from thinwire.tasks import Task, find_task
from thinwire.tasks.scores import TaskScores
from thinwire.train.config import TrainConfig
from thinwire.train.inputs import Sources, open_parents
from thinwire.train.loop import train
from thinwire.train.ranks import SINGLE, Ranks
from thinwire.train.result import TrainResult, read_result, result_of, write_model
from thinwire.train.stats import validation_losses
from thinwire.train.watch import Monitoring, WatchConfig, Watcher
from thinwire.verify.config import VerifyConfig
from thinwire.verify.verdict import Verdict, finished_verdict, verify
from thinwire.view import page
from thinwire.view.build import Case, Origin, PageConfig, payload_from
from thinwire.view.report import REPORT, write_report


@dataclass(frozen=True)
class Workspace:
    """Where a workspace keeps each artefact."""

    root: Path

    @property
    def tokens(self) -> Path:
        return self.root / "tokens"

    @property
    def model(self) -> Path:
        return self.root / "model"

    @property
    def page(self) -> Path:
        return self.root / "index.html"

    def circuit(self, task: str) -> Path:
        """The folder of a task's circuit."""
        return self.root / "circuits" / task

    def verdict(self, task: str) -> Path:
        """The folder of the verdict on a task's circuit."""
        return self.root / "verdicts" / task

    @classmethod
    def of_model(cls, model: Path) -> "Workspace":
        """The workspace a model folder lies in; of a shipped model, `runs/NAME`."""
        name = shipped.name_of(model)
        return cls(Path("runs") / name if name else Path(model).absolute().parent)

    def open_tokens(self, given: Path | None, model: Path) -> Tokens:
        """The tokens given, else those of the workspace. Raises UserError when there are none."""
        name = shipped.name_of(model)
        if given is None and name and not artifact.is_finished(self.tokens):
            remedy = f"make them with `thinwire data --tokenizer {name} --out {self.tokens}`, or give --tokens"
            raise UserError(f"There are no tokens of {name} in {self.tokens}; {remedy}.")
        return Tokens.open(given or self.tokens)

    def adopt(self, model: Artifact) -> None:
        """Copy a shipped model into the workspace, so that later stages find it by place; others stay where they are.

        Raises UserError when another model lies there.
        """
        if shipped.name_of(model.path) is None:
            return
        if self.model.exists():
            if artifact.open_artifact(self.model, "model").id != model.id:
                raise UserError(f"{self.model} holds another model than {model.path}; choose another --out.")
            return
        with artifact.replacing(self.model, "model") as folder:
            for name in (*model.meta.files, "meta.json"):
                shutil.copyfile(model.path / name, folder / name)


@dataclass(frozen=True)
class Opened:
    """A model with its artefact and the tokenizer it was trained with."""

    artifact: Artifact
    model: Transformer
    tokenizer: Tokenizer

    @classmethod
    def open(cls, folder: Path | str) -> "Opened":
        """Open a model by folder or shipped name, on sparse kernels. Raises UserError where it is not finished."""
        found = artifact.open_artifact(Path(folder), "model")
        return cls(found, load_compiled(found.path), Tokenizer.load(found.path / "tokenizer.json"))

    def check_tokens(self, tokens: Tokens) -> None:
        """Raise UserError when tokens were made with another tokenizer than the model's."""
        if tokens.tokenizer.id != self.tokenizer.id:
            raise UserError(
                f"{tokens.artifact.path} was made with another tokenizer than {self.artifact.path}; "
                "give the tokens that the model was trained on."
            )

    def check_circuit(self, circuit: Circuit) -> None:
        """Raise UserError unless the circuit was cut from exactly this model."""
        assert circuit.artifact is not None
        artifact.require_parent(circuit.artifact, "model", self.artifact)


def train_stage(
    config: TrainConfig,
    tokens: Tokens,
    out: Path,
    report: Report = silent,
    device: str = "cpu",
    start: Path | str | None = None,
    teacher: Path | str | None = None,
    watch: WatchConfig | None = None,
    track: Sequence[str] = (),
    ranks: Ranks = SINGLE,
    pruning: PruneConfig | None = None,
) -> TrainResult:
    """Train a model into the folder `out` as `thinwire.train.train` does, watched, with the run's report in it.

    `pruning` is how circuits are pruned while the model trains.
    Raises UserError for tasks that the tokens cannot express, and for all that `train` raises it for.
    """
    out, watch = Path(out), watch or WatchConfig()
    with ranks.together():
        watchers = _scorers(config, tokens, watch)
        if watch.circuits:
            parents = open_parents(tokens, start, teacher)
            watchers.append(FormingCircuits(config, tokens, out, watch, parents, pruning or PruneConfig()))
    result = train(config, tokens, out, Sources(start, teacher), Monitoring(report, watchers, track), device, ranks)
    if ranks.first and not _reported(out):
        try:
            write_report(out)
        except UserError as error:  # the model is finished all the same, and other ranks have gone on
            report(config.steps, config.steps, f"no report: {error}")
    return result


def _reported(model: Path) -> bool:
    """Whether the report in a model's folder is one of the finished run."""
    page, meta = model / REPORT, model / "meta.json"
    return page.is_file() and page.stat().st_mtime_ns >= meta.stat().st_mtime_ns


def _scorers(config: TrainConfig, tokens: Tokens, watch: WatchConfig) -> list[Watcher]:
    """The watcher of task scores; raises UserError for what cannot be done when its step comes."""
    late = [step for step in watch.circuits_at if step > config.steps]
    if late:
        raise UserError(f"circuits_at names step {late[0]} and the run ends at {config.steps}; name earlier steps.")
    common = tokens.tokenizer, config.model.context, config.validate_every, config.steps, watch.pairs, watch.seed
    circuits, scored = (TaskScores(tasks, *common) for tasks in (watch.circuits, watch.tasks))
    circuits.check()  # pruning needs what scoring needs
    scored.check()
    return [scored]


@dataclass(frozen=True)
class FormingCircuits:
    """A watcher that prunes tasks at given steps, so that one sees circuits form.

    Each step gets a workspace of its own, `OUT-forming/STEP`, with the sparse model of that step as a model artefact
    and a circuit artefact for each task; what an interrupted run has pruned already is taken from there.
    """

    config: TrainConfig
    tokens: Tokens
    out: Path
    watch: WatchConfig
    parents: Mapping[str, Artifact]
    pruning: PruneConfig

    def due(self, step: int) -> bool:
        """Whether circuits are pruned after this step."""
        return step in self.watch.circuits_at

    def __call__(self, step: int, model: Transformer) -> dict[str, object]:
        """Per task the `nodes`, `edges` and `loss` of its circuit, or why it is `missed`."""
        work = Workspace(self.out.with_name(f"{self.out.name}-forming") / str(step))
        losses = validation_losses(model, self.tokens, self.config)
        result = result_of(model, self.config, self.tokens, losses, step, seconds=None)
        with artifact.replacing(work.model, "model") as folder:
            write_model(folder, model, self.config, self.tokens, self.parents, result)
        opened = Opened.open(work.model)
        return {"forming": {task: self._circuit(opened, task, work) for task in self.watch.circuits}}

    def _circuit(self, opened: Opened, task: str, work: Workspace) -> dict[str, object]:
        try:
            found = prune_stage(opened, self.tokens, find_task(task), self.pruning, work.circuit(task))
        except TargetMissed as missed:
            return {"missed": str(missed)}
        assert found.scores is not None
        return {"nodes": len(found.nodes), "edges": found.scores.edges, "loss": found.scores.loss}


def prune_stage(
    opened: Opened,
    tokens: Tokens,
    task: Task,
    config: PruneConfig,
    out: Path,
    report: Report = silent,
    again: bool = False,
) -> Circuit:
    """The circuit of a task in the folder `out`; one found there with the same config and model is returned.

    A search keeps its trials in `OUT-search` and goes on from there when it was interrupted.
    """
    opened.check_tokens(tokens)
    artifact.refuse_foreign(out, "circuit")
    found = None if again else finished_circuit(opened.artifact, task, config, out)
    if found is not None:
        return found
    artifact.make_parents(out)
    searched = search_folder(out) if config.search else None
    if again and searched:
        forget(searched)
    means = mean_activations(opened.model, tokens, config.mean_tokens, config.seed)
    circuit = prune(opened.model, task, opened.tokenizer, means, config, report, searched, opened.artifact.id)
    circuit.save(out, config, opened.artifact, config.seed)
    return Circuit.load(out)


def finished_circuit(model: Artifact, task: Task, config: PruneConfig, folder: Path) -> Circuit | None:
    """The circuit of a task in a folder, of this model and config; None where pruning has to make it (again)."""
    if not artifact.is_finished(folder):
        return None
    try:
        found = Circuit.load(folder)
        assert found.artifact is not None
        same = found.artifact.config(PruneConfig) == config and found.artifact.meta.parents.get("model") == model.id
        return found if same and (found.task, found.task_source) == (task.name, task.source) else None
    except UserError:  # damaged, or of another version
        return None


def verify_stage(
    opened: Opened,
    circuit: Circuit,
    config: VerifyConfig,
    out: Path,
    report: Report = silent,
    again: bool = False,
    own: Task | None = None,
) -> Verdict:
    """The verdict on a circuit in `out`; one of the same config found there is returned. `own` is as in `verify`."""
    opened.check_circuit(circuit)
    assert circuit.artifact is not None
    task = circuit_task(circuit, own)
    artifact.refuse_foreign(out, "verdict")
    found = None if again else finished_verdict(circuit, out, config)
    if found is not None:
        return found
    verdict = verify(opened.model, circuit, opened.tokenizer, config, report, task)
    verdict.save(out, config, circuit.artifact)
    return verdict


def view_stage(
    opened: Opened,
    tokens: Tokens,
    cases: Sequence[tuple[Circuit, Verdict]],
    out: Path,
    config: PageConfig | None = None,
    report: Report = silent,
    own: Task | None = None,
) -> None:
    """Write one HTML page with all the circuits. `own` is as in `Case`. Raises UserError for a bad `out`."""
    opened.check_tokens(tokens)
    if out.is_dir():
        raise UserError(f"{out} is a folder; give the name of an HTML file for --out.")
    artifact.make_parents(out)
    result = read_result(opened.artifact.path)
    origin = Origin(opened.artifact.id, result.val_loss, opened.artifact.meta.seed)
    made = payload_from(opened.model, tokens, [Case(c, v, own) for c, v in cases], origin, config, report)
    try:
        page.write(made, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); choose another --out.") from None
