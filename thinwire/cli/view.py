"""thinwire view: write circuits as one self-contained HTML page, or as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from thinwire.cli.common import emit, parse, progress
from thinwire.errors import UserError
from thinwire.verify.config import VerifyConfig


@dataclass(frozen=True)
class Args:
    """Write circuits of one model as one self-contained HTML page, or print them as text."""

    circuits: tyro.conf.Positional[tuple[Path, ...]]
    """Circuit artefacts, all cut from one model."""
    model: Path | None = None
    """Model the circuits were cut from; unset looks for `../../model` from the first."""
    tokens: Path | None = None
    """Tokens the model was trained on; unset looks for `tokens` beside the model."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """HTML file; unset writes `index.html` beside the model."""
    text: bool = False
    """Print the circuits as text instead."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "view")
    if not args.circuits:
        raise UserError("Name at least one circuit folder, such as runs/quickstart/circuits/bracket_counting.")
    from thinwire.circuit import Circuit, render
    from thinwire.data import Tokens
    from thinwire.stages import Opened, Workspace, finished_verdict, verify_stage, view_stage

    circuits = [Circuit.load(folder) for folder in args.circuits]
    model = args.model or args.circuits[0].absolute().parent.parent / "model"
    opened = Opened.open(model)
    for circuit in circuits:
        opened.check_circuit(circuit)
    if args.text:
        texts = [render(circuit, opened.model, opened.tokenizer.token) for circuit in circuits]
        emit({"circuits": texts}, args.json, "\n\n".join(texts))
        return
    work = Workspace.of_model(model)
    tokens = Tokens.open(args.tokens or work.tokens)
    cases = []
    for circuit in circuits:
        folder = work.verdict(circuit.task)
        verdict = finished_verdict(circuit, folder)  # made with other settings, it is still the user's verdict
        if verdict is None:
            with progress(f"verify {circuit.task}") as report:
                verdict = verify_stage(opened, circuit, VerifyConfig(), folder, report)
        cases.append((circuit, verdict))
    out = args.out or work.page
    with progress("page") as report:
        view_stage(opened, tokens, cases, out, report=report)
    emit({"out": str(out), "circuits": [str(folder) for folder in args.circuits]}, args.json, str(out))
