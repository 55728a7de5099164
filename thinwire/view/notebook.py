"""What a notebook shows of a circuit, a verdict and a model: HTML without scripts, in the notebook's own colours.

Every text may come from a foreign artefact and is escaped.
"""

from collections.abc import Iterable, Sequence
from functools import singledispatch

from thinwire.circuit import Circuit
from thinwire.model.counts import WeightCounts
from thinwire.model.transformer import Transformer
from thinwire.verify import Measurement, Verdict
from thinwire.verify.claims import deciding, weakest, word_of
from thinwire.verify.margins import GUESSING
from thinwire.view.describe import plain_node
from thinwire.view.inline import NEGATIVE, safe, svg
from thinwire.view.layout import lay_out
from thinwire.view.payload import Counts, EdgeView, TaskView
from thinwire.view.portraits import Portrait
from thinwire.view.report import settings_of

MOST_DRAWN = 150
"""Nodes beyond which a circuit is told in numbers only; a page shows it."""
FRAME = "font-size:13px;line-height:1.4;color:inherit"
CELL = "text-align:left;padding:1px 14px 1px 0;border:0;background:none;color:inherit;white-space:nowrap"
HEAD = ("", "check", "measured", "value", "95 % interval", "passes", "pairs")
SIGNS = {"pass": "✓", "warn": "!", "fail": "✗", "info": ""}


@singledispatch
def html(record: object) -> str:
    """HTML of a record. Raises TypeError for kinds that have none."""
    raise TypeError(f"{type(record).__name__} has no view for notebooks")


@html.register
def _circuit(circuit: Circuit) -> str:
    """The picture as far as the circuit knows it: weights, and which of them are zero, are the model's."""
    scores, facts = circuit.scores, [circuit.sizes]
    if scores:
        facts.append(f"loss {scores.loss:.3f} on validation pairs, target {scores.target_loss:g}")
    notes = []
    if circuit.kept_edges is None:
        notes.append(
            "Its edges are the model's nonzero weights between these nodes; "
            "thinwire.view.portrait(model, circuit, tokenizer) draws them."
        )
    if len(circuit.nodes) > MOST_DRAWN:
        notes.append(f"Pictures here have at most {MOST_DRAWN} nodes; thinwire view writes a page.")
        return _frame("circuit", circuit.task, facts, "", notes)
    return _frame("circuit", circuit.task, facts, _picture(_known(circuit)), notes)


def _known(circuit: Circuit) -> Portrait:
    """A circuit's nodes, and its edges where it lists them."""
    index = {node: index for index, node in enumerate(circuit.nodes)}
    edges = tuple(EdgeView(source=index[a], target=index[b], weight=1.0) for a, b in circuit.kept_edges or ())
    counts = Counts(nodes=len(index), edges=len(edges), embedding_edges=0, unembedding_edges=0)
    nodes = tuple(plain_node(circuit, node) for node in circuit.nodes)
    view = TaskView(name=circuit.task, summary="", guessing_loss=GUESSING, counts=counts, nodes=nodes, edges=edges)
    return Portrait(view, ())


@html.register(Portrait)
def _portrait(portrait: Portrait) -> str:
    return _frame("circuit", portrait.task.name, [portrait.sizes], _picture(portrait), [])


def _picture(portrait: Portrait) -> str:
    if not portrait.task.nodes:
        return "<div>This circuit keeps no node.</div>"
    return svg(lay_out(portrait.task, portrait.vocab), f"the circuit of {portrait.task.name}")


@html.register
def _verdict(verdict: Verdict) -> str:
    facts = [verdict.sizes]
    if verdict.target_loss is not None:
        facts.append(f"target {verdict.target_loss:g} nats")
    if share := verdict.headlines.get("share"):
        facts.append(f"share of the model's log-odds {share.number}")
    found, worst = word_of(verdict), [one for one in weakest(verdict) if one.status != "pass"]
    said_first = (
        f'<div style="font-size:15px;font-weight:600">{safe(f"{SIGNS[found.status]} {found.word}".strip())}</div>'
    )
    body = said_first + _table(HEAD, map(_row, worst or deciding(verdict)))
    every = _folded(f"All {len(verdict.measurements)} measurements", _table(HEAD, map(_row, verdict.measurements)))
    return _frame("verdict", verdict.task, facts, body + every, [])


def _row(found: Measurement) -> Sequence[str]:
    judged = " ".join(filter(None, (SIGNS[found.status], found.reason)))
    limit = "" if found.threshold is None else str(found.threshold)
    return judged, found.title, found.quantity, *found.texts[:2], limit, found.texts[2]


@html.register
def _model(model: Transformer) -> str:
    shape = model.config
    facts = [f"{shape.n_layers} × {shape.d_model}", str(WeightCounts.of(model))]
    rows = [(one.name, one.value if one.default else f"{one.value} *", one.meaning) for one in settings_of(shape)]
    return _frame("model", "", facts, _folded("config (* differs from the default)", _table(("", "", ""), rows)), [])


def _frame(kind: str, name: str, facts: Iterable[str], body: str, notes: Iterable[str]) -> str:
    head = f'<span style="opacity:.65">{kind}</span> <b>{safe(name) if name else ""}</b>'
    told = "".join(f" · {safe(fact)}" for fact in facts)
    under = "".join(f'<div style="opacity:.65">{safe(note)}</div>' for note in notes)
    return f'<div class="thinwire" style="{FRAME}"><div style="margin-bottom:4px">{head}{told}</div>{body}{under}</div>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f'<th style="{CELL};font-weight:600;opacity:.65">{safe(name)}</th>' for name in head)
    body = "".join("<tr style='background:none'>" + "".join(_cell(text) for text in row) + "</tr>" for row in rows)
    top = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<table style="border-collapse:collapse;margin:0;font-size:inherit">{top}<tbody>{body}</tbody></table>'


def _cell(text: str) -> str:
    colour = f";color:{NEGATIVE}" if text.startswith(SIGNS["fail"]) else ""
    return f'<td style="{CELL}{colour}">{safe(text)}</td>'


def _folded(name: str, body: str) -> str:
    return f"<details><summary>{safe(name)}</summary>{body}</details>"
