"""Calibration: fit scale and shift of the answers' log-odds by L-BFGS (A.5, step 5)."""

import torch
from torch import Tensor

from thinwire.circuit import Calibration, calibrate
from thinwire.tasks import margin_losses

STEPS = 16
LARGEST_SCALE = 100.0
"""Perfectly separated pairs would push the scale to infinity."""
NO_SPREAD = 1e-6
"""Log-odds that differ by less say nothing about the scale."""


def fit_calibration(margins: Tensor) -> Calibration:
    """Scale and shift that minimize the task loss of margins [2n]; the scale is positive and bounded.

    The log-odds are standardized for the search, so that neither a large offset nor a small spread slows it down.
    """
    margins = margins.detach().double()
    sides = torch.ones_like(margins)
    sides[len(margins) // 2 :] = -1
    odds = margins * sides  # of the first answer, which is right in the first half
    centre, spread = odds.mean().item(), odds.std(correction=0).item()
    spread = spread if spread > NO_SPREAD else 1.0
    standard = (odds - centre) / spread * sides
    parameters = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log scale, shift
    optimizer = torch.optim.LBFGS([parameters], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = margin_losses(calibrate(standard, parameters[0].exp(), parameters[1])).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    found = parameters.detach()
    if not torch.isfinite(found).all():
        return Calibration()
    scale = found[0].exp().item() / spread
    shift = found[1].item() - scale * centre
    bounded = min(scale, LARGEST_SCALE)
    return Calibration(bounded, shift * bounded / scale)  # the log-odds that count as even stay the same
