"""What evaluation measures: one result a group of networks, a curve, a ensemble, a verdict."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from scipy.stats import t as student


@dataclass(frozen=True)
class GroupResult:
    """One row of the report: a group of networks.

    Args:
        per_network: one value a network, by metric.
        together: values of the group: the ensemble's metrics, dispersion, overlaps, novelty.
        layer_density: mean density of each weight tensor.
        intervals: 95 % intervals (low, high) of the ensemble's metrics over test samples like these.
        reliability: for each bin of confidence of the ensemble (count, mean confidence, accuracy).
    """

    name: str
    note: str
    per_network: Mapping[str, Sequence[float]]
    together: Mapping[str, float]
    layer_density: Mapping[str, float]
    intervals: Mapping[str, Sequence[float]] = field(default_factory=dict)
    reliability: Sequence[Sequence[float]] = ()

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
        """95 % interval of the mean over networks like these, on this test split (Student's t)."""
        if self.count < 2:
            return self.mean(metric), self.mean(metric)
        half = float(student.ppf(0.975, self.count - 1)) * self.std(metric) / math.sqrt(self.count)
        return self.mean(metric) - half, self.mean(metric) + half


@dataclass(frozen=True)
class CurveResult:
    """Baseline networks of one strength: a point of a curve.

    Args:
        family: the curve, such as "noise" or "soup".
        level: its strength: a standard deviation, a share, a number of networks.
        accuracy, std: mean and standard deviation over the networks.
        distance: median distance to the nearest training network.
        error_iou: mean over networks of the largest overlap of errors with a training network's.
    """

    family: str
    level: float
    networks: int
    accuracy: float
    std: float
    distance: float
    error_iou: float


@dataclass(frozen=True)
class PredictiveResult:
    """An ensemble judged as a predictive distribution.

    Args:
        metrics: accuracy, nll, brier, ece, adaptive ece, mace, mutual information, disagreement.
        temperature: fitted on validation data.
        scaled: the metrics that a temperature changes, at that temperature.
        detection: auroc and fpr95 of foreign inputs, by entropy and by mutual information.
        shifted: accuracy, nll and ece by kind and severity of shift, such as "noise 2".
    """

    name: str
    note: str
    networks: int
    metrics: Mapping[str, float]
    temperature: float
    scaled: Mapping[str, float]
    detection: Mapping[str, float]
    shifted: Mapping[str, Mapping[str, float]]


Outcome = Literal["pass", "fail", "open"]


@dataclass(frozen=True)
class Verdict:
    """What a test says about a claim.

    Args:
        claim: what is claimed of the samples, such as "not copies".
        outcome: pass, fail, or open where the data do not decide.
        words: the outcome in a sentence, with the numbers.
        test: how it was decided.
    """

    claim: str
    outcome: Outcome
    words: str
    test: str

    def __post_init__(self) -> None:
        if self.outcome not in ("pass", "fail", "open"):
            raise ValueError(f"a verdict is pass, fail or open, not {self.outcome!r}")


@dataclass(frozen=True)
class Lines:
    """Loss and accuracy along lines between networks, a list a line."""

    positions: Sequence[float]
    losses: Sequence[Sequence[float]]
    accuracies: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Filters:
    """Incoming weights of first-layer units as images.

    Args:
        labels: of the networks.
        images: networks x units x height x width; channels are averaged.
    """

    labels: Sequence[str]
    images: Sequence[Sequence[Sequence[Sequence[float]]]]


@dataclass(frozen=True)
class Pictures:
    """What the report's figures show beyond its tables.

    Args:
        spectrum: share of the total variance (the trace) along each principal component of the training networks.
        codes: position along the two leading components, in standard deviations, by group.
        lines: between networks, by what they join.
        overlaps: mask overlaps of the first few training networks, then samples, by name; NaN is None.
        overlap_training: how many of them are training networks.
        filters: None where the first layer does not look at images.
        confusion: samples of each class (rows) given to each class (columns), by ensemble.
    """

    spectrum: Sequence[float]
    codes: Mapping[str, Sequence[Sequence[float]]]
    lines: Mapping[str, Lines]
    overlaps: Mapping[str, Sequence[Sequence[float | None]]]
    overlap_training: int
    filters: Filters | None
    confusion: Mapping[str, Sequence[Sequence[int]]]
