"""thinwire generate: sample text from a model, or from a circuit alone."""

import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from rich.segment import Segment, Segments
from rich.style import Style

from thinwire.cli.common import emit, number, parse, progress
from thinwire.cli.terminal import console
from thinwire.display import visible
from thinwire.errors import UserError
from thinwire.files import open_regular
from thinwire.interrupt import Interrupted
from thinwire.model.config import SampleConfig

if TYPE_CHECKING:
    from torch import Tensor

    from thinwire.stages import Opened

MAX_BYTES = 2**20
"""Largest prompt file."""
MAX_SAMPLES = 1024
GIVEN, HEADING = Style(dim=True), Style(bold=True)


@dataclass(frozen=True)
class Args:
    """Sample text from a model: print the prompt and its continuation, token by token.

    The prompt follows an end of text, as documents do in training.
    """

    model: tyro.conf.Positional[Path]
    """Model artefact, or the name of a shipped model."""
    config: Annotated[SampleConfig, tyro.conf.arg(name="")]
    prompt: Annotated[str, tyro.conf.arg(aliases=["-p"])] = ""
    """Text to continue, used as it is; in most shells $'...' turns \\n into a line break. Unset begins a new text."""
    prompt_file: Path | None = None
    """File with the text to continue; - reads standard input."""
    samples: int = 1
    """Number of texts to sample, in one batch."""
    stop: bool = True
    """Whether a text stops where the model ends it; if not, another text follows after `<|endoftext|>`."""
    circuit: Path | None = None
    """Circuit artefact of this model: sample with only its nodes and edges. Its calibration is not applied, because it
    is fitted to the two answers of a task."""
    json: bool = False
    """End stdout with one JSON object."""


@dataclass
class Texts:
    """The tokens of each sample so far."""

    rows: list[list[int]]
    limit: int
    end: int | None
    """Token that ends a text."""
    began: float = field(default_factory=time.perf_counter)
    seconds: float = 0.0
    """Time since the prompt was processed."""

    def add(self, step: "Tensor") -> None:
        """Add the tokens of a step, int64 [sample], to the texts that have not ended."""
        for row, token in zip(self.rows, step.tolist(), strict=True):
            if not self.ended(row):
                row.append(token)
        self.seconds = time.perf_counter() - self.began

    def ended(self, row: list[int]) -> bool:
        """Whether the model has ended this text."""
        return bool(row) and row[-1] == self.end

    def words(self, row: list[int]) -> list[int]:
        """The tokens of a text without its end."""
        return row[:-1] if self.ended(row) else row

    def finish(self, row: list[int]) -> str:
        """Why a text is finished."""
        if self.ended(row):
            return "end_of_text"
        return "length" if len(row) == self.limit else "context"

    @property
    def count(self) -> int:
        """Tokens drawn, ends included."""
        return sum(map(len, self.rows))

    @property
    def rate(self) -> float:
        """Tokens per second."""
        return self.count / max(self.seconds, 1e-9)


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "generate", Args(tyro.MISSING, SampleConfig()))
    prompt = read_prompt(args)
    if not 1 <= args.samples <= MAX_SAMPLES:
        raise UserError(f"{args.samples} samples are not possible; choose 1 to {MAX_SAMPLES}.")
    from thinwire.stages import Opened

    opened = Opened.open(args.model)
    end = opened.tokenizer.end_of_text if args.stop else None
    steps = start(opened, prompt, args, end)
    texts = Texts([[] for _ in range(args.samples)], args.config.tokens, end)
    try:
        if args.samples == 1 and not args.json:
            write(prompt, opened.tokenizer.pieces(first(texts, steps)))
        else:
            with progress("generate") as report:
                for done, step in enumerate(steps, start=1):
                    texts.add(step)
                    report(done, texts.limit, f"{number(texts.rate)} tokens/s")
    except KeyboardInterrupt:
        raise Interrupted(f"Interrupted after {number(texts.count)} tokens.") from None
    show(texts, prompt, opened, args)


