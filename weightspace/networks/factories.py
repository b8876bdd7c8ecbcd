"""Modules from a user's own factory, checked before work starts."""

import inspect
from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from weightspace.errors import InputError
from weightspace.runtime.user_code import describe


def made_by(factory: Callable[[], nn.Module], name: str) -> nn.Module:
    """The module that a factory returns.

    Args:
        factory: Function of a user's that returns a fresh module.
        name: What it is called in messages.

    Raises:
        InputError: The function needs arguments, raises an error, or returns something other than a module whose
            parameters have values.
    """
    _require_no_arguments(factory, name)
    try:
        module = factory()
    except InputError:
        raise
    except Exception as error:  # a user's own code can raise anything
        raise InputError(f"the factory {name} raised {describe(error)}; it must build the network") from error
    if not isinstance(module, nn.Module):
        raise InputError(f"the factory {name} returned a {type(module).__name__}, not an nn.Module: return the network")
    states = [*module.named_parameters(), *module.named_buffers()]
    lazy = [key for key, tensor in states if is_lazy(tensor)]
    if lazy:
        raise InputError(
            f"{lazy[0]!r} of the factory {name} has no shape yet: call the lazy module once with an example of its "
            "inputs inside the factory, before it is returned"
        )
    meta = [key for key, tensor in states if tensor.is_meta]
    if meta and torch.get_default_device().type != "meta":
        raise InputError(
            f"{meta[0]!r} of the factory {name} is on the meta device and has no values: build the module on the CPU, "
            "or give it values inside the factory (module.to_empty(device='cpu'), then its initialisation)"
        )
    return module


def _require_no_arguments(factory: Callable[[], nn.Module], name: str) -> None:
    try:
        parameters = inspect.signature(factory).parameters.values()
    except (TypeError, ValueError):  # a callable written in C has no signature: calling it tells
        return
    positional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in positional]
    if needed:
        raise InputError(
            f"the factory {name} needs {'an argument' if len(needed) == 1 else 'arguments'} ({', '.join(needed)}): "
            f"wrap it in a function without arguments, such as `def build(): return {name.rpartition('.')[2]}(...)`"
        )
