"""ArmResult: what was measured on one group of networks."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class ArmResult:
    """One row of the report: a group of networks.

    Args:
        per_network: one value a network, by metric.
        together: values of the group: the ensemble's accuracy, NLL and ECE, dispersion, mask overlap.
        layer_density: mean density of each weight tensor.
    """

    name: str
    note: str
    per_network: Mapping[str, Sequence[float]]
    together: Mapping[str, float]
    layer_density: Mapping[str, float]

    @property
    def count(self) -> int:
        return len(self.per_network["accuracy"])

    def mean(self, metric: str) -> float:
        return statistics.fmean(self.per_network[metric])

    def std(self, metric: str) -> float:
        """Standard deviation over networks; 0 for a single network."""
        return statistics.stdev(self.per_network[metric]) if self.count > 1 else 0.0

    def median(self, metric: str) -> float:
        return statistics.median(self.per_network[metric])

    def interval(self, metric: str) -> tuple[float, float]:
        """95 % interval of the mean over networks, on this test split (normal approximation)."""
        half = 1.96 * self.std(metric) / math.sqrt(self.count)
        return self.mean(metric) - half, self.mean(metric) + half
