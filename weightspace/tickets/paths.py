"""Which weights of a ticket still act: paths from input to output."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.networks.forward import evaluation
from weightspace.networks.layout import Layout
from weightspace.runtime.double import in_double
from weightspace.tickets.analysis import _NORMS


def effective_masks(networks: Collection, shape: Sequence[int]) -> Bool[Tensor, "n d"]:
    """The weights that lie on some path of kept weights from an input to an output.

    Vysogorets & Kempe 2021 (arXiv 2107.02306), by synaptic flow: the network of masks in place of weights, without
    biases, on an input of ones; a weight is on a path where the sum of the outputs depends on it. For networks whose
    activations pass positive values on (ReLU and its like); BatchNorm is taken as the identity.

    Args:
        networks: Networks with masks.
        shape: Shape of one input, without the batch.

    Raises:
        InputError: A norm layer has no running statistics, so that ones do not flow through it; or there are too many
            paths for float64.
    """
    layout, module = networks.layout, networks.architecture.build_seeded(0).double()
    require_flow(module)
    ones = torch.ones(1, *shape, dtype=torch.float64)
    kept = module.state_dict()
    buffers = {b.name: _identity(b.name, kept[b.name]) for b in layout.buffers}
    off = biases(layout)
    rows: list[Tensor] = []
    with evaluation(module), in_double():
        for mask in networks.masks:
            weights = mask.double().masked_fill(off, 0.0).requires_grad_()
            total = functional_call(module, (layout.tensors(weights), buffers), (ones,)).sum()
            (gradient,) = torch.autograd.grad(total, weights)
            if not gradient.isfinite().all():
                raise InputError("the number of paths is too large for float64: look at the network in parts")
            rows.append(torch.where(layout.prunable, mask & (gradient > 0), mask))
    return torch.stack(rows)


def biases(layout: Layout) -> Bool[Tensor, " d"]:
    """Positions of the biases of layers and norms, (D,)."""
    off = [e.role == "bias" or (e.role == "norm" and "bias" in e.name) for e in layout.parameters]
    return torch.cat([torch.full((e.size,), one) for e, one in zip(layout.parameters, off, strict=True)])


def require_flow(module: nn.Module) -> None:
    """Check that equal positive values flow through a network.

    Raises:
        InputError: A layer takes means over its inputs.
    """
    for name, layer in module.named_modules():
        moving = isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats
        if isinstance(layer, _NORMS) and not moving:
            raise InputError(
                f"layer {name} is a {type(layer).__name__}: it takes means over its inputs, so that synaptic flow is "
                "not defined; use another score"
            )


def _identity(name: str, buffer: Tensor) -> Tensor:
    """Statistics that leave values as they are; other buffers belong to the network."""
    if name.endswith("running_mean"):
        return torch.zeros_like(buffer)
    return torch.ones_like(buffer) if name.endswith("running_var") else buffer


def effective_density(networks: Collection, shape: Sequence[int]) -> Float[Tensor, " n"]:
    """Fraction of the prunable weights on some path; see `effective_masks`.

    Args:
        networks: Networks with masks.
        shape: Shape of one input, without the batch.

    Raises:
        InputError: A norm layer has no running statistics, so that ones do not flow through it; or there are too many
            paths for float64.
    """
    prunable = networks.layout.prunable
    return effective_masks(networks, shape)[:, prunable].double().mean(1)


def collapsed_layers(networks: Collection) -> list[list[str]]:
    """For each network, the weight tensors of which nothing is left."""
    layout = networks.layout
    weights = [entry.name for entry in layout.weights]
    return [[name for name in weights if not mask[layout.slices[name]].any()] for mask in networks.masks]
