"""thinwire view: write circuits, or the report of a training run, as one self-contained HTML page, or as text."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from thinwire import artifact, shipped
from thinwire.cli.common import emit, parse, progress
from thinwire.errors import UserError


@dataclass(frozen=True)
class Args:
    """Write circuits of one model as one self-contained HTML page, or print them as text.

    Given the folder of a model instead, finished or unfinished, write the report of its training, `report.html`.
    """

    circuits: tyro.conf.Positional[tuple[Path, ...]]
    """Circuit artefacts, all cut from one model; or one model folder."""
    model: Path | None = None
    """Model the circuits were cut from; unset looks for `../../model` from the first."""
    tokens: Path | None = None
    """Tokens the model was trained on; unset looks for `tokens` beside the model."""
    task_file: Path | None = None
    """JSON Lines file of pairs: your own task, named by the file's stem."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """HTML file; unset writes `index.html` beside the model, and a report into the model's folder."""
    text: bool = False
    """Print the circuits as text instead."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "view")
    if not args.circuits:
        raise UserError("Name at least one circuit folder, such as runs/quickstart/circuits/bracket_counting.")
    if len(args.circuits) == 1 and not args.text and _is_run(args.circuits[0]):
        _report(args.circuits[0], args)
        return
    from thinwire.circuit import Circuit, circuit_task, render
    from thinwire.stages import Opened, Workspace, verify_stage, view_stage
    from thinwire.tasks import task_from_file
    from thinwire.view.build import refuse_repeated

    own = None if args.task_file is None else task_from_file(args.task_file)
    circuits = [Circuit.load(folder) for folder in args.circuits]
    model = args.model or args.circuits[0].absolute().parent.parent / "model"
    opened = Opened.open(model)
    for circuit in circuits:
        opened.check_circuit(circuit)
    if args.text:
        texts = [render(circuit, opened.model, opened.tokenizer.token) for circuit in circuits]
        emit({"circuits": texts}, args.json, "\n\n".join(texts))
        return
    for circuit in circuits:
        circuit_task(circuit, own)  # raises before anything is measured
    refuse_repeated(circuits)
    work = Workspace.of_model(model)
    out = args.out or work.page
    artifact.check_file_place(out)
    tokens = work.open_tokens(args.tokens, model)
    cases = []
    for circuit in circuits:
        with progress(f"verify {circuit.task}") as report:
            # a verdict with other settings is still the user's verdict
            verdict = verify_stage(opened, circuit, None, work.verdict(circuit.task), report, own=own)
        cases.append((circuit, verdict))
    with progress("page") as report:
        view_stage(opened, tokens, cases, out, report=report, own=own)
    emit({"out": str(out), "circuits": [str(folder) for folder in args.circuits]}, args.json, str(out))


def _is_run(folder: Path) -> bool:
    return (shipped.find(folder) / artifact.METRICS).is_file()


def _report(model: Path, args: Args) -> None:
    """Write the report of a training run; that of a shipped model goes into its workspace."""
    from thinwire.stages import Workspace
    from thinwire.view.report import REPORT, write_report

    default = Workspace.of_model(model).root / REPORT if shipped.name_of(model) else None
    out = write_report(shipped.find(model), args.out or default)
    emit({"out": str(out), "model": str(model)}, args.json, str(out))
