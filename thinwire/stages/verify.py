"""From a model and a circuit of it to the verdict on the circuit."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.bridge.checks import BridgeChecks
from thinwire.circuit import Circuit, circuit_task
from thinwire.data import Tokens
from thinwire.progress import Note, Report, silent
from thinwire.stages.bridged import Bridged
from thinwire.stages.workspace import Opened, Workspace
from thinwire.tasks import Task
from thinwire.verify.config import VerifyConfig
from thinwire.verify.verdict import Verdict, differences, finished_verdict, verdict_parents, verify
from thinwire.view.samples import held_out

ROWS = 64
"""Held-out pretraining sequences whose values stand in for those of nodes outside a circuit."""


@dataclass(frozen=True)
class Also:
    """What a verdict is made with beside the model and the circuit."""

    tokens: Tokens | None = None
    """Whose held-out sequences stand in for nodes outside; None leaves out the checks that need them."""
    task: Task | None = None
    """The circuit's task where it is not a registered one."""
    bridged: Bridged | None = None
    """A bridge of the circuit's model; None leaves out the checks through it."""

    def parents(self) -> dict[str, Artifact]:
        """The further parents of the verdict, by role."""
        tokens = {} if self.tokens is None else {"tokens": self.tokens.artifact}
        return tokens | ({} if self.bridged is None else {"bridge": self.bridged.stored.artifact})


NOTHING = Also()


def verify_stage(
    opened: Opened,
    circuit: Circuit,
    config: VerifyConfig | None,
    out: Path,
    report: Report = silent,
    again: bool = False,
    also: Also = NOTHING,
) -> Verdict:
    """The verdict on a circuit in the folder `out`; a finished one there of the same config is reused, and any other
    is refused.

    Without a config, a finished verdict of any config is reused, and a new one has the default config. With `again` the
    circuit is always checked again, and so it is where the finished verdict lacks only what `also` gives.
    Raises UserError for a circuit of another model or bridge, tokens of another tokenizer, a task that cannot be found,
    and an `out` that cannot be written.
    """
    opened.check_circuit(circuit)
    if also.bridged is not None:
        also.bridged.check_circuit(circuit)
    if also.tokens is not None:
        opened.check_tokens(also.tokens)
    task, parents = circuit_task(circuit, also.task), verdict_parents(circuit, also.parents())
    artifact.refuse_foreign(out, "verdict")

    def make() -> Verdict:
        chosen, bridged = config or VerifyConfig(), also.bridged
        further = () if bridged is None else BridgeChecks(bridged.dense.target, bridged.decoder()).all()
        context, rows = opened.model.config.context, None
        if also.tokens is not None:
            rows = torch.from_numpy(held_out(also.tokens, ROWS * context, context).tokens)
        verdict = verify(opened.model, circuit, opened.tokenizer, chosen, report, task, further, rows)
        verdict.save(out, chosen, parents)
        return verdict

    def lacks() -> bool:
        """Whether the finished verdict is this one without what `also` gives: one with it has all that it has."""
        if finished_verdict(circuit, out, config) is None:
            return False
        return not also.parents().keys() <= artifact.open_artifact(out, "verdict").meta.parents.keys()

    differ = partial(differences, parents, out, config)
    return artifact.reuse_or_make(out, Verdict.load, differ, make, report, again or lacks())


def tokens_near(work: Workspace, opened: Opened) -> Tokens | None:
    """The tokens of a workspace, if there are some that the model's tokenizer made and that have held-out text."""
    if not artifact.is_finished(work.tokens):
        return None
    tokens, context = Tokens.open(work.tokens), opened.model.config.context
    long_enough = any(tokens.n_tokens(part, "validation") > context for part in tokens.parts)
    return tokens if tokens.tokenizer.id == opened.tokenizer.id and long_enough else None


def verify_in(
    work: Workspace,
    opened: Opened,
    circuit: Circuit,
    config: VerifyConfig | None,
    report: Report = silent,
    again: bool = False,
    also: Also = NOTHING,
) -> Verdict:
    """The verdict on a circuit in its place in a workspace, as `verify_stage` makes it.

    A verdict on an earlier circuit, which this one has replaced, is replaced too.
    """
    out, parent = work.verdict_on(circuit), circuit.artifact
    assert parent is not None
    if replaced := work.judges_another(out, parent):
        report(0, 1, Note(f"{out} is the verdict on an earlier circuit; this one is checked again."))
    return verify_stage(opened, circuit, config, out, report, again or replaced, also)
