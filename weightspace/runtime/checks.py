"""Checks of what a caller passes: a plain value comes back, or an error that names the argument.

Numbers of NumPy and tensors of one number are taken where they are exact, and become plain ones: what is kept in a
setting is written into records and identifies runs.
"""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.runtime.refusals import refuse as refuse
from weightspace.runtime.refusals import shown as shown

T = TypeVar("T")
_LARGEST = 2**63 - 1  # no tensor has more positions


def count(value: Any, name: str, *, at_least: int = 0, at_most: int = _LARGEST) -> int:
    """A whole number.

    Args:
        value: What was got.
        name: Name of the argument.
        at_least: Smallest number that is allowed.
        at_most: Greatest number that is allowed.

    Raises:
        InputError: It is none, or out of bounds.
    """
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, int) or not at_least <= plain <= at_most:
        bounds = f" of at least {at_least}" if at_most == _LARGEST else f" from {at_least} to {at_most:,}"
        raise refuse(name, f"a whole number{bounds}", value)
    return plain


def seed(value: Any, name: str = "seed") -> int:
    """A seed: any whole number that is not negative.

    Args:
        value: What was got.
        name: Name of the argument.

    Raises:
        InputError: It is none.
    """
    plain = _plain(value)
    if isinstance(plain, bool) or not isinstance(plain, int) or plain < 0:
        raise refuse(name, "a whole number of at least 0", value)
    return plain


def number(
    value: Any,
    name: str,
    *,
    above: float | None = None,
    at_least: float | None = None,
    below: float | None = None,
    at_most: float | None = None,
) -> float:
    """A finite number.

    Args:
        value: What was got.
        name: Name of the argument.
        above: Number that it must exceed.
        at_least: Smallest number that is allowed.
        below: Number that it must fall short of.
        at_most: Greatest number that is allowed.

    Raises:
        InputError: It is none, not finite, or out of bounds.
    """
    plain = _plain(value)
    good = (
        isinstance(plain, int | float)
        and not isinstance(plain, bool)
        and _finite(plain)
        and (above is None or plain > above)
        and (at_least is None or plain >= at_least)
        and (below is None or plain < below)
        and (at_most is None or plain <= at_most)
    )
    if not good:
        limits = (("above", above), ("of at least", at_least), ("below", below), ("of at most", at_most))
        bounds = " and ".join(f"{word} {limit:g}" for word, limit in limits if limit is not None)
        raise refuse(name, f"a finite number {bounds}".rstrip(), value)
    return plain


def fraction(value: Any, name: str) -> float:
    """A number above 0 and at most 1, such as a density.

    Args:
        value: What was got.
        name: Name of the argument.

    Raises:
        InputError: It is none.
    """
    return number(value, name, above=0, at_most=1)


def flag(value: Any, name: str) -> bool:
    """True or False; no text, which is true even where it says "no".

    Args:
        value: What was got.
        name: Name of the argument.

    Raises:
        InputError: It is neither.
    """
    plain = _plain(value)
    if not isinstance(plain, bool):
        raise refuse(name, "True or False", value)
    return plain


def text(value: Any, name: str, example: str = "") -> str:
    """Text that is not empty.

    Args:
        value: What was got.
        name: Name of the argument.
        example: An example, for the message.

    Raises:
        InputError: It is no text, or empty.
    """
    if not isinstance(value, str) or not value:
        raise refuse(name, "text" + (f' such as "{example}"' if example else " that is not empty"), value)
    return str(value)


def one_of(value: Any, name: str, choices: Sequence[str]) -> Any:
    """One of a few words.

    Args:
        value: What was got.
        name: Name of the argument.
        choices: The words.

    Raises:
        InputError: It is none of them.
    """
    if not isinstance(value, str) or value not in choices:
        *others, last = (repr(choice) for choice in choices)
        raise refuse(name, f"{', '.join(others)} or {last}" if others else last, value)
    return value


def instance(value: Any, name: str, kinds: type[T] | tuple[type[T], ...], wanted: str) -> T:
    """An object of a class.

    Args:
        value: What was got.
        name: Name of the argument.
        kinds: The class, or several.
        wanted: What it must be, for the message.

    Raises:
        InputError: It is none, or the class itself.
    """
    if isinstance(value, type) or not isinstance(value, kinds):
        raise refuse(name, wanted, value)
    return value


def function(value: Any, name: str, what: str) -> Any:
    """Something that can be called.

    Args:
        value: What was got.
        name: Name of the argument.
        what: What it does, for the message.

    Raises:
        InputError: It cannot be called.
    """
    if not callable(value):
        raise refuse(name, f"a function {what}", value)
    return value


def several(
    value: Any, name: str, check: Callable[..., T], *, least: int = 0, most: int | None = None, **limits: Any
) -> Any:
    """A sequence of values, each of which is checked.

    Args:
        value: What was got: a list, a tuple, or a tensor or array of one axis.
        name: Name of the argument.
        check: Function of this module that checks one.
        least: Smallest number of values.
        most: Greatest number of values; None for any.
        limits: Arguments of the check.

    Raises:
        InputError: It is no sequence, too short or too long, or holds a wrong value.
    """
    if isinstance(value, Tensor | np.ndarray) and value.ndim == 1 and not _meta(value):
        value = value.tolist()
    sequence = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if not sequence or not least <= len(value) <= (len(value) if most is None else most):
        counted = f"{least} values" if least == most else f"at least {least} value{'s' * (least > 1)}"
        raise refuse(name, "a list or tuple" + (f" of {counted}" if least else ""), value)
    plain = tuple(check(one, f"{name}[{i}]", **limits) for i, one in enumerate(value))
    same = isinstance(value, list | tuple) and all(one is other for one, other in zip(plain, value, strict=True))
    return value if same else plain  # the text of a list and that of a tuple are different ones


