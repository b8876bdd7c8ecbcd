"""Many networks at once: forward passes over a leading `nets` axis."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import vmap

from weightspace.errors import InputError
from weightspace.networks.calling import call, call_with
from weightspace.networks.layout import Layout
from weightspace.runtime import trees
from weightspace.runtime.copies import copied
from weightspace.runtime.trees import Tree

# Activations of one block of networks times one batch of inputs stay below this many bytes.
_ACTIVATION_BYTES = 256 * 2**20
_NUMBERS = 2**26  # parameters of all networks that are handled together


def forward(
    module: nn.Module, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tree, *, shared_input: bool
) -> Tree:
    """Outputs (nets, batch, ...) of one architecture under stacked parameters and buffers.

    Args:
        module: Module that gives the computation; its own parameters are not used.
        parameters: (nets, *shape) by name.
        buffers: (nets, *shape) by name; updated in place in training mode.
        x: Inputs, (batch, ...) if shared by all networks, else (nets, batch, ...); a tensor, a tuple of a module's
            inputs, or a mapping of them by name.

    Returns:
        What the module returns: a tensor, or a structure whose tensors have the axis of networks first.
    """
    shape: list[Tree] = []
    one, in_dims = partial(_one, module, shape), (0, 0, None if shared_input else 0)
    outputs = vmap(one, in_dims=in_dims, randomness="error")(dict(parameters), dict(buffers), x)
    return trees.rebuild(shape[0], outputs)


def _one(
    module: nn.Module, shape: list[Tree], parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tree
) -> tuple[Tensor, ...]:
    """The tensors of one network's output, whose structure goes into `shape`."""
    output = call_with(module, (parameters, buffers), x)
    shape.append(output)
    return tuple(trees.tensors(output))


@torch.no_grad()
def predict(
    module: nn.Module,
    layout: Layout,
    weights: Float[Tensor, "nets d"],
    buffers: Mapping[str, Tensor],
    x: Tree,
    per_sample: int | None = None,
) -> Tree:
    """Outputs (nets, samples, ...) of every network on the same inputs, in evaluation mode.

    They are computed in blocks that bound memory, where the weights are: batches of inputs are brought there, and
    outputs back to where the inputs are.

    Args:
        module: Module that gives the computation; its own parameters are not used.
        layout: Layout of the weights.
        weights: One row for each network.
        buffers: Buffers by name, one row for each network.
        x: A batch of inputs: a tensor, a tuple of all inputs, or a mapping of them by name.
        per_sample: What `sample_bytes` counts, for many calls with the same inputs; by default it is counted.

    Raises:
        InputError: The inputs are not of the shape that the network takes.
    """
    count = trees.samples(x)
    if not count:
        raise InputError(f"expected a batch of inputs, got {trees.shapes(x)}")
    device, back = weights.device, trees.first(x).device
    if any(parameter.device != device for parameter in module.parameters()):
        module = copied(module).to(device)
    with evaluation(module):
        per_sample = per_sample or sample_bytes(module, x)
        rows = min(count, 4096)
        nets = max(1, min(len(weights), _ACTIVATION_BYTES // (per_sample * rows)))
        rows = max(1, min(rows, _ACTIVATION_BYTES // (per_sample * nets)))
        outputs: list[Tree] = []
        for block in blocks(len(weights), nets):
            parameters = layout.tensors(weights[block])
            block_buffers = {name: buffer[block] for name, buffer in buffers.items()}
            parts = [
                by_sample(_outputs(module, parameters, block_buffers, trees.to(trees.take(x, batch), device)), batch)
                for batch in blocks(count, rows)
            ]
            outputs.append(trees.concatenate([trees.to(part, back) for part in parts], 1))
    return trees.concatenate(outputs)


@torch.no_grad()
def sample_bytes(module: nn.Module, x: Tree) -> int:
    """Bytes of the activations of one input, in evaluation mode.

    Args:
        module: Module that is run, where its parameters are.
        x: A batch of inputs, from which the first is taken.

    Raises:
        InputError: The batch is empty, or not of the shape that the module takes.
    """
    if not trees.samples(x):
        raise InputError(f"expected a batch of inputs, got {trees.shapes(x)}")
    first = next(module.parameters(), None)
    device = trees.first(x).device if first is None else first.device
    try:
        with evaluation(module):
            return activation_bytes(module, trees.to(trees.take(x, slice(0, 1)), device))
    except (RuntimeError, IndexError, TypeError) as error:
        raise InputError(f"inputs of shape {trees.shapes(x)} do not fit the network: {error}") from error


def by_sample(outputs: Tree, batch: slice) -> Tree:
    """The outputs that have a row for each sample; others, such as a loss or a cache, become None."""
    if isinstance(outputs, Tensor):
        return outputs
    rows = batch.stop - batch.start
    return trees.apply(lambda tensor: tensor if tensor.ndim > 1 and tensor.shape[1] == rows else None, outputs)


def _outputs(module: nn.Module, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tree) -> Tree:
    count = len(next(iter(parameters.values())))
    on_cpu = trees.first(x).device.type == "cpu"
    # A batched product of one matrix is slower than a product, and on the CPU a grouped convolution, which is what
    # several at once become, is several times slower than one after another.
    if count == 1 or (on_cpu and any(isinstance(m, nn.modules.conv._ConvNd) for m in module.modules())):
        return _one_by_one(module, parameters, buffers, x)
    try:
        return forward(module, parameters, buffers, x, shared_input=True)
    except RuntimeError:
        # Control flow on data does not vectorise; one after another it works, or fails for good.
        return _one_by_one(module, parameters, buffers, x)


def _one_by_one(module: nn.Module, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tree) -> Tree:
    count = len(next(iter(parameters.values())))
    own = [{k: t[i] for k, t in (parameters | buffers).items()} for i in range(count)]
    return trees.stack([call_with(module, tensors, x) for tensors in own])


def blocks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(length)."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


def at_once(most: int, parameters: int) -> int:
    """Networks that are handled together: `most` small ones, fewer of large ones, and at least one.

    Args:
        most: Number of small ones.
        parameters: Parameters of each.
    """
    return max(1, min(most, _NUMBERS // max(1, parameters)))


@contextmanager
def evaluation(module: nn.Module) -> Iterator[None]:
    """Evaluation mode inside, afterwards each submodule's own mode (one may be frozen while others train)."""
    training = [(one, one.training) for one in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for one, mode in training:
            one.training = mode


def activation_bytes(module: nn.Module, x: Tree) -> int:
    """Bytes of a network's inputs and layer outputs for these inputs."""
    total = sum(tensor.numel() * tensor.element_size() for tensor in trees.tensors(x))

    counted = [total]
    handles = [m.register_forward_hook(partial(_count, counted)) for m in module.modules() if not list(m.children())]
    try:
        call(module, x)
    finally:
        for handle in handles:
            handle.remove()
    return max(sum(counted), 1)


def _count(counted: list[int], _module: nn.Module, _inputs: object, output: object) -> None:
    counted.append(sum(tensor.numel() * tensor.element_size() for tensor in trees.tensors(output)))
