"""Tasks: pairs of prompts that differ only in what decides the next token, their loss, and a registry of them."""

from thinwire.data.words import SPLITS, Split
from thinwire.tasks import brackets, calls, control_flow, strings, variables
from thinwire.tasks.batch import (
    REST,
    Pair,
    PairBatch,
    accuracy,
    last_logits,
    margin,
    margin_losses,
    sequence_losses,
    task_loss,
)
from thinwire.tasks.task import TASKS, Score, Task, task

__all__ = [
    "REST",
    "SPLITS",
    "TASKS",
    "Pair",
    "PairBatch",
    "Score",
    "Split",
    "Task",
    "accuracy",
    "brackets",
    "calls",
    "control_flow",
    "last_logits",
    "margin",
    "margin_losses",
    "sequence_losses",
    "strings",
    "task",
    "task_loss",
    "variables",
]
