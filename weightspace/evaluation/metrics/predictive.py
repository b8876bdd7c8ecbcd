"""Predictive metrics, for many networks at once. Inputs are logits (nets, samples, classes)."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def errors(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Bool[Tensor, "n s"]:
    """True where a network's most probable class is wrong."""
    return logits.argmax(-1) != y


def accuracy(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Float[Tensor, " n"]:
    """Share of the samples that each network classifies correctly."""
    return 1 - errors(logits, y).double().mean(1)


def nll(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Float[Tensor, " n"]:
    """Mean negative log-likelihood, in nats."""
    index = y.expand(len(logits), -1)[..., None]
    return -logits.double().log_softmax(-1).gather(-1, index)[..., 0].mean(1)


def brier(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Float[Tensor, " n"]:
    """Mean squared distance between probabilities and the one-hot target, from 0 to 2."""
    target = torch.nn.functional.one_hot(y, logits.shape[-1])
    return (logits.double().softmax(-1) - target).square().sum(-1).mean(1)


def entropy(logits: Float[Tensor, "*n s c"]) -> Float[Tensor, "*n s"]:
    """Entropy of the predicted distribution, in nats, at most ln(classes)."""
    log_p = logits.double().log_softmax(-1)
    # Probabilities that underflow to zero have logarithms of minus infinity; they add nothing.
    return -torch.where(log_p.exp() > 0, log_p.exp() * log_p, 0.0).sum(-1)


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
