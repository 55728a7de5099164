"""thinwire tasks show: example pairs in colour, and the tokens between which a tokenizer chooses."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from rich.text import Text

from thinwire.cli.common import emit
from thinwire.cli.lines import wrapped
from thinwire.cli.terminal import console
from thinwire.display import visible
from thinwire.errors import UserError

if TYPE_CHECKING:
    from thinwire.data.tokenizer import Tokenizer
    from thinwire.tasks import Pair, PairUse, Task
    from thinwire.tasks.decide import Choice, Choices

DIFFERS, ANSWER, ASIDE = "bold orange3", "bold blue", "dim"
SURVEYED = 10_000
"""Pairs of a file that are looked at to count the usable ones."""
TAIL = 24
"""Number of characters shown before a choice."""


@dataclass(frozen=True)
class ShowArgs:
    """Show example pairs of a task: two prompts that differ only in the part that decides the answer."""

    task: tyro.conf.Positional[str] = ""
    """Name of the task or of one of its controls, such as `bracket_counting.swapped`; unset takes --task-file's."""
    task_file: Path | None = None
    """JSON Lines file of pairs: a task of your own, named after the file."""
    model: Annotated[Path | None, tyro.conf.arg(aliases=["-m"])] = None
    """Model, tokens or tokenizer.json: show where its tokens decide the answer, and between which two."""
    split: Literal["train", "validation", "heldout"] = "train"
    """Split whose names and templates the pairs use."""
    perturbed: str = ""
    """Show prompts changed by a perturbation of the task; `thinwire tasks list` names them."""
    strength: float | None = None
    """How much they are changed, such as the number of elements of a longer list; unset takes the usual strength."""
    pairs: int = 3
    """Number of pairs."""
    seed: int = 0
    """Seed of the pairs."""
    json: bool = False
    """End stdout with one JSON object."""


def show(args: ShowArgs) -> None:
    """Print example pairs; the difference between the two sides is coloured."""
    from thinwire.tasks import find_tasks, flat_use, task_from_file, use_sentence

    if not args.task and args.task_file is None:
        raise UserError("Name a task (`thinwire tasks list` has them), or give --task-file.")
    own = None if args.task_file is None else task_from_file(args.task_file)
    task = find_tasks([args.task] if args.task else [], own)[0]
    if args.perturbed:
        task = task.perturbed(args.perturbed, args.strength)
    elif args.strength is not None:
        raise UserError("A strength belongs to a perturbation; name one with --perturbed.")
    tokenizer = None
    if args.model is not None:
        from thinwire.data.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(args.model)
    pairs = task.text_pairs(args.pairs, args.split, args.seed)
    use = surveyed(task, args, pairs, tokenizer)
    if args.json:
        rows = [as_json(task, pair, tokenizer) for pair in pairs]
        emit({"task": task.name, "split": args.split, "pairs": rows, **flat_use([use])}, True)
        return
    screen = console()
    for number, pair in enumerate(pairs, start=1):
        screen.print(Text(f"pair {number}", style="bold"))
        choices = None if tokenizer is None else task.choices(pair, tokenizer)
        for side in (0, 1):
            shown = marked(pair.prompts[side], pair.prompts[1 - side]).append("  → ", style=ASIDE)
            shown.append_text(_answer(task, pair, side, tokenizer is not None)).append("\n")
            if tokenizer is not None:
                shown.append_text(_choice(choices, side, tokenizer)).append("\n")
            screen.print(shown, soft_wrap=True)
    if task.lines or use.passed_over:
        whole = f"{task.name}: all {use.held or use.used:,} {use.split} pairs are usable"
        emit({}, False, wrapped([use_sentence(task.name, [use], "usable") or whole]))


def surveyed(task: "Task", args: ShowArgs, pairs: "Sequence[Pair]", tokenizer: "Tokenizer | None") -> "PairUse":
    """How many pairs are usable: of those of a file (at most SURVEYED of a split), else of those that are shown."""
    from thinwire.tasks import PairUse

    looked = task.text_pairs(SURVEYED, args.split, args.seed) if task.lines else pairs
    usable = len(looked) if tokenizer is None else sum(task.choices(pair, tokenizer) is not None for pair in looked)
    use = PairUse(args.split, usable, usable, len(looked) - usable)
    if not task.lines:
        return use
    held = task.lines[args.split]
    return replace(use, held=held.total, repeated=held.repeated)


def as_json(task: "Task", pair: "Pair", tokenizer: "Tokenizer | None") -> dict[str, object]:
    """A pair with the right answers of this task, and its choices under a tokenizer; null where there is none."""
    answers = pair.answers if task.control is None else task.control.answers(pair.answers)
    found: dict[str, object] = {"prompts": pair.prompts, "answers": answers}
    if tokenizer is None:
        return found
    choices = task.choices(pair, tokenizer)
    return found | {"choices": None if choices is None else [_texts(choice, tokenizer) for choice in choices]}


def _texts(choice: "Choice", tokenizer: "Tokenizer") -> dict[str, str | None]:
    """The texts of a choice: its prompt and its answers; null where any token but the other one is right."""
    target, foil = (None if token < 0 else tokenizer.token(token) for token in (choice.target, choice.foil))
    return {"prompt": tokenizer.decode(choice.prompt[1:]), "target": target, "foil": foil}


def marked(prompt: str, other: str) -> Text:
    """A prompt, indented, with its difference from the other one coloured; control characters as escapes."""
    shortest = min(len(prompt), len(other))
    start = next((i for i, (a, b) in enumerate(zip(prompt, other, strict=False)) if a != b), shortest)
    end = 0
    while end < shortest - start and prompt[-1 - end] == other[-1 - end]:
        end += 1
    stop = len(prompt) - end
    text = Text(_safe(prompt[:start])).append(_safe(prompt[start:stop]), style=DIFFERS).append(_safe(prompt[stop:]))
    return Text("\n").join(Text("  ").append_text(line) for line in text.split("\n", allow_blank=True))


def _safe(text: str) -> str:
    return visible(text, keep="\n")


def _answer(task: "Task", pair: "Pair", side: int, with_tokens: bool) -> Text:
    """The right answer of a side in this task, as far as texts determine it."""
    answers = pair.answers if task.control is None else task.control.answers(pair.answers)
    if answers is None:
        return Text("an arbitrary token" + ("" if with_tokens else "; --model shows which"), style=ASIDE)
    foil = pair.answers[0] or pair.answers[1]
    return _quoted(answers[side]) if answers[side] else Text("not ", style=ASIDE).append_text(_quoted(foil))


def _choice(choices: "Choices | None", side: int, tokenizer: "Tokenizer") -> Text:
    """The place of the choice and its two tokens."""
    if choices is None:
        return Text("    no token distinguishes the two sides; the pair is skipped", style=ASIDE)
    texts = _texts(choices[side], tokenizer)
    before = texts["prompt"] or ""
    text = Text("    after ", style=ASIDE).append("…" if len(before) > TAIL else "").append(_json(before[-TAIL:]))
    for word, token in ((", ", texts["target"]), (" rather than ", texts["foil"])):
        text.append(word).append_text(Text("anything else") if token is None else _quoted(token))
    return text


def _quoted(text: str) -> Text:
    return Text(_json(text), style=ANSWER)


def _json(text: str) -> str:
    """A text as a JSON string without control characters."""
    return visible(json.dumps(text, ensure_ascii=False))