def read_prompt(args: Args) -> str:
    """The text to continue. Raises UserError where both options give one, and for a file that is not text."""
    path = args.prompt_file
    if path is None:
        if "\\n" in args.prompt and "\n" not in args.prompt:
            sys.stderr.write("Note: \\n in the prompt is two characters; $'...' in place of '...' makes it one.\n")
        return args.prompt
    if args.prompt:
        raise UserError("Give either --prompt or --prompt-file, not both.")
    own = str(path) == "-"
    name = "Standard input" if own else str(path)
    try:
        with open(0, "rb", closefd=False) if own else open_regular(path) as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror}); give a file of text.") from None
    if len(content) > MAX_BYTES:
        raise UserError(f"{name} is larger than {MAX_BYTES >> 20} MiB; give the end of it.")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{name} is not UTF-8 text; give text.") from None


def start(opened: "Opened", prompt: str, args: Args, end: int | None) -> "Iterator[Tensor]":
    """The steps of sampling: at each, a token of every text, int64 [sample].

    Raises UserError for a prompt longer than the context, and another model's circuit.
    """
    import torch

    from thinwire.circuit import Circuit
    from thinwire.model.sample import generate

    tokens = [opened.tokenizer.end_of_text, *opened.tokenizer.encode(prompt)]
    one = torch.tensor(tokens, dtype=torch.int64, device="cpu")
    prompts = one.expand(args.samples, -1)  # one row in memory, since a long prompt may be refused
    if args.circuit is None:
        return generate(opened.model, prompts, args.config, end)
    circuit = Circuit.load(args.circuit)
    opened.check_circuit(circuit)
    whole = opened.model if circuit.frozen_norms else None
    return generate(circuit.cut_model(opened.model), prompts, args.config, end, circuit.to_tap(), whole)


def first(texts: Texts, steps: "Iterable[Tensor]") -> Iterator[int]:
    """The tokens of the first text as they are sampled, without its end; each of `steps` is int64 [sample]."""
    for step in steps:
        texts.add(step)
        if not texts.ended(texts.rows[0]):
            yield texts.rows[0][-1]


def write(prompt: str, pieces: Iterable[str]) -> None:
    """Print a text piece by piece after its prompt, and a line break where it has none at its end."""
    last = prompt
    heading(prompt, GIVEN)
    try:
        for piece in pieces:
            sys.stdout.write(_safe(piece))
            sys.stdout.flush()
            last = piece or last
    finally:
        if not last.endswith("\n"):
            sys.stdout.write("\n")


def heading(text: str, style: Style) -> None:
    """Print a text, in a style where stdout is a terminal."""
    console().print(Segments([Segment(_safe(text), style)]), end="", soft_wrap=True)


def _safe(text: str) -> str:
    """A text made safe for stdout. What its encoding lacks becomes an escape, since a look-alike is another text."""
    encoding = sys.stdout.encoding
    return visible(text, keep="\n\t").encode(encoding, "backslashreplace").decode(encoding)


def show(texts: Texts, prompt: str, opened: "Opened", args: Args) -> None:
    """Print the texts, unless the only one is printed already, and on stderr the time they took."""
    finish = [texts.finish(row) for row in texts.rows]
    decoded = [opened.tokenizer.decode(texts.words(row)) for row in texts.rows]
    if args.json:
        values = {"prompt": prompt, "texts": decoded, "tokens": texts.rows, "finish": finish}
        emit(values | {"seconds": texts.seconds, "tokens_per_second": texts.rate}, True)
    elif args.samples > 1:
        for place, (text, why) in enumerate(zip(decoded, finish, strict=True), start=1):
            heading(f"sample {place} ({why.replace('_', ' ')})\n", HEADING)
            write(prompt, [text])
    summary = f"{number(texts.count)} tokens in {number(texts.seconds)} s, {number(texts.rate)} tokens/s"
    if "context" in finish:
        summary += f"; the model's context of {number(opened.model.config.context)} tokens is full"
    sys.stdout.flush()
    sys.stderr.write(f"{summary}\n")
