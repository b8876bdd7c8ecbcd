"""Estimators of the expected log-likelihood with less noise than one draw of the weights for a whole batch."""

import copy
from collections.abc import Callable, Mapping
from types import MethodType

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightspace.networks.calling import call_with
from weightspace.runtime.trees import Tree

BAYESIAN = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SECOND = "_second"  # behind the name of a parameter: its variance, or its deviation from the mean
_LEAST = 1e-16  # variance of a pre-activation, so that the gradient of its root is finite

Layer = Callable[[nn.Module, Tensor], Tensor]


def local_reparameterisation(layer: nn.Module, x: Tensor) -> Tensor:
    """Draw pre-activations instead of weights, for each sample anew (arXiv 1506.02557, eq. 6)."""
    mean = _apply(layer, x, _first(layer, "weight"), _first(layer, "bias"))
    variance = _apply(layer, x.square(), _second(layer, "weight"), _second(layer, "bias"))
    noise = torch.randn_like(mean, device="cpu").to(mean.device)
    return mean + variance.clamp(min=_LEAST).sqrt() * noise


def flipout(layer: nn.Module, x: Tensor) -> Tensor:
    """One draw of the weights, whose deviation gets random signs for each sample (arXiv 1803.04386, eq. 4)."""
    bias, deviation = _first(layer, "bias"), _second(layer, "bias")
    shifted = None if bias is None or deviation is None else bias + deviation
    mean = _apply(layer, x, _first(layer, "weight"), shifted)
    apart = _apply(layer, x * _signs(x, layer), _second(layer, "weight"), None)
    return mean + apart * _signs(apart, layer)


def with_second(module: nn.Module, rule: Layer) -> nn.Module:
    """Copy of a module whose Bayesian layers have a second tensor for each parameter and follow a rule."""
    copied = copy.deepcopy(module)
    for layer in copied.modules():
        if isinstance(layer, BAYESIAN):
            for name, parameter in list(layer.named_parameters(recurse=False)):
                layer.register_parameter(name + _SECOND, nn.Parameter(torch.zeros_like(parameter)))
            layer.forward = MethodType(rule, layer)
    return copied


def outputs(
    module: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    buffers: Mapping[str, Tensor],
    x: Tree,
) -> Tree:
    """Outputs of one network, (batch, ...).

    Args:
        module: Module made by `with_second`.
        first: Means by the name of the parameter.
        second: Variances or deviations by the name of the parameter; those of deterministic parameters are not used.
        buffers: Buffers by name.
        x: Inputs, (batch, ...).
    """
    names = dict(module.named_parameters())
    tensors = dict(first) | {name + _SECOND: t for name, t in second.items() if name + _SECOND in names}
    return call_with(module, (tensors, buffers), x)


def _first(layer: nn.Module, name: str) -> Tensor | None:
    return getattr(layer, name)


def _second(layer: nn.Module, name: str) -> Tensor | None:
    return getattr(layer, name + _SECOND, None)


def _apply(layer: nn.Module, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    assert weight is not None
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight, bias)
    return layer._conv_forward(x, weight, bias)  # pyright: ignore[reportCallIssue, reportReturnType]


def _signs(like: Tensor, layer: nn.Module) -> Tensor:
    """Random signs for each feature or channel of a sample; the same for all of its tokens or places."""
    between = [1] * (like.ndim - 2)
    linear = isinstance(layer, nn.Linear)
    shape = (like.shape[0], *between, like.shape[-1]) if linear else (*like.shape[:2], *between)
    return torch.randint(2, shape).to(like.device, like.dtype) * 2 - 1
