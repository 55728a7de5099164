"""What a monitor can watch, by name: nodes of the sparse model, and channels of its residual points."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from thinwire.bridge.targets import count_points
from thinwire.errors import UserError
from thinwire.model.config import ModelConfig
from thinwire.sites import Node, ResidPoint, Site

READS = "act_in"
WRITES = "resid_delta"
STREAM = re.compile(r"h_([0-9]{1,5}):([0-9]{1,9})")


@dataclass(frozen=True)
class Watched:
    """One channel of the sparse model, and the residual point that determines it at each token by itself."""

    name: str
    """As it is written: `2.attn.act_in:17`, or `h_4:17` for a channel of the residual stream."""
    point: int
    """Of the sparse model."""
    site: Site | None
    """None for a channel of the residual stream itself."""
    index: int

    @classmethod
    def of(cls, node: Node, shape: ModelConfig) -> "Watched":
        """A node. Raises UserError for those that the residual stream at their token does not determine."""
        name, kind = node.name(shape), node.site.kind
        if kind.endswith(WRITES):
            raise UserError(
                f"{name} is a write, and a monitor watches reads, queries, keys, values and neurons; "
                f"name its channel where it is read, as in h_{node.site.sublayer + 1}:{node.index}."
            )
        if kind.endswith(READS) and node.index >= shape.d_model:
            raise UserError(f"{name} is a position channel, which no residual stream holds; name other nodes.")
        return cls(name, node.site.sublayer, node.site, node.index)

    @classmethod
    def parse(cls, text: str, shape: ModelConfig) -> "Watched":
        """The node, or the channel of a residual point, of this name in a model of this shape.

        Raises UserError for other names, and as `of` does.
        """
        match = STREAM.fullmatch(text)
        if match is None:
            return cls.of(Node.parse(text, shape), shape)
        point, channel = map(int, match.groups())
        if point >= count_points(shape.n_layers) or channel >= shape.d_model:
            last = ResidPoint(count_points(shape.n_layers) - 1)
            raise UserError(
                f"{text} lies outside the model, which has the points h_0 to {last} of {shape.d_model} channels."
            )
        return cls(f"{ResidPoint(point)}:{channel}", point, None, channel)


def watched_of(nodes: Iterable[Node], shape: ModelConfig) -> tuple[Watched, ...]:
    """What a monitor can watch of a circuit's nodes, in the order of the forward pass.

    A write is watched as its channel of the residual stream at every later point.
    """
    found: set[tuple[int, Watched]] = set()
    for node in nodes:
        if node.site.kind.endswith(WRITES):
            for point in range(node.site.sublayer + 1, count_points(shape.n_layers)):
                found.add((0, Watched(f"{ResidPoint(point)}:{node.index}", point, None, node.index)))
        elif not (node.site.kind.endswith(READS) and node.index >= shape.d_model):
            found.add((1 + node.site.rank, Watched.of(node, shape)))
    return tuple(each for _, each in sorted(found, key=lambda one: (one[1].point, one[0], one[1].index)))
