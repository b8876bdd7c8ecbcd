"""Predictive metrics, for many networks at once. Inputs are logits (nets, samples, classes)."""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

_BINS = 15


def errors(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Bool[Tensor, "n s"]:
    """True where a network's most probable class is wrong."""
    return logits.argmax(-1) != y


def nll(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Float[Tensor, " n"]:
    """Mean negative log-likelihood, in nats."""
    index = y.expand(len(logits), -1)[..., None]
    return -logits.double().log_softmax(-1).gather(-1, index)[..., 0].mean(1)


def brier(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Float[Tensor, " n"]:
    """Mean squared distance between probabilities and the one-hot target, from 0 to 2."""
    target = torch.nn.functional.one_hot(y, logits.shape[-1])
    return (logits.double().softmax(-1) - target).square().sum(-1).mean(1)


def ece(logits: Float[Tensor, "n s c"], y: Int[Tensor, " s"]) -> Float[Tensor, " n"]:
    """Expected calibration error over 15 equal-width bins of confidence (Guo et al. 2017, eq. 3)."""
    confidence, predicted = logits.double().softmax(-1).max(-1)
    gap = (predicted == y).double() - confidence  # (n, s)
    bins = (confidence * _BINS).ceil().long().sub(1).clamp(0, _BINS - 1)
    sums = torch.zeros(len(logits), _BINS, dtype=torch.float64, device=logits.device)
    return sums.scatter_add(1, bins, gap).abs().sum(1) / len(y)


def ensemble_logits(logits: Float[Tensor, "n s c"]) -> Float[Tensor, "1 s c"]:
    """Log-probabilities of the ensemble, the mean of its networks' probabilities, as one network."""
    log_mean = logits.double().log_softmax(-1).logsumexp(0) - math.log(len(logits))
    return log_mean[None]
