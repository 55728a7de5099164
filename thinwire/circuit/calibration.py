"""Calibration: a circuit's log-odds of the two answers of a pair are scaled and shifted."""

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
        """Calibrated margins of n pairs, from those of `thinwire.tasks.margin`; both float32 [..., 2n]."""
        return calibrate(margins, self.scale, self.shift)


def calibrate(margins: Tensor, scale: Tensor | float, shift: Tensor | float) -> Tensor:
    """Margins float32 [..., 2n] of right over wrong answers, with the first answer's log-odds scaled and shifted.

    `scale` and `shift` are numbers or broadcast to `margins` [..., 2n]. The first answer is right in the first half and
    wrong in the second, so the shift cannot tell the two sides apart.
    """
    return margins * scale + side_signs(margins) * shift


def side_signs(margins: Tensor) -> Tensor:
    """1 where the first answer is the right one and -1 where the second is, float32 [2n], for margins [..., 2n]."""
    n = margins.shape[-1] // 2
    signs = torch.ones(2 * n, device=margins.device, dtype=torch.float32)
    signs[n:] = -1
    return signs
