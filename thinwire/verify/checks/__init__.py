"""The checks of a verdict: one registered function per module of this package.

To add a check, add a module here:

    @check("mine", order=50)
    def mine(inputs: CheckInput) -> list[Measurement]:
        condition = Condition("mine", "my check", inputs.ablation, len(inputs.heldout))
        margins = inputs.margins(inputs.heldout, tap)
        return [mean_loss(margins, condition, "How to read it.", inputs.config.seed), mean_accuracy(margins, condition)]

The verdict, the tables of the command line, their JSON and the page then show its measurements.
"""

import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import import_module
from typing import TypeVar

from thinwire.registry import Registry
from thinwire.verify.inputs import CheckInput
from thinwire.verify.measurement import Measurement

Run = Callable[[CheckInput], Iterable[Measurement]]
R = TypeVar("R", bound=Run)


@dataclass(frozen=True)
class Check:
    """A registered check."""

    name: str
    order: int
    """Verdicts list checks by order, then by name."""
    run: Run
    """Measures; every measurement's name begins with the check's name and a dot."""
    thorough: bool = False
    """Whether it takes minutes, so that only `--thorough` makes it."""
    needs_tokens: bool = False
    """Whether it needs `CheckInput.pretraining`; it is left out where there are no tokens."""


CHECKS: Registry[Check] = Registry("check")
"""The checks of all modules imported so far; `all_checks` imports those of this package first."""


def check(name: str, order: int, *, thorough: bool = False, needs_tokens: bool = False) -> Callable[[R], R]:
    """Decorator that registers a function as a check; the arguments are the fields of `Check`."""

    def add(run: R) -> R:
        CHECKS.register(name)(Check(name, order, run, thorough, needs_tokens))
        return run

    return add


def all_checks(thorough: bool = False, tokens: bool = True) -> list[Check]:
    """Every check of this package and every other registered one, in the order of a verdict.

    Those that take minutes are among them with `thorough`, those that need pretraining tokens with `tokens`.
    """
    for module in pkgutil.iter_modules(__path__):
        import_module(f"{__name__}.{module.name}")
    found = [one for name in CHECKS if (one := CHECKS[name]).thorough <= thorough and one.needs_tokens <= tokens]
    return sorted(found, key=lambda one: (one.order, one.name))
