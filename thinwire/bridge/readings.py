"""Prompts from a file, one in each line: what a monitor reads at their tokens, and thresholds from their labels.

{"text": "print('hello", "label": true}
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from thinwire.bridge.monitor import Monitor
from thinwire.bridge.thresholds import Detection, Threshold, choose, detection, halves
from thinwire.data import Tokenizer
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.model.config import SampleConfig
from thinwire.progress import Report, silent
from thinwire.tasks.lines import parse_lines, read_content

FORM = '{"text": "…"}, with a "label" of true or false if you like,'
BATCH = 32
"""Prompts that run together."""


class Prompt(BaseModel):
    """One line of a file of prompts."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)
    text: Annotated[str, Field(min_length=1)]
    label: bool | None = None


@one_line
@dataclass(frozen=True)
class Reading:
    """What a monitor reads in one text."""

    line: int
    """Of the prompt in its file, from 1."""
    prompt: Prompt
    tokens: tuple[int, ...]
    """An end of text, the prompt, and what was generated after it, if anything."""
    values: Tensor
    """Of each node at each token, float32 [pos, nodes]."""
    prompt_tokens: int
    """Tokens of the prompt, the end of text included: what was generated comes after them."""

    @property
    def last(self) -> Tensor:
        """The values at the prompt's last token, [nodes]."""
        return self.values[self.prompt_tokens - 1]


def read_prompts(path: Path) -> dict[int, Prompt]:
    """The prompts of a JSON Lines file by the numbers of their lines, from 1.

    Raises UserError for an invalid line, with its number, and for a file without lines.
    """
    found = parse_lines(read_content(path, "prompts"), path, Prompt, FORM)
    if not found:
        raise UserError(f"{path} has no lines; write {FORM} there, one for each prompt.")
    return found


def readings(
    monitor: Monitor,
    tokenizer: Tokenizer,
    prompts: Mapping[int, Prompt],
    sampling: SampleConfig | None = None,
    report: Report = silent,
    source: Path | None = None,
) -> list[Reading]:
    """Monitor the dense model on prompts, in their order; with `sampling` it goes on from each until the text ends.

    Raises UserError for a prompt that is longer than the context, by its line and the file `source`, before any runs.
    """
    encoded = tokenizer.encode_batch([prompt.text for prompt in prompts.values()])
    rows = {line: [tokenizer.end_of_text, *own] for line, own in zip(prompts, encoded, strict=True)}
    for line, row in rows.items():
        if len(row) > monitor.context:
            where = f"Line {line}" if source is None else f"Line {line} of {source}"
            raise UserError(f"{where} has {len(row)} tokens and the models take {monitor.context}; shorten its text.")
    found: dict[int, Reading] = {}
    order = sorted(rows, key=lambda line: len(rows[line]))  # so that little padding runs
    parts = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
    for part in parts if sampling is None else [[line] for line in order]:
        texts = [rows[line] for line in part]
        if sampling is None:
            values = _values(monitor, texts)
        else:
            texts, values = _generated(monitor, texts[0], sampling, tokenizer.end_of_text)
        for line, tokens, own in zip(part, texts, values, strict=True):
            found[line] = Reading(line, prompts[line], tuple(tokens), own[: len(tokens)], len(rows[line]))
        report(len(found), len(rows), "")
    return [found[line] for line in rows]


def _values(monitor: Monitor, texts: Sequence[Sequence[int]]) -> Tensor:
    """Values [texts, pos, nodes], of which those past the end of a text are padding."""
    tokens = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.int64, device="cpu")
    for row, text in zip(tokens, texts, strict=True):
        row[: len(text)] = torch.tensor(text, dtype=torch.int64, device="cpu")
    return monitor.values(tokens).float()


def _generated(
    monitor: Monitor, text: Sequence[int], sampling: SampleConfig, end: int
) -> tuple[list[list[int]], Tensor]:
    """One text with the tokens that follow it and have run, and the values [1, pos, nodes]."""
    steps = list(monitor.generate(torch.tensor([text], dtype=torch.int64, device="cpu"), sampling, end))
    drawn = [int(step.tokens) for step in steps[:-1]]
    return [[*text, *drawn]], torch.cat([step.values for step in steps], 1).float()


@one_line
@dataclass(frozen=True)
class Calibration:
    """Thresholds of all nodes from labelled prompts, by the values at their last tokens."""

    chosen_on: frozenset[int]
    """Lines of the prompts that the thresholds were chosen on; none where they were given."""
    reported_on: frozenset[int]
    detections: tuple[Detection, ...]
    """By node."""


def calibrate(found: Sequence[Reading], seed: int = 0, given: Sequence[Threshold] | None = None) -> Calibration:
    """Thresholds from the labelled ones among some readings; or how well the given ones do, on all of them.

    Given ones need a prompt of each label. Raises UserError as `halves` does.
    """
    labelled = [reading for reading in found if reading.prompt.label is not None]
    if given is None:
        texts = [reading.prompt.text for reading in labelled]
        first, second = halves(texts, [bool(reading.prompt.label) for reading in labelled], seed)
    else:
        first, second = [], list(range(len(labelled)))
    values = torch.stack([reading.last for reading in labelled])
    labels = torch.tensor([reading.prompt.label for reading in labelled], dtype=torch.bool, device="cpu")
    chosen = given or [choose(own, labels[first]) for own in values[first].unbind(-1)]
    detections = tuple(
        detection(threshold, own, labels[second])
        for threshold, own in zip(chosen, values[second].unbind(-1), strict=True)
    )
    lines = [frozenset(labelled[row].line for row in half) for half in (first, second)]
    return Calibration(lines[0], lines[1], detections)


def records(
    found: Sequence[Reading],
    monitor: Monitor,
    tokenizer: Tokenizer,
    thresholds: Sequence[Threshold] | None,
    last: bool,
) -> Iterator[dict[str, object]]:
    """Readings as values for JSON, an object each; with `last`, at the last token alone. Thresholds are by node."""
    for reading in found:
        record: dict[str, object] = {"line": reading.line}
        if reading.prompt.label is not None:
            record["label"] = reading.prompt.label
        if last:
            record["text"] = reading.prompt.text
        else:
            record["tokens"] = [tokenizer.token(token) for token in reading.tokens]
        values = reading.last[None] if last else reading.values
        record["values"] = _by_node(monitor, values, last)
        if thresholds is not None:
            columns = zip(thresholds, values.unbind(-1), strict=True)
            record["flags"] = _by_node(monitor, torch.stack([each.flags(own) for each, own in columns], -1), last)
        yield record


def _by_node(monitor: Monitor, values: Tensor, last: bool) -> dict[str, object]:
    """Values [pos, nodes] by the name of the node: a list over the tokens, or a single one."""
    rounded = {
        name: [value if isinstance(value, bool) else float(f"{value:.6g}") for value in own]
        for name, own in zip(monitor.names, values.T.tolist(), strict=True)
    }
    return {name: own[0] if last else own for name, own in rounded.items()}
