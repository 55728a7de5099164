"""How the log-odds of a pair's answers are read off a circuit: scaled and shifted."""

from dataclasses import dataclass

import torch
from pydantic import ConfigDict, with_config
from torch import Tensor


@with_config(ConfigDict(extra="forbid", strict=True, allow_inf_nan=False))
@dataclass(frozen=True)
class Calibration:
    """Scale and shift of the log-odds of a pair's first answer over its second (A.5, step 5)."""

    scale: float = 1.0
    shift: float = 0.0

    def apply(self, margins: Tensor) -> Tensor:
        """Calibrated margins [..., 2n] of a batch of n pairs, as `thinwire.tasks.margin` gives them."""
        return calibrate(margins, self.scale, self.shift)


def calibrate(margins: Tensor, scale: Tensor | float, shift: Tensor | float) -> Tensor:
    """Margins [..., 2n] of right over wrong answers, with the first answer's log-odds scaled and shifted.

    The first answer is right in the first half and wrong in the second, so the shift cannot tell the sides apart.
    """
    n = margins.shape[-1] // 2
    side = torch.ones(2 * n, device=margins.device)
    side[n:] = -1
    return margins * scale + side * shift
