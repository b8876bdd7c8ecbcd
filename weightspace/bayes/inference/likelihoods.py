"""Likelihoods of targets, by what the outputs of a network mean.

The log-likelihood of a sample is a sum over its positions or outputs, so that a posterior weighs it as independent
observations; a loss is mostly their mean, whose weight against the prior would depend on how many there are.
"""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from weightspace.errors import InputError
from weightspace.networks.outputs import Binary, Classes, OutputKind, Regression, like_targets, selected
from weightspace.runtime.trees import Tree

Likelihood = OutputKind | Callable[[Tree], Distribution]
"""What the outputs mean, or a function from outputs (n, batch, ...) to the distribution of the targets (n, batch)."""

_KNOWN = (Classes, Binary, Regression)


def observed(
    likelihood: Likelihood, outputs: Tree, y: Tree, noise: Float[Tensor, " n"] | None = None
) -> tuple[Distribution, Tensor]:
    """Distribution of the targets, with batch shape (n, batch), and the targets as its values.

    Args:
        likelihood: What the outputs mean, or a function to a distribution.
        outputs: Outputs (n, batch, ...) of n networks, in the structure that the module returns.
        y: Targets (n, batch, ...).
        noise: Standard deviation of the noise of each network's regression.

    Raises:
        InputError: The likelihood of such outputs is not known.
    """
    if not isinstance(likelihood, OutputKind):
        return likelihood(outputs), y
    require_known(likelihood)
    if isinstance(likelihood, Classes):
        return _categorical(likelihood, likelihood.predictions(outputs), likelihood.targets(y))
    if isinstance(likelihood, Binary):
        return _bernoulli(likelihood, outputs, likelihood.targets(y))
    assert noise is not None, "a regression has a noise"
    targets = likelihood.targets(y)
    values = like_targets(likelihood.predictions(outputs), targets)
    scale = noise.reshape(-1, *[1] * (values.ndim - 1))
    return _by_sample(dist.Normal(values, scale)), targets.to(values.dtype)


def divergence(
    kind: OutputKind, sparse: Tree, dense: Tree, y: Tree, noise: Float[Tensor, " n"] | None = None
) -> Float[Tensor, "n batch"]:
    """KL divergence of what sparse networks predict from what dense ones do, as a sum over a sample's positions.

    Args:
        kind: What the outputs mean.
        sparse: Outputs (n, batch, ...) of sparse networks.
        dense: Outputs of dense networks.
        y: Targets (n, batch, ...), which say what positions are left out.
        noise: Standard deviation of the noise of each network's regression.
    """
    if not isinstance(kind, Classes):
        return kl_divergence(*(observed(kind, outputs, y, noise)[0] for outputs in (sparse, dense)))
    one, other = (kind.predictions(outputs).log_softmax(-1) for outputs in (sparse, dense))
    each = (one.exp() * (one - other)).sum(-1)
    return each if each.ndim == 2 else (each * (kind.targets(y) != kind.ignored)).flatten(2).sum(2)


def _categorical(kind: Classes, logits: Tensor, y: Tensor) -> tuple[Distribution, Tensor]:
    distribution = dist.Categorical(logits=logits)
    left_out = y == kind.ignored
    if left_out.any():
        return _by_sample(distribution.mask(~left_out)), y.masked_fill(left_out, 0)
    return _by_sample(distribution), y


def _bernoulli(kind: Binary, outputs: Tree, y: Tensor) -> tuple[Distribution, Tensor]:
    if kind.probabilities_given:  # their logits are infinite where a sigmoid has rounded to 0 or 1
        distribution: Any = dist.Bernoulli(probs=like_targets(selected(outputs, kind.output, "output"), y))
    else:
        distribution = dist.Bernoulli(logits=like_targets(kind.predictions(outputs), y))
    return _by_sample(distribution), y.to(distribution.mean.dtype)


def _by_sample(distribution: Any) -> Any:
    """The distribution with batch shape (n, batch): what is further is a product over positions."""
    inner = len(distribution.batch_shape) - 2
    return distribution.to_event(inner) if inner else distribution


def require_known(kind: OutputKind) -> None:
    """Raise InputError unless outputs of this kind have a likelihood."""
    if type(kind) not in _KNOWN:
        raise InputError(
            f"a posterior needs the likelihood of the targets, and outputs that are {kind} have none that is known: "
            "say what they mean when the task is made, with outputs=Classes(), Binary() or Regression(), or give "
            "bayes.BayesianNetwork(likelihood=...) a function to a distribution"
        )
