"""Tasks: pairs of prompts that differ only in what decides the next token, the task loss, and a registry."""

from thinwire.data.words import SPLITS, Split
from thinwire.tasks import brackets, calls, control_flow, perturb_own, strings, variables
from thinwire.tasks.batch import (
    REST,
    Pair,
    PairBatch,
    accuracy,
    accuracy_of,
    auc_of,
    last_logits,
    loss_of,
    margin,
    margin_losses,
    norms_on,
    p_correct,
    sequence_losses,
    task_loss,
    whole_sublayers,
)
from thinwire.tasks.controls import CONTROLS, Control
from thinwire.tasks.find import find_task, find_tasks
from thinwire.tasks.from_file import task_from_file
from thinwire.tasks.perturb import PERTURBATIONS, Perturbation, perturbation, perturbations
from thinwire.tasks.task import MAX_PAIRS, TASKS, CannotExpress, Score, Task, task
from thinwire.tasks.use import PairUse, flat_use, use_sentence

__all__ = [
    "CONTROLS",
    "MAX_PAIRS",
    "PERTURBATIONS",
    "REST",
    "SPLITS",
    "TASKS",
    "CannotExpress",
    "Control",
    "Pair",
    "PairBatch",
    "PairUse",
    "Perturbation",
    "Score",
    "Split",
    "Task",
    "accuracy",
    "accuracy_of",
    "auc_of",
    "brackets",
    "calls",
    "control_flow",
    "find_task",
    "find_tasks",
    "flat_use",
    "last_logits",
    "loss_of",
    "margin",
    "margin_losses",
    "norms_on",
    "p_correct",
    "perturb_own",
    "perturbation",
    "perturbations",
    "sequence_losses",
    "strings",
    "task",
    "task_from_file",
    "task_loss",
    "use_sentence",
    "variables",
    "whole_sublayers",
]
