"""The report of a bridge: one self-contained HTML page with its profile over residual points and over training.

It is written from the workspace of `thinwire bridge` alone, is no part of an artefact, and can be written again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from thinwire import artifact
from thinwire.bridge.agreement import Agreement, Correlation
from thinwire.bridge.store import StoredBridge, load_bridge
from thinwire.display import one_line
from thinwire.errors import UserError
from thinwire.progress import duration
from thinwire.train.metrics import Curve, read_metrics
from thinwire.view import page
from thinwire.view.charts import Chart, Line, Plan, charts_of_plans
from thinwire.view.formats import PAGES, suffix_of
from thinwire.view.report import REPORT, STYLES, Fact

FITS = ("ridge", "maps", "joint", "scratch")
"""Stages of a fit, which are folders of its workspace."""
ORDER = ("guard.js", "dom.js", "format.js", "data.js", "axes.js", "chart.js", "bridge.js")
TRAINING = ("kl_to_sparse/*", "kl_to_dense/*", "nmse", "sparse_loss")


@one_line
@dataclass(frozen=True)
class FactTable:
    """A table of the page; the first column names the rows."""

    caption: str
    note: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@one_line
@dataclass(frozen=True)
class BridgeReport:
    """Everything that the page shows."""

    title: str
    status: str
    facts: tuple[Fact, ...]
    profile: tuple[Chart, ...]
    training: tuple[Chart, ...]
    tables: tuple[FactTable, ...]


def fits_in(folder: Path) -> dict[str, Path]:
    """The finished bridges in a workspace by stage; given one of them, those beside it. Empty for other folders."""
    work = folder.absolute().parent if _is_bridge(folder) else folder
    return {stage: work / stage for stage in FITS if _is_bridge(work / stage)}


def _is_bridge(folder: Path) -> bool:
    return artifact.is_finished(folder) and artifact.read_head(folder / "meta.json").format == "bridge"


def write_bridge_report(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of the bridges in a workspace, into it unless `out` names a file; returns its path.

    Raises UserError for a folder without bridges, and for a path that cannot be written.
    """
    fits = fits_in(Path(folder))
    if not fits:
        raise UserError(f"{folder} has no finished bridge; give the folder that thinwire bridge wrote.")
    path = next(iter(fits.values())).parent / REPORT if out is None else Path(out)
    suffix_of(path, PAGES)
    artifact.check_file_place(path, "an HTML file")
    report = report_of(fits)
    page.save(page.compose(report.title, asdict(report), ORDER, STYLES), path)
    return path


def report_of(fits: Mapping[str, Path]) -> BridgeReport:
    """The report of finished bridges by stage, all of one workspace."""
    stored = {stage: load_bridge(folder) for stage, folder in fits.items()}
    work = next(iter(fits.values())).parent
    last = list(stored.values())[-1]
    return BridgeReport(
        title=f"Bridge of {work.parent.name}/{work.name}",
        status=f"stages: {', '.join(stored)}; losses are of held-out tokens, corpus parts weighted as in training",
        facts=tuple(_facts(last)),
        profile=tuple(_profile(stored)),
        training=tuple(charts_of_plans(_training(work), TRAINING)),
        tables=tuple(_tables(last)),
    )


def _facts(stored: StoredBridge) -> Iterator[Fact]:
    """The header's numbers: those of the last stage."""
    summary, bridge = stored.summary, stored.bridge
    profile, agreed = summary.profile, summary.agreement
    yield Fact("largest gap, dense → sparse", f"{profile.gap_to_sparse:.3f}", "nats per token above the dense model")
    yield Fact("largest gap, sparse → dense", f"{profile.gap_to_dense:.3f}", "nats per token above the dense model")
    yield Fact("dense model", f"{profile.dense:.3f}", "cross-entropy by itself, nats per token")
    yield Fact("sparse model", f"{profile.sparse:.3f}", "cross-entropy by itself, nats per token")
    if agreed is not None:
        yield Fact(
            "correlation of losses", _correlation(agreed.sparse), "per token, sparse against dense; 95 % interval"
        )
        yield Fact("held-out tokens", f"{agreed.tokens:,}", f"of {agreed.sequences:,} sequences")
    yield Fact("widths", f"{bridge.d_dense} and {bridge.d_sparse}", "of the dense and the sparse residual stream")
    yield Fact("time", duration(summary.seconds), "of all stages")


def _profile(stored: Mapping[str, StoredBridge]) -> Iterator[Chart]:
    """Losses and variance explained over residual points, a line for each stage."""
    profiles = {stage: each.summary.profile for stage, each in stored.items()}
    points = [each.sparse for each in next(iter(stored.values())).bridge.junctions]
    last = list(profiles.values())[-1]
    ways = {"dense → sparse": "to_sparse", "sparse → dense": "to_dense"}
    for title, name in ways.items():
        lines = {stage: getattr(profile, name) for stage, profile in profiles.items()}
        lines["dense by itself"] = [last.dense] * len(points)
        about = "cross-entropy when one model hands over to the other"
        yield _over_points(Plan(f"Crossings, {title}", "*", about, "nats per token", axis="point"), points, lines)
    agreed = {stage: each.summary.agreement for stage, each in stored.items()}
    shares = {"encoder": "explained_encode", "decoder": "explained_decode"}
    for title, name in shares.items():
        lines = {stage: getattr(each, name) for stage, each in agreed.items() if each is not None}
        if lines:
            about = f"of the stream that the {title} maps to, by its output"
            plan = Plan(f"Variance explained, {title}", "*", about, form="percent", axis="point")
            yield _over_points(plan, points, lines)


def _over_points(plan: Plan, points: Sequence[int], lines: Mapping[str, Sequence[float]]) -> Chart:
    drawn = tuple(Line(name, tuple(points), tuple(values)) for name, values in lines.items())
    tale: list[str] = []
    for line in drawn:
        places = zip(points, line.values, strict=True)
        tale.append(f"{line.name} is {', '.join(f'{value:.3g} at h_{point}' for point, value in places)}")
    return Chart(plan, drawn, False, f"{plan.title}, {plan.about}: {'; '.join(tale)}.")


def _training(work: Path) -> dict[str, Curve]:
    """The curves of all training runs, one after the other."""
    found: dict[str, Curve] = {}
    before = 0
    for run in (work / "runs" / stage for stage in FITS):
        if not (run / artifact.METRICS).is_file():
            continue
        curves = read_metrics(run)
        for name, curve in curves.items():
            steps = tuple(before + step for step in curve.steps)
            earlier = found.get(name, Curve((), ()))
            found[name] = Curve(earlier.steps + steps, earlier.values + curve.values)
        before += max((curve.steps[-1] for curve in curves.values()), default=0)
    return found


def _tables(stored: StoredBridge) -> Iterator[FactTable]:
    """Correlations of the last stage by crossing."""
    agreed: Agreement | None = stored.summary.agreement
    if agreed is None:
        return
    columns = ("crossing", *(f"h_{each.sparse}" for each in stored.bridge.junctions))
    n = f"{agreed.tokens:,} held-out tokens of {agreed.sequences:,} sequences"
    note = f"With those of the dense model by itself; {n}, 95 % intervals."
    rows = (
        ("dense → sparse", *map(_correlation, agreed.to_sparse)),
        ("sparse → dense", *map(_correlation, agreed.to_dense)),
    )
    yield FactTable("Correlation of the losses of single tokens", note, columns, rows)


def _correlation(found: Correlation) -> str:
    return f"{found.r:.3f} ({found.low:.3f}–{found.high:.3f})"
