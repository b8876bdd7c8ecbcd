"""Calls of layers: which there are in a pass, and what happens before each."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks import calling
from weightspace.runtime import trees
from weightspace.runtime.trees import Tree
from weightspace.sparse.gathered import MatrixConv

Layer = nn.Linear | nn.Conv2d


@dataclass(frozen=True)
class Call:
    """One call of a layer in a pass.

    Args:
        layer: Name of the layer.
        outputs: Numbers that it returns for one example.
    """

    layer: str
    outputs: int


class _Stop(BaseException):
    """What follows in a pass need not run; with an error that ended it, which is not the module's own."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__()
        self.error = error


def calls(module: nn.Module, x: Tree) -> list[Call]:
    """All calls of readable layers in a pass, in order.

    Args:
        module: The module.
        x: A few inputs.
    """
    found: list[Call] = []
    count = trees.samples(x)

    def note(name: str) -> Callable[[nn.Module, object, Tensor], None]:
        return lambda _, __, made: found.append(Call(name, made.numel() // count))

    hooks = [layer.register_forward_hook(note(name)) for name, layer in _readable(module)]
    try:
        run(module, x)
    finally:
        for hook in hooks:
            hook.remove()
    return found


@contextmanager
def before_calls(
    module: nn.Module, expected: Sequence[Call], act: Callable[[int, Layer, Tensor], bool]
) -> Iterator[None]:
    """Do something before each call of a readable layer; what it changes in the layer's values counts in that call.

    Args:
        module: The module that will `run`, once.
        expected: The calls of a pass.
        act: Is given the number of the call in the pass, the layer and what it reads. It says whether the pass goes on.

    Raises:
        InputError: Other layers run than expected.
    """
    at = 0

    def before(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], dict[str, Tensor]], None]:
        def hook(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            nonlocal at
            index, at = at, at + 1
            try:
                if index >= len(expected) or expected[index].layer != name:
                    raise InputError(
                        f"{name} runs where another layer ran for the first examples: which layers run must not "
                        "depend on the inputs"
                    )
                assert isinstance(layer, Layer)
                goes_on = act(index, layer, (*inputs, *named.values())[0].detach())
            except Exception as error:
                raise _Stop(error) from error
            if not goes_on:
                raise _Stop

        return hook

    hooks = [layer.register_forward_pre_hook(before(name), with_kwargs=True) for name, layer in _readable(module)]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _readable(module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(name, layer) for name, layer in module.named_modules() if is_readable(layer)]


def is_readable(layer: nn.Module) -> bool:
    """Is it known what this layer's weight is multiplied with? Its subclasses may do other things."""
    known = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and MatrixConv.takes(layer))
    return known and isinstance(layer._parameters.get("weight"), nn.Parameter)


def run(module: nn.Module, x: Tree) -> None:
    """A pass without gradients, at most until `before_calls` ends it.

    Raises:
        InputError: The module does not run on these inputs.
    """
    try:
        with torch.no_grad():
            calling.run(module, x)
    except _Stop as stop:
        if stop.error is not None:
            raise stop.error from None


def weight_uses(network: nn.Module, ran: Sequence[str], masks: dict[str, Tensor]) -> dict[str, list[str]]:
    """For each weight that can be refitted the layers that read it, in the order in which they run.

    A weight that something else reads too (an embedding that shares it with the last layer) is left as it is.

    Args:
        network: The network.
        ran: Names of the layers that ran, in order.
        masks: Masks of the pruned weights, by name.

    Raises:
        InputError: A pruned weight cannot be refitted.
    """
    layers = dict(network.named_modules())
    owners: dict[int, list[str]] = {}
    for layer, module in layers.items():
        for parameter in module._parameters.values():
            owners.setdefault(id(parameter), []).append(layer)
    uses: dict[str, list[str]] = {}
    for name, parameter in network.named_parameters():
        readers = [layer for layer in ran if layers[layer]._parameters["weight"] is parameter]
        if readers and all(is_readable(layers[owner]) for owner in owners[id(parameter)]):
            uses[name] = readers
        elif name in masks:
            whose = ", ".join(f"{type(layers[one]).__name__} {one!r}" for one in owners[id(parameter)])
            raise InputError(
                f"{name} was pruned and cannot be refitted: it belongs to {whose}. What can be refitted are weights of "
                "linear layers and of 2-d convolutions without groups, padded with zeros by numbers, that the inputs "
                "pass; leave others as they are"
            )
    return dict(sorted(uses.items(), key=lambda item: ran.index(item[1][0])))
