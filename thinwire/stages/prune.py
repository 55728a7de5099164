"""From a model and its tokens to the circuit of a task."""

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
    reused.

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

    def find() -> Circuit | None:
        return finished_circuit(opened.artifact, tokens.artifact, task, config, out)

    return artifact.reuse_or_make(out, find, make, report, again)


def finished_circuit(
    model: Artifact, tokens: Artifact, task: Task, config: PruneConfig, folder: Path
) -> Circuit | None:
    """The finished circuit of a task in a folder, of this config, model and tokens; None where pruning must make it.

    The means come from the tokens. A circuit of an earlier version does not name its tokens, and fits any.
    """

    def fits(found: Circuit) -> bool:
        assert found.artifact is not None
        same_task = (found.task, found.task_source) == (task.name, task.source)
        parents = found.artifact.meta.parents
        same_parents = parents.get("model") == model.id and parents.get("tokens", tokens.id) == tokens.id
        return same_task and same_parents and found.artifact.config(PruneConfig) == config

    return artifact.finished(folder, Circuit.load, fits)
