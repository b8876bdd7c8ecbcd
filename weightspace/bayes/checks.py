"""Checks that all searches of Bayesian tickets make."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from weightspace.bayes.inference.likelihoods import observed, require_known
from weightspace.errors import InputError
from weightspace.networks.calling import call_with
from weightspace.networks.outputs import Binary, Classes, OutputKind, Regression
from weightspace.runtime import trees
from weightspace.tasks.task import Task, cross_entropy

_NAMES = {Classes: "categorical", Binary: "Bernoulli", Regression: "normal"}
# Losses that are negative log-likelihoods, so that nobody needs to try.
_LOSSES: Mapping[type, tuple[Callable[..., Any], ...]] = {
    Classes: (cross_entropy, F.cross_entropy),
    Binary: (F.binary_cross_entropy_with_logits, F.binary_cross_entropy),
    Regression: (F.mse_loss,),
}
_TRIED = 8  # samples that a loss is compared on
_SAME = 0.99999  # cosine of gradients that are the same but for rounding


def require_cpu(device: str, method: str) -> None:
    """Check that a device is one that Pyro's own guides and samplers are run on here.

    Args:
        device: Name of a device; "auto" is the CPU.
        method: Name of the method, for the message.

    Raises:
        InputError: The device is neither "auto" nor "cpu".
    """
    if device not in ("auto", "cpu"):
        raise InputError(
            f"{method} runs on the CPU only, got device {device!r}: give device='cpu' or 'auto' "
            "(bayes.Variational trains posteriors on a card)"
        )


def require_likelihood(task: Task, noise_std: float | None = None) -> OutputKind:
    """What a task's outputs mean, if posteriors of its networks can be computed.

    Args:
        task: The task.
        noise_std: Standard deviation of the noise, where it is given.

    Raises:
        InputError: The outputs have no likelihood, each network has data of its own, or a noise is given for outputs
            that have none.
    """
    kind = task.output_kind
    require_known(kind)
    require_shared_data(task)
    if noise_std is not None and not isinstance(kind, Regression):
        raise InputError(
            f"noise_std is the noise of a regression, and the outputs of task {task.name!r} are {kind}: leave it out"
        )
    return kind


def warn_of_other_loss(task: Task) -> None:
    """Warn where a task's loss is another than the negative log-likelihood of its targets."""
    kind = task.output_kind
    if task.loss not in _LOSSES[type(kind)] and not _is_likelihood(task, kind):
        warnings.warn(
            f"the loss of task {task.name!r} is not the negative log-likelihood of a {_NAMES[type(kind)]} "
            "distribution: the posterior is that of this likelihood, and the loss is only measured",
            stacklevel=3,
        )


def require_shared_data(task: Task) -> None:
    """Raise InputError if each network of a task has data of its own."""
    if task.own_data:
        raise InputError(
            f"each network of task {task.name!r} has data of its own, and Bayesian networks share theirs: make a task "
            "of one network's data, with replace(task, train=task.train.of(0), validation=task.validation.of(0), "
            "test=task.test.of(0))"
        )


def _is_likelihood(task: Task, kind: OutputKind) -> bool:
    """Whether loss and negative log-likelihood have one direction of steepest descent, at two untrained networks."""
    module = task.architecture.build_seeded(0).eval()
    few = task.train.head(_TRIED)
    targets = trees.apply(lambda tensor: tensor[None], few.y)
    for factor in (1.0, 10.0):  # large outputs too, as a loss may be quadratic near zero alone
        weights = {name: (factor * p).detach().requires_grad_() for name, p in module.named_parameters()}
        state: tuple[Mapping[str, Tensor], ...] = (weights, dict(module.named_buffers()))
        outputs = call_with(module, state, few.x)
        stacked = trees.apply(lambda tensor: tensor[None], outputs)
        distribution, values = observed(kind, stacked, targets, torch.ones(1))
        parts = [_gradient(loss, weights) for loss in (task.loss(outputs, few.y), -distribution.log_prob(values).sum())]
        lengths = [part.norm() for part in parts]
        if not all(length.isfinite() for length in lengths) or not lengths[1]:
            continue
        if parts[0] @ parts[1] < _SAME * lengths[0] * lengths[1]:
            return False
    return True


def _gradient(loss: Tensor, weights: Mapping[str, Tensor]) -> Float[Tensor, " d"]:
    found = torch.autograd.grad(loss, list(weights.values()), retain_graph=True, allow_unused=True)
    filled = [
        torch.zeros_like(weight) if part is None else part for weight, part in zip(weights.values(), found, strict=True)
    ]
    return torch.cat([part.flatten().double() for part in filled])
