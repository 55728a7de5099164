"""Which task a circuit is of: the registered one, a file's known by its content, or a control of either."""

import planted
import pytest

from thinwire.circuit import Circuit, circuit_task
from thinwire.errors import UserError
from thinwire.tasks import TASKS, Task, find_task

FILE, OTHER = "0123456789abcdef", "fedcba9876543210"
PLANT = planted.chain()


def circuit(task: str, source: str = "") -> Circuit:
    return Circuit(task, PLANT.model.config, PLANT.nodes, PLANT.means, task_source=source)


def own(name: str = "mine", source: str = FILE) -> Task:
    return Task(name, "mine", TASKS["var_if"].draw, source)


def refused(circuit: Circuit, task: Task | None) -> str:
    with pytest.raises(UserError) as caught:
        circuit_task(circuit, task)
    return str(caught.value)


@pytest.mark.parametrize("name", ["var_if", "var_if.swapped", "var_if.nonsense3"])
def test_a_registered_task_and_its_controls(name: str) -> None:
    assert circuit_task(circuit(name)) == circuit_task(circuit(name), own()) == find_task(name)
    assert circuit_task(circuit(name), find_task(name)) == find_task(name)


def test_a_task_of_ones_own_and_its_controls() -> None:
    for source in ("", FILE):
        task = own(source=source)
        assert circuit_task(circuit("mine", source), task) is task
        assert circuit_task(circuit("mine.constant", source), task) == find_task("mine.constant", task)
        assert circuit_task(circuit("mine.constant", source), find_task("mine.constant", task)).control is not None


def test_a_renamed_file_has_the_same_pairs() -> None:
    for name in ("mine", "mine.swapped"):
        found = circuit_task(circuit(name, FILE), own("moved"))
        assert found == find_task(name, own())
        assert found.text_pairs(20, "train", 3) == find_task(name, own()).text_pairs(20, "train", 3)


@pytest.mark.parametrize("name", ["mine", "mine.nonsense", "var_if"])
def test_a_file_is_asked_for(name: str) -> None:
    """Also where a registered task has the name."""
    said = f"The {name} circuit is of a task from a file; give that file with --task-file."
    assert refused(circuit(name, FILE), None) == said


@pytest.mark.parametrize("other", [own(source=OTHER), own("another", OTHER), own(source="")])
def test_another_file_is_refused(other: Task) -> None:
    for name in ("mine", "mine.swapped"):
        assert f"The {name} circuit is of a task from another file" in refused(circuit(name, FILE), other)


def test_a_file_is_no_task_made_by_code() -> None:
    assert "mine circuit is of a task defined in code" in refused(circuit("mine"), own())
    assert "no task called 'mine'" in refused(circuit("mine"), None)
    assert "no task called 'mine'" in refused(circuit("mine"), own("another"))


def test_a_control_does_not_pass_for_its_base() -> None:
    swapped = find_task("mine.swapped", own())
    for control in (swapped, find_task("moved.swapped", own("moved"))):
        assert "no task called 'mine'" in refused(circuit("mine", FILE), control)
    assert circuit_task(circuit("mine.swapped", FILE), swapped) is swapped


def test_there_is_no_such_control() -> None:
    assert "no control called 'sideways'" in refused(circuit("mine.sideways", FILE), own())
