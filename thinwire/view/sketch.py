"""The contents of a circuit's picture, before coordinates: items by rank, and the lines between them.

A residual channel is drawn as one line (a bus) through all its items, not as one edge from every writer to every later
reader: writers add to the channel, readers read the sum so far. So the number of lines grows with the channels, not
with the pairs.
"""

import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field

from thinwire.sites import HEADED_KINDS, KINDS
from thinwire.view.drawing import Item
from thinwire.view.payload import NodeView, TaskView, TokenEdgeView

CHARACTER, PADDING, SIDES, NARROWEST, LONGEST = 7.3, 18.0, 16.0, 38.0, 18
"""Width of a label's character, room around a label, room for a node's two side marks, least width; most characters."""
DRAWN_TOKENS = 10
"""Tokens drawn at the bottom; the page lists the rest when a channel is selected."""
INPUT, OUTPUT = -1, 10_000
"""Layers of the ranks below and above all layers."""
QKV = KINDS.index("attn.q")
MARKS = {"\n": "⏎", "\t": "⇥", "\r": "␍", " ": "·"}
SHORT = {"attn.q": "q", "attn.k": "k", "attn.v": "v", "mlp.post_act": "n"}

Rank = tuple[int, int]
"""Layer and position within it; ranks sort in the order of the forward pass. q, k and v share one."""


@dataclass
class Sketch:
    """Items without coordinates, their ranks, signed links between them, and each residual channel's items in order."""

    items: list[Item] = field(default_factory=list)
    ranks: list[Rank] = field(default_factory=list)
    heads: list[int | None] = field(default_factory=list)
    links: list[tuple[int, int, float]] = field(default_factory=list)
    channels: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, rank: Rank, kind: str, id: str, label: str, head: int | None = None, **fields: int) -> int:
        """Add one item and return its index."""
        label = label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"
        width = max(NARROWEST, len(label) * CHARACTER + PADDING + (SIDES if kind == "node" else 0.0))
        self.items.append(Item.model_validate({"id": id, "kind": kind, "label": label, "width": width, **fields}))
        self.ranks.append(rank)
        self.heads.append(head)
        return len(self.items) - 1


def sketch(task: TaskView, vocab: tuple[str, ...]) -> Sketch:
    """Items, links and channels of a task's circuit, in the order of the forward pass."""
    content = Sketch()
    _add_inputs(content, task, vocab)
    item_of = _add_nodes(content, task)
    content.links += [(item_of[edge.source], item_of[edge.target], edge.weight) for edge in task.edges]
    _add_outputs(content, task, vocab)
    return content


def row_label(rank: Rank) -> str:
    """Label of the row of a rank."""
    layer, position = rank
    if layer == INPUT:
        return ("tokens", "embedding")[position]
    if layer == OUTPUT:
        return ("unembedding", "answers")[position]
    return "attn.q · k · v" if position == QKV else KINDS[position]


def node_label(node: NodeView) -> str:
    """A node in a few characters: `ch 104`, `q 3.1`, `n 2790`."""
    number = f"{node.head}.{node.channel}" if node.head is not None else f"{node.channel}"
    return f"{'pos' if node.position else SHORT.get(node.kind, 'ch')} {number}"


def reads(node: NodeView) -> bool:
    """Whether a node reads a residual channel."""
    return node.kind.endswith("act_in") and not node.position


def visible(text: str) -> str:
    """Token text with blanks, control characters and invisible ones content visible."""
    return "".join(_mark(char) for char in text) or "∅"


def _mark(char: str) -> str:
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")
    return MARKS.get(char) or (f"‹{ord(char):x}›" if hidden else char)


def _add_inputs(content: Sketch, task: TaskView, vocab: tuple[str, ...]) -> None:
    """Embedding channels that the circuit reads, and below them some of their tokens: first those of the prompts."""
    read = {node.channel for node in task.nodes if reads(node)}
    read |= {edge.channel for edge in task.unembedding}
    edges = [edge for edge in task.embedding if edge.channel in read]
    for channel in sorted({edge.channel for edge in edges}):
        embed = content.add((INPUT, 1), "embed", f"embed:{channel}", f"ch {channel}", channel=channel)
        content.channels[channel].append(embed)
    prompts = {token for prompt in task.prompts for token in prompt.tokens}

    def worth(edge: TokenEdgeView) -> tuple[bool, float, int]:
        return edge.token not in prompts, -abs(edge.weight), edge.token

    for token in list(dict.fromkeys(edge.token for edge in sorted(edges, key=worth)))[:DRAWN_TOKENS]:
        item = content.add((INPUT, 0), "token", f"token:{token}", visible(vocab[token]), token=token)
        written = [edge for edge in edges if edge.token == token]
        content.links += [(item, content.channels[edge.channel][0], edge.weight) for edge in written]


def _add_nodes(content: Sketch, task: TaskView) -> dict[int, int]:
    """Every node; returns the item of each."""
    item_of = {}
    for index, node in sorted(enumerate(task.nodes), key=lambda pair: _order(pair[1])):
        rank = (node.layer, QKV if node.kind in HEADED_KINDS else KINDS.index(node.kind))
        item_of[index] = content.add(rank, "node", node.name, node_label(node), node.head, node=index)
        if reads(node) or node.kind.endswith("resid_delta"):
            content.channels[node.channel].append(item_of[index])
    return item_of


def _order(node: NodeView) -> tuple[int, int, int, int]:
    """Heads side by side; within a head q, then k, then v."""
    rank = KINDS.index(node.kind)
    return node.layer, node.head if node.head is not None else -1, rank, node.channel


def _add_outputs(content: Sketch, task: TaskView, vocab: tuple[str, ...]) -> None:
    """The answers, and below them the ends of the channels that the unembedding reads and the circuit writes."""
    answers: dict[int, int] = {}
    voting = [edge for edge in task.unembedding if content.channels.get(edge.channel)]
    for channel in sorted({edge.channel for edge in voting}):
        end = content.add((OUTPUT, 0), "unembed", f"unembed:{channel}", f"ch {channel}", channel=channel)
        content.channels[channel].append(end)
    for edge in voting:
        if edge.token not in answers:
            label = visible(vocab[edge.token])
            answers[edge.token] = content.add((OUTPUT, 1), "answer", f"answer:{edge.token}", label, token=edge.token)
        content.links.append((content.channels[edge.channel][-1], answers[edge.token], edge.weight))
