"""The patterns and densities on the way to a sparse network."""

import math
from dataclasses import replace

from weightspace.masks.patterns import NM, Channels, Pattern, Stepwise, Unstructured


def density_of(pattern: Pattern) -> float | None:
    """Fraction of the weights that a pattern keeps, where it says so."""
    if isinstance(pattern, NM):
        return pattern.n / pattern.m
    return pattern.density if isinstance(pattern, Unstructured) else None


def steps_to(goal: Pattern, rate: float, start: float = 1.0) -> list[Pattern]:
    """The patterns of iterative pruning, the goal last.

    Args:
        goal: where it ends.
        rate: fraction of what is left that each step removes; of M, at least one weight more in each group.
        start: density before the first step.
    """
    if isinstance(goal, NM):
        left = [goal.m]
        while left[-1] > goal.n:
            left.append(max(goal.n, min(left[-1] - 1, math.floor(left[-1] * (1 - rate)))))
        return [NM(n, goal.m) for n in left[1:]] or [goal]
    if isinstance(goal, Unstructured | Channels):
        return [replace(goal, density=density) for density in densities_to(goal.density, rate, start)]
    return goal.steps(rate) if isinstance(goal, Stepwise) else [goal]


def densities_to(density: float, rate: float, start: float = 1.0) -> list[float]:
    """Densities of iterative pruning: each removes the fraction `rate` of what is left, the last less if need be."""
    found: list[float] = []
    while not found or found[-1] > density:
        following = (found[-1] if found else start) * (1 - rate)
        # What rounding leaves above the goal is not worth a level.
        found.append(density if following <= density * (1 + 1e-9) else following)
    return found
