"""What are the kept nodes like? As steps, without queries, and as detectors of the side over pretraining text."""

import statistics
from dataclasses import replace

import torch
from torch import Tensor

from thinwire.display import plural
from thinwire.model.taps import ablate, record
from thinwire.sites import Node, Site
from thinwire.tasks import auc_of
from thinwire.verify.binary import binarized_margins, fitted_steps
from thinwire.verify.checks import check
from thinwire.verify.inputs import CheckInput
from thinwire.verify.margins import Condition, auc, mean_accuracy, mean_loss
from thinwire.verify.measurement import Curve, Measurement

FIT_PAIRS, PAIRS, ROWS_AT_ONCE = 32, 64, 8
BINARY = (
    "Every kept node is a step between two levels. Thresholds are tried at a quarter, half and three quarters of the "
    "range of its values and at their quartiles, node after node, for the least loss on training pairs; the levels are "
    "the means on both sides. The loss is on held-out pairs under the scale and shift that suit them best. A low one "
    "says that the circuit can be read as yes and no. The steps are not trained, so a higher one says little."
)
QUERIES = (
    "Only the circuit is left, and the queries of its heads are at their means too, under the scale and shift that "
    "suit these pairs best. A loss as low as that of the circuit alone says that its heads ask the same everywhere."
)
NO_QUERIES = "The circuit keeps no query, so its heads ask the same everywhere already."
DETECTS = (
    "AUC of the side of the pair by a kept node's value at the last token in the whole model, or one less it where "
    "that is more; median over the nodes. At 1, the node tells the two sides apart there by itself."
)
ACTIVE = (
    "Share of held-out pretraining positions at which a kept node's value lies beyond the midpoint of its two means at "
    "the last tokens of the two sides, towards the side where it is farther from its pretraining mean; median over the "
    "nodes with an AUC of at least 0.9. A small one says that the node stands for little else than this task."
)
APART = 0.9


@check("binarize", order=46, thorough=True)
def binarize(inputs: CheckInput) -> list[Measurement]:
    """Refitted loss, accuracy and AUC with every kept node as a step; no status."""
    few = inputs.fit.take(torch.arange(min(len(inputs.fit), FIT_PAIRS), dtype=torch.int64, device="cpu"))
    batch, seed = inputs.first(PAIRS), inputs.config.seed
    own = binarized_margins(inputs, batch, fitted_steps(inputs, few))
    budget = f"6 thresholds for each of {plural(len(inputs.circuit.nodes), 'node')}, on {plural(len(few), 'pair')}"
    condition = Condition("binarize", "kept nodes as steps", inputs.ablation, len(batch), budget=budget)
    margins = inputs.refitted(own)
    return [
        mean_loss(margins, condition, BINARY, seed, "refitted loss"),
        mean_accuracy(margins, condition),
        auc(own, condition, seed),
    ]


@check("constant_query", order=47, thorough=True)
def constant_query(inputs: CheckInput) -> list[Measurement]:
    """Refitted loss and AUC of the circuit with the queries of its heads at their means; no status."""
    batch, seed, circuit = inputs.first(PAIRS), inputs.config.seed, inputs.circuit
    queries = sum(node.site.kind == "attn.q" for node in circuit.nodes)
    keep = {s: torch.zeros_like(mask) if s.kind == "attn.q" else mask for s, mask in circuit.keep.items()}
    own = inputs.margins(batch, ablate(keep, circuit.means), inputs.cut)
    condition = Condition("constant_query", "kept queries at their means", inputs.ablation, len(batch))
    condition = replace(condition, budget=f"{queries:,} kept {'query' if queries == 1 else 'queries'}")
    meaning = QUERIES if queries else NO_QUERIES
    loss = mean_loss(inputs.refitted(own), condition, meaning, seed, "refitted loss")
    return [loss, auc(own, condition, seed)]


@check("monosemantic", order=48, thorough=True, needs_tokens=True)
@torch.no_grad()
def monosemantic(inputs: CheckInput) -> list[Measurement]:
    """Median AUC of the side by single kept nodes, and how often such nodes are active in pretraining text."""
    assert inputs.pretraining is not None, "the check is left out where there are none"
    batch, shape, circuit = inputs.first(PAIRS), inputs.model.config, inputs.circuit
    condition = Condition("monosemantic", "single nodes over pretraining", "none", len(batch))
    if not circuit.nodes:
        return [condition.share(0.5, None, "The circuit keeps no node.", "median AUC")]
    at_last, everywhere = _at_last(inputs), _over(inputs, inputs.pretraining)
    areas, active = {}, {}
    for node in circuit.nodes:
        name, (first, second) = node.name(shape), at_last[node].unflatten(0, (2, -1))
        area = auc_of(torch.cat([first, -second])).item()
        areas[name] = max(area, 1 - area)
        if areas[name] >= APART:
            active[name] = active_share(first, second, everywhere[node])
    detects = condition.share(statistics.median(areas.values()), None, DETECTS, "median AUC")
    found = [replace(detects, curve=Curve.named("node", areas))]
    if active:
        spent = replace(condition, budget=f"{plural(inputs.pretraining.numel(), 'position')} of pretraining text")
        share = spent.share(statistics.median(active.values()), None, ACTIVE, "median active")
        found.append(replace(share, curve=Curve.named("node", active)))
    return found


def active_share(first: Tensor, second: Tensor, everywhere: Tensor) -> float:
    """Share of values [m] that lie beyond the midpoint of two sides' means, on the side farther from their own mean."""
    one, other, usual = first.mean(), second.mean(), everywhere.mean()
    far = one if (one - usual).abs() >= (other - usual).abs() else other
    middle = (one + other) / 2
    return ((everywhere > middle) if far > middle else (everywhere < middle)).float().mean().item()


def _at_last(inputs: CheckInput) -> dict[Node, Tensor]:
    """The values [2n] of the kept nodes in the whole model at the last tokens of the first held-out pairs."""
    batch = inputs.first(PAIRS)
    rows = torch.arange(len(batch.tokens), dtype=torch.int64, device="cpu")
    values = _recorded(inputs, batch.tokens)
    return {node: values[node.site][rows, batch.last, node.index].float() for node in inputs.circuit.nodes}


def _over(inputs: CheckInput, tokens: Tensor) -> dict[Node, Tensor]:
    """The values [positions] of the kept nodes in the whole model at all positions of sequences [rows, pos]."""
    parts: dict[Node, list[Tensor]] = {node: [] for node in inputs.circuit.nodes}
    for rows in tokens.split(ROWS_AT_ONCE):
        values = _recorded(inputs, rows)
        for node, found in parts.items():
            found.append(values[node.site][..., node.index].float().flatten())
    return {node: torch.cat(found) for node, found in parts.items()}


def _recorded(inputs: CheckInput, tokens: Tensor) -> dict[Site, Tensor]:
    """The activations [rows, pos, width] of the whole model at the circuit's sites."""
    seen = record({node.site for node in inputs.circuit.nodes})
    inputs.model.run(inputs.model.embed(tokens), tap=seen)
    return seen.values
