"""From tokens to a trained model, scored and pruned at chosen steps while it trains, with the report of its run."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.progress import Report, Reused, silent
from thinwire.prune.config import PruneConfig
from thinwire.prune.reach import TargetMissed
from thinwire.stages.prune import prune_stage
from thinwire.stages.workspace import Opened, Workspace
from thinwire.tasks import find_task
from thinwire.tasks.scores import TaskScores
from thinwire.train.config import TrainConfig
from thinwire.train.inputs import NO_SOURCES, Sources, open_parents
from thinwire.train.loop import train
from thinwire.train.ranks import SINGLE, Ranks
from thinwire.train.result import TrainResult, result_of, write_model
from thinwire.train.stats import validation_losses
from thinwire.train.watch import Monitoring, WatchConfig, Watcher
from thinwire.view.report import REPORT, write_report


@dataclass(frozen=True)
class Watching:
    """What is measured while a run trains; none of it changes a weight."""

    config: WatchConfig = field(default_factory=WatchConfig)
    pruning: PruneConfig = field(default_factory=PruneConfig)
    """How circuits are pruned while the model trains."""
    track: tuple[str, ...] = ()
    """Sinks of the measurements besides metrics.jsonl, by name."""


def train_stage(
    config: TrainConfig,
    tokens: Tokens,
    out: Path,
    report: Report = silent,
    sources: Sources = NO_SOURCES,
    watching: Watching | None = None,
    device: str = "cpu",
    ranks: Ranks = SINGLE,
) -> TrainResult:
    """Train a model into the folder `out` as `thinwire.train.train` does, and write the run's report into it.

    A finished run of the same config is reused, an interrupted one resumes.
    Raises UserError for tasks that the tokens cannot express, and for everything that `train` raises it for.
    """
    out = Path(out)
    watching = watching or Watching()
    with ranks.together():
        watchers = _scorers(config, tokens, watching.config)
        if watching.config.circuits:
            opened = open_parents(tokens, sources.start, sources.teacher)
            watchers.append(FormingCircuits(config, tokens, out, watching, opened))
    reused = artifact.is_finished(out)
    result = train(config, tokens, out, sources, Monitoring(report, watchers, watching.track), device, ranks)
    if reused and ranks.first:
        report(config.steps, config.steps, Reused(out))
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
    """The watcher of task scores. Raises UserError now for what would fail at a later step."""
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
    """A watcher that prunes tasks at chosen steps, so that the circuits can be seen forming.

    Each step gets a workspace of its own, `OUT-forming/STEP`, with the sparse model of that step as a model artefact
    and a circuit artefact for each task. Circuits that an interrupted run has finished are reused.
    """

    config: TrainConfig
    tokens: Tokens
    out: Path
    watching: Watching
    parents: Mapping[str, Artifact]

    def due(self, step: int) -> bool:
        """Whether circuits are pruned after this step."""
        return step in self.watching.config.circuits_at

    def __call__(self, step: int, model: Transformer) -> dict[str, object]:
        """Per task the `nodes`, `edges` and `loss` of its circuit, or why it is `missed`."""
        work = Workspace(self.out.with_name(f"{self.out.name}-forming") / str(step))
        losses = validation_losses(model, self.tokens, self.config)
        result = result_of(model, self.config, self.tokens, losses, step, seconds=None)
        with artifact.replacing(work.model, "model") as folder:
            write_model(folder, model, self.config, self.tokens, self.parents, result)
        opened = Opened.open(work.model)
        return {"forming": {task: self._circuit(opened, task, work) for task in self.watching.config.circuits}}

    def _circuit(self, opened: Opened, task: str, work: Workspace) -> dict[str, object]:
        try:
            found = prune_stage(opened, self.tokens, find_task(task), self.watching.pruning, work.circuit(task))
        except TargetMissed as missed:
            return {"missed": str(missed)}
        assert found.scores is not None
        return {"nodes": len(found.nodes), "edges": found.scores.edges, "loss": found.scores.loss}
