"""What modules return, whatever it is: the tensors in it, and how far two outputs are apart."""

import gc
import math
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from types import BuiltinFunctionType, FunctionType, MethodType, ModuleType
from typing import Any
from weakref import ReferenceType

import torch
from torch import Tensor, nn

from weightspace.errors import InputError

_HOLD_NONE = (
    str,
    bytes,
    int,
    float,
    complex,
    type,
    FunctionType,
    MethodType,
    BuiltinFunctionType,
    ModuleType,
    ReferenceType,
    nn.Module,
)
_HALVES = (torch.float16, torch.bfloat16)


def tensors_within(value: Any, what: str = "the module's output") -> list[Tensor]:
    """All tensors in a value, in order: in structures as in `weightspace.runtime.trees`, and in objects of any kind.

    What can hold none is passed over: numbers, texts, devices, dtypes, functions, modules.

    Args:
        value: Anything that a module takes or returns.
        what: What it is, for messages.

    Raises:
        InputError: It holds something in which tensors cannot be found, such as an iterator.
    """
    tensors: list[Tensor] = []
    seen: set[int] = set()

    def visit(value: Any) -> None:
        if isinstance(value, Tensor):
            tensors.append(value)
        elif id(value) not in seen:
            seen.add(id(value))
            for part in _inside(value, what):
                visit(part)

    visit(value)
    return tensors


def difference(found: Any, expected: Any) -> float:
    """Largest difference of two outputs, each tensor relative to the largest value that is expected in it.

    Infinite where the tensors are not as many, of one shape, or finite at the same places, or where integers differ.

    Args:
        found: Anything that holds tensors.
        expected: The same, as it should be.
    """
    pairs = tensors_within(found), tensors_within(expected)
    if len(pairs[0]) != len(pairs[1]):
        return math.inf
    return max(map(_difference, *pairs), default=0.0)


def _inside(value: Any, what: str) -> list[Any]:
    """The parts of a value that is no tensor."""
    if isinstance(value, _HOLD_NONE):
        return []
    if isinstance(value, Mapping):  # before dataclasses: transformers' outputs are both
        return list(value.values())
    if is_dataclass(value):
        return [getattr(value, field.name) for field in fields(value)]
    if isinstance(value, tuple | list | set | frozenset | deque):
        return list(value)
    if not gc.is_tracked(value):  # then it refers to no other object
        return []
    attributes = _attributes(value)
    if attributes is None or isinstance(value, Iterator):  # which is over once it is read
        raise InputError(
            f"{what} holds a {type(value).__name__}, in which tensors cannot be found: return tensors, lists, mappings "
            "or dataclasses of them"
        )
    return attributes


def _attributes(value: Any) -> list[Any] | None:
    """What the attributes of an object are; None if it has no place for any."""
    slots = [name for kind in type(value).__mro__ for name in _names(vars(kind).get("__slots__", ()))]
    if not slots and not hasattr(value, "__dict__"):
        return None
    own = [getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)]
    return own + list(getattr(value, "__dict__", {}).values())


def _names(slots: Any) -> tuple[str, ...]:
    return (slots,) if isinstance(slots, str) else tuple(slots)


def _difference(found: Tensor, expected: Tensor) -> float:
    if found.shape != expected.shape:
        return math.inf
    found = found.to(expected.device)
    if not (expected.is_floating_point() or expected.is_complex()):
        return 0.0 if torch.equal(found, expected) else math.inf
    if expected.dtype in _HALVES:
        found, expected = found.float(), expected.float()
    finite = expected.isfinite()
    same = (found == expected) | (found.isnan() & expected.isnan())
    if not torch.equal(finite, found.isfinite()) or not bool((same | finite).all()):
        return math.inf
    if not finite.any():
        return 0.0
    scale = expected[finite].abs().max().item()
    error = (found[finite] - expected[finite]).abs().max().item()
    return error / scale if scale > 0 else error
