"""From a model and its tokens to the circuit of a task."""

from functools import partial
from pathlib import Path

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.circuit import Circuit
from thinwire.data import Tokens
from thinwire.progress import Report, silent
from thinwire.prune.config import PruneConfig
from thinwire.prune.means import mean_activations
from thinwire.prune.run import prune
from thinwire.prune.tune import forget, search_folder
from thinwire.stages.workspace import Opened
from thinwire.tasks import Task


def prune_stage(
    opened: Opened,
    tokens: Tokens,
    task: Task,
    config: PruneConfig,
    out: Path,
    report: Report = silent,
    again: bool = False,
) -> Circuit:
    """The circuit of a task in the folder `out`; a finished one there of the same config, model and tokens is
    reused, and any other is refused.

    With `again` it is always pruned again. A search keeps its trials in `OUT-search` and continues from there when it
    was interrupted.
    Raises UserError for tokens of another tokenizer, an `out` that cannot be written, and a target out of reach.
    """
    opened.check_tokens(tokens)
    artifact.refuse_foreign(out, "circuit")

    def make() -> Circuit:
        searched = search_folder(out) if config.search else None
        if again and searched:
            forget(searched)
        means = mean_activations(opened.model, tokens, config.mean_tokens, config.seed)
        subject = f"{opened.artifact.id} {tokens.artifact.id}"
        circuit = prune(opened.model, task, opened.tokenizer, means, config, report, searched, subject)
        circuit.save(out, config, opened.artifact, config.seed, tokens=tokens.artifact)
        return Circuit.load(out)

    differ = partial(differences, opened.artifact, tokens.artifact, task, config)
    return artifact.reuse_or_make(out, Circuit.load, differ, make, report, again)


def finished_circuit(
    model: Artifact, tokens: Artifact, task: Task, config: PruneConfig, folder: Path
) -> Circuit | None:
    """The finished circuit of a task in a folder; None where pruning must make it.

    Raises `artifact.Occupied` where there is one of another config, model, tokens or task.
    """
    return artifact.refuse_another(folder, Circuit.load, partial(differences, model, tokens, task, config))


def differences(model: Artifact, tokens: Artifact, task: Task, config: PruneConfig, found: Circuit) -> list[str]:
    """Names of what a finished circuit has another of: options, `model`, `tokens`, `task`.

    The means come from the tokens. A circuit of an earlier version does not name its tokens, and fits any.
    """
    assert found.artifact is not None
    named = {"model": model} | ({"tokens": tokens} if "tokens" in found.artifact.meta.parents else {})
    other_task = (found.task, found.task_source) != (task.name, task.source)
    return artifact.differences(found.artifact, config, named) + ["task"] * other_task
