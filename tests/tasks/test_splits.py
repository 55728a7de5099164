"""Lines of a file that share a prompt stay in one split, and each split gets enough pairs where that can be done."""

import json
from pathlib import Path

import pytest

from thinwire.errors import UserError
from thinwire.tasks import SPLITS, task_from_file
from thinwire.tasks.from_file import MIN_PAIRS

Prompts = list[tuple[str, str]]


def write(path: Path, prompts: Prompts) -> Path:
    """A file of pairs with these prompts, all with the same answers."""
    path.write_text("".join(json.dumps({"prompts": two, "answers": ["a", "b"]}) + "\n" for two in prompts))
    return path


def baselines(groups: int, each: int, word: str = "noun") -> Prompts:
    """Pairs of which `each` share their second prompt."""
    return [(f"{word}{group} {n}", f"{word}{group}") for group in range(groups) for n in range(each)]


DIVISIBLE: dict[str, Prompts] = {
    "eight baselines": baselines(8, 12),
    "three baselines": baselines(3, 8),
    "baselines of other words": baselines(5, 20, "the year"),
    "one large group and single pairs": baselines(1, 200) + [(f"{n}", f"{n}!") for n in range(16)],
    "as few pairs as there may be": [(f"{n}", f"{n}!") for n in range(3 * MIN_PAIRS)],
    "a baseline on either side": [pair[::-1] if n % 2 else pair for n, pair in enumerate(baselines(6, 9))],
    "chains": [(f"{chain}.{n}", f"{chain}.{n + 1}") for chain in range(7) for n in range(10)],
    "sizes that only some order divides": [(f"{size}:{n}", f"{size}") for size in (2, 3, 5, 6, 8) for n in range(size)],
}


@pytest.mark.parametrize("name", DIVISIBLE)
def test_no_prompt_is_in_two_splits(name: str, tmp_path: Path) -> None:
    prompts = DIVISIBLE[name]
    task = task_from_file(write(tmp_path / "own.jsonl", prompts))
    found = {split: task.text_pairs(1000, split, 0) for split in SPLITS}
    assert sorted(pair.prompts for pairs in found.values() for pair in pairs) == sorted(prompts)
    assert min(map(len, found.values())) >= MIN_PAIRS
    texts = {split: {prompt for pair in pairs for prompt in pair.prompts} for split, pairs in found.items()}
    assert not texts["train"] & texts["validation"]
    assert not texts["heldout"] & (texts["train"] | texts["validation"])
    other = task_from_file(write(tmp_path / "own.jsonl", prompts[::-1]))
    for split in SPLITS:
        assert set(other.text_pairs(1000, split, 0)) == set(found[split]), "the order of the lines does not matter"


def test_groups_keep_their_splits_when_lines_are_added(tmp_path: Path) -> None:
    prompts = baselines(60, 4)
    task = task_from_file(write(tmp_path / "own.jsonl", prompts))
    more = task_from_file(write(tmp_path / "own.jsonl", baselines(60, 6) + baselines(9, 2, "new")))
    for split in SPLITS:
        assert set(task.text_pairs(999, split, 0)) <= set(more.text_pairs(999, split, 0))


INDIVISIBLE: dict[str, tuple[Prompts, str]] = {
    "one baseline": (baselines(1, 96), r"^All lines of .* share the prompt 'noun0', so no split can be"),
    "one chain": ([(f"{n}", f"{n + 1}") for n in range(40)], r"^All lines of .* are joined by prompts that they share"),
    "two baselines": (baselines(2, 20), r"^The 40 pairs of .* form 2 groups .* \(20 share the prompt 'noun"),
    "too few pairs": (baselines(1, 20), r"has 0 different pairs for the \w+ split and needs 8; add lines"),
}


@pytest.mark.parametrize("name", INDIVISIBLE)
def test_what_cannot_be_divided_says_why(name: str, tmp_path: Path) -> None:
    prompts, said = INDIVISIBLE[name]
    with pytest.raises(UserError, match=said) as error:
        task_from_file(write(tmp_path / "own.jsonl", prompts))
    assert str(error.value).endswith((f"{MIN_PAIRS} for each split.", 'name the "split" of every line.'))
