"""Scores tasks while a model trains: a watcher of the training loop."""

from dataclasses import dataclass

from thinwire.data.tokenizer import Tokenizer
from thinwire.model.transformer import Transformer
from thinwire.tasks.find import find_task


@dataclass(frozen=True)
class TaskScores:
    """Scores tasks on validation pairs every `every` steps, and after the last one."""

    tasks: tuple[str, ...]
    tokenizer: Tokenizer
    context: int
    every: int
    steps: int
    """Number of steps of the training run."""
    pairs: int = 256
    seed: int = 0

    def check(self) -> None:
        """Raise UserError for unknown tasks, and for tasks that the tokenizer or the context cannot express."""
        for name in self.tasks:
            find_task(name).pairs(self.pairs, "validation", self.seed, self.tokenizer, self.context)

    def due(self, step: int) -> bool:
        """Whether the model is scored after this step."""
        return bool(self.tasks) and (step % self.every == 0 or step == self.steps)

    def __call__(self, step: int, model: Transformer) -> dict[str, object]:
        """Per task its `loss` in nats and its `accuracy`."""
        tasks = map(find_task, self.tasks)
        scores = [task.score(model, self.tokenizer, "validation", self.pairs, self.seed) for task in tasks]
        return {"tasks": {score.task: {"loss": score.loss, "accuracy": score.accuracy} for score in scores}}
