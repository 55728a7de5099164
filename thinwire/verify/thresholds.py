"""What every check holds its values against, in one place.

They are set so that a circuit which carries the answer by itself passes, and one which is right only as long as the
nodes outside stand at their means does not. docs/checks.md says what circuits with a known truth measure.
"""

from math import log

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
FROZEN_NORMS = 2.0
"""How many times its target loss a circuit may have with the norm scales of the whole model."""
REMOVED_LOSS = Threshold(0.95 * log(2), at_most=False)
"""Refitted loss in nats of the model without the circuit: below, it does the task in another way too.

Not the AUC: where a circuit is the only way, the norms still carry a trace of what went through it. Planted circuits
leave an AUC of up to 0.65 so, and a loss of 0.67."""
PATTERN_DISTANCE = Threshold(0.3)
"""Total variation between a head's attention pattern in the circuit and in the whole model."""
UNIFORM = Threshold(0.02)
"""Total variation between a pattern and the uniform one, at or below which the head looks nowhere in particular."""
ADVERSARIAL_LOSS = Threshold(0.3)
"""Refitted loss in nats after 20 adversarial steps on the nodes outside: what an exchange may cost.

A lower limit would ask a circuit that just meets its target of 0.15 to do better under attack than alone."""
AS_GOOD = Threshold(0.05)
"""Share of random circuits of the same form that are as good as the circuit."""
WORST_CORRELATION = Threshold(0.5, at_most=False)
"""Correlation of every kept node between circuit and model: below it, a node mostly does something else."""
MEDIAN_CORRELATION = Threshold(0.9, at_most=False)
"""Median of these correlations."""
GONE_UNIFORM = Threshold(0.0)
"""Share of kept heads that look everywhere alike in the circuit, but not in the model."""
PERTURBED = Threshold(0.1)
"""Difference of the mean p(correct) of circuit and model on perturbed prompts, on the side where it is largest."""
SIGNIFICANCE = 0.05
"""Level of the hypothesis tests."""
NO_EVIDENCE = Threshold(SIGNIFICANCE, at_most=False)
"""p-value of a test whose rejection speaks against a circuit."""
EVIDENCE = Threshold(SIGNIFICANCE)
"""p-value of a test whose rejection speaks for a circuit."""
TRACE = 0.2
"""Normalized HSIC below which a dependence is no larger than what norms pass on.

Planted circuits that are the only way leave 0.03 to 0.16, and 0.99 or more where there is a second way."""
NONSENSE_RATIO = Threshold(3.0, at_most=False)
"""Edges of a circuit for nonsense answers, over those of the circuit."""
UNSOLVED = Threshold(0.0)
"""Whether pruning finds a circuit for nonsense answers at all."""
STABLE = Threshold(0.8, at_most=False)
"""Mean Jaccard index of circuits from resampled prompts, or other seeds (Méloux et al. 2025, 2510.00845)."""
RIVALS = Threshold(0.0)
"""Circuits without a node of this one that do the task as well."""
