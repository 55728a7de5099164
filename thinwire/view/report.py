"""The report of a training run: one self-contained HTML page with its config, its curves and its results.

It is written from a model folder alone, finished or unfinished. It is no part of the artefact and can be written again.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from thinwire import artifact
from thinwire.config import Config
from thinwire.display import one_line
from thinwire.model.transformer import Transformer
from thinwire.model.weights import sparse_parameters
from thinwire.progress import duration
from thinwire.train.config import TrainConfig
from thinwire.train.metrics import Curve, group, read_metrics
from thinwire.train.result import TrainResult, result_in
from thinwire.view import page
from thinwire.view.charts import Chart, charts_of
from thinwire.view.formats import PAGES, suffix_of

REPORT = "report.html"
"""Name of the page in a model's folder."""
ORDER = ("guard.js", "dom.js", "format.js", "data.js", "axes.js", "chart.js", "report.js")
STYLES = ("base.css", "report.css")


@dataclass(frozen=True)
class Fact:
    """A line of the header."""

    name: str
    value: str
    meaning: str = ""


@dataclass(frozen=True)
class Filling:
    """How many entries of a parameter are nonzero."""

    name: str
    nonzeros: int
    entries: int


@dataclass(frozen=True)
class Setting:
    """A field of the config."""

    name: str
    value: str
    meaning: str
    default: bool
    """Whether it has the value that it has unless set."""


@one_line
@dataclass(frozen=True)
class RunReport:
    """Everything that the page shows."""

    title: str
    status: str
    finished: bool
    facts: tuple[Fact, ...]
    charts: tuple[Chart, ...]
    fillings: dict[str, tuple[Filling, ...]]
    """Nonzeros per parameter as last measured, by layer."""
    settings: tuple[Setting, ...]


def write_report(folder: Path | str, out: Path | str | None = None) -> Path:
    """Write the report of the run in a model folder, into that folder unless `out` names a file; returns its path.

    Raises UserError for a folder without a run, and for a path that cannot be written.
    """
    folder = Path(folder)
    path = folder / REPORT if out is None else Path(out)
    suffix_of(path, PAGES)
    if out is None:
        artifact.require_file_place(path, "an HTML file")
        artifact.check_place(path)
    else:
        artifact.check_file_place(path, "an HTML file")
    report = report_of(folder)
    page.save(page.compose(report.title, asdict(report), ORDER, STYLES), path)
    return path


def report_of(folder: Path) -> RunReport:
    """The report of the run in a model folder, finished or not."""
    # the files of a finished run are checked before any is read
    opened = artifact.open_artifact(folder, "model") if artifact.is_finished(folder) else None
    result = result_in(opened) if opened else None
    config = opened.config(TrainConfig) if opened else TrainConfig.load(folder / "config.json")
    curves = read_metrics(opened.file(artifact.METRICS).parent if opened else folder)
    done = max((curve.steps[-1] for curve in curves.values()), default=0)
    name = f"{folder.absolute().parent.name}/{folder.name}"
    return RunReport(
        title=f"Training of {name}",
        status="finished" if result else f"under way, at step {done:,} of {config.steps:,}",
        finished=result is not None,
        facts=tuple(facts_of(config, curves, result, done)),
        charts=tuple(charts_of(curves, config.model)),
        fillings=fillings_of(config, group(curves, "nonzeros_of")),
        settings=tuple(settings_of(config)),
    )


def facts_of(config: TrainConfig, curves: Mapping[str, Curve], result: TrainResult | None, done: int) -> list[Fact]:
    """The header's numbers: those of the result, or of the run so far."""
    shape = config.model
    facts = []
    if result:
        facts.append(Fact("validation loss", f"{result.val_loss:.3f}", "nats per token, parts weighted as in training"))
    if "loss" in curves:
        facts.append(Fact("last training loss", f"{curves['loss'].last:.3f}", "nats per token of one batch"))
    if result:
        nonzeros, entries = result.nonzeros, result.entries
        facts.append(Fact("nonzeros", f"{nonzeros:,}", str(result.weights(shape))))
        facts.append(Fact("one weight in", f"{entries / max(1, nonzeros):,.3g}", "is not zero"))
    tokens = result.tokens if result else done * config.batch_size * shape.context
    facts.append(Fact("tokens", f"{tokens:,}", "trained on"))
    if result and result.seconds is not None and result.tokens_per_second is not None:
        facts.append(Fact("time", duration(result.seconds), "over all sessions, validation included"))
        facts.append(Fact("tokens per second", f"{result.tokens_per_second:,.0f}"))
    facts.append(Fact("shape", f"{shape.n_layers} × {shape.d_model}", "layers and width of the residual stream"))
    facts.append(Fact("heads", f"{shape.n_heads} of {shape.d_head}"))
    facts.append(Fact("neurons a layer", f"{shape.d_mlp:,}"))
    facts.append(Fact("context", f"{shape.context:,}", "tokens"))
    facts.append(Fact("vocabulary", f"{shape.vocab_size:,}", "tokens"))
    return facts


def fillings_of(config: TrainConfig, nonzeros: Mapping[str, Curve]) -> dict[str, tuple[Filling, ...]]:
    """Nonzeros of each parameter as last measured, by layer; those outside the layers come first."""
    with torch.device("meta"):
        model = Transformer(config.model)
    found: dict[str, tuple[Filling, ...]] = {}
    for name, parameter in sparse_parameters(model):
        if name in nonzeros and 0 <= nonzeros[name].last <= parameter.numel():
            path = name.split(".")
            inside = path[0] == "blocks"
            part, short = (f"layer {path[1]}", ".".join(path[2:])) if inside else ("in and out", name)
            row = Filling(short, int(nonzeros[name].last), parameter.numel())
            found[part] = (*found.get(part, ()), row)
    return found


def settings_of(config: Config, prefix: str = "") -> list[Setting]:
    """Every field of a config, nested ones by path, with its meaning."""
    settings = []
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if isinstance(value, Config):
            settings += settings_of(value, f"{prefix}{name}.")
        else:
            same = value == field.get_default(call_default_factory=True)
            settings.append(Setting(f"{prefix}{name}", _shown(value), field.description or "", same))
    return settings


def _shown(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "unset"}[value]
    if isinstance(value, tuple | list):
        return ", ".join(map(str, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items()) or "none"
    return f"{value:.6g}" if isinstance(value, float) else str(value)
