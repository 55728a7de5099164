"""From circuits and the verdicts on them to one page."""

from collections.abc import Sequence
from pathlib import Path

from thinwire import artifact
from thinwire.circuit import Circuit
from thinwire.data import Tokens
from thinwire.errors import UserError
from thinwire.progress import Report, silent
from thinwire.stages.workspace import Opened
from thinwire.tasks import Task
from thinwire.train.result import result_in
from thinwire.verify.verdict import Verdict
from thinwire.view import page
from thinwire.view.build import Case, Origin, PageConfig, payload_from


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

    Raises UserError for tokens of another tokenizer, and for an `out` that is no place for a file.
    """
    opened.check_tokens(tokens)
    artifact.require_file_place(out, "an HTML file")
    artifact.make_parents(out)
    result = result_in(opened.artifact)
    origin = Origin(opened.artifact.id, result.val_loss, opened.artifact.meta.seed)
    payload = payload_from(opened.model, tokens, [Case(c, v, own) for c, v in cases], origin, config, report)
    try:
        page.write(payload, out)
    except OSError as error:
        raise UserError(f"{out} cannot be written ({error.strerror}); choose another --out.") from None
