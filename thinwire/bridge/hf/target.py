"""What the adapters of all families share: a residual stream to which sublayers add, each reading it through a norm."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from thinwire.bridge.targets import Target
from thinwire.registry import Registry


class Around(NamedTuple):
    """What a sublayer is given besides the stream that it reads."""

    mask: Tensor | None
    """The causal mask, as the model's attention implementation takes it."""
    rotary: Any
    """Rotary position embeddings; None where positions are embedded with the tokens."""


NOTHING: Mapping[int, Tensor] = {}


class HFTarget(Target):
    """A Hugging Face causal model, whose points are its residual stream before each sublayer and before the last norm.

    A point that several norms read, as before a layer of parallel attention and MLP, has one read: the stream as all
    of them normalize it, before gains and biases. So its `gain` is 1, and each norm multiplies a move by its own.
    """

    architecture: ClassVar[str]
    """The class of `transformers` that it adapts."""

    def __init__(self, model: Any) -> None:
        """`model` is an instance of `architecture`, which is put into evaluation mode."""
        super().__init__()
        self.model = model.eval()
        config = model.config
        self.per_layer = 1 if self.is_parallel else 2
        self.n_points = self.per_layer * config.num_hidden_layers + 1
        self.d_model, self.vocab_size = config.hidden_size, config.vocab_size
        self.context = config.max_position_embeddings
        self.centred = isinstance(self.norms(self.n_points - 1)[0], nn.LayerNorm)

    @property
    def is_parallel(self) -> bool:
        """Whether attention and MLP of a layer read the same point."""
        return False

    @abstractmethod
    def norms(self, point: int) -> tuple[nn.Module, ...]:
        """The norms that read `point`, in the order of `write`'s reads."""

    @abstractmethod
    def write(self, point: int, reads: tuple[Tensor, ...], around: Around) -> Tensor:
        """What is added to the stream between `point` and the next: [batch, pos, d_model], as is each read."""

    def rotary(self, resid: Tensor, positions: Tensor) -> Any:
        """Rotary position embeddings of positions [1, pos]; None where a model has none."""
        return None

    def run(self, resid: Tensor, start: int, stop: int) -> Tensor:
        """See `Target`; resid and the result are [batch, pos, d_model]."""
        return self._run(resid, start, stop, NOTHING)

    def unembed(self, resid: Tensor, tokens: Tensor) -> Tensor:
        """See `Target`; resid [batch, pos, d_model] and tokens [batch, pos] to [batch, pos, vocab]."""
        return self._unembed(resid, NOTHING)

    def gain(self, point: int) -> Tensor:
        """See `Target`."""
        norms = self.norms(point)
        weight = norms[0].get_parameter("weight").detach()
        return weight if len(norms) == 1 else torch.ones_like(weight)

    def moved(self, tokens: Tensor, moves: Mapping[int, Tensor]) -> Tensor:
        """See `Target`; tokens [batch, pos] to [batch, pos, vocab]."""
        return self._unembed(self._run(self.embed(tokens), 0, self.n_points - 1, moves), moves)

    @torch.no_grad()
    def reads(self, tokens: Tensor) -> dict[int, Tensor]:
        """See `Target`; tokens [batch, pos] to [batch, pos, d_model] per point."""
        resid, found = self.embed(tokens), dict[int, Tensor]()
        for point in range(self.n_points):
            found[point] = self._read(point, resid)
            if point < self.n_points - 1:
                resid = self.run(resid, point, point + 1)
        return found

    def _read(self, point: int, resid: Tensor) -> Tensor:
        """The stream [batch, pos, d_model] as the norm of a point returns it; as all of several norms normalize it."""
        norms = self.norms(point)
        if len(norms) == 1:
            return norms[0](resid)
        assert all(isinstance(norm, nn.LayerNorm) for norm in norms), "no family has parallel RMSNorms"
        return nn.functional.layer_norm(resid, resid.shape[-1:], eps=norms[0].eps)  # pyright: ignore

    def _run(self, resid: Tensor, start: int, stop: int, moves: Mapping[int, Tensor]) -> Tensor:
        around = self._around(resid)
        for point in range(start, stop):
            resid = resid + self.write(point, self._reads(point, resid, moves), around)
        return resid

    def _unembed(self, resid: Tensor, moves: Mapping[int, Tensor]) -> Tensor:
        (read,) = self._reads(self.n_points - 1, resid, moves)
        return self.model.lm_head(read)

    def _reads(self, point: int, resid: Tensor, moves: Mapping[int, Tensor]) -> tuple[Tensor, ...]:
        norms = self.norms(point)
        reads = tuple(norm(resid) for norm in norms)
        if point not in moves:
            return reads
        move = moves[point].to(resid.dtype)
        if len(norms) == 1:
            return (reads[0] + move,)
        return tuple(read + move * norm.get_parameter("weight") for read, norm in zip(reads, norms, strict=True))

    def _around(self, resid: Tensor) -> Around:
        from transformers.masking_utils import create_causal_mask

        # the mask is made even where attention is causal by itself: with the eager implementation it is not
        mask = create_causal_mask(self.model.config, inputs_embeds=resid, attention_mask=None, cache=None)
        return Around(mask, self.rotary(resid, self._positions(resid)))

    def _positions(self, x: Tensor) -> Tensor:
        """Positions [1, pos] of x [batch, pos, ...]."""
        return torch.arange(x.shape[1], dtype=torch.int64, device=x.device)[None]


FAMILIES: Registry[type[HFTarget]] = Registry("model_type of Hugging Face")
"""Adapters by the `model_type` of the models' `config.json`."""
