"""Would any circuit do? Random circuits with as many nodes at every site, each with its own calibration."""

import statistics

import torch
from torch import Tensor

from thinwire.prune.calibrate import fit_calibration
from thinwire.verify.subject import CHECKS, Row, Subject, row


@CHECKS.register("random")
def random_circuits(subject: Subject) -> Row:
    """Median over random circuits of the same size, each with every wire between its nodes and all tokens."""
    generator = torch.Generator().manual_seed(subject.config.seed)
    rows = [_measure(subject, generator) for _ in range(subject.config.random_circuits)]
    losses = tuple(sorted(measured.loss for measured in rows))
    return Row(
        "random",
        f"Median of {len(rows)} random circuits with as many nodes per site. Near 0.69: size alone is no explanation.",
        statistics.median(losses),
        statistics.median(measured.accuracy for measured in rows),
        losses,
    )


def _measure(subject: Subject, generator: torch.Generator) -> Row:
    keep = {site: _shuffled(mask, generator) for site, mask in subject.circuit.keep.items()}
    calibration = fit_calibration(subject.kept_margins(subject.fit, keep), subject.config.max_logit_scale)
    return row("", "", calibration.apply(subject.kept_margins(subject.heldout, keep)))


def _shuffled(mask: Tensor, generator: torch.Generator) -> Tensor:
    return mask[torch.randperm(len(mask), generator=generator)]
