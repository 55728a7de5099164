"""Monitor: chosen nodes of the sparse model, read from the dense model's residual stream while it runs or generates.

1. Each node belongs to a residual point, and those of one point are read in one product with its stream there: see
   `thinwire.bridge.probes`. The whole encoder never runs, unless `exact` asks for it.
2. A pass stops at each of these points on its way. A model of this package that generates runs each new token alone;
   any other target runs the text so far again.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from thinwire.bridge.maps import Bridge
from thinwire.bridge.probes import ExactPoint, LinearPoint
from thinwire.bridge.targets import OwnTarget, Target
from thinwire.bridge.watched import Watched
from thinwire.errors import UserError
from thinwire.model.config import SampleConfig
from thinwire.model.sample import draws, generate
from thinwire.model.taps import Intervention
from thinwire.model.transformer import Transformer
from thinwire.sites import ResidPoint


class Observed(NamedTuple):
    """A monitored pass of the dense model."""

    values: Tensor
    """Of the watched nodes, [batch, pos, nodes]."""
    logits: Tensor
    """[batch, pos, vocab]"""


class Step(NamedTuple):
    """A step of monitored generation."""

    tokens: Tensor
    """The drawn token of each row, int64 [batch]."""
    values: Tensor
    """At the tokens that ran for this step: the prompts at first, then the token drawn before. [batch, new, nodes]"""


class Monitor:
    """Chosen nodes of a sparse model, read from a dense one."""

    def __init__(
        self, dense: Target, bridge: Bridge, sparse: Transformer, nodes: Sequence[Watched], exact: bool = False
    ) -> None:
        """With `exact`, nodes are what the sparse model makes of the whole encoded stream, instead of linear probes.

        Raises UserError without nodes, and where the bridge has no map at the residual point of one.
        """
        self.dense, self.exact = dense, exact
        by_position = sparse.config.positions == "concatenated"
        self.context = min(dense.context, sparse.config.context) if by_position else dense.context
        """Tokens of the longest text."""
        self.nodes = tuple(dict.fromkeys(nodes))
        self.names = tuple(node.name for node in self.nodes)
        if not self.nodes:
            raise UserError("There is no node to watch; name some, or a circuit that reads the residual stream.")
        junctions = {each.sparse: i for i, each in enumerate(bridge.junctions)}
        for node in self.nodes:
            if node.point not in junctions:
                raise UserError(
                    f"{node.name} is read at {ResidPoint(node.point)}, where the bridge has no map; name other nodes."
                )
        self.readers: dict[int, LinearPoint | ExactPoint] = {}
        """By residual point of the dense model, in the order in which it computes them."""
        columns: list[int] = []
        kind = ExactPoint if exact else LinearPoint
        for point in sorted({node.point for node in self.nodes}):
            i = junctions[point]
            own = [place for place, node in enumerate(self.nodes) if node.point == point]
            self.readers[bridge.junctions[i].dense] = kind(bridge, i, sparse, [self.nodes[place] for place in own])
            columns += own
        self.order = [columns.index(place) for place in range(len(columns))]
        """Where each node's values are among those of all points side by side."""

    @torch.no_grad()
    def values(self, tokens: Tensor) -> Tensor:
        """Values [batch, pos, nodes] at tokens [batch, pos]. The dense model runs no further than needed."""
        return self._pass(tokens)[0]

    @torch.no_grad()
    def observe(self, tokens: Tensor) -> Observed:
        """A pass of the dense model on tokens [batch, pos], with its logits."""
        values, resid, at = self._pass(tokens)
        last = self.dense.n_points - 1
        return Observed(values, self.dense.unembed(self.dense.run(resid, at, last) if at < last else resid, tokens))

    @torch.no_grad()
    def generate(self, prompts: Tensor, config: SampleConfig, stop: int | None = None) -> Iterator[Step]:
        """Tokens that the dense model draws after prompts [batch, pos], and the values while it does.

        Arguments are as in `thinwire.model.sample.generate`, and so are the tokens. The token that is drawn last never
        runs, so it has no values. Raises UserError as that does.
        """
        if isinstance(self.dense, OwnTarget):
            observer = Observer(self)
            for tokens in generate(self.dense.model, prompts, config, stop, observer):
                yield Step(tokens, observer.take())
            return
        if prompts.shape[1] > self.context:
            raise UserError(
                f"A prompt of {prompts.shape[1]} tokens does not fit the context of {self.context}; shorten it."
            )
        text, values = prompts[:, :0], list[Tensor]()

        def forward(new: Tensor) -> Tensor:
            nonlocal text
            text = torch.cat([text, new], 1)
            found = self.observe(text)
            values.append(found.values[:, -new.shape[1] :])
            return found.logits[:, -1]

        steps = min(config.tokens, self.context - prompts.shape[1] + 1)
        for tokens in draws(forward, forward(prompts), steps, config, stop):
            yield Step(tokens, values.pop())

    def _pass(self, tokens: Tensor) -> tuple[Tensor, Tensor, int]:
        """Values [batch, pos, nodes], and the dense stream [batch, pos, d_dense] at the last point that is watched."""
        resid, at, found = self.dense.embed(tokens), 0, []
        for point, reader in self.readers.items():
            resid, at = self.dense.run(resid, at, point) if at < point else resid, point
            found.append(reader(resid))
        return self.joined(found), resid, at

    def joined(self, found: Sequence[Tensor]) -> Tensor:
        """The values of all points, each [batch, pos, its nodes], as [batch, pos, nodes] in the order of the names."""
        values = torch.cat(list(found), -1)
        return values if self.order == sorted(self.order) else values[..., self.order]


class Observer(Intervention):
    """Reads the nodes of a monitor from a model of this package that generates."""

    def __init__(self, monitor: Monitor) -> None:
        super().__init__(points=frozenset(map(ResidPoint, monitor.readers)))
        self.monitor = monitor
        self._earlier = 0
        self._found: list[Tensor] = []
        self._streams: dict[int, Tensor] = {}

    def at_point(self, point: ResidPoint, resid: Tensor, last: Tensor | None = None) -> Tensor:
        """See `Intervention`; `resid` and the result are [batch, pos, d_model], `last` [batch]."""
        stream = resid
        if self.monitor.exact:
            earlier = self._streams.get(point.index, resid[:, :0])
            self._streams[point.index] = stream = torch.cat([earlier, resid], 1)
        self._found.append(self.monitor.readers[point.index](stream, self._earlier))
        return resid

    def take(self) -> Tensor:
        """The values [batch, new, nodes] since the last call."""
        values, self._found = self.monitor.joined(self._found), []
        self._earlier += values.shape[1]
        return values
