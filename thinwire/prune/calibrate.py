"""Calibration: fit scale and shift of the answers' log-odds by L-BFGS (A.5, step 5)."""

import torch
from torch import Tensor

from thinwire.circuit import Calibration, calibrate
from thinwire.tasks import margin_losses

STEPS = 16
LARGEST_SCALE = 100.0
"""Perfectly separated pairs would push the scale to infinity."""


def fit_calibration(margins: Tensor) -> Calibration:
    """Scale and shift that minimize the task loss of margins [2n]; the scale is positive and bounded."""
    margins = margins.detach().double()
    parameters = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log scale, shift
    optimizer = torch.optim.LBFGS([parameters], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = margin_losses(calibrate(margins, parameters[0].exp(), parameters[1])).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    log_scale, shift = parameters.detach().tolist()
    if not all(map(torch.isfinite, parameters.detach())):
        return Calibration()
    return Calibration(min(float(torch.tensor(log_scale).exp()), LARGEST_SCALE), shift)
