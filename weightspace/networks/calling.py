"""How a network is called: a tensor is its input, a tuple its inputs in order, a mapping its inputs by name."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call

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
