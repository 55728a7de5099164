"""Bridges for tests."""

import torch

from thinwire.bridge.maps import Bridge, Junction


def identity_bridge(points: int, width: int) -> Bridge:
    """A bridge whose maps leave everything as it is."""
    bridge = Bridge(tuple(Junction(i, i) for i in range(points)), width, width)
    for i in range(points):
        for direction in ("encode", "decode"):
            bridge.set_map(direction, i, torch.eye(width), torch.zeros(width))
    return bridge


def random_bridge(points: int, width: int, n_active: int | None = None) -> Bridge:
    """A bridge of random maps and scales."""
    torch.manual_seed(0)
    bridge = Bridge(tuple(Junction(i, i) for i in range(points)), width, width, n_active)
    bridge.set_scales(torch.rand(points) + 0.5, torch.rand(points) + 0.5)
    return bridge
