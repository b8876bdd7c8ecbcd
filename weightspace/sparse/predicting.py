"""What many sparse networks return: large layers with few weights are multiplied as compressed rows.

A batched product of dense matrices multiplies all the zeros too. Here networks go one after another, over blocks of
inputs that stay in the processor's cache, and each layer that is sparse enough reads its kept weights alone.
"""

import math
from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.kernels.csr import CSRStructure
from weightspace.networks.calling import call_with
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks, by_sample, evaluation, predict
from weightspace.runtime import trees
from weightspace.runtime.copies import copied
from weightspace.runtime.trees import Tree

_DENSEST = 0.4  # above half of its weights a layer multiplies faster as a dense matrix
_SMALLEST = 4096  # so does a smaller one
_ROWS = 256  # inputs at once
_WORK = 2**25  # multiplications of a dense network below which many side by side are faster
_TRIED = 8  # inputs that show whether a module can be run like this


def predict_sparse(networks: Collection, x: Tree, module: nn.Module | None = None) -> Tree:
    """As `weightspace.networks.forward.predict`, faster for large sparse networks on the CPU; equal but for rounding.

    Only plain linear layers that get matrices are multiplied as compressed rows. Modules that use the weights of their
    layers in ways of their own are run as they are.

    Args:
        networks: The networks.
        x: Inputs that all get.
        module: A module of their architecture; its own parameters are not used.

    Raises:
        InputError: The inputs are not of the shape that the network takes.
    """
    module = networks.architecture.build_seeded(0) if module is None else module
    weights, buffers = networks.weights, networks.buffers
    names = [] if networks.dense else _sparse_layers(module, networks, weights, x)
    if not names:
        return predict(module, networks.layout, weights, buffers, x)
    runner = _Runner(module, networks, names)
    if not runner.computes(trees.take(x, slice(0, _TRIED))):
        return predict(module, networks.layout, weights, buffers, x)
    batches = [runner.held(trees.first(x)[rows]) for rows in blocks(trees.samples(x), _ROWS)]
    return trees.stack([runner(i, batches) for i in range(len(networks))])


def _sparse_layers(module: nn.Module, networks: Collection, weights: Tensor, x: Tree) -> list[str]:
    """Names of the layers that may be multiplied as compressed rows; none where dense products are as good."""
    layout = networks.layout
    if not isinstance(x, Tensor) or x.ndim < 2 or layout.aliases or weights.device.type != "cpu":
        return []
    if x.dtype is not torch.float32 or weights.dtype is not torch.float32:
        return []
    sizes = {entry.name: entry.size for entry in layout.weights}
    found = [
        name
        for name, layer in module.named_modules()
        # Subclasses, parametrised layers and hooks may use the weight in ways of their own.
        if type(layer) is nn.Linear
        and isinstance(layer._parameters.get("weight"), nn.Parameter)
        and not (layer._forward_hooks or layer._forward_pre_hooks)
        and sizes.get(_weight(name), 0) >= _SMALLEST
    ]
    if len(x) * sum(sizes[_weight(name)] for name in found) < _WORK:
        return []
    few = [name for name in found if _share(weights[0, layout.slices[_weight(name)]]) <= _DENSEST]
    return few and [name for name in found if name in _with_matrices(module, found, x[:1])]


def _weight(layer: str) -> str:
    return f"{layer}.weight" if layer else "weight"


def _share(weights: Tensor) -> float:
    return int(weights.count_nonzero()) / weights.numel()


@torch.no_grad()
def _with_matrices(module: nn.Module, names: list[str], x: Tensor) -> set[str]:
    """Layers that are called, and with matrices alone."""
    seen: dict[str, set[int]] = {name: set() for name in names}

    def note(name: str) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        return lambda _layer, inputs: seen[name].add(inputs[0].ndim if inputs else 0)

    handles = [module.get_submodule(name).register_forward_pre_hook(note(name)) for name in names]
    try:
        with evaluation(module):
            module(x)
    except (RuntimeError, IndexError, TypeError):  # inputs that do not fit, which `predict` says in words
        return set()
    finally:
        for handle in handles:
            handle.remove()
    return {name for name, dimensions in seen.items() if dimensions == {2}}


