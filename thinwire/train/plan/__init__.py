"""What a training run takes, told before it starts: sizes, memory, arithmetic and time, from its config alone.

1. `inventory`: the parameters, and how many of their entries end up nonzero.
2. `work`: the kernels that one step calls on one rank, with their sizes.
3. `memory`: what a rank holds when it holds most.
4. `planner`: the kernels' times at the device's rates (`thinwire.train.rates`), and the plan.
5. `workbench` and `measure`: the same kernels set up by themselves, and timed.

All but the last needs no torch. The descriptions of the model here are checked against the model by tests.
"""

from thinwire.train.plan.planner import Plan as Plan
from thinwire.train.plan.planner import plan as plan
