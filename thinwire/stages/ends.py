"""The two models of a bridge, opened and checked against each other."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from thinwire import artifact
from thinwire.artifact import Artifact
from thinwire.bridge.crossings import Pair
from thinwire.bridge.maps import Junction, matching_points
from thinwire.bridge.prompts import NO_PROMPTS, Prompts
from thinwire.bridge.targets import OwnTarget
from thinwire.compiled.load import load_compiled
from thinwire.data import Tokenizer, Tokens
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.model.weights import load
from thinwire.tasks import Task


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
        """Open both models by folder or shipped name.

        Raises UserError for a folder without a finished model, and for models that do not fit each other or the tokens.
        """
        first, second = (artifact.open_artifact(Path(path), "model") for path in (dense, sparse))
        for found in (first, second):
            if Tokenizer.load(found.file("tokenizer.json")).id != tokens.tokenizer.id:
                raise UserError(
                    f"{found.path} and {tokens.artifact.path} have different tokenizers; "
                    "give a dense and a sparse model, and tokens, of one tokenizer."
                )
        pair = Pair.of(OwnTarget(load(first.path)), load_compiled(second))
        longest, needed = pair.dense.context, pair.sparse.config.context
        if longest < needed:
            raise UserError(
                f"The dense model takes {longest} tokens at most and the sparse one {needed}; "
                f"give a dense model with a context of at least {needed}."
            )
        return cls(pair, first, second, tokens, matching_points(pair.dense_points, pair.sparse_points))

    def with_tasks(self, tasks: Sequence[Task], share: float, seed: int) -> "Ends":
        """The same with training prompts of some tasks as so large a part of every batch. Raises as `Prompts.of`."""
        context = self.pair.sparse.config.context
        return replace(self, prompts=Prompts.of(tasks, share, self.tokens.tokenizer, context, seed))

    def parents(self, sparse: Artifact | None = None) -> dict[str, Artifact]:
        """The parents of a bridge by role; `sparse` replaces the sparse model."""
        return {"dense": self.dense, "sparse": sparse or self.sparse, "tokens": self.tokens.artifact}
