"""Keys and values of positions that have run, so that a text that grows runs only what is new."""

import torch
from torch import Tensor


class Cache:
    """What later positions need of earlier ones: an argument of `Transformer.embed` and `Transformer.run`.

    Fresh for every batch of texts. Each call gives the next positions of the same texts, any number at a time; the
    residual points and logits that come out, and what taps and norms see, are those of the new positions alone.
    Gradients do not pass through it.
    """

    def __init__(self, room: int) -> None:
        """With room for this many positions."""
        self.room = room
        self.length = 0
        """Positions that have run; the next one has this index."""
        self._kept: dict[int, tuple[Tensor, Tensor]] = {}

    def extend(self, sublayer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of all positions at an attention sublayer, [batch, head, length + new, d_head] each.

        `k` and `v` [batch, head, new, d_head] are those of the new positions.
        """
        stop = self.length + k.shape[2]
        assert stop <= self.room, f"the cache has room for {self.room} positions"
        assert not k.requires_grad
        if sublayer not in self._kept:
            shape = (*k.shape[:2], self.room, k.shape[3])
            self._kept[sublayer] = (
                torch.empty(shape, dtype=k.dtype, device=k.device),
                torch.empty(shape, dtype=v.dtype, device=v.device),
            )
        keys, values = self._kept[sublayer]
        keys[:, :, self.length : stop] = k
        values[:, :, self.length : stop] = v
        return keys[:, :, :stop], values[:, :, :stop]
