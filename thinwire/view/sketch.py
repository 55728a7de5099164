"""What a circuit's picture holds, before anything has a place: items by rank, and what joins them.

A residual channel is not a bundle of wires from every writer to every later reader but one line through all its items
(a bus), which is what it is: writers add to it, readers read the sum so far. So lines grow with channels, not with
pairs.
"""

import unicodedata
from collections import defaultdict
from dataclasses import dataclass, field

from thinwire.sites import HEADED_KINDS, KINDS
from thinwire.view.drawing import Item
from thinwire.view.payload import NodeView, TaskView, TokenWire

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
"""Layer and place within it; ranks sort in the order of the forward pass. q, k and v share one."""


@dataclass
class Sketch:
    """Items without places, their ranks, signed links between them, and each residual channel's items in order."""

    items: list[Item] = field(default_factory=list)
    ranks: list[Rank] = field(default_factory=list)
    heads: list[int | None] = field(default_factory=list)
    links: list[tuple[int, int, float]] = field(default_factory=list)
    channels: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))

    def add(self, rank: Rank, kind: str, id: str, label: str, head: int | None = None, **fields: int) -> int:
        """File one item and return its index."""
        label = label if len(label) <= LONGEST else label[: LONGEST - 1] + "…"
        width = max(NARROWEST, len(label) * CHARACTER + PADDING + (SIDES if kind == "node" else 0.0))
        self.items.append(Item.model_validate({"id": id, "kind": kind, "label": label, "width": width, **fields}))
        self.ranks.append(rank)
        self.heads.append(head)
        return len(self.items) - 1


def sketch(task: TaskView, vocab: tuple[str, ...]) -> Sketch:
    """Items, links and channels of a task's circuit, in the order of the forward pass."""
    made = Sketch()
    _add_inputs(made, task, vocab)
    item_of = _add_nodes(made, task)
    made.links += [(item_of[wire.source], item_of[wire.target], wire.weight) for wire in task.wires]
    _add_outputs(made, task, vocab)
    return made


def row_label(rank: Rank) -> str:
    """What the row of a rank is called."""
    layer, place = rank
    if layer == INPUT:
        return ("tokens", "embedding")[place]
    if layer == OUTPUT:
        return ("unembedding", "answers")[place]
    return "attn.q · k · v" if place == QKV else KINDS[place]


def node_label(node: NodeView) -> str:
    """A node in a few characters: `ch 104`, `q 3.1`, `n 2790`."""
    place = f"{node.head}.{node.channel}" if node.head is not None else f"{node.channel}"
    return f"{'pos' if node.position else SHORT.get(node.kind, 'ch')} {place}"


def reads(node: NodeView) -> bool:
    """Whether a node reads a residual channel."""
    return node.kind.endswith("act_in") and not node.position


def visible(text: str) -> str:
    """Token text with blanks, control characters and invisible ones made visible."""
    return "".join(_mark(char) for char in text) or "∅"


def _mark(char: str) -> str:
    hidden = unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp")
    return MARKS.get(char) or (f"‹{ord(char):x}›" if hidden else char)


def _add_inputs(made: Sketch, task: TaskView, vocab: tuple[str, ...]) -> None:
    """Embedding channels that something reads, below them the tokens most worth drawing: those of the prompts first."""
    read = {node.channel for node in task.nodes if reads(node)}
    read |= {wire.channel for wire in task.unembedding}
    wires = [wire for wire in task.embedding if wire.channel in read]
    for channel in sorted({wire.channel for wire in wires}):
        embed = made.add((INPUT, 1), "embed", f"embed:{channel}", f"ch {channel}", channel=channel)
        made.channels[channel].append(embed)
    prompts = {token for prompt in task.prompts for token in prompt.tokens}

    def worth(wire: TokenWire) -> tuple[bool, float, int]:
        return wire.token not in prompts, -abs(wire.weight), wire.token

    for token in list(dict.fromkeys(wire.token for wire in sorted(wires, key=worth)))[:DRAWN_TOKENS]:
        item = made.add((INPUT, 0), "token", f"token:{token}", visible(vocab[token]), token=token)
        written = [wire for wire in wires if wire.token == token]
        made.links += [(item, made.channels[wire.channel][0], wire.weight) for wire in written]


def _add_nodes(made: Sketch, task: TaskView) -> dict[int, int]:
    """Every node; returns the item of each."""
    item_of = {}
    for index, node in sorted(enumerate(task.nodes), key=lambda pair: _order(pair[1])):
        rank = (node.layer, QKV if node.kind in HEADED_KINDS else KINDS.index(node.kind))
        item_of[index] = made.add(rank, "node", node.name, node_label(node), node.head, node=index)
        if reads(node) or node.kind.endswith("resid_delta"):
            made.channels[node.channel].append(item_of[index])
    return item_of


def _order(node: NodeView) -> tuple[int, int, int, int]:
    """Heads side by side; within a head q, then k, then v."""
    rank = KINDS.index(node.kind)
    return node.layer, node.head if node.head is not None else -1, rank, node.channel


def _add_outputs(made: Sketch, task: TaskView, vocab: tuple[str, ...]) -> None:
    """The answers, below them the ends of channels that vote for them and that something in the picture writes."""
    answers: dict[int, int] = {}
    voting = [wire for wire in task.unembedding if made.channels.get(wire.channel)]
    for channel in sorted({wire.channel for wire in voting}):
        end = made.add((OUTPUT, 0), "unembed", f"unembed:{channel}", f"ch {channel}", channel=channel)
        made.channels[channel].append(end)
    for wire in voting:
        if wire.token not in answers:
            label = visible(vocab[wire.token])
            answers[wire.token] = made.add((OUTPUT, 1), "answer", f"answer:{wire.token}", label, token=wire.token)
        made.links.append((made.channels[wire.channel][-1], answers[wire.token], wire.weight))
