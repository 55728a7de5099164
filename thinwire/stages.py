"""Stages from folder to folder: each reads its parents' artefacts, reuses what is finished, and writes its own.

A workspace keeps one model's artefacts together, so that verbs find parents by place:
`WORK/tokens`, `WORK/model`, `WORK/circuits/TASK`, `WORK/verdicts/TASK`, `WORK/index.html`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.circuit import Circuit
from thinwire.data import Tokenizer, Tokens
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.model.weights import load
from thinwire.progress import Report, silent
from thinwire.prune.config import PruneConfig
from thinwire.prune.means import mean_activations
from thinwire.prune.run import prune
from thinwire.tasks import TASKS
from thinwire.train.loop import read_result
from thinwire.verify.config import VerifyConfig
from thinwire.verify.verdict import Verdict, verify
from thinwire.view import page
from thinwire.view.build import Case, Origin, PageConfig, payload_from


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
        """The workspace a model folder lies in."""
        return cls(Path(model).absolute().parent)


@dataclass(frozen=True)
class Opened:
    """A model with its artefact and the tokenizer it was trained with."""

    artifact: Artifact
    model: Transformer
    tokenizer: Tokenizer

    @classmethod
    def open(cls, folder: Path | str) -> "Opened":
        """Open a model folder. Raises UserError when it is not a finished model."""
        found = artifact.open_artifact(Path(folder), "model")
        return cls(found, load(folder), Tokenizer.load(found.path / "tokenizer.json"))

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


def prune_stage(
    opened: Opened,
    tokens: Tokens,
    task: str,
    config: PruneConfig,
    out: Path,
    report: Report = silent,
    again: bool = False,
) -> Circuit:
    """The circuit of a task in the folder `out`; one found there with the same config and model is returned."""
    chosen = TASKS[task]
    opened.check_tokens(tokens)
    artifact.refuse_foreign(out, "circuit")
    found = None if again else _finished_circuit(out)
    if found is not None and found.task == task and found.artifact is not None:
        same_model = found.artifact.meta.parents.get("model") == opened.artifact.id
        if same_model and found.artifact.config(PruneConfig) == config:
            return found
    means = mean_activations(opened.model, tokens, config.mean_tokens, config.seed)
    circuit = prune(opened.model, chosen, opened.tokenizer, means, config, report)
    circuit.save(out, config, opened.artifact, config.seed)
    return Circuit.load(out)


def _finished_circuit(folder: Path) -> Circuit | None:
    """The circuit in a folder; None where there is none, or a damaged one, which pruning again is for."""
    try:
        return Circuit.load(folder) if artifact.is_finished(folder) else None
    except UserError:
        return None


def finished_verdict(circuit: Circuit, folder: Path) -> Verdict | None:
    """The verdict on exactly this circuit in a folder, whatever its config; None where there is no whole one."""
    assert circuit.artifact is not None
    if not artifact.is_finished(folder):
        return None
    try:
        found = artifact.open_artifact(folder, "verdict")
        return Verdict.load(folder) if found.meta.parents.get("circuit") == circuit.artifact.id else None
    except UserError:
        return None


def verify_stage(
    opened: Opened, circuit: Circuit, config: VerifyConfig, out: Path, report: Report = silent, again: bool = False
) -> Verdict:
    """The verdict on a circuit in the folder `out`; one found there with the same config and circuit is returned."""
    opened.check_circuit(circuit)
    assert circuit.artifact is not None
    artifact.refuse_foreign(out, "verdict")
    found = None if again else finished_verdict(circuit, out)
    if found is not None and artifact.open_artifact(out, "verdict").config(VerifyConfig) == config:
        return found
    verdict = verify(opened.model, circuit, opened.tokenizer, config, report)
    verdict.save(out, config, circuit.artifact)
    return verdict


def view_stage(
    opened: Opened,
    tokens: Tokens,
    cases: Sequence[tuple[Circuit, Verdict]],
    out: Path,
    config: PageConfig | None = None,
    report: Report = silent,
) -> None:
    """Write one self-contained HTML page with all the circuits. Raises UserError when `out` cannot be written."""
    opened.check_tokens(tokens)
    if out.is_dir():
        raise UserError(f"{out} is a folder; give the name of an HTML file for --out.")
    artifact.make_parents(out)
    result = read_result(opened.artifact.path)
    origin = Origin(opened.artifact.id, result.val_loss, opened.artifact.meta.seed)
    payload = payload_from(opened.model, tokens, [Case(c, v, v.pairs) for c, v in cases], origin, config, report)
    try:
        page.write(payload, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); choose another --out.") from None
