"""What the verbs say of their results: pairs passed over, tasks a model cannot do, targets, and what to run next."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from cases import case
from cli_workspace import PRUNE, TASK, VERIFY, Thinwire

from thinwire.circuit import Circuit
from thinwire.cli import prune as prune_verb
from thinwire.cli.score_table import Row, remarks, score_table
from thinwire.tasks import SPLITS, PairUse
from thinwire.tasks.task import Score
from thinwire.verify import Measurement, Verdict
from thinwire.verify.claims import verdict_line

PASSED = "36 are told apart by no token"
HARD = PairUse("train", 256, 9, indistinct=12, held=21)


@pytest.fixture
def mostly(tmp_path: Path) -> Path:
    """A file of 63 pairs, of which no token tells 36 apart."""
    lines = []
    for split in SPLITS:
        lines += [{"prompts": [f"{split}{n} <", f"{split}{n} >"], "answers": ["(", ""]} for n in range(9)]
        lines += [{"prompts": [f"{split}{n} =", f"{split}{n} !"], "answers": ["x", "xy"]} for n in range(12)]
        lines[-21:] = [line | {"split": split} for line in lines[-21:]]
    (tmp_path / "mostly.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "mostly.jsonl"


def test_every_verb_counts_what_it_passes_over(mostly: Path, work: Path, thinwire: Thinwire) -> None:
    model, circuit = work / "model", work / "circuits" / "mostly"
    own = ["--task-file", mostly]
    verbs = {
        "score": ["tasks", "score", model, *own],
        "show": ["tasks", "show", *own, "--model", model],
        "prune": ["prune", model, *own, *PRUNE],
        "verify": ["verify", circuit, *own, *VERIFY],
        "info": ["info", circuit],
        "table": ["prune", model, "--tasks", "mostly", *own, *PRUNE],
    }
    said = {"show": "12 are told", "verify": "24 are told", "info": "are told apart"}
    for verb, words in verbs.items():
        ran = thinwire(*words)
        assert ran.code == 0, verb
        assert said.get(verb, PASSED)[:11] in " ".join(ran.out.split()), verb
    rows = thinwire(*verbs["score"], "--json").json["tasks"]
    counts = [(row["pairs"], row["passed_over"], row["of_pairs"], row["passed_over_why"]) for row in rows]
    assert counts == [(9, 12, 21, {"are told apart by no token": 12})] * 3
    assert thinwire(*verbs["show"], "--json").json["passed_over"] == 12
    for verb in ("prune", "info"):
        found = thinwire(*verbs[verb], "--json").json
        assert [found[f"{split}_pairs"] for split in SPLITS] == [9, 9, 9]
        assert (found["passed_over"], found["passed_over_why"]) == (36, {"are told apart by no token": 36})
    found = thinwire(*verbs["verify"], "--json").json
    assert (found["heldout_pairs"], found["passed_over"]) == (9, 24)
    assert {row["n"] for row in found["rows"]} == {9}, "intervals are over different pairs"
    scores = thinwire(*verbs["table"], "--json").json["jobs"][0]
    assert [use["indistinct"] for use in scores["pairs"]] == [12, 12, 12]


def test_prune_says_what_to_run_next(mostly: Path, work: Path, thinwire: Thinwire, tmp_path: Path) -> None:
    elsewhere = tmp_path / "a b" / "circuit"
    for options in ([], ["--out", elsewhere]):
        words = ["prune", work / "model", "--task-file", mostly, *PRUNE, *options]
        ran = thinwire(*words)
        assert "The target of 5 nats is met on validation pairs" in ran.out
        shown = [line.removeprefix("Next:").strip() for line in ran.out.splitlines()[-2:]]
        found = thinwire(*words, "--json").json
        assert (found["target_met_validation"], found["target_met_heldout"]) == (True, True)
        assert found["next"] == shown
        verify, view = map(shlex.split, shown)
        assert [verify[:2], view[:2]] == [["thinwire", "verify"], ["thinwire", "view"]]
        assert thinwire(*verify[1:], *VERIFY).code == 0
        assert thinwire(*view[1:], "--text").code == 0


def test_prune_says_on_which_pairs_the_target_is_met(work: Path) -> None:
    circuit = Circuit.load(work / "circuits" / TASK)
    scores = circuit.scores
    assert scores is not None
    for loss, heldout, said in (
        (0.1, 0.2, "is met on validation pairs (0.100) and on held-out pairs (0.200)"),
        (0.1, 0.9, "is met on validation pairs (0.100) but missed on held-out pairs (0.900)"),
        (0.9, 0.1, "is missed on validation pairs (0.900) but met on held-out pairs (0.100)"),
        (0.9, 0.8, "is missed on validation pairs (0.900) and on held-out pairs (0.800)"),
    ):
        with case(said):
            one = replace(circuit, scores=replace(scores, loss=loss, heldout_loss=heldout, target_loss=0.5))
            values = prune_verb.summary(one, work) | {"next": ["a", "b"]}
            assert said in " ".join(prune_verb.remarks(one, values).split())
            met = values["target_met_validation"], values["target_met_heldout"]
            assert met == (loss <= 0.5, heldout <= 0.5)


def rows_of(tasks: int) -> list[Row]:
    """Scores of tasks of long names, of which the model does the even ones."""
    rows = []
    for n in range(tasks):
        name = f"set_or_string_fixedvar_{n:02}"
        for split in SPLITS:
            use = PairUse(split, 256, 256)
            score = Score(name, split, 0.123456 if n % 2 == 0 else 1.5, 0.97 if n % 2 == 0 else 0.53, 0, use)
            rows.append(Row(name, split, score))
    return rows


def test_scores_take_a_row_for_each_task_in_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from thinwire.cli.common import emit

    monkeypatch.setenv("COLUMNS", "80")
    rows = rows_of(20)
    emit({}, False, score_table(rows))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert sum("fixedvar_" in line for line in lines) == 20
    assert sum(line.count("*") == 3 for line in lines) == 10
    said = remarks(rows).splitlines()
    assert max(map(len, said)) <= 80
    assert "10 of 20 tasks are done above chance on heldout pairs." in said
    text = " ".join(line.strip() for line in said)
    assert f"At or below chance: {', '.join(dict.fromkeys(r.task for r in rows if not r.above_chance))}." in text


def test_few_pairs_do_not_show_that_a_model_does_a_task() -> None:
    row = rows_of(1)[0]
    assert row.score is not None
    found = {
        n: replace(row, score=replace(row.score, accuracy=1.0, use=replace(row.score.use, used=n))) for n in (3, 4)
    }
    assert [found[n].above_chance for n in (3, 4)] == [False, True]
    assert found[4].as_json()["low"] == pytest.approx(0.5101, abs=1e-4)


def test_ties_and_pairs_passed_over_are_said_of_scores() -> None:
    row = rows_of(1)[0]
    assert row.score is not None
    said = remarks([replace(row, score=replace(row.score, ties=7, use=HARD))])
    assert "9 of 21 pairs used; 12 are told apart by no token (train 9 of 21)" in " ".join(said.split())
    assert "7 prompts have two equally likely answers" in said


def verdict(**statuses: str) -> Verdict:
    """A verdict of checks with these statuses; each has an accuracy without one beside it."""
    found = []
    for check, status in statuses.items():
        common = {"title": check, "value": 0.5, "n": 9, "interval": None, "split": "heldout", "ablation": "task_mean"}
        one = Measurement(name=f"{check}.loss", unit="nats", meaning="…", **common)  # pyright: ignore
        found += [replace(one, status=status), replace(one, name=f"{check}.accuracy")]
    return Verdict("x", 1, 1, None, tuple(found))


LINES = {
    "Verdict: not sufficient under task-mean ablation; 2 of 4 checks pass. Weakest: sufficiency: loss 0.500 nats; "
    "resample: loss 0.500 nats.": verdict(
        sufficiency="fail", resample="warn", unpruned="info", necessity="pass", random="pass"
    ),
    "Verdict: robust; 1 of 1 checks passes.": verdict(sufficiency="pass"),
    "Verdict: robust, except mine; 1 of 2 checks passes. Weakest: mine: loss 0.500 nats.": verdict(
        sufficiency="pass", mine="fail"
    ),
    "Verdict: not needed by the model; 0 of 2 checks pass. Weakest: mine: loss 0.500 nats; necessity: loss 0.500 "
    "nats.": verdict(mine="fail", necessity="fail"),
    "Verdict: sufficient under task-mean ablation only; 1 of 2 checks passes. Weakest: pretraining: loss 0.500 "
    "nats.": verdict(sufficiency="pass", pretraining="fail"),
    "Verdict: not judged: no check has a threshold.": verdict(sufficiency="info"),
}


def test_the_verdict_in_one_line(finished: Path, thinwire: Thinwire) -> None:
    for line, of in LINES.items():
        assert verdict_line(of) == line
    words = ["verify", finished / "circuits" / TASK, *VERIFY]
    line = thinwire(*words, "--json").json["verdict"]
    assert " ".join(thinwire(*words).out.split()).endswith(line)
    assert "faithful" not in line


ENDLESS = [
    (["prune", "MODEL", "-t", TASK, option, "1000000000"], f"{option[2:].replace('-', '_')}: input should be less than")
    for option in (
        *("--steps", "--trials", "--search", "--batch-pairs", "--restarts", "--finalists", "--patience"),
        *("--train-pairs", "--validation-pairs", "--heldout-pairs", "--mean-tokens"),
    )
]
ENDLESS += [
    (["prune", "MODEL", "-t", TASK, "--steps", "1000000", "--batch-pairs", "100000"], "which would take months"),
    (["verify", "CIRCUIT", "--pairs", "1000000000"], "pairs: input should be less than"),
    (["verify", "CIRCUIT", "--random-circuits", "1000000000"], "random_circuits: input should be less than"),
    (["verify", "CIRCUIT", "--pairs", "100000", "--random-circuits", "100000"], "which would take days"),
    (["tasks", "score", "MODEL", "-t", TASK, "--pairs", "1000000000"], "at most 100,000"),
    (["tasks", "show", TASK, "--pairs", "1000000000"], "at most 100,000"),
]


def test_numbers_that_would_never_end_are_refused(finished: Path, thinwire: Thinwire) -> None:
    places = {"MODEL": finished / "model", "CIRCUIT": finished / "circuits" / TASK}
    for words, said in ENDLESS:
        thinwire(*(places.get(word, word) for word in words)).refused(said)


def test_places_are_checked_before_the_work(work: Path, tmp_path: Path, thinwire: Thinwire, monkeypatch) -> None:
    """Nothing is measured, pruned or drawn for a result that has no place; no trace is left beside it."""

    def work_began(*_: object, **__: object) -> None:
        pytest.fail("the work began")

    for stage in ("verify.verify", "prune.prune", "prune.mean_activations", "view.payload_from"):
        monkeypatch.setattr(f"thinwire.stages.{stage}", work_began)
    circuit, long = work / "circuits" / TASK, "n" * 250
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder.svg").mkdir()
    before = sorted(tmp_path.rglob("*"))
    for out in (tmp_path / "file/below", Path("/proc/nothing"), tmp_path / long, tmp_path / "new" / long):
        said = f"choose {'a shorter' if out.name == long else 'another'} --out"
        thinwire("verify", circuit, "--pairs", "9", "--out", out).refused(said)
        thinwire("prune", work / "model", "-t", TASK, "--out", out).refused(said)
        thinwire("view", circuit, "--out", f"{out}.html").refused(said)
    (tmp_path / "folder.html").mkdir()
    thinwire("view", circuit, "--out", tmp_path / "folder.html").refused("is a folder; give the name of an HTML file")
    (tmp_path / "folder.html").rmdir()
    table = ["prune", work / "model", "--tasks", TASK, "--ladder", "0.3"]
    thinwire(*table, "--plot", tmp_path / "folder.svg").refused("is a folder; give the name of an SVG, PNG or PDF file")
    thinwire(*table, "--plot", tmp_path / "file/below.svg").refused("choose another --plot")
    (work / "index.html").unlink()
    (work / "index.html").mkdir()
    thinwire("view", circuit).refused("is a folder")
    (work / "index.html").rmdir()
    assert sorted(tmp_path.rglob("*")) == [path for path in before if path.name != "index.html"]
