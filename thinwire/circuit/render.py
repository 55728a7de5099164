"""A circuit as plain text: every node with its edges, by layer and site."""

from collections.abc import Callable

from thinwire.circuit.circuit import Circuit
from thinwire.circuit.edges import Edge, TokenEdge, channel_links, embedding_edges, unembedding_edges
from thinwire.model.transformer import Transformer
from thinwire.sites import Node

STRONGEST_TOKENS = 6
"""Token edges listed per node; the rest are counted."""


def render(circuit: Circuit, model: Transformer, token_text: Callable[[int], str] = str) -> str:
    """Text with one line per node, naming its head or channel, and below it the edges that it reads and writes."""
    edges = circuit.edges(model)
    shape = circuit.shape
    lines = [f"{circuit.task}: {len(circuit.nodes)} nodes, {len(edges)} edges"]
    if circuit.scores:
        scores = circuit.scores
        lines.append(
            f"calibrated loss {scores.loss:.3f} on validation pairs (target {scores.target_loss:g}), "
            f"{scores.heldout_loss:.3f} held out, accuracy {scores.heldout_accuracy:.3f}"
        )
    if circuit.scores and circuit.scores.uncalibrated_loss is not None:
        scores = circuit.scores
        lines.append(
            f"before the calibration's shift of {circuit.calibration.shift:.3g}: loss {scores.uncalibrated_loss:.3f} "
            f"held out, accuracy {scores.uncalibrated_accuracy:.3f}, AUC {scores.auc:.3f}"
        )
    if circuit.frozen_norms:
        lines.append("RMSNorm scales of the whole model")
    if circuit.removed_tokens:
        lines.append(f"embeddings of {len(circuit.removed_tokens)} tokens ablated to their mean")
    links = list(channel_links(circuit.nodes, shape.d_model))
    site = None
    for node in circuit.nodes:
        if node.site != site:
            site = node.site
            lines.append(str(site))
        lines.append(f"  {_place(node, circuit)}  mean {circuit.means[node.site][node.index].item():+.3f}")
        lines += [f"    <- {text}" for text in _reads(node, edges, links, circuit)]
        lines += [f"    {text}" for text in _tokens(node, circuit, model, token_text)]
    return "\n".join(lines)


def _place(node: Node, circuit: Circuit) -> str:
    if node.site.headed:
        head, channel = divmod(node.index, circuit.shape.d_head)
        return f"head {head} channel {channel}"
    return f"neuron {node.index}" if node.site.kind == "mlp.post_act" else f"channel {node.index}"


def _reads(node: Node, edges: list[Edge], links: list[tuple[Node, Node]], circuit: Circuit) -> list[str]:
    weighted = [f"{e.source.name(circuit.shape)} × {e.weight:+.3f}" for e in edges if e.target == node]
    return weighted + [f"{writer.name(circuit.shape)} (same channel)" for writer, reader in links if reader == node]


def _tokens(node: Node, circuit: Circuit, model: Transformer, token_text: Callable[[int], str]) -> list[str]:
    lines = []
    if node.site.kind.endswith("act_in"):
        found = embedding_edges(model, [node], circuit.prompt_tokens)
        lines += [f"<- tokens {text}" for text in _strongest(found, token_text)]
    if node.site.kind.endswith("resid_delta"):
        found = unembedding_edges(model, [node], circuit.answer_tokens)
        lines += [f"-> logits {text}" for text in _strongest(found, token_text)]
    return lines


def _strongest(found: list[TokenEdge], token_text: Callable[[int], str]) -> list[str]:
    if not found:
        return []
    ordered = sorted(found, key=lambda edge: -abs(edge.weight))
    shown = ", ".join(f"{token_text(edge.token)!r} × {edge.weight:+.2f}" for edge in ordered[:STRONGEST_TOKENS])
    rest = len(ordered) - STRONGEST_TOKENS
    return [shown + (f", and {rest} more" if rest > 0 else "")]
