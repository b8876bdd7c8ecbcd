"""Checks of arguments that are networks or modules."""

from typing import Any

from torch import nn

from weightspace.networks.collection import Collection
from weightspace.networks.network import Network
from weightspace.runtime import checks, trees
from weightspace.runtime.trees import Tree


def check_networks(value: Any, name: str = "networks") -> Collection:
    """A collection of networks.

    Args:
        value: What was got.
        name: Name of the argument.

    Raises:
        InputError: It is none.
    """
    if isinstance(value, Network):
        raise checks.refuse(name, "a Collection: of one network it is collection[i : i + 1]", value)
    return checks.instance(
        value, name, Collection, "a Collection, such as collect(...) or Collection.load(...) returns"
    )


def check_module(value: Any, name: str = "module") -> nn.Module:
    """A module with its parameters.

    Args:
        value: What was got.
        name: Name of the argument.

    Raises:
        InputError: It is none, or its parameters are on the meta device.
    """
    module = checks.instance(value, name, nn.Module, "a torch.nn.Module, such as network.module()")
    if any(parameter.is_meta for parameter in module.parameters()):
        raise checks.refuse(name, "a module with values, and its parameters are on the meta device", type(module))
    return module


def check_inputs(value: Any, name: str = "x") -> Tree:
    """Inputs of a network: a tensor, a tuple or list of them, or a mapping of them by name.

    Args:
        value: What was got.
        name: Name of the argument.

    Raises:
        InputError: There is no tensor in it, or one without values.
    """
    found = trees.tensors(value)
    if not found:
        raise checks.refuse(name, "inputs of a network: a tensor, a tuple of tensors, or a mapping of them", value)
    if any(tensor.is_meta for tensor in found):
        raise checks.refuse(name, "inputs with values, and a meta tensor has none", value)
    return value
