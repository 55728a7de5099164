"""From a model and a circuit of it to the verdict on the circuit."""

from pathlib import Path

from thinwire import artifact
from thinwire.circuit import Circuit, circuit_task
from thinwire.progress import Report, silent
from thinwire.stages.workspace import Opened
from thinwire.tasks import Task
from thinwire.verify.config import VerifyConfig
from thinwire.verify.verdict import Verdict, finished_verdict, verify


def verify_stage(
    opened: Opened,
    circuit: Circuit,
    config: VerifyConfig | None,
    out: Path,
    report: Report = silent,
    again: bool = False,
    own: Task | None = None,
) -> Verdict:
    """The verdict on a circuit in the folder `out`; a finished one there of the same config is reused.

    Without a config, a finished verdict of any config is reused, and a new one has the default config. With `again` the
    circuit is always checked again. `own` is as in `verify`.
    Raises UserError for a circuit of another model, a task that cannot be found, and an `out` that cannot be written.
    """
    opened.check_circuit(circuit)
    parent = circuit.artifact
    assert parent is not None
    task = circuit_task(circuit, own)
    artifact.refuse_foreign(out, "verdict")

    def find() -> Verdict | None:
        return finished_verdict(circuit, out, config)

    def make() -> Verdict:
        chosen = config or VerifyConfig()
        verdict = verify(opened.model, circuit, opened.tokenizer, chosen, report, task)
        verdict.save(out, chosen, parent)
        return verdict

    return artifact.reuse_or_make(out, find, make, report, again)
