"""Calibration: fit scale and shift of the answers' log-odds (A.5, step 5).

The paper takes 16 L-BFGS steps. The loss is convex in the two parameters, so Newton's method finds its minimum in a
fraction of the time, which matters because every candidate circuit is calibrated.
"""

import numpy as np
from torch import Tensor

from thinwire.circuit import Calibration
from thinwire.circuit.calibration import side_signs

STEPS = 50
"""Most Newton steps; a handful is usual."""
HALVINGS = 30
NO_SPREAD = 1e-6
"""Standard deviation of the log-odds below which the scale cannot be determined."""
LEAST = 1e-9
"""Least scale, of standardized log-odds."""
FLAT = 1e-12
"""Newton steps end when the expected decrease of the loss is smaller, nats."""


def fit_calibration(margins: Tensor, max_scale: float) -> Calibration:
    """Scale, in (0, max_scale], and shift that minimize the task loss of margins float32 [2n].

    The log-odds are standardized for the search, so that neither a large offset nor a small spread slows it down.
    """
    values = margins.detach().double().numpy(force=True)
    sides = side_signs(margins).double().numpy(force=True)
    odds = values * sides  # of the first answer, which is right in the first half
    if not len(odds) or not np.isfinite(odds).all():
        return Calibration()
    centre, spread = float(odds.mean()), float(odds.std())
    spread = spread if spread > NO_SPREAD else 1.0
    scale, shift = _minimize((odds - centre) / spread, sides, max_scale * spread)
    scale = min(scale / spread, max_scale)
    return Calibration(scale, shift - scale * centre)


def _minimize(odds: np.ndarray, sides: np.ndarray, most: float) -> tuple[float, float]:
    """Scale, from LEAST to `most`, and shift with the least mean loss, by Newton steps; odds and sides are [2n]."""
    features = np.stack([odds, np.ones_like(odds)])  # factors of scale and shift
    at = np.array([min(1.0, most / np.e), 0.0])

    def loss(parameters: np.ndarray) -> float:
        return float(np.logaddexp(0, -sides * (parameters @ features)).mean())

    now = loss(at)
    for _ in range(STEPS):
        wrong = np.exp(-np.logaddexp(0, sides * (at @ features)))  # probability of the wrong answer
        slope = -(features * (wrong * sides)).mean(1)
        curve = (features * (wrong * (1 - wrong))) @ features.T / len(odds)
        at_bound = (at[0] >= most and slope[0] < 0) or (at[0] <= LEAST and slope[0] > 0)
        if at_bound:
            step = np.array([0.0, -slope[1] / max(curve[1, 1], FLAT)])
        else:
            step = -np.linalg.solve(curve + FLAT * np.eye(2), slope)
        if -(slope @ step) < FLAT:
            break
        for halving in range(HALVINGS):
            there = at + 0.5**halving * step
            there[0] = min(max(there[0], LEAST), most)
            then = loss(there)
            if then < now:
                break
        else:
            break
        at, now = there, then
    return float(at[0]), float(at[1])
