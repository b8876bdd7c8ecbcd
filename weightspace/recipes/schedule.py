"""Schedule: the learning rate over a training run."""

import math
from dataclasses import dataclass
from typing import Literal

from weightspace.errors import InputError
from weightspace.recipes.step import Duration, Step, duration
from weightspace.runtime import checks


@dataclass(frozen=True)
class Schedule:
    """The learning rate over a run, relative to the optimiser's.

    Args:
        shape: "constant"; "step" multiplies by `gamma` at each milestone; "cosine" falls to zero;
            "triangular" falls to zero along a straight line after the warm-up.
        warmup: Step until which the rate rises from zero along a straight line.
        milestones: Steps of the "step" schedule.
        gamma: Factor of the "step" schedule.
    """

    shape: Literal["constant", "step", "cosine", "triangular"] = "constant"
    warmup: Duration = duration("0it")
    milestones: tuple[Step, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        checks.settle(self, Step.of, "warmup")
        object.__setattr__(self, "milestones", tuple(checks.several(self.milestones, "milestones", Step.of)))
        checks.settle(self, checks.one_of, "shape", choices=("constant", "step", "cosine", "triangular"))
        checks.settle(self, checks.number, "gamma", at_least=0)
        if bool(self.milestones) != (self.shape == "step"):
            raise InputError("milestones belong to the step schedule, which needs at least one")

    def factor(self, step: int, total: int, per_epoch: int) -> float:
        """The factor for iteration `step` (from 0) of `total`."""
        warmup = self.warmup.total(per_epoch)
        if step < warmup:
            return (step + 1) / warmup
        left = (total - step) / (total - warmup)  # 1 after the warm-up, falling to 0
        if self.shape == "step":
            return self.gamma ** sum(step >= milestone.total(per_epoch) for milestone in self.milestones)
        return {"constant": 1.0, "cosine": 0.5 * (1 - math.cos(math.pi * left)), "triangular": left}[self.shape]
