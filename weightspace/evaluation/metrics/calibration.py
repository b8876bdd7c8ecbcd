"""Does confidence match accuracy? Calibration errors, reliability bins, temperature scaling.

Inputs are logits (nets, samples, classes). Confidence is the probability of the predicted class.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.evaluation.metrics import predictive

BINS = 15


@dataclass(frozen=True)
class Bins:
    """Samples grouped by confidence, for each network.

    Args:
        count: Number of samples in each bin.
        confidence: Sum of the confidences of the samples of each bin.
        accuracy: Number of samples of each bin that are classified correctly.
    """

    count: Float[Tensor, "n b"]
    confidence: Float[Tensor, "n b"]
    accuracy: Float[Tensor, "n b"]

    @property
    def ece(self) -> Float[Tensor, " n"]:
        """Expected calibration error: the bins' gaps weighted by their samples (Guo et al. 2017, eq. 3)."""
        return (self.accuracy - self.confidence).abs().sum(1) / self.count.sum(1)

    @property
    def mace(self) -> Float[Tensor, " n"]:
        """Mean absolute calibration error: the plain mean of the gaps of bins that hold samples (arXiv 2602.18825)."""
        gaps = (self.accuracy - self.confidence).abs() / self.count.clamp(min=1)
        return gaps.sum(1) / (self.count > 0).sum(1)


@dataclass(frozen=True)
class Confidence:
    """How sure networks are of each sample's predicted class, and whether it is right.

    Args:
        confidence: Probability of the predicted class.
        right: 1 where that class is right, else 0.
    """

    confidence: Float[Tensor, "n s"]
    right: Float[Tensor, "n s"]

    @classmethod
    def of(cls, predicted: predictive.Predicted, y: Int[Tensor, " s"]) -> "Confidence":
        """The confidences of what networks predict.

        Args:
            predicted: What they predict.
            y: The right classes.
        """
        confidence, classes = predicted.p.max(-1)
        return cls(confidence, (classes == y).double())

    @property
    def equal_width(self) -> Bins:
        """15 bins of equal width on [0, 1]; a confidence on an edge belongs to the bin below it."""
        bins = (self.confidence * BINS).ceil().long().sub(1).clamp(0, BINS - 1)
        return _grouped(self.confidence, self.right, bins)

    @property
    def equal_mass(self) -> Bins:
        """15 bins of equally many samples (up to one), in order of confidence; ties stay in the samples' order."""
        samples = self.confidence.shape[1]
        rank = torch.empty_like(self.confidence, dtype=torch.long)
        order = self.confidence.argsort(dim=1, stable=True)
        rank.scatter_(1, order, torch.arange(samples).expand_as(order))
        return _grouped(self.confidence, self.right, rank * min(BINS, samples) // samples)


def equal_width(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Bins:
    """15 bins of equal width on [0, 1]; a confidence on an edge belongs to the bin below it."""
    return Confidence.of(predictive.Predicted(logits), y).equal_width


def equal_mass(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Bins:
    """15 bins of equally many samples (up to one), in order of confidence; ties stay in the samples' order."""
    return Confidence.of(predictive.Predicted(logits), y).equal_mass


def of_yes(p: Float[Tensor, "n t"], y: Float[Tensor, " t"]) -> Bins:
    """15 bins of equal width of the probability of yes, against how often yes is right.

    Args:
        p: Probability that each network gives to yes, for each target.
        y: 1 where yes is right, else 0.
    """
    p = p.double()
    return _grouped(p, y.double().expand_as(p), (p * BINS).ceil().long().sub(1).clamp(0, BINS - 1))


def fit_temperature(logits: Float[Tensor, "1 s c"], y: Int[Tensor, " s"]) -> float:
    """The T > 0 that minimises the NLL of softmax(logits / T).

    Args:
        logits: Logits on validation data. For an ensemble its log-probabilities: p is then proportional to the mean
            probability to the power 1/T.
        y: The right classes.
    """
    from scipy.optimize import minimize_scalar

    def loss(log_t: float) -> float:
        return predictive.nll(logits / math.exp(log_t), y).item()

    result = minimize_scalar(loss, bounds=(math.log(0.02), math.log(50.0)), method="bounded")
    return math.exp(float(result.x))


def _grouped(confidence: Tensor, right: Tensor, bins: Tensor) -> Bins:
    sums = [
        torch.zeros(len(values), BINS, dtype=torch.float64).scatter_add(1, bins, values)
        for values in (torch.ones_like(confidence), confidence, right)
    ]
    return Bins(*sums)
