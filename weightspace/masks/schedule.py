"""What finders and generators ask of a pattern, with an answer for patterns that do not say."""

from weightspace.masks.patterns import Pattern, Stepwise
from weightspace.networks.layout import Layout


def steps_to(goal: Pattern, rate: float, start: float = 1.0) -> list[Pattern]:
    """The patterns of iterative pruning, the goal last; the goal alone, if it does not know the way to it.

    Args:
        goal: Pattern at the end.
        rate: Fraction of what is left that each step removes; of M, at least one weight more in each group.
        start: Density before the first step.
    """
    if not isinstance(goal, Stepwise):
        return [goal]
    return goal.steps(rate) if start == 1.0 else goal.steps(rate, start)


def density_of(pattern: Pattern) -> float | None:
    """Fraction of the prunable weights that a pattern keeps, where it says so."""
    density = getattr(pattern, "density", None)
    return None if density is None else float(density)


def count_of(pattern: Pattern, layout: Layout) -> int | None:
    """The exact number of prunable weights that a pattern keeps of every network, where it says so.

    Raises:
        InputError: The pattern keeps none of these.
    """
    count = getattr(pattern, "count", None)
    return None if count is None else int(count(layout))


def one_threshold(pattern: Pattern) -> bool:
    """Does one score decide for the whole network: are the `count(layout)` highest kept, whatever their layer?"""
    return bool(getattr(pattern, "one_threshold", False))
