"""Forward passes for tracing and proof: without dropout, in either mode, with all outputs in sight."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from weightspace.errors import InputError

Inputs = Sequence[Any] | Mapping[str, Any]
aten = torch.ops.aten

_DROPOUT = (F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, F.alpha_dropout, F.feature_alpha_dropout, torch.dropout)
_SEES_VALUES = (Tensor.numpy, Tensor.tolist, Tensor.__array__)
_HALVES = (torch.float32, torch.float16, torch.bfloat16)


def call(module: nn.Module, inputs: Inputs) -> Any:
    """A forward pass without dropout of any kind, so that two passes can be compared."""
    with _NoDropout():
        return module(**inputs) if isinstance(inputs, Mapping) else module(*inputs)


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


def tensors_in(outputs: Any) -> list[Tensor]:
    """All tensors of a module's output, in lists, mappings and objects of any kind."""
    tensors: list[Tensor] = []
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif value is None or isinstance(value, str | bytes | int | float | complex) or id(value) in seen:
            return
        else:
            seen.add(id(value))
            if isinstance(value, Mapping):
                inside: Any = value.values()
            elif isinstance(value, list | tuple | set | frozenset):
                inside = value
            elif dataclasses.is_dataclass(value):
                inside = [getattr(value, f.name) for f in dataclasses.fields(value)]
            elif hasattr(value, "__dict__") and not callable(value):
                inside = vars(value).values()
            else:
                raise InputError(
                    f"the module's output holds a {type(value).__name__}, in which tensors cannot be found: return "
                    "tensors, lists, mappings or dataclasses of them"
                )
            for one in list(inside):
                visit(one)

    visit(outputs)
    return tensors


def doubled(inputs: Inputs) -> Any:
    """Inputs with all floating-point tensors in float64, copied."""
    return tree_map_only(Tensor, lambda t: t.double() if t.is_floating_point() else t.clone(), inputs)


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
                "cannot be traced. Write the symmetry by hand"
            )
        return func(*args, **(kwargs or {}))


@contextmanager
def in_double() -> Iterator[None]:
    """Everything that a module makes or casts inside is float64: a proof has to see differences of 1e-9."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _NoLowCasts():
            yield
    finally:
        torch.set_default_dtype(before)


class _NoLowCasts(TorchDispatchMode):
    """Casts to lower precision keep float64."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func._overloadpacket is aten._to_copy and kwargs.get("dtype") in _HALVES and args[0].dtype == torch.float64:
            kwargs["dtype"] = torch.float64
        return func(*args, **kwargs)
