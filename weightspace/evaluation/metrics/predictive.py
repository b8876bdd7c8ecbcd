"""Predictive metrics, for many networks at once. Inputs are logits (nets, samples, classes)."""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


@dataclass(frozen=True)
class Predicted:
    """What networks predict, with what several metrics need computed once.

    Args:
        logits: Logits of every network.
    """

    logits: Float[Tensor, "*n s c"]

    @cached_property
    def log_p(self) -> Float[Tensor, "*n s c"]:
        """Logarithms of the probabilities, in float64."""
        return self.logits.double().log_softmax(-1)

    @cached_property
    def p(self) -> Float[Tensor, "*n s c"]:
        """The probabilities, in float64."""
        return self.logits.double().softmax(-1)

    @cached_property
    def classes(self) -> Int[Tensor, "*n s"]:
        """The most probable classes."""
        return self.logits.argmax(-1)

    @cached_property
    def entropy(self) -> Float[Tensor, "*n s"]:
        """Entropy of the predicted distribution, in nats, at most ln(classes)."""
        p = self.log_p.exp()
        # Probabilities that underflow to zero have logarithms of minus infinity; they add nothing.
        return -torch.where(p > 0, p * self.log_p, 0.0).sum(-1)

    @cached_property
    def votes(self) -> Float[Tensor, "s c"]:
        """Number of networks that predict each class, for each sample."""
        samples, classes = self.logits.shape[-2:]
        cells = torch.arange(samples) * classes + self.classes
        return torch.bincount(cells.flatten(), minlength=samples * classes).reshape(samples, classes).double()

    def errors(self, y: Int[Tensor, " s"]) -> Bool[Tensor, "*n s"]:
        """True where a network's most probable class is wrong."""
        return self.classes != y

    def accuracy(self, y: Int[Tensor, " s"]) -> Float[Tensor, "*n"]:
        """Share of the samples that each network classifies correctly."""
        return 1 - self.errors(y).double().mean(-1)

    def nll(self, y: Int[Tensor, " s"]) -> Float[Tensor, " n"]:
        """Mean negative log-likelihood, in nats."""
        index = y.expand(len(self.logits), -1)[..., None]
        return -self.log_p.gather(-1, index)[..., 0].mean(1)

    def brier(self, y: Int[Tensor, " s"]) -> Float[Tensor, " n"]:
        """Mean squared distance between probabilities and the one-hot target, from 0 to 2."""
        target = torch.nn.functional.one_hot(y, self.logits.shape[-1])
        return (self.p - target).square().sum(-1).mean(1)


def errors(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Bool[Tensor, "n s"]:
    """True where a network's most probable class is wrong."""
    return Predicted(logits).errors(y)


def accuracy(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Float[Tensor, " n"]:
    """Share of the samples that each network classifies correctly."""
    return Predicted(logits).accuracy(y)


def nll(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Float[Tensor, " n"]:
    """Mean negative log-likelihood, in nats."""
    return Predicted(logits).nll(y)


def brier(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Float[Tensor, " n"]:
    """Mean squared distance between probabilities and the one-hot target, from 0 to 2."""
    return Predicted(logits).brier(y)


def entropy(logits: Float[Tensor, "*n s c"]) -> Float[Tensor, "*n s"]:
    """Entropy of the predicted distribution, in nats, at most ln(classes)."""
    return Predicted(logits).entropy


def ensemble_logits(logits: Float[Tensor, "n s c"]) -> Float[Tensor, "1 s c"]:
    """Log-probabilities of the ensemble, the mean of its networks' probabilities, as one network."""
    log_mean = logits.double().log_softmax(-1).logsumexp(0) - math.log(len(logits))
    return log_mean[None]


def disagreement(votes: Float[Tensor, "s c"]) -> float:
    """Share of samples on which two different networks predict different classes, as the mean over pairs.

    Args:
        votes: Number of networks that predict each class, for each sample.
    """
    n = votes[0].sum()
    if n < 2:
        return 0.0
    return (1 - (votes * (votes - 1)).sum(1) / (n * (n - 1))).mean().item()


def confusion(logits: Float[Tensor, "s c"], y: Int[Tensor, " s"]) -> Int[Tensor, "c c"]:
    """Number of samples of each class (rows) that are given to each class (columns)."""
    classes = logits.shape[-1]
    return torch.bincount(y * classes + logits.argmax(-1), minlength=classes**2).reshape(classes, classes)
