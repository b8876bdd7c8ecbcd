"""Everything in float64: a copy of a module that is to be exact must not round inside."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from weightspace.runtime import trees
from weightspace.runtime.trees import Tree
from weightspace.runtime.watching import OperatorMode

_LOWER = (torch.float32, torch.float16, torch.bfloat16)


def doubled(tree: Tree) -> Tree:
    """A structure with all floating-point tensors in float64, copied, without gradients.

    Args:
        tree: Inputs, for example.
    """
    return trees.apply(lambda t: t.detach().double() if t.is_floating_point() else t.clone(), tree)


@contextmanager
def in_double() -> Iterator[None]:
    """Whatever a module makes or casts inside is float64, and what is not becomes so where it meets float64.

    For copies by `module.double()`: a module that casts its input (`x.float() / 255`) runs, and does not round.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _OnlyDouble():
            yield
    finally:
        torch.set_default_dtype(before)


class _OnlyDouble(OperatorMode):
    """No operator makes or reads a lower precision than float64, but among constants."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("dtype") in _LOWER:
            kwargs["dtype"] = torch.float64
        dtypes = {t.dtype for t in _operands((*args, *kwargs.values()))}
        if torch.float64 in dtypes and dtypes.intersection(_LOWER):
            written = [arg.alias_info is not None and arg.alias_info.is_write for arg in func._schema.arguments]
            args = [one if kept else _raised(one) for one, kept in zip(args, written, strict=False)]
        return func(*args, **kwargs)


def _operands(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, tuple | list):
            yield from _operands(value)


def _raised(value: Any) -> Any:
    return tree_map_only(Tensor, lambda t: t.double() if t.dtype in _LOWER else t, value)
