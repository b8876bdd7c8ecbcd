"""The error of a wrong argument, in one voice: what it must be, and what was got."""

import numpy as np
from torch import Tensor

from weightspace.errors import InputError

_SHOWN = 80  # characters of a value in a message


def shown(value: object) -> str:
    """A value in a message: a tensor as its shape, anything else as the beginning of its `repr`.

    Args:
        value: What was got.
    """
    if isinstance(value, Tensor) and value.ndim:
        return f"a tensor of shape {tuple(value.shape)}, {str(value.dtype).removeprefix('torch.')}, on {value.device}"
    if isinstance(value, np.ndarray) and value.ndim:
        return f"an array of shape {value.shape}, {value.dtype}"
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    try:
        text = repr(value)
    except Exception:  # whatever a stranger's repr raises, the message is about the argument
        text = f"an object of class {type(value).__name__}"
    text = text.replace("\n", " ")
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}... of class {type(value).__name__}"


def refuse(name: str, wanted: str, value: object) -> InputError:
    """The error of a wrong argument, in the voice of all of them.

    Args:
        name: Name of the argument.
        wanted: What it must be.
        value: What was got.
    """
    return InputError(f"{name} must be {wanted}, got {shown(value)}")
