"""An estimate of a training run before it starts: sizes, memory, arithmetic and time, from its config alone.

1. `inventory`: the parameters, and how many of their entries end up nonzero.
2. `work`: the kernels that one step calls on one rank, with their sizes.
3. `memory`: the memory of a rank at the fullest moment of a step.
4. `planner`: the kernels' times at the device's rates (`thinwire.train.rates`), and the plan.
5. `microbenchmarks` and `measure`: the same kernels in isolation, and their times.

All but the last need no torch. Tests compare the description of the model here with the model.
"""

from thinwire.train.plan.planner import Plan as Plan
from thinwire.train.plan.planner import plan as plan
