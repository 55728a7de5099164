"""What a run learns from: its tokens, its objective, and the model it starts from and the teacher, if any."""

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.model.transformer import Transformer
from thinwire.model.weights import load
from thinwire.train.config import TrainConfig
from thinwire.train.language import LANGUAGE_MODELING
from thinwire.train.objective import ObjectiveFactory


@dataclass(frozen=True)
class Sources:
    """What a run learns from: models, by folder or by the name of a shipped model, and the objective."""

    start: Path | str | None = None
    """Model of the run's shape whose weights the run starts from; None starts from random weights."""
    teacher: Path | str | None = None
    """Model that the objective may compare with, trained on the same tokens; None for no teacher."""
    objective: ObjectiveFactory = LANGUAGE_MODELING
    """Builds the loss that is minimized: see `thinwire.train.objective`."""


NO_SOURCES = Sources()
"""A run that starts from random weights, without a teacher, and learns to predict the next token."""


@dataclass(frozen=True)
class Inputs:
    """The parents of a run, opened and checked against its config."""

    tokens: Tokens
    parents: dict[str, Artifact]
    start: Transformer | None = None
    teacher: Transformer | None = None

    @classmethod
    def open(
        cls, config: TrainConfig, tokens: Tokens, start: Path | str | None = None, teacher: Path | str | None = None
    ) -> Self:
        """Open the model folders. Raises UserError for any that does not fit the config or the tokens."""
        check_tokens(config, tokens)
        parents = open_parents(tokens, start, teacher)
        models = {role: load(parent.path) for role, parent in parents.items() if role != "tokens"}
        if "start" in models and models["start"].config != config.model:
            raise UserError(f"{start} holds a model of another shape than this run's; give the run the same model.")
        if "teacher" in models and models["teacher"].config.vocab_size != config.model.vocab_size:
            raise UserError(f"{teacher} has another vocabulary than this run; choose a teacher trained on its tokens.")
        return cls(tokens, parents, models.get("start"), models.get("teacher"))

    @property
    def ids(self) -> dict[str, str]:
        """Content hash of each parent, by its role."""
        return {role: parent.id for role, parent in self.parents.items()}


def open_parents(
    tokens: Tokens, start: Path | str | None = None, teacher: Path | str | None = None
) -> dict[str, Artifact]:
    """The parent artefacts of a run, by role. Raises UserError for a folder without a finished model."""
    models = {"start": start, "teacher": teacher}
    opened = {
        role: artifact.open_artifact(Path(folder), "model") for role, folder in models.items() if folder is not None
    }
    return {"tokens": tokens.artifact} | opened


def check_tokens(config: TrainConfig, tokens: Tokens) -> None:
    """Raise UserError when the tokens have another vocabulary than the model, or too few for its context."""
    if config.model.vocab_size != tokens.tokenizer.vocab_size:
        raise UserError(
            f"The model has a vocabulary of {config.model.vocab_size} and the tokens one of "
            f"{tokens.tokenizer.vocab_size}; set model.vocab_size to the tokens' or use other tokens."
        )
    tokens.batch(0, config.seed, 1, config.model.context)
    for part in tokens.parts:
        tokens.validation(part, 1, config.model.context)
