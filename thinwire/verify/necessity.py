"""Is the circuit needed? The model with the circuit removed and everything else intact (Gao et al. 2025, Fig. 32)."""

from thinwire.verify.subject import CHECKS, Row, Subject, row


@CHECKS.register("necessity")
def necessity(subject: Subject) -> Row:
    """The model with the circuit's nodes held at their means."""
    margins = subject.margins(subject.heldout, subject.circuit.removed_tap())
    meaning = "The circuit's nodes held at their means, all others intact. Guessing gives 0.69: the circuit is needed."
    return row("necessity", meaning, margins)