class _Runner:
    """Runs one network after another in a copy of a module.

    Args:
        module: The module, which stays as it is.
        networks: The networks.
        names: Names of the layers that are multiplied as compressed rows where they have few weights.
    """

    def __init__(self, module: nn.Module, networks: Collection, names: list[str]) -> None:
        self.plain, self.names = module, names
        self.module = copied(module).eval()
        self.tensors = networks.layout.tensors(networks.weights) | networks.buffers
        self.convolves = any(isinstance(layer, nn.modules.conv._ConvNd) for layer in module.modules())

    def held(self, x: Tensor) -> Tensor:
        """Inputs with each feature's values beside each other, as sparse products read them; convolutions do not."""
        return x if self.convolves else x.movedim(0, -1).contiguous().movedim(-1, 0)

    @torch.no_grad()
    def __call__(self, i: int, batches: list[Tensor]) -> Tree:
        """What one network returns for all batches."""
        self._take(i)
        parts = (
            by_sample(trees.apply(lambda tensor: tensor[None], self.module(batch)), slice(0, len(batch)))
            for batch in batches
        )
        return trees.apply(lambda tensor: tensor[0], trees.concatenate(list(parts), 1))

    @torch.no_grad()
    def computes(self, x: Tensor) -> bool:
        """Whether the module computes the same like this: one may read the weights of its layers itself."""
        with evaluation(self.plain):
            expected = trees.tensors(call_with(self.plain, self._network(0), x))
        self._take(0)
        try:
            found = trees.tensors(self.module(self.held(x)))
        except Exception:  # whatever a module raises that takes sizes from its weights: the dense call went through
            return False
        return len(found) == len(expected) and all(map(_close, found, expected))

    def _network(self, i: int) -> dict[str, Tensor]:
        return {name: tensor[i] for name, tensor in self.tensors.items()}

    def _take(self, i: int) -> None:
        """Put the tensors of one network into the module."""
        for name, tensor in self._network(i).items():
            owner_name, _, own = name.rpartition(".")
            owner = self.module.get_submodule(owner_name)
            if own == "weight" and owner_name in self.names:
                owner.__dict__.pop("forward", None)
                if tensor.count_nonzero() <= _DENSEST * tensor.numel():
                    rows, tensor = _compressed(tensor)
                    owner.forward = MethodType(_forward(rows), owner)
            held: dict[str, Any] = owner._buffers if own in owner._buffers else owner._parameters
            held[own] = tensor


def _compressed(weight: Float[Tensor, "outputs inputs"]) -> tuple[CSRStructure, Float[Tensor, " nnz"]]:
    """The structure of a matrix, and its values that are not zero."""
    flat, inputs = weight.flatten(), weight.shape[1]
    at = flat.nonzero()[:, 0]
    counts = torch.bincount(at // inputs, minlength=len(weight))
    return CSRStructure((len(weight), inputs), nn.functional.pad(counts.cumsum(0), (1, 0)), at % inputs), flat[at]


def _close(found: Tensor, expected: Tensor) -> bool:
    if found.shape != expected.shape:
        return False
    scale = expected.abs().max().item()
    return math.isfinite(scale) and torch.allclose(found, expected, rtol=1e-3, atol=1e-4 * scale)


def _forward(rows: CSRStructure) -> Callable[[nn.Linear, Tensor], Tensor]:
    """A method for a linear layer."""

    def forward(layer: nn.Linear, input: Tensor) -> Tensor:  # as nn.Linear calls it
        return rows.infer(input, layer.weight, layer.bias)

    return forward
