"""Which weights of a ticket still act: paths from input to output."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.func import functional_call

from weightspace.errors import InputError
from weightspace.networks.arguments import check_networks
from weightspace.networks.calling import call
from weightspace.networks.collapse import lost_layers
from weightspace.networks.collection import Collection
from weightspace.networks.forward import evaluation
from weightspace.networks.layout import Layout
from weightspace.runtime import checks
from weightspace.runtime.double import in_double
from weightspace.runtime.trees import Tree
from weightspace.runtime.watching import OperatorMode
from weightspace.tickets.analysis import _NORMS

# Operators under which twice the input is not twice the output, as PyTorch names and people call them.
_NOT_HOMOGENEOUS = {
    "_softmax": "softmax",
    "_log_softmax": "log-softmax",
    "log_sigmoid_forward": "log-sigmoid",
    "hardtanh": "hardtanh (or ReLU6)",
    "hardswish": "hard swish",
    "hardsigmoid": "hard sigmoid",
    "_native_multi_head_attention": "softmax of attention",
    "mkldnn_rnn_layer": "gates of an LSTM",
    "silu": "SiLU",
    "gelu": "GELU",
    "elu": "ELU",
    **{name: name for name in ("sigmoid", "tanh", "softplus", "mish")},
}


def effective_masks(networks: Collection, shape: Sequence[int]) -> Bool[Tensor, "n d"]:
    """The weights that lie on some path of kept weights from an input to an output.

    Vysogorets & Kempe 2021 (arXiv 2107.02306), by synaptic flow: the network of masks in place of weights, without
    biases, on an input of ones; a weight is on a path where the sum of the outputs depends on it. For networks whose
    activations pass positive values on (ReLU and its like); BatchNorm is taken as the identity.

    Args:
        networks: Networks with masks.
        shape: Shape of one input, without the batch.

    Raises:
        InputError: A norm layer has no running statistics, or an activation bounds what passes, so that ones do not
            flow through it; or there are too many paths for float64.
    """
    check_networks(networks)
    shape = checks.several(shape, "shape", checks.count, least=1, at_least=1, at_most=2**16)
    layout, module = networks.layout, networks.architecture.build_seeded(0).double()
    ones = torch.ones(1, *shape, dtype=torch.float64)
    try:
        require_flow(module, ones)
    except RuntimeError as error:  # of PyTorch: the network takes no such inputs
        raise InputError(
            f"shape must be that of one input, got {tuple(shape)}, on which {networks.architecture.name} does not run "
            f"({str(error).splitlines()[0]:.200})"
        ) from error
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


def require_flow(module: nn.Module, ones: Tree) -> None:
    """Check that equal positive values flow through a network: as much more comes out as goes in.

    Args:
        module: The network, in float64.
        ones: Inputs of ones.

    Raises:
        InputError: A layer takes means over its inputs, or something in the forward pass is not positively homogeneous.
    """
    for name, layer in module.named_modules():
        moving = isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats
        if isinstance(layer, _NORMS) and not moving:
            raise InputError(
                f"layer {name} is a {type(layer).__name__}: it takes means over its inputs, so that synaptic flow is "
                "not defined; use another score"
            )
    with evaluation(module), torch.no_grad(), in_double(), _Operators(module) as seen:
        call(module, ones)
    if seen.found is not None:
        operator, layer = seen.found
        raise InputError(
            f"{layer} takes a {operator}: it does not pass positive values on in proportion, so that synaptic flow is "
            f"not defined; if it is the last, let the network return logits and put it into the loss; inside, use ReLU "
            "or its like; or use another score, such as SNIP"
        )


class _Operators(OperatorMode):
    """Looks for the first operator that is not positively homogeneous, and for the module that calls it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.found: tuple[str, str] | None = None
        self._inside: list[str] = []
        self._hooks = [
            hook
            for name, part in module.named_modules()
            for hook in (
                part.register_forward_pre_hook(lambda *_, name=name: self._inside.append(name)),
                part.register_forward_hook(lambda *_: self._inside.pop() and None),
            )
        ]

    def __exit__(self, *error: Any) -> None:
        for hook in self._hooks:
            hook.remove()
        super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        attention = name.startswith("_scaled_dot_product")
        operator = "softmax of attention" if attention else _NOT_HOMOGENEOUS.get(name.removesuffix("_"))
        if operator is not None and self.found is None:
            inside = self._inside[-1] if self._inside else ""
            self.found = operator, f"layer {inside}" if inside else "the network"
        return func(*args, **(kwargs or {}))


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
        InputError: A norm layer has no running statistics, or an activation bounds what passes, so that ones do not
            flow through it; or there are too many paths for float64.
    """
    prunable = check_networks(networks).layout.prunable
    return effective_masks(networks, shape)[:, prunable].double().mean(1)


def collapsed_layers(networks: Collection) -> list[list[str]]:
    """For each network, the weight tensors of which nothing is left."""
    return lost_layers(networks)
