"""What evaluation measures, as data: groups of networks, curves, ensembles, verdicts, and what the figures show."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from weightspace.errors import InputError
from weightspace.report.intervals import mean_interval
from weightspace.report.metrics import EnsembleIntervals, EnsembleMetrics, GroupMetrics, PredictorMetrics


@dataclass(frozen=True)
class NovelShare:
    """Share of the networks that perform and are at least `tau` units away from every training network.

    Args:
        tau: Distance, in medians of the distance between a training network and its nearest other.
        share: Share of the networks.
    """

    tau: int
    share: float


@dataclass(frozen=True)
class Novelty:
    """How a group lies relative to the training networks.

    Args:
        copies: Share of networks that are close enough to a training network to count as its copy.
        novel_and_performing: Shares of networks that are far away and perform, from near to far.
        dispersion_around_training: Root mean square distance to the training mean, relative to the training networks';
            None for the training networks themselves.
        z_u: Test of Meehan et al. 2020 for copies, far below 0 if there are; None without held-out networks.
        farther_than_held_out: Probability that a network is farther from the training networks than a held-out one.
    """

    copies: float
    novel_and_performing: Sequence[NovelShare]
    dispersion_around_training: float | None = None
    z_u: float | None = None
    farther_than_held_out: float | None = None

    def performing_at(self, tau: int) -> float:
        """Share of the networks that perform at `tau` units of distance.

        Raises:
            InputError: The share was not measured at this distance.
        """
        for one in self.novel_and_performing:
            if one.tau == tau:
                return one.share
        raise InputError(f"not measured at tau {tau}: there are {[one.tau for one in self.novel_and_performing]}")


@dataclass(frozen=True)
class Variety:
    """How different the networks of a group are from each other.

    Args:
        dispersion: Spread around the own mean, relative to the training networks'.
        error_iou: Mean overlap of errors between two networks.
        error_iou_by_chance: The same if networks erred independently at these rates.
        nearest_distance: Median distance to the nearest other network of the group.
        mask_overlap: Mean overlap of masks between two networks; None for dense networks.
        mask_overlap_by_chance: The same for random masks of these layer densities.
    """

    dispersion: float
    error_iou: float
    error_iou_by_chance: float
    nearest_distance: float
    mask_overlap: float | None = None
    mask_overlap_by_chance: float | None = None


@dataclass(frozen=True)
class LayerDensity:
    """Mean density of one weight tensor over a group of networks."""

    name: str
    density: float


@dataclass(frozen=True)
class ReliabilityBin:
    """Samples of similar confidence: how many, their mean confidence, and the accuracy on them; zeros if empty."""

    count: float
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class GroupResult:
    """One row of the report: a group of networks.

    Args:
        name: Name of the row.
        note: A line that says what the networks are.
        per_network: Figures of every network.
        ensemble: Metrics of all networks as one ensemble; empty where outputs cannot be averaged.
        novelty: How the group lies relative to the training networks.
        variety: How its networks differ from each other; None for a single network.
        layer_density: Mean density of each weight tensor.
        intervals: Intervals of the ensemble's metrics; None for other networks than classifiers of one label.
        reliability: Bins of the ensemble's confidence, from low to high; empty where there are no probabilities.
    """

    name: str
    note: str
    per_network: GroupMetrics
    ensemble: EnsembleMetrics
    novelty: Novelty
    variety: Variety | None
    layer_density: Sequence[LayerDensity]
    intervals: EnsembleIntervals | None
    reliability: Sequence[ReliabilityBin]

    @property
    def count(self) -> int:
        """Number of networks."""
        return len(self.per_network.density)

    @property
    def sparse(self) -> bool:
        """Whether any layer is pruned."""
        return any(layer.density < 1 for layer in self.layer_density)

    def values(self, metric: str) -> Sequence[float]:
        """The values of one figure, one a network: a metric of the task, or a field of `GroupMetrics`.

        Raises:
            InputError: The group has no such figure, as dense networks have no overlap of masks.
        """
        values = self.per_network.values(metric)
        if values is None:
            raise InputError(f"{self.name!r} has no {metric}: its networks or the training networks are dense")
        return values

    def mean(self, metric: str) -> float:
        """Mean over networks."""
        return statistics.fmean(self.values(metric))

    def std(self, metric: str) -> float:
        """Standard deviation over networks; 0 for a single network."""
        return statistics.stdev(self.values(metric)) if self.count > 1 else 0.0

    def median(self, metric: str) -> float:
        """Median over networks."""
        return statistics.median(self.values(metric))

    def interval(self, metric: str) -> tuple[float, float]:
        """95 % interval of the mean over networks like these, on this test split (Student's t)."""
        return mean_interval(self.values(metric))


@dataclass(frozen=True)
class CurveResult:
    """Baseline networks of one strength: a measured point of a curve.

    Args:
        family: Name of the curve, such as "noise" or "soup".
        level: Strength: a standard deviation, a share, or a number of networks.
        networks: Number of networks.
        score: Mean of the main metric over the networks.
        std: Standard deviation of the main metric over the networks.
        distance: Median distance to the nearest training network.
        error_iou: Mean over networks of the largest likeness of errors to a training network's.
    """

    family: str
    level: float
    networks: int
    score: float
    std: float
    distance: float
    error_iou: float


@dataclass(frozen=True)
class Detection:
    """How well a score separates OOD inputs, which are the positives, from test inputs.

    Args:
        auroc: Area under the receiver operating characteristic.
        fpr95: Share of test inputs that are flagged when 95 % of the OOD inputs are.
    """

    auroc: float
    fpr95: float


@dataclass(frozen=True)
class ShiftResult:
    """An ensemble under one shift of the inputs.

    Args:
        kind: "noise", "contrast", "blur" or "rotation"; "none" for the inputs as they are.
        severity: Strength from 1 to 3; 0 for the inputs as they are.
        scores: Metrics under the shift by name: "accuracy", "nll" and "ece" of classifiers of one label, the task's
            metrics and "loss" of others.
    """

    kind: str
    severity: int
    scores: Mapping[str, float]


@dataclass(frozen=True)
class PredictiveResult:
    """An ensemble as a predictive distribution.

    Args:
        name: Name of the ensemble.
        note: A line that says what its members are.
        networks: Number of members.
        metrics: Metrics on the test split.
        temperature: Temperature that was fitted on validation data; None where outputs have none.
        scaled: Metrics on the test split at that temperature.
        by_entropy: Detection of OOD inputs by the entropy of the prediction; None where it was not measured.
        by_mutual_information: Detection by mutual information; None for a single network.
        shifts: Results under each shift, the inputs as they are first; empty where none was tried.
    """

    name: str
    note: str
    networks: int
    metrics: EnsembleMetrics
    temperature: float | None
    scaled: PredictorMetrics | None
    by_entropy: Detection | None
    by_mutual_information: Detection | None
    shifts: Sequence[ShiftResult]


Outcome = Literal["pass", "fail", "open"]
"""Outcome of a test: the claim holds, it does not hold, or the data do not decide."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a test of one claim.

    Args:
        claim: What is claimed of the samples, such as "not copies".
        outcome: "pass" if the claim holds, "fail" if it does not, "open" if the data do not decide.
        words: The outcome in a sentence, with the numbers.
        test: How it was decided.

    Raises:
        ValueError: The outcome is another word.
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
    """Loss and main metric along lines between networks, a list for each line.

    Args:
        positions: Positions on the line, from 0 to 1.
        losses: Test loss at the positions, one list a line.
        scores: Main metric on the test split at the positions, one list a line.
    """

    positions: Sequence[float]
    losses: Sequence[Sequence[float]]
    scores: Sequence[Sequence[float]]


@dataclass(frozen=True)
class Filters:
    """Incoming weights of first-layer units as images.

    Args:
        labels: Names of the networks.
        images: Values (networks, units, height, width); channels are averaged.
    """

    labels: Sequence[str]
    images: Sequence[Sequence[Sequence[Sequence[float]]]]


@dataclass(frozen=True)
class FigureData:
    """What the figures show beyond the tables.

    Args:
        spectrum: Share of the total variance (the trace) along each principal component of the training networks.
        codes: Positions along the two leading components, in standard deviations, by group.
        lines: Lines between networks, by what they join.
        overlaps: Mask overlaps of the first few training networks, then samples, by name; None on the diagonal.
        overlap_training: How many of these are training networks.
        filters: First-layer weights; None where the first layer does not look at images.
        confusion: Samples of each class (rows) given to each class (columns), by ensemble; empty for
            other networks than classifiers of one label.
    """

    spectrum: Sequence[float]
    codes: Mapping[str, Sequence[Sequence[float]]]
    lines: Mapping[str, Lines]
    overlaps: Mapping[str, Sequence[Sequence[float | None]]]
    overlap_training: int
    filters: Filters | None
    confusion: Mapping[str, Sequence[Sequence[int]]]
