"""What layers read: their inputs as matrices, recorded while a module runs."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks import calling
from weightspace.runtime.trees import Tree
from weightspace.sparse.gathered import MatrixConv, read_by

Layer = nn.Linear | nn.Conv2d


class LayerInputs:
    """Names of layers in the order in which they ran, and what they multiplied their weights with."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.kept: list[Float[Tensor, "rows columns"]] = []

    def clear(self) -> None:
        """Forget what ran so far."""
        self.names.clear()
        self.kept.clear()


class _Enough(BaseException):
    """All layers of interest have run: what follows need not."""


@contextmanager
def listening(module: nn.Module, layers: Sequence[str] | None = None, count: int = 0) -> Iterator[LayerInputs]:
    """Listen to layers as they run.

    Args:
        module: The module that will run.
        layers: Layers whose inputs are kept, until they ran `count` times. Without them, only names are kept, of all
            layers that are readable.
        count: Number of times that these layers run in a pass.
    """
    heard = LayerInputs()

    def listen(name: str, layer: Layer) -> None:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
            heard.names.append(name)
            if layers is not None:
                heard.kept.append(read_by(layer, (*inputs, *named.values())[0].detach()).double())
                if len(heard.kept) == count:
                    raise _Enough

        hooks.append(layer.register_forward_pre_hook(hook, with_kwargs=True))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for name, layer in module.named_modules():
        if isinstance(layer, Layer) and is_readable(layer) and (layers is None or name in layers):
            listen(name, layer)
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def is_readable(layer: nn.Module) -> bool:
    """Is it known what this layer's weight is multiplied with? Its subclasses may do other things."""
    known = type(layer) is nn.Linear or (type(layer) is nn.Conv2d and MatrixConv.takes(layer))
    return known and isinstance(layer._parameters.get("weight"), nn.Parameter)


def run(module: nn.Module, x: Tree) -> None:
    """A pass without gradients, at most until the layers that are listened to have run.

    Raises:
        InputError: The module does not run on these inputs.
    """
    try:
        with torch.no_grad():
            calling.run(module, x)
    except _Enough:
        pass


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
