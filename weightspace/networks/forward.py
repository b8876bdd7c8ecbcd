"""Many networks at once: forward passes over a leading `nets` axis."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.func import functional_call, vmap

from weightspace.errors import InputError
from weightspace.networks.layout import Layout

# Activations of one block of networks times one batch of inputs stay below this many bytes.
_ACTIVATION_BYTES = 256 * 2**20


def forward(
    module: nn.Module, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor], x: Tensor, *, shared_input: bool
) -> Tensor:
    """Outputs (nets, batch, ...) of one architecture under stacked parameters and buffers.

    Args:
        module: Module that gives the computation; its own parameters are not used.
        parameters: (nets, *shape) by name.
        buffers: (nets, *shape) by name; updated in place in training mode.
        x: Inputs, (batch, ...) if shared by all networks, else (nets, batch, ...).
    """

    def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(module, (parameters, buffers), (x,))

    in_dims = (0, 0, None if shared_input else 0)
    return vmap(one, in_dims=in_dims, randomness="error")(dict(parameters), dict(buffers), x)


@torch.no_grad()
def predict(
    module: nn.Module,
    layout: Layout,
    weights: Float[Tensor, "nets d"],
    buffers: Mapping[str, Tensor],
    x: Tensor,
) -> Float[Tensor, "nets batch classes"]:
    """Outputs of every network on the same inputs, in evaluation mode, in blocks that bound memory.

    Raises:
        InputError: The inputs are not of the shape that the network takes.
    """
    if not x.ndim or not len(x):
        raise InputError(f"expected a batch of inputs, got shape {tuple(x.shape)}")
    with evaluation(module):
        try:
            per_sample = activation_bytes(module, x[:1])
        except (RuntimeError, IndexError) as error:
            raise InputError(f"inputs of shape {tuple(x.shape)} do not fit the network: {error}") from error
        rows = min(len(x), 4096)
        nets = max(1, min(len(weights), _ACTIVATION_BYTES // (per_sample * rows)))
        rows = max(1, min(rows, _ACTIVATION_BYTES // (per_sample * nets)))
        outputs: list[Tensor] = []
        for block in blocks(len(weights), nets):
            parameters = layout.tensors(weights[block])
            block_buffers = {name: buffer[block] for name, buffer in buffers.items()}
            parts = [_outputs(module, parameters, block_buffers, x[batch]) for batch in blocks(len(x), rows)]
            outputs.append(torch.cat(parts, dim=1))
    return torch.cat(outputs)


def _outputs(module: nn.Module, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
    count = len(next(iter(parameters.values())))
    # A batched product of one matrix is slower than a product, and on the CPU a grouped convolution, which is what
    # several at once become, is several times slower than one after another.
    if count == 1 or (x.device.type == "cpu" and any(isinstance(m, nn.modules.conv._ConvNd) for m in module.modules())):
        return _one_by_one(module, parameters, buffers, x)
    try:
        return forward(module, parameters, buffers, x, shared_input=True)
    except RuntimeError:
        # Control flow on data does not vectorise; one after another it works, or fails for good.
        return _one_by_one(module, parameters, buffers, x)


def _one_by_one(module: nn.Module, parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> Tensor:
    count = len(next(iter(parameters.values())))
    own = [{k: t[i] for k, t in (parameters | buffers).items()} for i in range(count)]
    return torch.stack([functional_call(module, tensors, (x,)) for tensors in own])


def blocks(length: int, size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover range(length)."""
    for start in range(0, length, size):
        yield slice(start, min(start + size, length))


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


def activation_bytes(module: nn.Module, x: Tensor) -> int:
    """Bytes of a network's inputs and layer outputs for these inputs."""
    total = x.numel() * x.element_size()

    def count(_module: nn.Module, _inputs: object, output: object) -> None:
        nonlocal total
        if isinstance(output, Tensor):
            total += output.numel() * output.element_size()

    handles = [m.register_forward_hook(count) for m in module.modules() if not list(m.children())]
    try:
        module(x)
    finally:
        for handle in handles:
            handle.remove()
    return max(total, 1)
