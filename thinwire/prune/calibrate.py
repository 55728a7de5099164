"""Calibration: fit scale and shift of the answers' log-odds by L-BFGS (A.5, step 5)."""

import math

import torch
from torch import Tensor

from thinwire.circuit import Calibration, calibrate
from thinwire.tasks import margin_losses

STEPS = 16


def fit_calibration(margins: Tensor, max_scale: float) -> Calibration:
    """Scale, in (0, max_scale], and shift that minimize the task loss of margins [2n]."""
    margins = margins.detach().double()
    parameters = torch.zeros(2, dtype=torch.float64, requires_grad=True)  # log scale, shift
    optimizer = torch.optim.LBFGS([parameters], max_iter=STEPS, line_search_fn="strong_wolfe")
    most = math.log(max_scale)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = margin_losses(calibrate(margins, parameters[0].clamp(max=most).exp(), parameters[1])).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    log_scale, shift = parameters.detach().tolist()
    if not (math.isfinite(log_scale) and math.isfinite(shift)):
        return Calibration()
    return Calibration(math.exp(min(log_scale, most)), shift)
