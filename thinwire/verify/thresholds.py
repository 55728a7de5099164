"""What every check holds its values against, in one place.

They are set so that a circuit which carries the answer by itself passes, and one which is right only as long as the
nodes outside stand at their means does not. docs/checks.md says what circuits with a known truth measure.
"""

from thinwire.verify.measurement import Threshold

SHARE = Threshold(0.7, at_most=False)
"""Share of the whole model's mean log-odds of the right answer that the circuit has by itself."""
OWN_ACCURACY = Threshold(0.95, at_most=False)
"""Accuracy of the circuit's own log-odds, not calibrated."""
EXCHANGED_LOSS = Threshold(0.3)
"""Loss in nats with nodes outside at their values in another prompt of the task."""
EXCHANGED_AUC = Threshold(0.97, at_most=False)
"""AUC under every exchange of the nodes outside."""
PRETRAINING_LOSS = Threshold(0.25)
"""Loss in nats with nodes outside at their values in a pretraining sequence."""
REMOVED_AUC = Threshold(0.6)
"""AUC of the model without the circuit, above which it does the task in another way too."""
PERTURBED = Threshold(0.1)
"""Difference of the mean p(correct) of circuit and model on perturbed prompts, on the side where it is largest."""
