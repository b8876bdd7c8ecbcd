"""Metrics in reports: their names and directions, and the figures of networks, predictors and ensembles by name."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeVar

from weightspace.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True)
class ReportedMetric:
    """A metric and its better direction.

    Args:
        name: Name of the metric, such as "accuracy" or "r2"; "loss" is the task's own loss.
        higher_is_better: Whether more is better.
    """

    name: str
    higher_is_better: bool = True

    @property
    def label(self) -> str:
        """The name in tables and sentences."""
        return self.name.replace("_", " ")

    @property
    def phrase(self) -> str:
        """The name in sentences."""
        return "an accuracy" if self.name == "accuracy" else self.label

    @property
    def at_least(self) -> str:
        """What a metric must be to count, in words."""
        return "at least" if self.higher_is_better else "at most"

    @property
    def better(self) -> str:
        """Comparative, for sentences: "more accurate", or "better"."""
        return "more accurate" if self.name == "accuracy" else "better"

    def in_favour(self, low: float, high: float) -> tuple[float, float]:
        """An interval of a difference as an interval of an advantage: positive is better.

        Args:
            low: Lower end.
            high: Upper end.
        """
        return (low, high) if self.higher_is_better else (-high, -low)

    def advantage(self, value: float) -> float:
        """A value as one of which more is better."""
        return value if self.higher_is_better else -value


ACCURACY = ReportedMetric("accuracy")
"""The main metric of classifiers."""


@dataclass(frozen=True)
class Scoring:
    """How the networks of a report were scored, where they are no classifiers of one label a sample.

    Args:
        outputs: What the networks' outputs mean.
        metrics: Metrics of every network, the main one first; "loss" is the task's own loss.
        errors: How errors of two networks are compared: "error IoU" is the overlap of wrong predictions, "residual
            correlation" and "loss correlation" are correlations over the test samples.
    """

    outputs: str
    metrics: Sequence[ReportedMetric]
    errors: str

    @property
    def main(self) -> ReportedMetric:
        """The metric that networks are judged by."""
        return self.metrics[0]


@dataclass(frozen=True)
class GroupMetrics:
    """Figures of the networks of a group, one value a network.

    Args:
        scores: Metrics on the test split by name. Classifiers of one label have "accuracy" (share of the test samples
            that are classified correctly), "nll" (mean negative log-likelihood, in nats), "brier" (mean squared
            distance of the probabilities from the one-hot target), "ece" and "adaptive_ece" (expected calibration error
            over 15 bins of equal width, or of equally many samples), and "mace" (the unweighted mean of the calibration
            gaps of the bins of equal width). Other networks have the metrics of their task, and "loss".
        density: Share of the prunable weights that is kept.
        gain_over_nearest: Main metric compared with that of the nearest training network; positive is better.
        nearest_distance: Euclidean distance to the nearest training network, after alignment.
        from_few: Share of the deviation from the training mean that 16 training networks explain.
        max_error_iou: Largest likeness of test errors to those of a training network: the overlap of wrong predictions,
            or a correlation for other outputs (`Scoring.errors`).
        mask_overlap_with_training: Largest overlap with the mask of a training network; None for dense networks.
        nearest_angle: Angle to the nearest training network in radians, after alignment, whatever the norms are; None
            in reports of version 0.1.
    """

    scores: Mapping[str, Sequence[float]]
    density: Sequence[float]
    gain_over_nearest: Sequence[float]
    nearest_distance: Sequence[float]
    from_few: Sequence[float]
    max_error_iou: Sequence[float]
    mask_overlap_with_training: Sequence[float] | None = None
    nearest_angle: Sequence[float] | None = None

    @property
    def names(self) -> list[str]:
        """Names of the figures that there are."""
        own = [one.name for one in fields(self) if one.name != "scores" and getattr(self, one.name) is not None]
        return [*self.scores, *own]

    @property
    def accuracy(self) -> Sequence[float]:
        """Accuracy of every network."""
        return _named(self.scores, "accuracy")

    def values(self, name: str) -> Sequence[float] | None:
        """The figures of one name; None for overlaps of masks of dense networks.

        Raises:
            InputError: No figure has the name.
        """
        if name in self.scores:
            return self.scores[name]
        if name not in {one.name for one in fields(self)} - {"scores"}:
            raise InputError(f"the networks have no figure {name!r}: there are {', '.join(self.names)}")
        return getattr(self, name)


@dataclass(frozen=True)
class PredictorMetrics:
    """Metrics of one predictor on labelled samples.

    Args:
        scores: Metrics by name; `GroupMetrics` explains them.
    """

    scores: Mapping[str, float]

    def __getitem__(self, name: str) -> float:
        """The metric of this name.

        Raises:
            InputError: There is none.
        """
        return _named(self.scores, name)

    @property
    def accuracy(self) -> float:
        """Share of the samples that are classified correctly."""
        return self["accuracy"]

    @property
    def nll(self) -> float:
        """Mean negative log-likelihood, in nats."""
        return self["nll"]

    @property
    def brier(self) -> float:
        """Mean squared distance of the probabilities from the one-hot target."""
        return self["brier"]

    @property
    def ece(self) -> float:
        """Expected calibration error over 15 bins of equal width."""
        return self["ece"]

    @property
    def adaptive_ece(self) -> float:
        """Expected calibration error over 15 bins of equally many samples."""
        return self["adaptive_ece"]

    @property
    def mace(self) -> float:
        """Unweighted mean of the calibration gaps of the bins of equal width."""
        return self["mace"]


@dataclass(frozen=True)
class EnsembleMetrics(PredictorMetrics):
    """Metrics of an ensemble as one predictor; empty where outputs cannot be averaged.

    Beside the metrics of a predictor: "mutual_information" (mean over samples of how much the predictions of the
    members differ, in nats) and "disagreement" (share of samples on which two members predict differently, as the mean
    over pairs) of classifiers; "spread" (root mean square deviation of members from their mean) and "coverage" (share
    of targets within 1.96 standard deviations of members around their mean) of regressions.
    """

    @property
    def mutual_information(self) -> float:
        """Mean over samples of how much the predictions of the members differ, in nats."""
        return self["mutual_information"]

    @property
    def disagreement(self) -> float:
        """Share of samples on which two members predict differently, as the mean over pairs."""
        return self["disagreement"]


@dataclass(frozen=True)
class EnsembleIntervals:
    """95 % intervals (low, high) of an ensemble's metrics over test samples like these."""

    accuracy: tuple[float, float]
    nll: tuple[float, float]
    brier: tuple[float, float]
    ece: tuple[float, float]


def _named(scores: Mapping[str, T], name: str) -> T:
    if name not in scores:
        raise InputError(f"no {name} was measured: there are {', '.join(scores) or 'no figures'}")
    return scores[name]
