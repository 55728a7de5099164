"""Families of planted models: a family is one function that plants edges in a draft."""

import math
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from thinwire.circuit import EdgeEnds
from thinwire.model import ModelConfig
from thinwire.planted.draft import DeadEnd, Draft
from thinwire.planted.model import CHECK_ROWS, Planted, Wiring, means_of, random_sequences
from thinwire.planted.task import Layout, PlantedTask
from thinwire.registry import Registry
from thinwire.tasks import last_logits

WIDTHS = (16, 32, 48, 64)
"""Widths of the residual stream to choose among."""
D_HEAD = 4
DENSITY, DEAD_WEIGHT = 0.2, 0.1
"""Of the weights, and of dead ends; these hardly change the norms, which would tell the sides of a pair apart."""
BALLAST = 2.0
"""Root mean square that the constant channel alone gives the residual stream."""
SIDE = 3.0
"""What a deciding token writes, with either sign."""
BALANCE_PAIRS = 128
"""Pairs on which the model's preference for one answer is removed."""


@dataclass(frozen=True)
class Plan:
    """What a family planted in a draft."""

    layout: Layout
    answers: tuple[int, int]
    truth: Sequence[Iterable[EdgeEnds]]
    """Edges of the true circuits."""
    false: Iterable[EdgeEnds] | None = None
    odds_of_second: float | None = None
    """Mean log-odds of the second answer in its prompts; without them both answers have the same."""
    nonsense: bool = False
    """Whether the answers are random, so that nothing decides them."""


@dataclass(frozen=True)
class Family:
    """A kind of planted model."""

    name: str
    plant: Callable[[Draft], Sequence[Plan]]
    """Plants edges in a draft; one plan for each task of the model."""
    models: int
    """Number of models of this family in a suite."""
    caught_by: str
    """Name of the check that is meant to notice the false circuits; empty where there are none."""
    layers: int
    activation: Literal["gelu", "relu"]
    ballast: float
    least_width: int
    selects: bool
    """Whether some models have AbsTopK, which keeps three quarters of the channels of each site."""

    def make(self, seed: int, number: int) -> list[Planted]:
        """One model of the family, with each of its tasks: a pure function of the seed and the number."""
        rng = random.Random(f"{seed}/{self.name}/{number}")
        draft = self._draft(rng)
        plans = self.plant(draft)
        model = draft.build()
        found = []
        for index, plan in enumerate(plans):
            name = f"{self.name}_{number}" + (f"_{'abc'[index]}" if len(plans) > 1 else "")
            labels = draft.seed if plan.nonsense else None
            task = PlantedTask(name, plan.layout, plan.answers, model.config.context, labels_seed=labels)
            planted = Planted(
                name=name,
                family=self.name,
                model=model,
                planted=task,
                means={},
                truth=tuple(map(Wiring.of, plan.truth)),
                false=None if plan.false is None else Wiring.of(plan.false),
                caught_by=self.caught_by,
                pretraining=random_sequences(model, CHECK_ROWS, draft.seed + 4),
            )
            balance(planted, plan.odds_of_second)
            planted.means.update(means_of(model, draft.seed + 3))
            found.append(planted)
        return found

    def _draft(self, rng: random.Random) -> Draft:
        width = rng.choice([width for width in WIDTHS if width >= self.least_width])
        shape = ModelConfig(
            n_layers=self.layers,
            d_model=width,
            d_head=D_HEAD,
            mlp_ratio=2,
            context=rng.choice((8, 10, 12)),
            vocab_size=rng.choice((20, 24)),
            bigram=False,
            activation=self.activation,
            active_fraction=rng.choice((0.75, 1.0)) if self.selects else 1.0,
        )
        dead = DeadEnd(rng.randrange(width), rng.randrange(width), rng.randrange(shape.d_mlp))
        seed, ballast = rng.randrange(2**31), self.ballast * math.sqrt(width)
        return Draft(shape, dead, seed, DENSITY, DEAD_WEIGHT, rng, ballast)


FAMILIES: Registry[Family] = Registry("family of planted models")
"""Every family by name."""


def family(
    name: str,
    models: int = 1,
    caught_by: str = "",
    *,
    layers: int = 2,
    activation: Literal["gelu", "relu"] = "relu",
    ballast: float = BALLAST,
    least_width: int = 16,
    selects: bool = False,
) -> Callable[[Callable[[Draft], Sequence[Plan]]], Callable[[Draft], Sequence[Plan]]]:
    """Decorator that registers a function as a family; the arguments are the fields of `Family`."""

    def add(plant: Callable[[Draft], Sequence[Plan]]) -> Callable[[Draft], Sequence[Plan]]:
        made = Family(name, plant, models, caught_by, layers, activation, ballast, least_width, selects)
        FAMILIES.register(name)(made)
        return plant

    return add


@torch.no_grad()
def balance(planted: Planted, odds_of_second: float | None = None) -> None:
    """Set the bias of the answers so that right answers of both sides have the same mean log-odds, on train pairs.

    With `odds_of_second`, so that those of the second side have these.
    """
    pairs = planted.planted.pairs(BALANCE_PAIRS, "train", 0)
    answers = planted.planted.answers
    odds = last_logits(planted.model, pairs)[:, answers].diff(dim=-1)[:, 0]  # of the second answer
    first, second = odds.unflatten(0, (2, -1)).mean(1).tolist()
    by = -(first + second) / 2 if odds_of_second is None else odds_of_second - second
    for answer, sign in zip(answers, (-1, 1), strict=True):
        planted.model.unembedding.bias[answer] += sign * by / 2
