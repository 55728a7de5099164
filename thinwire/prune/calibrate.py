"""Calibration: fit scale and shift of the answers' log-odds by L-BFGS (A.5, step 5)."""

import math

import torch
from torch import Tensor

from thinwire.circuit import Calibration, calibrate
from thinwire.tasks import margin_losses

STEPS = 16
NO_SPREAD = 1e-6
"""Log-odds that differ by less say nothing about the scale."""


def fit_calibration(margins: Tensor, max_scale: float) -> Calibration:
    """Scale, in (0, max_scale], and shift that minimize the task loss of margins [2n].

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
    most = math.log(max_scale * spread)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = margin_losses(calibrate(standard, parameters[0].clamp(max=most).exp(), parameters[1])).mean()
        loss.backward()
        return loss

    with torch.no_grad():
        parameters[0] = min(0.0, most - 1.0)  # a start at the bound or past it would have no slope
    optimizer.step(closure)
    log_scale, shift = parameters.detach().tolist()
    if not (math.isfinite(log_scale) and math.isfinite(shift)):
        return Calibration()
    scale = math.exp(min(log_scale, most)) / spread
    return Calibration(scale, shift - scale * centre)
