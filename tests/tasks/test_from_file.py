"""A task from a JSON Lines file: what its pairs become, and a sentence with a line number for every mistake."""

import hashlib
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from task_table import byte_tokenizer

from thinwire.errors import UserError
from thinwire.tasks import SPLITS, TASKS, Pair, task_from_file
from thinwire.tasks.from_file import MIN_PAIRS
from thinwire.tasks.lines import MAX_BYTES, MAX_LINE_BYTES


def line(number: int, **changes: object) -> dict[str, object]:
    """One good pair."""
    return {"prompts": [f"{number} <", f"{number} >"], "answers": ["a", "b"]} | changes


def write(path: Path, lines: list[dict[str, object]]) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in lines), "utf-8")
    return path


def named(numbers: dict[str, range]) -> list[dict[str, object]]:
    return [line(number, split=split) for split, places in numbers.items() for number in places]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A hundred good pairs without splits."""
    return write(tmp_path / "arrows.jsonl", [line(number) for number in range(100)])


def test_named_splits_hold_their_lines(tmp_path: Path):
    places = {"train": range(20), "validation": range(20, 30), "heldout": range(30, 38)}
    task = task_from_file(write(tmp_path / "arrows.jsonl", named(places)))
    assert task.name == "arrows"
    assert task.source == hashlib.sha256((tmp_path / "arrows.jsonl").read_bytes()).hexdigest()[:16]
    for split in SPLITS:
        expected = {Pair((f"{n} <", f"{n} >"), ("a", "b")) for n in places[split]}
        assert set(task.text_pairs(len(expected), split, 0)) == expected
        assert task.text_pairs(5, split, 0) == task.text_pairs(9, split, 0)[:5]
        assert task.text_pairs(5, split, 0) != task.text_pairs(5, split, 1)


def test_every_pair_comes_once_and_none_twice(tmp_path: Path):
    places = {"train": range(300), "validation": range(300, 308), "heldout": range(308, 316)}
    task = task_from_file(write(tmp_path / "arrows.jsonl", named(places)))
    for split, n in (("train", 300), ("heldout", 8)):
        found = task.text_pairs(4 * n, split, 0)
        assert len(found) == len(set(found)) == n


def test_without_splits_pairs_fall_into_disjoint_ones_that_stay(file: Path, tmp_path: Path):
    task = task_from_file(file)
    found = {split: set(task.text_pairs(100, split, 0)) for split in SPLITS}
    assert sum(map(len, found.values())) == 100
    assert 45 <= len(found["train"]) <= 75
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    longer = write(tmp_path / "more.jsonl", [line(number) for number in range(100, 150)] + lines[::-1])
    more = task_from_file(longer)
    assert more.source != task.source
    assert all(found[split] <= set(more.text_pairs(150, split, 0)) for split in SPLITS)


def test_pairs_as_tensors(file: Path):
    tokenizer = byte_tokenizer()
    batch = task_from_file(file).pairs(4, "heldout", 0, tokenizer, context=8)
    assert batch.target.tolist() == [tokenizer.single("a")] * 4 + [tokenizer.single("b")] * 4
    assert tokenizer.decode(batch.tokens[0, 1 : int(batch.last[0]) + 1].tolist()).endswith(" <")


@pytest.mark.parametrize("change", [b"\xef\xbb\xbf%s", b"\n\n%s\n  \n", b"\r\n", b"\r"])
def test_marks_and_blank_lines_of_other_systems_do_no_harm(change: bytes, file: Path):
    content, before = file.read_bytes(), task_from_file(file)
    file.write_bytes(change % content if b"%s" in change else content.replace(b"\n", change))
    assert task_from_file(file).text_pairs(60, "train", 0) == before.text_pairs(60, "train", 0)


GOOD = json.dumps(line(7)).encode()
BAD_LINES = [
    (b"{'prompts': 1}", "invalid JSON"),
    (b"[" * 5000, "invalid JSON"),
    (b'{"prompts": ["a", "b"]', "invalid JSON"),
    (GOOD + b" " + GOOD, "invalid JSON"),
    (GOOD[:-1] + b', "answers": ["c", "d"]}', "gives the key 'answers' twice"),
    (GOOD[:-1] + b', "split": NaN}', "split: input should be 'train'"),
    (b'{"a":' * 5000, "invalid JSON"),
    (b"\0" * 99, "invalid JSON"),
    (b'{"prompts": ["\\ud800", "b"], "answers": ["c", "d"]}', "invalid JSON"),
    (b"\xff\xfe", "is not UTF-8 text; save the file as UTF-8"),
    (b"null", "input should be an object"),
    (b"[]", "input should be an object"),
    (b'{"prompts": ["a", "b"]}', "answers: field required"),
    (b'{"answers": ["a", "b"]}', "prompts: field required"),
    (json.dumps(line(7, prompts=["a"])).encode(), "prompts.1: field required"),
    (json.dumps(line(7, prompts=["a", "b", "c"])).encode(), "prompts: tuple should have at most 2 items"),
    (json.dumps(line(7, prompts=["a", 5])).encode(), "prompts.1: input should be a valid string"),
    (json.dumps(line(7, prompts="ab")).encode(), "prompts: input should be a valid array"),
    (json.dumps(line(7, prompts=["", "b"])).encode(), "prompts.0: string should have at least 1 character"),
    (json.dumps(line(7, prompts=["b", "b"])).encode(), "the two prompts are the same"),
    (json.dumps(line(7, answers=["b", "b"])).encode(), "the two answers are the same"),
    (json.dumps(line(7, answers=["", ""])).encode(), "the two answers are the same"),
    (json.dumps(line(7, split="test")).encode(), "split: input should be 'train', 'validation' or 'heldout'"),
    (json.dumps(line(7, splits="train")).encode(), "unknown key 'splits'"),
    (json.dumps(line(7, **{"\x1b[31m" * 100: 1})).encode(), "unknown key"),
    (b'{"a":"' + b"x" * MAX_LINE_BYTES + b'"}', "is longer than 64 KiB; shorten its prompts"),
]  # fmt: skip


def test_a_bad_line_is_named(file: Path):
    lines = file.read_bytes().splitlines()
    for bad, said in BAD_LINES:
        file.write_bytes(b"\n".join([*lines[:40], bad, *lines[40:]]))
        with pytest.raises(UserError, match=r"^Line 41 of .*arrows\.jsonl") as error:
            task_from_file(file)
        assert said in str(error.value)
        assert str(error.value).endswith(("there.", "as UTF-8.", "its prompts."))
        assert len(str(error.value)) < 500 + len(str(file))


@pytest.mark.parametrize("content", [b"", b"\xef\xbb\xbf", b"\n \n\r\n\t"])
def test_a_file_without_lines_says_so(content: bytes, file: Path):
    file.write_bytes(content)
    with pytest.raises(UserError, match=r"arrows.jsonl has no lines; write .* once for each pair\.$"):
        task_from_file(file)


def test_lines_with_and_without_splits_do_not_mix(file: Path):
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    lines[6]["split"] = lines[8]["split"] = "train"
    with pytest.raises(UserError, match=r'^Line 1 of .* names no split and line 7 does; give every line a "split"'):
        task_from_file(write(file, lines))


def test_a_prompt_in_two_splits_is_refused(tmp_path: Path):
    lines = named({"train": range(10), "validation": range(10, 20), "heldout": range(20, 30)})
    lines[25]["prompts"] = ["25 <", "4 >"]
    with pytest.raises(
        UserError, match=r"^Lines 5 and 26 of .* share a prompt .* \(train, heldout\); drop one, or name"
    ):
        task_from_file(write(tmp_path / "x.jsonl", lines))


@pytest.mark.parametrize("lines", [5, MIN_PAIRS * 2])
def test_too_few_pairs_say_how_many_are_needed(lines: int, tmp_path: Path):
    repeated = [line(number, split="train") for number in range(lines)] + [line(99, split="heldout")] * 20
    with pytest.raises(UserError, match=rf"different pairs for the \w+ split and needs {MIN_PAIRS}; add lines"):
        task_from_file(write(tmp_path / "x.jsonl", repeated))


@pytest.mark.parametrize(
    "name", ["a.b.jsonl", "a b.jsonl", ".jsonl", "\x1b[31m.jsonl", "é.jsonl", "-x.jsonl", "x" * 81]
)
def test_a_file_with_an_invalid_task_name_is_refused(name: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"is not a valid task name; rename the file: up to 80 letters"):
        task_from_file(tmp_path / name)


def test_a_registered_name_is_refused(file: Path):
    with pytest.raises(UserError, match="There is already a task called with_as; rename the file"):
        task_from_file(file.rename(file.with_name("with_as.jsonl")))
    assert "arrows" not in TASKS


def test_what_is_no_file_of_pairs(tmp_path: Path, file: Path):
    with pytest.raises(UserError, match=r"cannot be read \(No such file or directory\); give a JSON Lines file"):
        task_from_file(tmp_path / "nowhere.jsonl")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(UserError, match="is not a file; give a JSON Lines file"):
            task_from_file(tmp_path / name)
    with file.open("ab") as grown:
        grown.truncate(MAX_BYTES + 1)
    with pytest.raises(UserError, match="is larger than 16 MiB; give a part of its lines"):
        task_from_file(file)


@given(st.lists(st.binary(max_size=60) | st.sampled_from([GOOD, *(bad for bad, _ in BAD_LINES)]), max_size=6))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_a_task_or_a_user_error(tmp_path: Path, lines: list[bytes]):
    (tmp_path / "any.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(UserError):
        task_from_file(tmp_path / "any.jsonl")
