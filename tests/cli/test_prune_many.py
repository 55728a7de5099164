"""thinwire prune with many tasks and models: what is planned, run, reused, recorded and shown."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

import pytest
from cli_workspace import PRUNE, TASK, Thinwire, sign, stamps

from thinwire.artifact import sole_writer
from thinwire.cli import fanout
from thinwire.fanout.board import Board, Quiet
from thinwire.fanout.job import Job, Outcome, run_job
from thinwire.tasks import TASKS

OTHER = "set_or_string"
BOTH = ["--tasks", TASK, OTHER, *PRUNE]
UNMET = [*PRUNE, "--target-loss", "0.001"]
Do = Callable[[Job], Outcome]


@pytest.fixture
def do(monkeypatch: pytest.MonkeyPatch) -> Callable[[Do], list[Job]]:
    """Have jobs done by a function in this process; returns the list that gets them."""

    def use(function: Do) -> list[Job]:
        given: list[Job] = []

        def run(jobs: Sequence[Job], workers: int, board: Board) -> list[Outcome]:
            outcomes = []
            for job in jobs:
                given.append(job)
                board.running(job, 0, 1, "")
                outcomes.append(function(Job.parse(job.model_dump_json(), "a line")))
                board.ended(job, outcomes[-1])
            return outcomes

        monkeypatch.setattr(fanout, "run_local", run)
        return given

    return use


@pytest.fixture
def jobs(do: Callable[[Do], list[Job]]) -> list[Job]:
    """The jobs that were done, in this process."""
    return do(run_job)


def test_all_tasks_are_jobs(work: Path, thinwire: Thinwire, do: Callable[[Do], list[Job]]) -> None:
    jobs = do(lambda job: Outcome.without(job, missed="no"))
    found = thinwire("prune", work / "model", "--tasks", "all", *PRUNE, "--json").json
    assert [job.task for job in jobs] == [name for name in TASKS if name != TASK], "one has its circuit already"
    assert [row["task"] for row in found["jobs"]] == list(TASKS)
    assert {job.out.parent for job in jobs} == {work / "circuits"}
    one = thinwire("prune", work / "model", "-t", TASK, "--workers", "1", *PRUNE, "--json").json
    assert one["jobs"] == [row for row in found["jobs"] if row["task"] == TASK]


def test_the_table_is_what_single_runs_find(work: Path, thinwire: Thinwire, jobs: list[Job]) -> None:
    found = thinwire("prune", work / "model", *BOTH, "--force", "--json").json
    singles = [thinwire("prune", work / "model", "-t", task, *PRUNE, "--json").json for task in (TASK, OTHER)]
    for row, single in zip(found["jobs"], singles, strict=True):
        assert row["heldout_loss"] == single["loss"]
        assert row["loss"] == single["validation_loss"]
        assert all(row[name] == single[name] for name in ("task", "nodes", "edges", "seconds", "out"))
    sizes = [row["edges"] for row in found["jobs"] if row["edges"]]
    assert found["geomean_edges"] == (pytest.approx(prod(sizes) ** (1 / len(sizes))) if sizes else None)
    assert found["without_edges"] == 2 - len(sizes)
    assert found["geomean_edges_of"] == {"work": found["geomean_edges"]}


def test_done_jobs_are_passed_over(work: Path, thinwire: Thinwire, jobs: list[Job]) -> None:
    first = thinwire("prune", work / "model", *BOTH)
    assert "reused 1 of 2 jobs" in first.err
    assert f"2/2 work {OTHER}: " in first.err
    before = stamps(work / "circuits")
    again = thinwire("prune", work / "model", *BOTH)
    assert (again.code, again.out) == (0, first.out)
    assert "reused 2 of 2 jobs" in again.err
    assert stamps(work / "circuits") == before
    assert len(jobs) == 1
    another = thinwire("prune", work / "model", *BOTH, "--seed", "3")
    another.refused("is finished and differs in its seed; choose another --out, or give --force")
    assert len(jobs) == 1, "another config is another job, and nothing is begun that would replace the first"
    assert thinwire("prune", work / "model", *BOTH, "--seed", "3", "--force").code == 0
    assert len(jobs) == 3
    assert all(len(line) <= 80 for line in first.out.splitlines()[:6])


def test_a_missed_target_is_a_result(work: Path, thinwire: Thinwire, jobs: list[Job]) -> None:
    words = ["prune", work / "model", "--tasks", OTHER, *UNMET]
    first = thinwire(*words)
    assert first.code == 0
    assert f"work {OTHER}: The whole model has loss" in first.out
    assert json.loads((work / f"circuits/{OTHER}-missed.json").read_text())["config"]["target_loss"] == 0.001
    found = thinwire(*words, "--json").json
    assert len(jobs) == 1, "it is not tried again"
    assert "The whole model has loss" in found["jobs"][0]["missed"]
    assert (found["jobs"][0]["edges"], found["geomean_edges"], found["parked"]) == (None, None, [])
    assert found["jobs"][0]["reused"]
    thinwire(*words, "--seed", "5")
    assert len(jobs) == 2, "this holds for its config alone"
    (work / f"circuits/{OTHER}-missed.json").write_text("{")
    thinwire(*words)
    assert len(jobs) == 3
    thinwire("prune", work / "model", "--tasks", OTHER, *PRUNE, "--force")
    assert not (work / f"circuits/{OTHER}-missed.json").exists()


def test_sizes_at_further_targets_are_drawn(
    work: Path, tmp_path: Path, thinwire: Thinwire, do: Callable[[Do], list[Job]]
) -> None:
    def with_an_edge(job: Job) -> Outcome:
        found = run_job(job)  # without edges, since the target is far above guessing
        assert found.scores is not None
        rungs = tuple(replace(rung, edges=1) for rung in found.scores.ladder)
        return replace(found, scores=replace(found.scores, ladder=rungs, edges_unsimplified=1))

    do(with_an_edge)
    plot = tmp_path / "sizes.svg"
    found = thinwire("prune", work / "model", *BOTH, "--ladder", "8", "6", "--plot", plot, "--force", "--json").json[
        "jobs"
    ]
    for row in found:
        assert [rung["target"] for rung in row["ladder"]] == [6, 8]
        assert all(rung["edges"] <= row["edges_unsimplified"] for rung in row["ladder"])
        assert all(rung["loss"] <= rung["target"] for rung in row["ladder"])
    drawn = plot.read_text(encoding="utf-8")
    assert work.name in drawn
    assert "2 tasks" in drawn
    thinwire("prune", work / "model", *BOTH, "--plot", plot).refused("give --ladder target losses")


def test_a_search_shows_its_best_trials(work: Path, thinwire: Thinwire) -> None:
    words = ["prune", work / "model", "--task", OTHER, *PRUNE, "--steps", "3", "--trials", "2", "--search", "4"]
    said = thinwire(*words).out
    assert "best trials of the search" in said
    assert max(map(len, said[said.index("best trials") :].splitlines())) <= 80
    found = thinwire(*words, "--json").json
    assert 1 <= len(found["pareto"]) <= 4
    assert found["pareto"][0]["edges"] == min(trial["edges"] for trial in found["pareto"])
    assert {"edges", "nodes", "loss", "seconds", "k_coef", "learning_rate"} <= set(found["pareto"][0])


def test_parked_jobs_end_with_1_after_the_table(work: Path, thinwire: Thinwire, do: Callable[[Do], list[Job]]) -> None:
    do(lambda job: Outcome.without(job, error="It broke.") if job.task == OTHER else run_job(job))
    ran = thinwire("prune", work / "model", *BOTH, "--json")
    assert ran.code == 1
    assert [row["task"] for row in ran.json["parked"]] == [OTHER]
    edges = ran.json["jobs"][0]["edges"]
    assert ran.json["geomean_edges"] == (edges or None), "of the tasks that met the target and need edges"
    assert ran.json["without_edges"] == (edges == 0)
    assert "parked" in thinwire("prune", work / "model", *BOTH).out


def test_models_keep_to_their_workspaces(work: Path, tmp_path: Path, thinwire: Thinwire, jobs: list[Job]) -> None:
    (tmp_path / "second").mkdir()
    for name in ("tokens", "model"):
        (tmp_path / "second" / name).symlink_to(work / name)
    models = [work / "model", tmp_path / "second/model"]
    found = thinwire("prune", *models, "--task", OTHER, *PRUNE, "--json").json
    assert [Path(row["out"]) for row in found["jobs"]] == [
        root / "circuits" / OTHER for root in (work, tmp_path / "second")
    ]
    assert list(found["geomean_edges_of"]) == ["work", "second"]
    found = thinwire("prune", *models, "--task", OTHER, *PRUNE, "--out", tmp_path / "new", "--json").json
    assert [Path(row["out"]) for row in found["jobs"]] == [
        tmp_path / "new" / name / OTHER for name in ("work", "second")
    ]
    assert all((Path(row["out"]) / "meta.json").exists() for row in found["jobs"])
    assert "second" in thinwire("prune", *models, "--task", OTHER, *PRUNE).out
    thinwire("prune", models[0], work / "." / "model", "--task", OTHER, *PRUNE).refused("give --out, or prune them in")


def test_a_task_of_ones_own(work: Path, tmp_path: Path, thinwire: Thinwire, jobs: list[Job]) -> None:
    pairs = [(f"f({n}", f"[{n}") for n in range(200)]
    lines = [json.dumps({"prompts": pair, "answers": [")", "]"]}) for pair in pairs]
    file = tmp_path / "closing.jsonl"
    file.write_text("\n".join(lines))
    single = ["prune", work / "model", "--task-file", file, *PRUNE, "--json"]
    assert thinwire(*single).json["task"] == "closing"
    before = stamps(work / "circuits/closing")
    assert thinwire(*single).code == 0
    assert stamps(work / "circuits/closing") == before
    found = thinwire("prune", work / "model", "--tasks", "closing", TASK, "--task-file", file, *PRUNE, "--json").json
    assert [row["reused"] for row in found["jobs"]] == [True, True]
    file.write_text("\n".join(lines[1:]))
    thinwire(*single).refused("circuits/closing is finished and differs in its task;")
    assert stamps(work / "circuits/closing") == before, "another file of that name is another task"


REFUSALS: list[tuple[list[str], str]] = [
    (["MODEL"], "Name a task with --task, or give --tasks all"),
    (["--tasks", "all"], "Give the folder of a model"),
    (["MODEL", "--task", TASK, "--tasks", "all"], "Give either --task or --tasks"),
    (
        ["MODEL", "--tasks", "bracket_count"],
        "There is no task called 'bracket_count'; did you mean bracket_counting",
    ),
    (["MODEL", "--tasks", "all", "--workers", "0"], "--workers 0 runs no job; give at least 1"),
    (["MODEL", "nowhere", "--tasks", "all"], "nowhere is not a folder"),
    (["MODEL", "--tasks", "all", "--out", "MODEL"], "lies in the artefact"),
]


def test_refused_before_any_job(finished: Path, thinwire: Thinwire, jobs: list[Job]) -> None:
    for words, said in REFUSALS:
        given = (str(finished / "model") if word == "MODEL" else word for word in words)
        thinwire("prune", *given, *PRUNE).refused(said)
    assert jobs == []


def test_a_second_driver_is_refused(work: Path, thinwire: Thinwire, jobs: list[Job]) -> None:
    with sole_writer(work / "circuits"):
        thinwire("prune", work / "model", *BOTH).refused("Another process is writing in", "circuits")


def test_outcomes_survive_their_journey(work: Path) -> None:
    job = Job.model_validate({"name": "n", "model": work, "tokens": work, "task": "t", "config": {}, "out": work / "t"})
    assert Job.parse(job.model_dump_json(), "a line") == job
    for outcome in (Outcome.without(job, missed="it does"), Outcome.without(job, error="no", reused=True)):
        assert Outcome.parse(outcome.to_json()) == outcome
    Quiet().running(job, 0, 1, "")


def test_a_damaged_circuit_is_made_again(work: Path, thinwire: Thinwire, jobs: list[Job]) -> None:
    config = work / f"circuits/{TASK}/config.json"
    config.write_text(config.read_text().replace('"seed"', '"seeds"'))
    sign(work / "circuits" / TASK)  # as an older version might have written it
    assert thinwire("prune", work / "model", "--tasks", TASK, *PRUNE).code == 0
    assert [job.task for job in jobs] == [TASK]
