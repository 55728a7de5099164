"""Numbers to load into vectors, and masks of lanes as numpy has them."""

import numpy as np

from thinwire.engine.simd.vectors import LANES

SPECIAL = np.array([0, -0.0, 1, -1, np.inf, -np.inf, np.nan, 1e-45, -1e-45, 3e38], np.float32)


def vectors(seed: int = 0) -> np.ndarray:
    """Rows [6, 3 · LANES], a third of the numbers zero or special."""
    random = np.random.default_rng(seed)
    x = random.standard_normal((6, 3 * LANES)).astype(np.float32)
    return np.where(random.random(x.shape) < 0.3, random.choice(SPECIAL, x.shape), x)


def normals(*shape: int, seed: int = 0) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def lanes(bits: int) -> np.ndarray:
    """A mask of lanes: bool [LANES]."""
    return np.array([bits >> t & 1 for t in range(LANES)], bool)
