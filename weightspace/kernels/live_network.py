"""A module's computation from its live weights alone: no dense matrix for its sparse layers."""

import copy
from collections.abc import Callable, Mapping
from types import MethodType

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from weightspace.kernels.csr import CSRStructure
from weightspace.networks.calling import call_with
from weightspace.networks.layout import Layout
from weightspace.runtime import trees
from weightspace.runtime.trees import Tree

_DENSEST = 0.25  # a layer with more of its weights multiplies faster as a dense matrix
_SMALLEST = 4096  # so does a smaller one


class LiveNetwork:
    """One network, called with the vector of its live parameters.

    Args:
        module: Module that gives the computation; a copy of it is run.
        live: True at the positions of live parameters: all parameters of a tensor, or some. The others are zero. Layers
            stay dense where it is on a card, as compressed rows are for the CPU.

    Attributes:
        places: Positions of the live parameters in the vector (k,).
        sparse: Names of the layers that are multiplied as compressed rows.
    """

    def __init__(self, module: nn.Module, live: Bool[Tensor, " d"]) -> None:
        self.module = copy.deepcopy(module)
        self._plain, self._live, self._tried = module, live, False
        self.layout = Layout.of(module)
        self.places = live.nonzero()[:, 0]
        self._sizes: list[int] = []
        # Places in a dense tensor; None for a whole tensor, or a sparse layer's weights.
        self._places: list[Tensor | None] = []
        self.sparse: list[str] = []
        for entry in self.layout.parameters:
            mask = live[self.layout.slices[entry.name]]
            count = int(mask.sum())
            self._sizes.append(count)
            owner_name, _, name = entry.name.rpartition(".")
            owner = self.module.get_submodule(owner_name)
            few = live.device.type == "cpu" and entry.size >= _SMALLEST and count <= _DENSEST * entry.size
            # Subclasses may use their weight in ways of their own.
            if few and type(owner) is nn.Linear and name == "weight" and not self.layout.aliases:
                owner.forward = MethodType(_forward(CSRStructure.of(mask.reshape(entry.shape))), owner)
                self.sparse.append(owner_name)
                self._places.append(None)
            else:
                self._places.append(None if count == entry.size else mask.nonzero()[:, 0])

    @property
    def share(self) -> float:
        """Share of the pruned tensors' weights that are in sparse layers; 0 if none is pruned."""
        total = matrices = 0
        for entry, size in zip(self.layout.parameters, self._sizes, strict=True):
            total += entry.size if size < entry.size else 0
            matrices += entry.size if entry.name.removesuffix(".weight") in self.sparse else 0
        return matrices / total if total else 0.0

    def __call__(self, values: Float[Tensor, " k"], buffers: Mapping[str, Tensor], x: Tree) -> Tree:
        """Outputs for a batch.

        Args:
            values: Values of the live parameters, in the order of their positions.
            buffers: Buffers by name, which a pass may update.
            x: A batch of inputs: a tensor, a tuple of all inputs, or a mapping of them by name.
        """
        if self.sparse and not self._tried:
            self._try_out(values.detach(), buffers, x)
        tensors: dict[str, Tensor] = {}
        parts = values.split(self._sizes)
        for entry, part, place in zip(self.layout.parameters, parts, self._places, strict=True):
            if place is not None:
                part = part.new_zeros(entry.size).scatter(0, place, part)
            tensors[entry.name] = part.reshape(entry.shape) if len(part) == entry.size else part
        return call_with(self.module, (tensors, dict(buffers)), x)

    @torch.no_grad()
    def _try_out(self, values: Tensor, buffers: Mapping[str, Tensor], x: Tree) -> None:
        """Stay dense if a module reads the weights of its layers itself, which are not a matrix here."""
        self._tried = True
        whole = values.new_zeros(self.layout.size).scatter(0, self.places, values)
        before = {name: buffer.clone() for name, buffer in buffers.items()}
        expected = trees.tensors(call_with(self._plain, (self.layout.tensors(whole), before), x))
        try:
            outputs = trees.tensors(self(values, {name: buffer.clone() for name, buffer in buffers.items()}, x))
            same = len(outputs) == len(expected) and all(map(_close, outputs, expected))
        except Exception:  # whatever a module raises that takes sizes from its weights: the dense call went through
            same = False
        if not same:
            self.module, self.sparse = copy.deepcopy(self._plain), []
            starts = [self.layout.slices[entry.name] for entry in self.layout.parameters]
            masks = [self._live[at] for at in starts]
            self._places = [None if mask.all() else mask.nonzero()[:, 0] for mask in masks]


def _close(found: Tensor, expected: Tensor) -> bool:
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def _forward(rows: CSRStructure) -> Callable[[nn.Linear, Tensor], Tensor]:
    """A method for a linear layer."""

    def forward(layer: nn.Linear, x: Tensor) -> Tensor:
        return rows.linear(x, layer.weight, layer.bias)

    return forward
