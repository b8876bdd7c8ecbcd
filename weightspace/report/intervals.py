"""Intervals of means over networks or seeds, by Student's t."""

import statistics
from collections.abc import Sequence


def half_width(values: Sequence[float], *, level: float = 0.95) -> float:
    """Half the width of the interval of a mean (Student's t).

    Args:
        values: At least two values, one a network or a seed.
        level: Share of such intervals that hold the true mean.
    """
    from scipy import stats

    return float(stats.t.ppf(0.5 + level / 2, len(values) - 1)) * statistics.stdev(values) / len(values) ** 0.5


def mean_interval(values: Sequence[float], *, level: float = 0.95) -> tuple[float, float]:
    """Interval (low, high) of a mean; without width for a single value.

    Args:
        values: One value a network or a seed.
        level: Share of such intervals that hold the true mean.
    """
    mean = statistics.fmean(values)
    half = half_width(values, level=level) if len(values) > 1 else 0.0
    return mean - half, mean + half
