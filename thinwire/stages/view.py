"""From circuits and the verdicts on them to one page, or from a circuit to a picture of it."""

from collections.abc import Sequence
from pathlib import Path

from thinwire import artifact
from thinwire.circuit import Circuit, circuit_task
from thinwire.data import Tokens
from thinwire.progress import Report, silent
from thinwire.stages.workspace import Opened
from thinwire.tasks import Task
from thinwire.train.result import result_in
from thinwire.verify.verdict import Verdict
from thinwire.view import page
from thinwire.view.build import Case, Origin, PageConfig, payload_from
from thinwire.view.formats import PAGES, suffix_of


def view_stage(
    opened: Opened,
    tokens: Tokens,
    cases: Sequence[tuple[Circuit, Verdict]],
    out: Path,
    config: PageConfig | None = None,
    report: Report = silent,
    own: Task | None = None,
) -> None:
    """Write one HTML page with all the circuits; it is always written anew. `own` is as in `Case`.

    Raises UserError for tokens of another tokenizer, and for an `out` that is no HTML file or cannot be written.
    """
    opened.check_tokens(tokens)
    suffix_of(out, PAGES)
    artifact.check_file_place(out, "an HTML file")
    artifact.make_parents(out)
    result = result_in(opened.artifact)
    origin = Origin(opened.artifact.id, result.val_loss, opened.artifact.meta.seed)
    names = titles([circuit for circuit, _ in cases])
    chosen = [Case(circuit, verdict, own, name) for (circuit, verdict), name in zip(cases, names, strict=True)]
    payload = payload_from(opened.model, tokens, chosen, origin, config, report)
    try:
        page.write(payload, out)
    except OSError as error:
        raise artifact.unwritable(out, error) from None


def picture_stage(opened: Opened, circuit: Circuit, out: Path, own: Task | None = None) -> None:
    """Write the picture of a circuit as an SVG, PNG or PDF file, as its suffix says.

    Raises UserError for a circuit of another model or without nodes, and for an `out` of another kind or that cannot be
    written.
    """
    from thinwire.view.figure import draw  # matplotlib, which pages do without
    from thinwire.view.portraits import portrait

    opened.check_circuit(circuit)
    suffix_of(out)
    artifact.check_file_place(out, "a picture")
    artifact.make_parents(out)
    found = portrait(opened.model, circuit, opened.tokenizer, circuit_task(circuit, own))
    try:
        draw(found.task, found.vocab, out)
    except OSError as error:
        raise artifact.unwritable(out, error) from None


def titles(circuits: Sequence[Circuit]) -> list[str]:
    """What a page calls each circuit: its task, and for several of a task also the part of their paths that differs."""
    places = [_place(circuit) for circuit in circuits]
    folders: dict[str, list[Path]] = {}
    for circuit, place in zip(circuits, places, strict=True):
        folders.setdefault(circuit.task, []).append(place)
    return [
        f"{circuit.task} ({_differing(place, folders[circuit.task])})"
        if len(folders[circuit.task]) > 1
        else circuit.task
        for circuit, place in zip(circuits, places, strict=True)
    ]


def _place(circuit: Circuit) -> Path:
    assert circuit.artifact is not None
    return circuit.artifact.path.absolute()


def _differing(folder: Path, folders: Sequence[Path]) -> str:
    """A folder's path without the parts that all the folders begin and end with."""
    parts = [path.parts for path in folders]
    least = min(map(len, parts))
    first = next((i for i in range(least) if len({path[i] for path in parts}) > 1), least)
    last = next((i for i in range(least - first) if len({path[-1 - i] for path in parts}) > 1), 0)
    return "/".join(folder.parts[first : len(folder.parts) - last]) or "."
