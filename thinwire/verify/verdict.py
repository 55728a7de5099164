"""The verdict on a circuit: every registered check, on pairs that pruning never used."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import with_config

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.circuit import Circuit, circuit_task
from thinwire.config import STRICT, read_record
from thinwire.data.tokenizer import Tokenizer
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.progress import Report, silent
from thinwire.tasks import Task
from thinwire.verify.config import VerifyConfig
from thinwire.verify.subject import CHECKS, Row, Subject

# Checks register when they are imported, and a verdict's rows stand in this order.
# isort: off
from thinwire.verify import sufficiency  # noqa: F401
from thinwire.verify import necessity  # noqa: F401
from thinwire.verify import random_circuits  # noqa: F401
# isort: on


@with_config(STRICT)
@dataclass(frozen=True)
class Verdict:
    """What the checks found."""

    task: str
    nodes: int
    edges: int
    target_loss: float
    pairs: int
    """Held-out pairs that every row is measured on."""
    rows: tuple[Row, ...]

    def __getitem__(self, name: str) -> Row:
        """The row called `name`. Raises KeyError."""
        return {row.name: row for row in self.rows}[name]

    def save(self, folder: Path | str, config: VerifyConfig, circuit: Artifact) -> None:
        """Write the verdict as an artefact folder whose parent is the circuit's."""
        with artifact.replacing(Path(folder), "verdict") as scratch:
            artifact.write_text(scratch / "verdict.json", json.dumps(asdict(self), indent=1))
            artifact.finish(scratch, "verdict", config, {"circuit": circuit}, ["verdict.json"], config.seed)

    @classmethod
    def load(cls, folder: Path | str) -> "Verdict":
        """The verdict in an artefact folder. Raises UserError when it is not a whole one."""
        opened = artifact.open_artifact(Path(folder), "verdict")
        refusal = f"{folder} does not hold a readable verdict; verify again."
        verdict = read_record(cls, opened.path / "verdict.json", refusal)
        if not {"sufficiency", "necessity", "random", "unpruned"} <= {row.name for row in verdict.rows}:
            raise UserError(refusal)
        return verdict


def finished_verdict(circuit: Circuit, folder: Path, config: VerifyConfig | None = None) -> Verdict | None:
    """The verdict on exactly this circuit in a folder, of any config or this one; None where there is no whole one."""
    assert circuit.artifact is not None
    if not artifact.is_finished(folder):
        return None
    try:
        found = artifact.open_artifact(folder, "verdict")
        same = found.meta.parents.get("circuit") == circuit.artifact.id
        return Verdict.load(folder) if same and config in (None, found.config(VerifyConfig)) else None
    except UserError:
        return None


def verify(
    model: Transformer,
    circuit: Circuit,
    tokenizer: Tokenizer,
    config: VerifyConfig | None = None,
    report: Report = silent,
    own: Task | None = None,
) -> Verdict:
    """Run every registered check; `own` is the circuit's task where it is not a registered one.

    Raises UserError when circuit, model and task do not belong together.
    """
    config = config or VerifyConfig()
    circuit.check_model(model)
    task, context = circuit_task(circuit, own), model.config.context
    subject = Subject(
        model,
        circuit,
        task.pairs(config.pairs, "heldout", config.seed, tokenizer, context),
        task.pairs(config.pairs, "train", config.seed, tokenizer, context),
        config,
    )
    rows = []
    for name in CHECKS:
        rows.append(CHECKS[name](subject))
        report(len(rows), len(CHECKS), f"{name} loss {rows[-1].loss:.3f}")
    target = circuit.scores.target_loss if circuit.scores else float("nan")
    return Verdict(circuit.task, len(circuit.nodes), len(circuit.edges(model)), target, config.pairs, tuple(rows))
