"""Workspaces and opened models.

A workspace keeps one model's artefacts together, so that verbs find parents by place:
`WORK/tokens`, `WORK/model`, `WORK/circuits/TASK`, `WORK/verdicts/TASK`, `WORK/index.html`.
A training run that is watched leaves a workspace for each step its circuits were pruned at, `WORK/model-forming/STEP`.
The workspace of a shipped model is `runs/NAME` in the current folder; a copy of the model is put there.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path

from thinwire import artifact, shipped
from thinwire.artifact import Artifact
from thinwire.artifact.meta import META
from thinwire.circuit import Circuit
from thinwire.compiled.load import load_compiled
from thinwire.data import Tokenizer, Tokens
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer


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

    def circuits(self) -> list[Path]:
        """The folders of the finished circuits, sorted. Raises UserError as `finished_in` does."""
        return finished_in(self.root / "circuits", "circuit")

    def verdicts(self) -> list[Path]:
        """The same of the verdicts."""
        return finished_in(self.root / "verdicts", "verdict")

    def verdict_on(self, circuit: Circuit) -> Path:
        """The folder of the verdict on a stored circuit: a circuit that is not the workspace's has one of its own."""
        made = circuit.artifact
        assert made is not None
        if made.path.absolute() == self.circuit(circuit.task).absolute() or not self._is_of_another(circuit):
            return self.verdict(circuit.task)
        return self.verdict(f"{circuit.task}-{made.id[:8]}")

    def _is_of_another(self, circuit: Circuit) -> bool:
        """Whether the workspace has a circuit of this task, or a verdict on one, and it is not this circuit."""
        made, verdict = circuit.artifact, self.verdict(circuit.task)
        assert made is not None
        if artifact.is_finished(verdict):
            return self.judges_another(verdict, made)
        return artifact.is_finished(self.circuit(circuit.task))

    @staticmethod
    def judges_another(verdict: Path, circuit: Artifact) -> bool:
        """Whether the folder of a verdict has one that is on another circuit; a damaged one does not count."""
        if not artifact.is_finished(verdict):
            return False
        try:
            return artifact.read_meta(verdict / META).parents.get("circuit") != circuit.id
        except UserError:
            return False

    @classmethod
    def of_model(cls, model: Path) -> "Workspace":
        """The workspace that contains a model folder; that of a shipped model is `runs/NAME`."""
        name = shipped.name_of(model)
        return cls(Path("runs") / name if name else Path(model).absolute().parent)

    def open_tokens(self, given: Path | None, model: Path) -> Tokens:
        """The tokens in `given`, by default those of the workspace. Raises UserError when there are none."""
        name = shipped.name_of(model)
        if given is None and name and not artifact.is_finished(self.tokens):
            remedy = f"make them with `thinwire data --tokenizer {name} --out {self.tokens}`, or give --tokens"
            raise UserError(f"There are no tokens of {name} in {self.tokens}; {remedy}.")
        return Tokens.open(given or self.tokens)

    def adopt(self, model: Artifact) -> None:
        """Copy a shipped model into the workspace, so that later stages find it by place; do nothing for other models.

        Raises UserError when the workspace has another model.
        """
        if shipped.name_of(model.path) is None:
            return
        if self.model.exists():
            if artifact.open_artifact(self.model, "model").id != model.id:
                raise UserError(f"{self.model} holds another model than {model.path}; choose another --out.")
            return
        with artifact.replacing(self.model, "model") as folder:
            for name in model.meta.files:
                shutil.copyfile(model.file(name), folder / name)
            shutil.copyfile(model.meta_file, folder / META)


def finished_in(folder: Path, kind: str) -> list[Path]:
    """The finished artefacts of a format that lie in a folder, sorted; those being written there do not count.

    Raises UserError where the folder cannot be read, and for a `meta.json` that is damaged.
    """
    try:
        found = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); make it readable.") from None
    return [path for path in found if artifact.is_finished(path) and artifact.read_head(path / META).format == kind]


@one_line
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
        return cls(found, load_compiled(found), Tokenizer.load(found.file("tokenizer.json")))

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
