"""Ridge regression of both maps at every junction: the start of every other fit, in seconds."""

from collections.abc import Iterable

import torch
from torch import Tensor

from thinwire.bridge.crossings import Pair
from thinwire.bridge.maps import Bridge


class _Moments:
    """Sums over tokens of two streams at one junction, in float64: of each, of squares, and of products."""

    def __init__(self, d_dense: int, d_sparse: int) -> None:
        self.n = 0
        self.sums = torch.zeros(d_dense + d_sparse, dtype=torch.float64, device="cpu")
        self.products = torch.zeros(d_dense + d_sparse, d_dense + d_sparse, dtype=torch.float64, device="cpu")

    def add(self, dense: Tensor, sparse: Tensor) -> None:
        """Add tokens: dense [tokens, d_dense] and sparse [tokens, d_sparse]."""
        both = torch.cat([dense, sparse], -1).float().cpu()
        self.n += len(both)
        self.sums += both.sum(0, dtype=torch.float64)
        self.products += (both.T @ both).double()

    def covariance(self) -> tuple[Tensor, Tensor]:
        """Mean [width] and covariance [width, width] of both streams side by side."""
        mean = self.sums / self.n
        return mean, self.products / self.n - mean.outer(mean)

    def scales(self, d_dense: int, centred: bool) -> tuple[Tensor, Tensor]:
        """Root mean square of the dense and of the sparse stream, scalars, as the models' norms take them.

        With `centred` that of the dense stream is around its mean over channels.
        """
        squares = self.products.diagonal() / self.n
        dense = squares[:d_dense].mean()
        if centred:
            dense = (dense - self.products[:d_dense, :d_dense].mean() / self.n).clamp_min(0)
        return dense.sqrt(), squares[d_dense:].mean().sqrt()


@torch.no_grad()
def fit_ridge(pair: Pair, bridge: Bridge, batches: Iterable[Tensor], penalty: float) -> None:
    """Set all maps of a bridge by ridge regression on batches of tokens [batch, pos].

    The penalty is relative to the mean variance of the inputs. Scales are set too.
    """
    d_dense, d_sparse, centred = bridge.d_dense, bridge.d_sparse, pair.dense.centred
    moments = [_Moments(d_dense, d_sparse) for _ in bridge.junctions]
    for tokens in batches:
        dense, sparse = pair.own(bridge, tokens)
        for sums, h_dense, h_sparse in zip(moments, dense.streams, sparse.streams, strict=True):
            sums.add(h_dense.flatten(0, 1), h_sparse.flatten(0, 1))
    scales = [sums.scales(d_dense, centred) for sums in moments]
    bridge.set_scales(torch.stack([dense for dense, _ in scales]), torch.stack([sparse for _, sparse in scales]))
    for i, sums in enumerate(moments):
        mean, covariance = sums.covariance()
        scale = torch.cat([bridge.dense_scales[i].expand(d_dense), bridge.sparse_scales[i].expand(d_sparse)]).double()
        mean, covariance = mean / scale.cpu(), covariance / scale.cpu().outer(scale.cpu())
        parts = slice(None, d_dense), slice(d_dense, None)
        for direction, source, target in (("encode", *parts), ("decode", *reversed(parts))):
            weight = _solve(covariance[source, source], covariance[source, target], penalty).T
            bridge.set_map(direction, i, weight, mean[target] - weight @ mean[source])


@torch.no_grad()
def sparse_sizes(pair: Pair, bridge: Bridge, batches: Iterable[Tensor]) -> Tensor:
    """Root mean square of the sparse model's stream at every junction, [junctions], over tokens [batch, pos]."""
    squares = [
        torch.stack([h.double().square().mean().cpu() for h in pair.own_sparse(bridge, tokens).streams])
        for tokens in batches
    ]
    return torch.stack(squares).mean(0).sqrt()


def _solve(own: Tensor, shared: Tensor, penalty: float) -> Tensor:
    """(own + λ)⁻¹ · shared, [in, out]; own is [in, in], shared [in, out], and λ the penalty times the mean variance."""
    strength = penalty * own.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny)
    return torch.linalg.solve(own + strength * torch.eye(len(own), dtype=own.dtype, device=own.device), shared)
