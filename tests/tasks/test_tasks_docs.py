"""docs/tasks.md: its table says what the tokenizer does, its Python runs, its commands work."""

import ast
import re
from pathlib import Path

import pytest
import torch
from task_table import KNOWN
from tiny import tiny_run

from thinwire.cli.main import run
from thinwire.data import Tokenizer, Tokens
from thinwire.tasks import CONTROLS, REST, TASKS, Pair, find_task
from thinwire.tasks.decide import decide
from thinwire.tasks.from_file import MIN_PAIRS
from thinwire.train import train

DOCS = (Path(__file__).parents[2] / "docs/tasks.md").read_text("utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
"""A task as a function, its use, a task as a file, a curve over lengths, and a perturbation."""
ROWS = [line for line in DOCS.splitlines() if re.match(rf"\| `({'|'.join(KNOWN)})` \|", line)]
NOT_THE_OTHER = "not the other"
COPIES = {"class_init", "var_swap", "fstring_brace"}
"""Tasks whose answers depend on the prompt."""
SMALLER = "method='attribution', train_pairs=32, validation_pairs=16, heldout_pairs=16, mean_tokens=512"
SMALL_OPTIONS = {
    "tasks": "--pairs 2",
    "prune": "--target-loss 9 --method attribution --train-pairs 32 --validation-pairs 16 --mean-tokens 512",
    "verify": "--pairs 8 --random-circuits 1",
    "view": "",
}


def cell(text: str) -> tuple[str, str]:
    """The two strings in a cell of the table; one that is not the other is empty."""
    found = re.findall(rf"`(.*?)`(?= |$)|({NOT_THE_OTHER})", text.strip())
    one, other = (ast.literal_eval(literal) if literal else "" for literal, _ in found)
    return one, other


def test_the_table_is_table_1():
    assert [row.split("`")[1] for row in ROWS] == list(dict.fromkeys(row.split("`")[1] for row in ROWS))
    assert {row.split("`")[1] for row in ROWS} == set(TASKS)


def test_rows_of_the_table():
    tokenizer = Tokenizer.load("python-2x256")
    for row in ROWS:
        _, name, pair, answers, tokens, _ = row.split("|")
        name, pair, answers, tokens = name.strip().strip("`"), cell(pair), cell(answers), cell(tokens)
        one, other = (re.sub(KNOWN[name].decides, "<?>", prompt, count=name != "final_kwarg") for prompt in pair)
        assert one == other, name
        if name not in COPIES:
            assert answers == TASKS[name].text_pairs(1, "heldout", 0)[0].answers
        first, _ = decide(Pair(pair, answers), tokenizer) or pytest.fail("the tokenizer tells them apart")
        assert tokens == tuple("" if token == REST else tokenizer.token(token) for token in (first.target, first.foil))


def test_controls_are_the_ones_there_are():
    assert re.findall(r"^\| `NAME\.(\w+)` \|", DOCS, re.MULTILINE) == list(CONTROLS)
    assert all(find_task(f"var_if{name}") for name in re.findall(r"`(\.\w+)`", DOCS))


def workspace(root: Path, tokens: Tokens) -> None:
    """A workspace with a model that was hardly trained."""
    config = tiny_run(steps=2)
    train(config.replace(model=config.model.replace(context=32)), tokens, root / "model")
    (root / "tokens").symlink_to(tokens.artifact.path)


def test_the_function_runs(tmp_path: Path, tiny_tokens: Tokens, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    monkeypatch.chdir(tmp_path)
    workspace(tmp_path / "runs/quickstart", tiny_tokens)
    module, use, *_ = PYTHON
    assert len([line for line in module.splitlines() if line.strip()]) <= 10
    exec(module, {})
    assert "target_loss=0.15" in use
    names: dict[str, object] = {}
    exec(use.replace("target_loss=0.15", f"target_loss=9, {SMALLER}"), names)
    said = capsys.readouterr().out
    assert re.match(r"ending: loss \d\.\d{3}, accuracy [01]\.\d{3}\n\d+ nodes carry ending\n\Z", said)


def test_the_file_and_its_commands(tmp_path: Path, tiny_tokens: Tokens, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.chdir(tmp_path)
    workspace(tmp_path / "runs/quickstart", tiny_tokens)
    exec(PYTHON[2], {})
    assert Path("returns.jsonl").read_text().splitlines()[0] in DOCS.splitlines()
    commands = re.findall(r"^thinwire (.*returns\.jsonl.*)$", DOCS, re.MULTILINE)
    assert [command.split()[0] for command in commands] == ["tasks"] * 3 + ["prune", "verify", "view"]
    for command in commands:
        assert run(f"{command} {SMALL_OPTIONS[command.split()[0]]}".split()) == 0
        assert capsys.readouterr().out


def test_the_shipped_model_does_the_examples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from thinwire.stages import Opened
    from thinwire.tasks import SPLITS, task_from_file

    monkeypatch.setattr(TASKS, "_entries", dict(TASKS._entries))
    monkeypatch.chdir(tmp_path)
    for block in (PYTHON[0], PYTHON[2]):
        exec(block, {})
    opened = Opened.open(Path("python-2x256"))
    for task in (find_task("ending"), task_from_file("returns.jsonl")):
        for split in SPLITS:
            score = task.score(opened.model, opened.tokenizer, split)
            assert score.accuracy > 0.95, score
            assert score.loss < 0.15, score


def test_the_curve_over_lengths_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys):
    from thinwire.circuit import Circuit
    from thinwire.prune import PruneConfig
    from thinwire.sites import all_sites
    from thinwire.stages import Opened

    monkeypatch.chdir(tmp_path)
    opened = Opened.open(Path("python-2x256"))
    shape = opened.model.config
    means = {site: torch.zeros(site.width(shape)) for site in all_sites(shape)}
    Circuit("bracket_counting", shape, (), means).save(
        Path("runs/quickstart/circuits/bracket_counting"), PruneConfig(), opened.artifact
    )
    exec(PYTHON[3].replace("pairs(64", "pairs(8"), {})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    table = [re.findall(r"[0-9.]+", line) for line in re.findall(r"^\| [0-9]+ \|.*$", DOCS, re.MULTILINE)]
    assert [row[0] for row in rows] == [row[0] for row in table] == ["5", "10", "20", "30", "40"]
    for row, shown in zip(rows, table, strict=True):
        assert [float(p) for p in row[1:5]] == pytest.approx([float(p) for p in shown[1:5]], abs=0.05)
        assert row[5:] == ["0.500"] * 2 or float(row[5]) + float(row[6]) == pytest.approx(1, abs=2e-3), "it has no node"


def test_the_perturbations_are_those_there_are(monkeypatch: pytest.MonkeyPatch):
    from thinwire.tasks import PERTURBATIONS

    names = re.findall(r"^\| `(\w+)` \| [^|]+ \| [^|]+ \|$", DOCS, re.MULTILINE)
    assert {name for task in TASKS for name in TASKS[task].perturbations} <= set(names)
    monkeypatch.setattr(PERTURBATIONS, "_entries", dict(PERTURBATIONS._entries))
    exec(PYTHON[4], {})
    (pair,) = TASKS["var_if"].perturbed("docstring").text_pairs(1, "train", 0)
    assert re.match(r'"""\w+ \w+ \w+\."""\n', pair.prompts[1])


def test_numbers_are_those_of_the_code():
    from thinwire.tasks import lines
    from thinwire.tasks.task import PATIENCE

    sizes = {f"{lines.MAX_BYTES >> 20} MiB", f"{lines.MAX_LINE_BYTES >> 10} KiB", str(MIN_PAIRS), str(PATIENCE)}
    sizes |= {str(3 * MIN_PAIRS)}
    for number in ("100", "8", "24", "16 MiB", "64 KiB"):
        assert number in sizes
        assert re.search(rf"\b{number}\b", DOCS)
