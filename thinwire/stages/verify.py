"""From a model and a circuit of it to the verdict on the circuit."""

from functools import partial
from pathlib import Path

from thinwire import artifact
from thinwire.bridge.checks import BridgeChecks
from thinwire.circuit import Circuit, circuit_task
from thinwire.progress import Note, Report, silent
from thinwire.stages.bridged import Bridged
from thinwire.stages.workspace import Opened, Workspace
from thinwire.tasks import Task
from thinwire.verify.config import VerifyConfig
from thinwire.verify.verdict import Verdict, differences, finished_verdict, verify


def verify_stage(
    opened: Opened,
    circuit: Circuit,
    config: VerifyConfig | None,
    out: Path,
    report: Report = silent,
    again: bool = False,
    own: Task | None = None,
    bridged: Bridged | None = None,
) -> Verdict:
    """The verdict on a circuit in the folder `out`; a finished one there of the same config is reused, and any other
    is refused.

    Without a config, a finished verdict of any config is reused, and a new one has the default config. With `again` the
    circuit is always checked again. `own` is as in `verify`. With a bridge, the checks through it are made too.
    Raises UserError for a circuit of another model or bridge, a task that cannot be found, and an `out` that cannot be
    written.
    """
    opened.check_circuit(circuit)
    if bridged is not None:
        bridged.check_circuit(circuit)
    parent = circuit.artifact
    assert parent is not None
    task = circuit_task(circuit, own)
    artifact.refuse_foreign(out, "verdict")

    def make() -> Verdict:
        chosen = config or VerifyConfig()
        further = () if bridged is None else BridgeChecks(bridged.dense.target, bridged.decoder()).all()
        verdict = verify(opened.model, circuit, opened.tokenizer, chosen, report, task, further)
        verdict.save(out, chosen, parent, bridge)
        return verdict

    bridge = None if bridged is None else bridged.stored.artifact

    def lacks_bridge() -> bool:
        """Whether a verdict of the same options is there without a bridge: one with it has all that this has."""
        if bridge is None or finished_verdict(circuit, out, config) is None:
            return False
        return "bridge" not in artifact.open_artifact(out, "verdict").meta.parents

    differ = partial(differences, circuit, out, config, bridge)
    return artifact.reuse_or_make(out, Verdict.load, differ, make, report, again or lacks_bridge())


def verify_in(
    work: Workspace,
    opened: Opened,
    circuit: Circuit,
    config: VerifyConfig | None,
    report: Report = silent,
    again: bool = False,
    own: Task | None = None,
    bridged: Bridged | None = None,
) -> Verdict:
    """The verdict on a circuit in its place in a workspace, as `verify_stage` makes it.

    A verdict on an earlier circuit, which this one has replaced, is replaced too.
    """
    out, parent = work.verdict_on(circuit), circuit.artifact
    assert parent is not None
    if replaced := work.judges_another(out, parent):
        report(0, 1, Note(f"{out} is the verdict on an earlier circuit; this one is checked again."))
    return verify_stage(opened, circuit, config, out, report, again or replaced, own, bridged)
