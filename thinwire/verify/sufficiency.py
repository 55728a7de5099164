"""Is the circuit enough? The whole model, and the model with only the circuit."""

from thinwire.verify.subject import CHECKS, Row, Subject, row


@CHECKS.register("unpruned")
def unpruned(subject: Subject) -> Row:
    """The whole model, as it is."""
    return row("unpruned", "The whole model, nothing removed.", subject.margins(subject.heldout))


@CHECKS.register("sufficiency")
def sufficiency(subject: Subject) -> Row:
    """The model with every node and wire outside the circuit held at its mean, logits calibrated."""
    circuit = subject.circuit
    margins = subject.margins(subject.heldout, circuit.to_tap(), circuit.cut_model(subject.model))
    meaning = "Only the circuit; every other node held at its mean. Low: the circuit is enough for the task."
    return row("sufficiency", meaning, circuit.calibration.apply(margins))
