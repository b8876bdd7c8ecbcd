"""What finders and generators ask of a pattern, with an answer for patterns that do not say."""

from dataclasses import fields, is_dataclass, replace

from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern, Stepwise, check_layout, check_pattern
from weightspace.networks.layout import Layout
from weightspace.runtime import checks
from weightspace.storage.spelling import spelled_text


def steps_to(goal: Pattern, rate: float, start: float = 1.0) -> list[Pattern]:
    """The patterns of iterative pruning, the goal last; the goal alone, if it does not know the way to it.

    Args:
        goal: Pattern at the end.
        rate: Fraction of what is left that each step removes; of M, at least one weight more in each group.
        start: Density before the first step.
    """
    check_pattern(goal, "goal")
    start = checks.fraction(start, "start")
    if not isinstance(goal, Stepwise):
        return [goal]
    return goal.steps(rate) if start == 1.0 else goal.steps(rate, start)


def density_of(pattern: Pattern) -> float | None:
    """Fraction of the prunable weights that a pattern keeps, where it says so."""
    density = getattr(check_pattern(pattern), "density", None)
    return None if density is None else float(density)


def count_of(pattern: Pattern, layout: Layout) -> int | None:
    """The exact number of prunable weights that a pattern keeps of every network, where it says so.

    Raises:
        InputError: The pattern keeps none of these.
    """
    check_layout(layout)
    count = getattr(check_pattern(pattern), "count", None)
    found = None if count is None else count(layout)
    return None if found is None else int(found)


def part_of(pattern: Pattern, layout: Layout) -> Layout:
    """The layout as a pattern sees it: a selection prunes only some of the tensors.

    Raises:
        InputError: The pattern selects none of these.
    """
    check_layout(layout)
    part = getattr(check_pattern(pattern), "part", None)
    return layout if part is None else part(layout)


def with_density(pattern: Pattern, density: float) -> Pattern:
    """The same pattern at another density.

    Args:
        pattern: Pattern with a density that can be set, such as Unstructured(0.1), ERK(0.1) or a selection of one.
        density: Fraction of the weights kept, in (0, 1].

    Raises:
        InputError: The pattern has no such density.
    """
    if hasattr(check_pattern(pattern), "with_density"):
        return pattern.with_density(density)  # pyright: ignore[reportAttributeAccessIssue]
    if not is_dataclass(pattern) or "density" not in {field.name for field in fields(pattern)}:
        raise InputError(
            f"{spelled_text(pattern)} has no density that could fall little by little: use Unstructured, ERK, Balanced "
            "or a selection of one, or a finder that prunes level by level, as IMP does"
        )
    return replace(pattern, density=density)  # pyright: ignore[reportCallIssue]


def one_threshold(pattern: Pattern) -> bool:
    """Does one score decide for the whole network: are the `count(layout)` highest kept, whatever their layer?"""
    return bool(getattr(pattern, "one_threshold", False))
