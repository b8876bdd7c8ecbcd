"""How a network is called: a tensor is its input, a tuple its inputs in order, a mapping its inputs by name."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

from weightspace.errors import InputError
from weightspace.runtime import trees
from weightspace.runtime.trees import Tree


def arguments(x: Tree) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional arguments and arguments by name of a module for these inputs.

    Args:
        x: A tensor, a tuple of inputs in the order of the module's `forward`, or a mapping of inputs by name.
    """
    if isinstance(x, Mapping):
        return (), dict(x)
    return (tuple(x), {}) if isinstance(x, tuple | list) else ((x,), {})


def call(module: nn.Module, x: Tree) -> Tree:
    """What a module returns for inputs.

    Args:
        module: The module.
        x: Inputs as in `arguments`.
    """
    args, named = arguments(x)
    return module(*args, **named)


def run(module: nn.Module, x: Tree) -> Tree:
    """What a module returns for inputs that a user gave.

    Args:
        module: The module.
        x: Inputs as in `arguments`.

    Raises:
        InputError: The module does not run on them.
    """
    try:
        return call(module, x)
    except InputError:
        raise
    except Exception as error:  # a user's module can raise anything
        dtypes = ", ".join(dict.fromkeys(str(t.dtype).removeprefix("torch.") for t in trees.tensors(x)))
        raise InputError(
            f"{type(module).__name__} does not run on inputs of shape {trees.shapes(x)} and type {dtypes or 'none'}: "
            f"{error or type(error).__name__}. Inputs are a tensor, a tuple of all inputs in the order of the module's "
            "forward, or a mapping of them by name"
        ) from error


def call_with(module: nn.Module, state: Mapping[str, Tensor] | tuple[Mapping[str, Tensor], ...], x: Tree) -> Tree:
    """What a module returns for inputs under other parameters and buffers.

    Args:
        module: Module that gives the computation.
        state: Parameters and buffers by name, in one mapping or several.
        x: Inputs as in `arguments`.
    """
    args, named = arguments(x)
    dicts = tuple(map(dict, state)) if isinstance(state, tuple) else dict(state)
    return functional_call(module, dicts, args, named)
