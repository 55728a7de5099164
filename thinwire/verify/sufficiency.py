"""Is the circuit enough? The whole model, and the model with only the circuit."""

from thinwire.verify.subject import CHECKS, Row, Subject, row


@CHECKS.register("unpruned")
def unpruned(subject: Subject) -> Row:
    """The whole model, as it is."""
    return row("unpruned", "The whole model, nothing removed.", subject.margins(subject.heldout))


@CHECKS.register("sufficiency")
def sufficiency(subject: Subject) -> Row:
    """The model with every node outside the circuit held at its mean, logits calibrated."""
    margins = subject.kept_margins(subject.heldout, subject.circuit.keep)
    meaning = "Only the circuit; every other node held at its mean. Low: the circuit is enough for the task."
    return row("sufficiency", meaning, subject.circuit.calibration.apply(margins))
