"""thinwire view: show circuits as a page, a picture or text, or the report of a training run as a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from thinwire import artifact, shipped
from thinwire.cli.circuit_folders import circuit_folders
from thinwire.cli.common import emit, parse, progress
from thinwire.cli.reuse import Watched
from thinwire.errors import UserError
from thinwire.view.formats import PAGES, PICTURES, suffix_of

if TYPE_CHECKING:
    from thinwire.circuit import Circuit
    from thinwire.data import Tokens
    from thinwire.stages import Opened, Workspace
    from thinwire.tasks import Task

EXAMPLE = "runs/quickstart/circuits/bracket_counting"


@dataclass(frozen=True)
class Args:
    """Show circuits of one model on one self-contained HTML page, a circuit as a picture, or print them as text.

    Given the folder of a model instead, finished or unfinished, write the report of its training, `report.html`; given
    that of a bridge, or of all stages of one, write the report of the bridge.
    """

    circuits: tyro.conf.Positional[tuple[Path, ...]]
    """Circuit artefacts, all cut from one model; a workspace, for all of its circuits; one model folder; one bridge."""
    model: Path | None = None
    """Model the circuits were cut from; unset looks for `../../model` from the first."""
    tokens: Path | None = None
    """Tokens the model was trained on; unset looks for `tokens` beside the model."""
    task_file: Path | None = None
    """JSON Lines file of pairs: your own task, named by the file's stem."""
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
    """The suffix decides: .html is a page; .svg, .png or .pdf a picture of one circuit. Unset writes `index.html`
    beside the model, and a report into the model's folder."""
    text: bool = False
    """Print the circuits as text instead."""
    json: bool = False
    """End stdout with one JSON object."""


def run(argv: Sequence[str]) -> None:
    """Run the verb."""
    args = parse(Args, argv, "view")
    if not args.circuits:
        raise UserError(f"Name at least one circuit folder, such as {EXAMPLE}.")
    if args.out is not None and args.out.is_dir():
        raise UserError(f"{args.out} is a folder; give the name of an HTML file or a picture for --out.")
    suffix = PAGES[0] if args.out is None else suffix_of(args.out, (*PAGES, *PICTURES))
    if args.text and args.out is not None:
        raise UserError("--text prints the circuits and writes no file; leave --out or --text out.")
    if len(args.circuits) == 1 and not args.text and suffix in PAGES and _is_bridge(args.circuits[0]):
        _bridge_report(args.circuits[0], args)
        return
    if len(args.circuits) == 1 and not args.text and _is_run(args.circuits[0]):
        _report(args.circuits[0], args)
        return
    folders = circuit_folders(args.circuits)
    if suffix in PICTURES and len(folders) > 1:
        raise UserError(f"A picture shows one circuit and {len(folders)} are given; name one, or write an .html page.")
    _show(folders, suffix, args)


def _show(folders: Sequence[Path], suffix: str, args: Args) -> None:
    """Print the circuits, or write the page or picture of them."""
    from thinwire.circuit import Circuit, circuit_task, render
    from thinwire.cli.verdicts import lines_on
    from thinwire.stages import Opened, Workspace, picture_stage
    from thinwire.tasks import task_from_file
    from thinwire.view.samples import held_out

    own = None if args.task_file is None else task_from_file(args.task_file)
    circuits = [Circuit.load(folder) for folder in folders]
    model = args.model or folders[0].absolute().parent.parent / "model"
    opened = Opened.open(model)
    for circuit in circuits:
        opened.check_circuit(circuit)
    if args.text:
        texts = [
            "\n".join([render(circuit, opened.model, opened.tokenizer.token), *lines_on(circuit)])
            for circuit in circuits
        ]
        emit({"circuits": texts}, args.json, "\n\n".join(texts))
        return
    for circuit in circuits:
        circuit_task(circuit, own)  # raises before anything is measured
    work = Workspace.of_model(model)
    out = args.out or work.page
    if suffix in PICTURES:
        picture_stage(opened, circuits[0], out, own)
    else:
        tokens = work.open_tokens(args.tokens, model)
        opened.check_tokens(tokens)
        artifact.check_file_place(out, "an HTML file")
        held_out(tokens, 1, opened.model.config.context)  # raises where there is too little text
        _page(opened, tokens, circuits, work, out, own)
    emit({"out": str(out), "circuits": [str(folder) for folder in folders]}, args.json, str(out))


def _page(
    opened: "Opened", tokens: "Tokens", circuits: "Sequence[Circuit]", work: "Workspace", out: Path, own: "Task | None"
) -> None:
    """Write the page of some circuits, with the verdicts on them; those that are missing are made."""
    from thinwire.stages import Also, verify_in, view_stage

    cases = []
    for circuit in circuits:
        with progress(f"verify {circuit.task}") as report:
            # a verdict with other settings is still the user's verdict
            watched = Watched(report, "thinwire verify --force makes it again")
            cases.append((circuit, verify_in(work, opened, circuit, None, watched, also=Also(tokens, own))))
    with progress("page") as report:
        view_stage(opened, tokens, cases, out, report=report, own=own)


def _is_run(folder: Path) -> bool:
    return (shipped.find(folder) / artifact.METRICS).is_file()


def _report(model: Path, args: Args) -> None:
    """Write the report of a training run; that of a shipped model goes into its workspace."""
    from thinwire.stages import Workspace
    from thinwire.view.report import REPORT, write_report

    default = Workspace.of_model(model).root / REPORT if shipped.name_of(model) else None
    out = write_report(shipped.find(model), args.out or default)
    emit({"out": str(out), "model": str(model)}, args.json, str(out))


def _is_bridge(folder: Path) -> bool:
    """Whether a folder is a bridge or holds the stages of one; a cheap look that imports no model."""
    stages = ("ridge", "maps", "joint", "scratch")
    return any((place / "bridge.json").is_file() for place in (folder, *(folder / stage for stage in stages)))


def _bridge_report(folder: Path, args: Args) -> None:
    """Write the report of a bridge and of the stages beside it."""
    from thinwire.view.bridge_report import write_bridge_report

    out = write_bridge_report(folder, args.out)
    emit({"out": str(out), "bridge": str(folder)}, args.json, str(out))
