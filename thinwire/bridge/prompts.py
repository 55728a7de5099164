"""Prompts of tasks among the tokens that a bridge is fitted on, so that it carries what the tasks need."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Self

import torch
from torch import Tensor

from thinwire.data import Tokenizer
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.tasks import Task
from thinwire.tasks.batch import REST

PAIRS = 2048
"""Training pairs of each task that are drawn."""


def labels(tasks: Sequence[Task]) -> tuple[str, ...]:
    """The tasks as a config names them: `NAME`, or for one of a file `NAME:HASH`, as other pairs are another task."""
    return tuple(f"{task.name}:{task.source}" if task.source else task.name for task in tasks)


@one_line
@dataclass(frozen=True)
class Prompts:
    """Training prompts of tasks, each with its right answer, packed into rows as the documents of a corpus are."""

    tasks: tuple[str, ...] = ()
    """As in `labels`."""
    share: float = 0.0
    """Part of the sequences of each batch that are rows of prompts."""
    rows: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.int64, device="cpu"), compare=False)
    """int64 [rows, context + 1]"""

    @classmethod
    def of(cls, tasks: Sequence[Task], share: float, tokenizer: Tokenizer, context: int, seed: int) -> Self:
        """Draw training pairs of some tasks and pack their prompts.

        Raises UserError where a tokenizer cannot express a task, and for tasks with too few prompts to fill a row.
        """
        documents = [document for task in tasks for document in _documents(task, tokenizer, context, seed)]
        order = torch.randperm(len(documents), generator=_generator(seed), dtype=torch.int64, device="cpu").tolist()
        stream = torch.cat([torch.zeros(0, dtype=torch.int64, device="cpu"), *(documents[i] for i in order)])
        n = len(stream) // (context + 1)
        if tasks and share and not n:
            raise UserError(
                f"The training prompts of {', '.join(labels(tasks))} fill no sequence of {context + 1} tokens; "
                "give a task with more pairs."
            )
        return cls(labels(tasks), share, stream[: n * (context + 1)].view(n, context + 1))

    def among(self, batch: Tensor, step: int) -> Tensor:
        """A batch of tokens [batch, context + 1], of which the last sequences are rows of prompts drawn at random."""
        n = round(self.share * len(batch)) if len(self.rows) else 0
        if not n:
            return batch
        chosen = torch.randint(len(self.rows), (n,), generator=_generator(step), dtype=torch.int64, device="cpu")
        return torch.cat([batch[: len(batch) - n], self.rows[chosen].to(batch)])


NO_PROMPTS = Prompts()


def _documents(task: Task, tokenizer: Tokenizer, context: int, seed: int) -> list[Tensor]:
    """An end of text, a prompt and its right answer, if that is one token: int64 [length] each."""
    batch = task.pairs(PAIRS, "train", seed, tokenizer, context)
    ends = zip(batch.tokens, batch.last.tolist(), batch.target, strict=True)
    return [torch.cat([row[: last + 1], target[None][target[None] != REST]]) for row, last, target in ends]


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)
