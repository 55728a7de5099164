"""Finds the task that a circuit was pruned on."""

from dataclasses import replace

from thinwire.circuit.circuit import Circuit
from thinwire.errors import UserError
from thinwire.tasks import Task, find_task


def circuit_task(circuit: Circuit, own: Task | None = None) -> Task:
    """The task of a circuit: a registered one, the user's `own` task (from a file), or a control of either.

    A file is identified by its content and may have been renamed. Raises UserError when the circuit's task came from a
    file other than that of `own`, when it did not come from a file but `own`, of the same name, does, and for unknown
    names.
    """
    name, source, base = circuit.task, circuit.task_source, circuit.task.partition(".")[0]
    if own is None and source:
        raise UserError(f"The {name} circuit is of a task from a file; give that file with --task-file.")
    if own is None or own.source == source == "":
        return find_task(name, own)
    if own.source == source:
        return find_task(name, own if own.base == base or own.control else replace(own, name=base))
    if source:
        raise UserError(f"The {name} circuit is of a task from another file; give the file it was pruned on.")
    if own.base == base:
        raise UserError(
            f"The {name} circuit is of a task defined in code, not of one from a file; leave --task-file out."
        )
    return find_task(name)
