"""The verdict on a circuit: every registered check, on pairs that pruning never used."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.circuit import Circuit
from thinwire.data.tokenizer import Tokenizer
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.progress import Report, silent
from thinwire.tasks import TASKS
from thinwire.verify import necessity, random_circuits, sufficiency  # noqa: F401 (they register their checks)
from thinwire.verify.config import VerifyConfig
from thinwire.verify.subject import CHECKS, Row, Subject


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
        try:
            stored = json.loads((opened.path / "verdict.json").read_text(encoding="utf-8"))
            rows = tuple(Row(**row | {"losses": tuple(row["losses"])}) for row in stored.pop("rows"))
            return cls(**stored, rows=rows)
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError):
            raise UserError(f"{folder} does not hold a readable verdict; verify again.") from None


def verify(
    model: Transformer,
    circuit: Circuit,
    tokenizer: Tokenizer,
    config: VerifyConfig | None = None,
    report: Report = silent,
) -> Verdict:
    """Run every registered check. Raises UserError when circuit and model do not belong together."""
    config = config or VerifyConfig()
    circuit.check_model(model)
    task, context = TASKS[circuit.task], model.config.context
    subject = Subject(
        model,
        circuit,
        task.pairs(config.pairs, "heldout", config.seed, tokenizer, context),
        task.pairs(config.pairs, "train", config.seed, tokenizer, context),
        config.random_circuits,
        config.max_logit_scale,
        config.seed,
    )
    rows = []
    for name in CHECKS:
        rows.append(CHECKS[name](subject))
        report(len(rows), len(CHECKS), f"{name} loss {rows[-1].loss:.3f}")
    target = circuit.scores.target_loss if circuit.scores else float("nan")
    return Verdict(circuit.task, len(circuit.nodes), len(circuit.edges(model)), target, config.pairs, tuple(rows))
