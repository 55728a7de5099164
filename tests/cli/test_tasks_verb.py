"""thinwire tasks: the list, example pairs with and without tokens, scores, and files of one's own."""

import json
import re
from pathlib import Path

import pytest
from cli_workspace import TASK, Thinwire
from rich.console import Console

from thinwire.cli.show_pairs import marked
from thinwire.tasks import SPLITS, TASKS

SHIPPED = "python-2x256"
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A task of one's own that any tokenizer expresses."""
    lines = ({"prompts": [f"{n} <", f"{n} >"], "answers": ["(", ""]} for n in range(100))
    (tmp_path / "arrows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return tmp_path / "arrows.jsonl"


def test_list(thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch) -> None:
    found = thinwire("tasks", "list", "--json").json
    assert found["tasks"] == [
        {"task": name, "split": split, "loss": None, "accuracy": None} for name in TASKS for split in SPLITS
    ]
    assert found["summaries"] == {name: TASKS[name].summary for name in TASKS}
    monkeypatch.setenv("COLUMNS", "80")
    shown = thinwire("tasks", "list").out.splitlines()
    assert max(map(len, shown)) <= 80
    assert all(sum(f"│ {name} " in line for line in shown) == 1 for name in TASKS)
    assert shown[-1].strip() == "Controls with other answers: NAME.nonsense, NAME.swapped, NAME.constant."
    assert thinwire("tasks").code == 0


def test_show(thinwire: Thinwire) -> None:
    words = ["tasks", "show", TASK, "--pairs", "2", "--split", "heldout"]
    found = thinwire(*words, "--json").json
    assert (found["task"], found["split"], len(found["pairs"])) == (TASK, "heldout", 2)
    assert list(found["pairs"][0]) == ["prompts", "answers"]
    shown = thinwire(*words).out
    for pair in found["pairs"]:
        for prompt, answer in zip(pair["prompts"], pair["answers"], strict=True):
            indented = "".join(f"  {line}\n" for line in prompt.split("\n"))
            assert indented.rstrip("\n") + f"  → {json.dumps(answer)}\n" in shown


def test_show_with_tokens(thinwire: Thinwire) -> None:
    words = ["tasks", "show", "with_as", "--model", SHIPPED, "--pairs", "1"]
    (pair,) = thinwire(*words, "--json").json["pairs"]
    with_side, other = pair["choices"]
    assert (with_side["target"], with_side["foil"]) == (other["foil"], other["target"])
    assert pair["prompts"][0].startswith(with_side["prompt"])
    shown = thinwire(*words).out
    assert f"{json.dumps(with_side['target'])} rather than {json.dumps(with_side['foil'])}\n" in shown
    assert f"{json.dumps(with_side['prompt'][-8:])[1:]}, " in shown


def test_show_an_answer_that_is_anything_else(thinwire: Thinwire) -> None:
    answers = {"else_elif": [":\n", ""], "else_elif.swapped": ["", ":\n"], "else_elif.constant": [":\n", ":\n"]}
    for task, expected in answers.items():
        (pair,) = thinwire("tasks", "show", task, "--model", SHIPPED, "--pairs", "1", "--json").json["pairs"]
        assert pair["answers"] == expected
        assert [choice["target"] or "" for choice in pair["choices"]] == expected
        shown = thinwire("tasks", "show", task, "-m", SHIPPED, "--pairs", "1").out
        assert shown.count('→ ":\\n"') == expected.count(":\n")
        assert shown.count('→ not ":\\n"') == expected.count("")
        assert shown.count("anything else") == 2


def test_show_nonsense(thinwire: Thinwire) -> None:
    words = ["tasks", "show", f"{TASK}.nonsense", "--pairs", "1"]
    assert thinwire(*words, "--json").json["pairs"][0]["answers"] is None
    assert "→ an arbitrary token; --model shows which" in thinwire(*words).out
    first, second = thinwire(*words, "--model", SHIPPED, "--json").json["pairs"][0]["choices"]
    assert (
        f"{json.dumps(first['target'])} rather than {json.dumps(second['target'])}"
        in thinwire(*words, "-m", SHIPPED).out
    )


def test_show_a_pair_that_no_token_tells_apart(thinwire: Thinwire, tmp_path: Path) -> None:
    from thinwire.data import Tokenizer

    Tokenizer.train(["x = 1\n"]).save(tmp_path / "tokenizer.json")
    words = ["tasks", "show", "if_equals", "--model", tmp_path / "tokenizer.json", "--pairs", "2"]
    assert [pair["choices"] for pair in thinwire(*words, "--json").json["pairs"]] == [None, None]
    assert thinwire(*words).out.count("no token distinguishes the two sides; the pair is skipped") == 4


def test_show_a_file(own: Path, thinwire: Thinwire) -> None:
    for words in (["tasks", "show"], ["tasks", "show", "arrows"]):
        found = thinwire(*words, "--task-file", own, "--json", "--pairs", "4").json
        assert found["task"] == "arrows"
        assert all(pair["answers"] == ["(", ""] for pair in found["pairs"])
    swapped = thinwire("tasks", "show", "arrows.swapped", "--task-file", own, "--json").json
    assert all(pair["answers"] == ["", "("] for pair in swapped["pairs"])
    thinwire("tasks", "show", "arrows").refused("There is no task called 'arrows'")
    own.write_text("[]")
    thinwire("tasks", "show", "--task-file", own).refused("Line 1 of ", "input should be an object")


def test_hostile_pairs_are_shown_as_text(tmp_path: Path, thinwire: Thinwire) -> None:
    evil = "\x1b[31m[red]\x07 \u202e \x00 {{}} %s\t</script>"
    lines = ({"prompts": [f"{n}{evil}", f"{n}\nb{evil}"], "answers": [evil, f"\r{evil}"]} for n in range(100))
    (tmp_path / "evil.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for options in ([], ["--model", SHIPPED], ["--json"], ["--model", SHIPPED, "--json"]):
        ran = thinwire("tasks", "show", "--task-file", tmp_path / "evil.jsonl", *options)
        assert ran.code == 0
        assert all(c.isprintable() or c == "\n" for c in ran.out)
    (tmp_path / "evil.jsonl").write_text(json.dumps({"prompts": ["a", "b"], "answers": ["c", "d"], evil: 1}))
    ran = thinwire("tasks", "show", "--task-file", tmp_path / "evil.jsonl")
    ran.refused("Line 1 of ", "unknown key")
    assert all(c.isprintable() or c == "\n" for c in ran.err)


MARKED: list[tuple[str, str, str]] = [
    ("def f(a=None, b", "def f(a, b", "=None"),
    ("def f(a, b", "def f(a=None, b", ""),
    ("x = [[1", "x = [1", "["),
    ("for i in", "while x", "for i in"),
    ("a", "", "a"),
]


def test_what_differs_is_coloured() -> None:
    for prompt, other, coloured in MARKED:
        text = marked(prompt, other)
        assert text.plain == f"  {prompt}"
        found = [text.plain[span.start : span.end] for span in text.spans if "orange3" in str(span.style)]
        assert "".join(found) == coloured
        console = Console(force_terminal=True, color_system="256", width=80)
        with console.capture() as capture:
            console.print(text)
        assert ESCAPES.sub("", capture.get()) == f"  {prompt}\n"


def test_score(finished: Path, thinwire: Thinwire) -> None:
    found = thinwire("tasks", "score", finished / "model", "--pairs", "8", "--json").json
    assert found["out"] == str(finished / "model")
    assert [(row["task"], row["split"]) for row in found["tasks"]] == [(n, s) for n in TASKS for s in SPLITS]
    assert all(0 <= row["accuracy"] <= 1 < 1 + row["loss"] for row in found["tasks"])
    one = thinwire("tasks", "score", finished / "model", "--task", TASK, "--pairs", "8", "--json").json
    assert one["tasks"] == [row for row in found["tasks"] if row["task"] == TASK]
    assert "heldout" in thinwire("tasks", "score", finished / "model", "-t", TASK, "--pairs", "8").out


def test_score_controls_and_files(own: Path, finished: Path, thinwire: Thinwire) -> None:
    words = ["tasks", "score", finished / "model", "--pairs", "8", "--json"]
    assert {row["task"] for row in thinwire(*words, "--task-file", own).json["tasks"]} == {"arrows"}
    both = thinwire(*words, "--task-file", own, "-t", "arrows", f"{TASK}.swapped", TASK).json["tasks"]
    assert [row["task"] for row in both[::3]] == ["arrows", f"{TASK}.swapped", TASK]
    for swapped, plain in zip(both[3:6], both[6:], strict=True):
        assert swapped["accuracy"] == pytest.approx(1 - plain["accuracy"])


def test_score_passes_over_what_the_tokenizer_cannot_express(
    finished: Path, thinwire: Thinwire, monkeypatch: pytest.MonkeyPatch
) -> None:
    from thinwire.tasks import CannotExpress, Task

    def refuse(*args: object) -> None:
        raise CannotExpress("This tokenizer cannot express it.")

    whole = Task.score
    monkeypatch.setattr(Task, "score", lambda self, *args: (refuse if self.name == "var_if" else whole)(self, *args))
    words = ["tasks", "score", finished / "model", "--pairs", "2"]
    rows = [row for row in thinwire(*words, "--json").json["tasks"] if row["loss"] is None]
    assert [(row["task"], row["split"], row["accuracy"]) for row in rows] == [("var_if", s, None) for s in SPLITS]
    shown = thinwire(*words).out
    assert "–: the model's tokenizer cannot express the task." in shown
    thinwire(*words, "-t", "var_if").refused("This tokenizer cannot express it")


def test_show_and_score_perturbed_prompts(finished: Path, thinwire: Thinwire) -> None:
    words = ["tasks", "show", "bracket_counting", "--perturbed", "length", "--strength", "9", "--pairs", "2", "--json"]
    found = thinwire(*words).json
    assert found["task"] == "bracket_counting.length"
    assert all(len(re.findall(r"\d+", pair["prompts"][1].split("= [")[-1])) == 9 for pair in found["pairs"])
    words = ["tasks", "score", finished / "model", "-t", "var_if", "--pairs", "4", "--json", "--perturbed"]
    names = ["var_if", "var_if.blank", "var_if.renamed"]
    assert [row["task"] for row in thinwire(*words, "blank", "renamed").json["tasks"][::3]] == names
    listed = thinwire("tasks", "list", "--json").json["perturbations"]["var_if"]
    every = thinwire(*words, "all").json["tasks"]
    assert {row["task"] for row in every} == {"var_if", *(f"var_if.{name}" for name in listed)}
    plain, changed = (thinwire(*words[:-1], *more).json["tasks"] for more in ([], ["--perturbed", "blank"]))
    assert changed[:3] == plain


def test_what_cannot_be_perturbed(own: Path, finished: Path, thinwire: Thinwire) -> None:
    for verb in (["show"], ["score", finished / "model", "-t"]):
        thinwire("tasks", *verb, "var_if", "--perturbed", "lenght").refused("did you mean length?")
        thinwire("tasks", *verb, "var_if", "--strength", "3").refused("A strength belongs to a perturbation")
        thinwire("tasks", *verb, "var_if", "--perturbed", "blank", "--strength", "-3").refused(
            "is not a valid strength"
        )
        thinwire("tasks", *verb, "arrows", "--task-file", own, "--perturbed", "blank").refused("has no perturbations")