def mapping(value: Any, name: str, what: str) -> Any:
    """A mapping with texts as keys.

    Args:
        value: What was got.
        name: Name of the argument.
        what: What is mapped to what, for the message.

    Raises:
        InputError: It is none.
    """
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        raise refuse(name, f"a mapping {what}", value)
    return value


def path(value: Any, name: str) -> str | os.PathLike[str]:
    """A path that a system can have.

    Args:
        value: What was got.
        name: Name of the argument.

    Raises:
        InputError: It is neither text nor a Path, empty, or has a part that is no name or too long for one.
    """
    if not isinstance(value, str | os.PathLike):
        raise refuse(name, 'a path, such as "runs/networks"', value)
    written = os.fspath(value)
    if not isinstance(written, str) or not written or "\0" in written:
        raise refuse(name, "a path of at least one character and without NUL", value)
    try:
        parts = [os.fsencode(part) for part in written.replace("\\", "/").split("/")]
    except UnicodeEncodeError as error:
        raise refuse(name, "a path of characters that names of files can have", value) from error
    if any(len(part) > 255 for part in parts):
        raise refuse(name, "a path whose parts have at most 255 bytes each", value)
    return value


def tensor(
    value: Any,
    name: str,
    *,
    shape: Sequence[int | str] | None = None,
    dtype: torch.dtype | None = None,
    floating: bool = False,
    finite: bool = False,
) -> Tensor:
    """A tensor with values.

    Args:
        value: What was got.
        name: Name of the argument.
        shape: Length of each axis, or a word for one of any length; None for any shape.
        dtype: Its type, where there is one only.
        floating: Whether it must be of a floating-point type.
        finite: Whether NaN and infinite values are refused.

    Raises:
        InputError: It is no tensor, has another shape or type, is on the meta device, or holds what it must not.
    """
    wanted = _wanted(shape, dtype, floating)
    if not isinstance(value, Tensor):
        raise refuse(name, wanted, value)
    fits = shape is None or (
        value.ndim == len(shape)
        and all(isinstance(axis, str) or axis == length for axis, length in zip(shape, value.shape, strict=True))
    )
    if not fits or (dtype is not None and value.dtype != dtype) or (floating and not value.is_floating_point()):
        raise refuse(name, wanted, value)
    if value.is_meta:
        raise refuse(name, f"{wanted} with values, and a meta tensor has none", value)
    if finite and not bool(torch.isfinite(value).all()):
        wrong = torch.nonzero(~torch.isfinite(value))[0].tolist()
        place = f"at {wrong}" if wrong else "there"
        raise InputError(f"{name} must be finite, got NaN or an infinite value {place} of {shown(value)}")
    return value


def having(value: Any, name: str, methods: Sequence[str], wanted: str) -> Any:
    """An object with certain methods, of whatever class.

    Args:
        value: What was got.
        name: Name of the argument.
        methods: Names of the methods.
        wanted: What it must be, for the message.

    Raises:
        InputError: A method is missing, or it is the class itself.
    """
    if isinstance(value, type) or not all(callable(getattr(value, method, None)) for method in methods):
        raise refuse(name, wanted, value)
    return value


def given(value: Any, name: str, check: Callable[..., T], /, **limits: Any) -> T | None:
    """None, or a value that is checked.

    Args:
        value: What was got.
        name: Name of the argument.
        check: Function of this module that checks it.
        limits: Further arguments of the check.

    Raises:
        InputError: It is neither None nor right.
    """
    return None if value is None else check(value, name, **limits)


def settle(settings: object, check: Callable[..., Any], /, *names: str, **limits: Any) -> None:
    """Check fields of a frozen dataclass, and put the plain value in their place.

    Args:
        settings: The dataclass, in its `__post_init__`.
        check: Function of this module.
        names: Names of the fields.
        limits: Further arguments of the check.

    Raises:
        InputError: A field has a wrong value.
    """
    for name in names:
        object.__setattr__(settings, name, check(getattr(settings, name), name, **limits))


def settle_given(settings: object, check: Callable[..., Any], /, *names: str, **limits: Any) -> None:
    """As `settle`, for fields that may be None.

    Args:
        settings: The dataclass, in its `__post_init__`.
        check: Function of this module.
        names: Names of the fields.
        limits: Further arguments of the check.

    Raises:
        InputError: A field is not None and has a wrong value.
    """
    settle(settings, check, *(name for name in names if getattr(settings, name) is not None), **limits)


def _plain(value: Any) -> Any:
    """The number in a NumPy scalar, an array or a tensor without axes; anything else as it is."""
    if isinstance(value, Tensor):
        return value.item() if not value.ndim and not value.is_meta else value
    if isinstance(value, np.generic) or (isinstance(value, np.ndarray) and not value.ndim):
        return value.item()
    return value


def _finite(plain: float) -> bool:
    try:
        return math.isfinite(plain)
    except OverflowError:  # an integer beyond all floats
        return False


def _meta(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_meta


def _wanted(shape: Sequence[int | str] | None, dtype: torch.dtype | None, floating: bool) -> str:
    kind = "" if dtype is None else f"{str(dtype).removeprefix('torch.')} "
    kind = "floating-point " if floating and not kind else kind
    axes = "" if shape is None else f" of shape ({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
    return f"a {kind}tensor{axes}"
