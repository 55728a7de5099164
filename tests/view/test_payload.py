import json

import pytest
from pydantic import ValidationError
from view_examples import quote_task

from thinwire.errors import UserError
from thinwire.view.payload import EdgeView, Payload, TaskView, Window
from thinwire.view.records import CurveView


def test_a_payload_survives_json(example: Payload):
    assert Payload.parse(example.model_dump_json(), "it") == example


def test_format_and_version_are_written_and_required(example: Payload):
    stored = json.loads(example.model_dump_json())
    assert (stored["format"], stored["version"]) == ("thinwire.page", 4)
    with pytest.raises(UserError, match="version"):
        Payload.parse(json.dumps(stored | {"version": 1}), "it")


def test_unknown_keys_are_refused_at_any_depth(example: Payload):
    stored = json.loads(example.model_dump_json())
    stored["tasks"][0]["measurements"][1]["surprise"] = 1
    with pytest.raises(UserError, match=r"unknown key 'tasks\.0\.measurements\.1\.surprise'"):
        Payload.parse(json.dumps(stored), "it")


def test_records_cannot_be_changed(example: Payload):
    with pytest.raises(ValidationError, match="frozen"):
        example.tasks[0].measurements[0].value = 0.0  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.parametrize("weight", [float("nan"), float("inf")])
def test_numbers_json_cannot_carry_are_refused(weight: float):
    with pytest.raises(ValidationError, match="finite"):
        EdgeView(source=0, target=1, weight=weight)


def test_a_kind_of_site_must_exist(example: Payload):
    with pytest.raises(UserError, match="kind: input should be 'attn"):
        example.tasks[0].nodes[0].replace(kind="attn.z")


@pytest.mark.parametrize("peak", [2, 5])
def test_windows_are_aligned(peak: int):
    with pytest.raises(ValidationError, match="one activation for each token"):
        Window(tokens=(1, 2), activations=(0.5, 0.5), peak=peak)


def test_curves_and_intervals_are_whole(example: Payload):
    with pytest.raises(ValidationError, match="one y for each x"):
        CurveView(x_label="step", x=(1.0, 2.0), y=(0.5,))
    with pytest.raises(UserError, match="an interval needs both ends"):
        example.tasks[0].measurements[0].replace(high=None)


def refused(task: TaskView, example: Payload, words: str, **changes: object) -> None:
    with pytest.raises(UserError, match=words):
        example.replace(tasks=(task.replace(**changes),))


def test_inconsistent_tasks_are_refused(example: Payload):
    task = example.tasks[0]
    far = EdgeView(source=0, target=99, weight=1.0)
    refused(task, example, "an edge joins a node that is not listed", edges=(far,))
    refused(task, example, "a node is listed twice", nodes=(*task.nodes, task.nodes[0]))
    short = task.nodes[0].replace(on_prompts=((1.0,),))
    refused(task, example, "one activation for each token", nodes=(short, *task.nodes[1:]))
    head = task.heads[0]
    for part in ({"model": head.model[1:]}, {"circuit": tuple(row[1:] for row in head.circuit)}, {"sink": False}):
        refused(task, example, "one weight for each token of each example prompt", heads=(head.replace(**part),))
    assert task.verdict is not None
    refused(task, example, "a measurement that is not listed", verdict=task.verdict.replace(weakest=(0, 8)))
    unknown = task.embedding[0].replace(token=len(example.vocab))
    refused(task, example, "outside vocab", embedding=(unknown,))
    with pytest.raises(UserError, match="a task is listed twice"):
        example.replace(tasks=(task, task))


def test_a_negative_token_is_refused(example: Payload):
    task = example.tasks[0]
    pair = task.pairs[0]
    wrong = pair.replace(first=pair.first.replace(foil=-1))
    refused(task, example, "outside vocab", pairs=(wrong, *task.pairs[1:]))


def test_the_example_is_the_circuit_of_the_paper():
    from view_examples import Texts

    task = quote_task(Texts())
    assert (len(task.nodes), len(task.edges)) == (task.counts.nodes, task.counts.edges) == (12, 9)
