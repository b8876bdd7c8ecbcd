"""Temperatures: probabilities that are as sure as they are right (Guo et al. 2017, arXiv 1706.04599)."""

import math
from typing import Any

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.outputs import Binary, Classes, OutputKind

_LEAST, _MOST = 0.02, 50.0
_BINS = 15
_TINY = 1e-30


def has_temperature(outputs: OutputKind) -> bool:
    """Whether outputs are probabilities that a temperature changes: classes, or yes or no."""
    return isinstance(outputs, Classes | Binary)


def require_temperature(outputs: OutputKind) -> None:
    """Raise unless outputs are probabilities that a temperature changes.

    Args:
        outputs: What the outputs mean.

    Raises:
        InputError: They are values, or nothing is known of them.
    """
    if not has_temperature(outputs):
        raise InputError(
            f"temperatures are for probabilities of classes, or of yes or no; these outputs are {outputs}: leave "
            "calibrated=False"
        )


def at_temperature(p: Tensor, temperature: float, outputs: OutputKind) -> Tensor:
    """Probabilities to the power 1/T, divided by their sum.

    Args:
        p: Probabilities: classes on the last axis, or of yes.
        temperature: T; above 1 is less sure.
        outputs: What they are.
    """
    if isinstance(outputs, Binary):
        return (torch.logit(p.double(), eps=1e-15) / temperature).sigmoid().to(p.dtype)
    return (p.double().clamp(min=_TINY).log() / temperature).softmax(-1).to(p.dtype)


def nll_and_ece(p: Tensor, y: Tensor, outputs: OutputKind) -> tuple[float, float]:
    """Mean negative log-likelihood of the targets, and ECE in 15 bins of equal width.

    Args:
        p: Probabilities.
        y: Targets.
        outputs: What both are.
    """
    p, y = _counted(p.double(), y, outputs)
    if isinstance(outputs, Binary):
        right = torch.where(y > 0.5, p, 1 - p)
        confidence, correct = p, y.double()
    else:
        right = p.gather(-1, y[:, None])[:, 0]
        confidence, predicted = p.max(-1)
        correct = (predicted == y).double()
    bins = (confidence * _BINS).ceil().long().sub(1).clamp(0, _BINS - 1)
    gaps = torch.zeros(_BINS, dtype=torch.float64).scatter_add_(0, bins, correct - confidence)
    return -right.clamp(min=_TINY).log().mean().item(), gaps.abs().sum().item() / len(confidence)


def fit_temperature(p: Tensor, y: Tensor, outputs: OutputKind) -> float:
    """The T that makes the negative log-likelihood of the targets least.

    Args:
        p: Probabilities on validation data.
        y: Their targets.
        outputs: What both are.

    Raises:
        InputError: The outputs are no probabilities, or there are no targets.
    """
    from scipy.optimize import minimize_scalar

    require_temperature(outputs)
    p, y = _counted(p, y, outputs)
    if not len(y):
        raise InputError("a temperature needs targets to be fitted to, and there are none")

    def loss(log_t: float) -> float:
        return nll_and_ece(at_temperature(p.double(), math.exp(log_t), outputs), y, outputs)[0]

    found: Any = minimize_scalar(loss, bounds=(math.log(_LEAST), math.log(_MOST)), method="bounded")
    return math.exp(float(found.x))


def _counted(p: Tensor, y: Tensor, outputs: OutputKind) -> tuple[Tensor, Tensor]:
    """Probabilities and targets of all positions that count, in rows."""
    if isinstance(outputs, Classes):
        y, p = y.flatten().long(), p.flatten(0, -2)
        kept = y != outputs.ignored
        return p[kept], y[kept]
    return p.flatten(), y.flatten()
