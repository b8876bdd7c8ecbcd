"""Forward passes for tracing and proof: without dropout, in either mode, with all outputs in sight."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from weightspace.errors import InputError
from weightspace.networks import calling
from weightspace.runtime import seeds
from weightspace.runtime.double import in_double
from weightspace.runtime.outputs import tensors_within
from weightspace.runtime.trees import Tree

_DROPOUT = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)
_CACHES = ("cache", "past_key_values", "cache_params", "mems")
_SEES_VALUES = (Tensor.numpy, Tensor.tolist, Tensor.__array__)


def call(module: nn.Module, inputs: Tree) -> Any:
    """A forward pass without dropout of any kind, so that two passes can be compared."""
    with _NoDropout():
        return calling.call(module, inputs)


def training_mode(module: nn.Module, training: bool) -> None:
    """Training mode but for dropout layers."""
    module.train(training)
    for child in module.modules():
        name = type(child).__name__.lower()
        leaf = not list(child.children()) and not list(child.parameters(False))
        dropping = isinstance(child, nn.modules.dropout._DropoutNd) or (
            leaf and ("droppath" in name or "stochasticdepth" in name)
        )
        if dropping:
            child.training = False
        if isinstance(child, nn.RNNBase | nn.MultiheadAttention):
            child.dropout = 0.0


def exact_outputs(module: nn.Module, inputs: Tree) -> list[Tensor]:
    """The tensors of a float64 module's outputs, without rounding, gradients or dropout.

    Args:
        module: A copy by `module.double()`.
        inputs: Inputs as by `weightspace.runtime.double.doubled`.
    """
    with torch.no_grad(), seeds.seeded_modules(0, "symmetry proof"), in_double():
        return tensors_within(without_caches(call(module, copy.deepcopy(inputs))))


def without_caches(outputs: Any) -> Any:
    """Outputs but for what is only there to be given back to the same network, as language models' keys and values.

    Args:
        outputs: What a module returned; caches are known by their names in a mapping.
    """
    if not isinstance(outputs, Mapping) or not any(name in outputs for name in _CACHES):
        return outputs
    return {name: value for name, value in outputs.items() if name not in _CACHES}


class _NoDropout(TorchFunctionMode):
    """Functional dropout passes its input on."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in _DROPOUT:
            return args[0] if args else kwargs["input"]
        if func is F.scaled_dot_product_attention:
            args = (*args[:4], 0.0, *args[5:]) if len(args) > 4 else args
            kwargs |= {"dropout_p": 0.0} if "dropout_p" in kwargs else {}
        return func(*args, **kwargs)


class SeesValues(TorchFunctionMode):
    """Refuses what takes values out of tensors where no operator can see it.

    Args:
        constant: Whether a tensor depends on neither inputs nor parameters.
    """

    def __init__(self, constant: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self.constant = constant

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _SEES_VALUES and not self.constant(args[0]):
            raise InputError(
                f"the module turns a tensor into numbers (Tensor.{func.__name__}): control flow that depends on data "
                "cannot be traced. Write the symmetry by hand (symmetry=)"
            )
        return func(*args, **(kwargs or {}))
