"""The two models of a bridge, opened and checked against each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.bridge.crossings import Pair
from thinwire.bridge.hf.folder import check_vocabulary, contents, is_hf_folder, load_hf
from thinwire.bridge.maps import Junction, matching_points
from thinwire.bridge.prompts import NO_PROMPTS, Prompts
from thinwire.bridge.targets import OwnTarget, Target
from thinwire.compiled.load import load_compiled
from thinwire.data import Tokenizer, Tokens
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.model.weights import load
from thinwire.tasks import Task


@one_line
@dataclass(frozen=True)
class Dense:
    """A dense model, opened."""

    target: Target
    artifact: Artifact
    """Of a Hugging Face model, its config and weight files."""

    @classmethod
    def open(cls, path: Path | str, tokenizer: Tokenizer) -> "Dense":
        """Open a model of this package, by folder or shipped name, or a folder of a Hugging Face model.

        Raises UserError for anything else, and for a model of another tokenizer.
        """
        path = Path(path)
        if not is_hf_folder(path):
            found = _model_of(path, tokenizer)
            return cls(OwnTarget(load(found.path)), found)
        target = load_hf(path)
        check_vocabulary(path, target, tokenizer)
        return cls(target, contents(path))


def _model_of(path: Path | str, tokenizer: Tokenizer) -> Artifact:
    """A model of this package, with its tokenizer checked."""
    found = artifact.open_artifact(Path(path), "model")
    if Tokenizer.load(found.file("tokenizer.json")).id != tokenizer.id:
        raise UserError(
            f"{found.path} and the tokens have different tokenizers; "
            "give a dense and a sparse model, and tokens, of one tokenizer."
        )
    return found


@one_line
@dataclass(frozen=True)
class Ends:
    """The two models of a bridge, opened, and the tokens that it is fitted on."""

    pair: Pair
    """The sparse model on sparse kernels."""
    dense: Artifact
    sparse: Artifact
    tokens: Tokens
    junctions: tuple[Junction, ...]
    prompts: Prompts = NO_PROMPTS
    """Of the tasks whose prompts are among the tokens."""

    @classmethod
    def open(cls, dense: Path | str, sparse: Path | str, tokens: Tokens) -> "Ends":
        """Open both models by folder or shipped name; the dense one may be a Hugging Face model.

        Raises UserError for a folder without a finished model, and for models that do not fit each other or the tokens.
        """
        second = _model_of(sparse, tokens.tokenizer)
        first = Dense.open(dense, tokens.tokenizer)
        pair = Pair.of(first.target, load_compiled(second))
        longest, needed = pair.dense.context, pair.sparse.config.context
        if longest < needed:
            raise UserError(
                f"The dense model takes {longest} tokens at most and the sparse one {needed}; "
                f"give a dense model with a context of at least {needed}."
            )
        junctions = matching_points(pair.dense_points, pair.sparse_points, pair.dense.per_layer)
        return cls(pair, first.artifact, second, tokens, junctions)

    def with_tasks(self, tasks: Sequence[Task], share: float, seed: int) -> "Ends":
        """The same with training prompts of some tasks as so large a part of every batch. Raises as `Prompts.of`."""
        context = self.pair.sparse.config.context
        return replace(self, prompts=Prompts.of(tasks, share, self.tokens.tokenizer, context, seed))

    def parents(self, sparse: Artifact | None = None) -> dict[str, Artifact]:
        """The parents of a bridge by role; `sparse` replaces the sparse model."""
        return {"dense": self.dense, "sparse": sparse or self.sparse, "tokens": self.tokens.artifact}
