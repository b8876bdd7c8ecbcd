"""What a mask is worth, without training: effective weights, collapsed layers, neural persistence, matching."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import stats
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import Tensor, nn
from torch.func import functional_call

from weightspace.collection import Collection
from weightspace.errors import InputError
from weightspace.functional import evaluation
from weightspace.layout import Layout

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def effective_masks(networks: Collection, shape: Sequence[int]) -> Bool[Tensor, "n d"]:
    """The weights that lie on some path of kept weights from an input to an output.

    Vysogorets & Kempe 2021 (arXiv 2107.02306), by synaptic flow: the network of masks in place of weights, without biases,
    on an input of ones; a weight is on a path where the sum of the outputs depends on it. For networks whose
    activations pass positive values on (ReLU and its like); BatchNorm is taken as the identity.

    Args:
        shape: of one input, without the batch.

    Raises:
        InputError: a norm layer that has no running statistics, through which ones do not flow.
    """
    layout, module = networks.layout, networks.architecture.build_seeded(0).double()
    require_flow(module)
    ones = torch.ones(1, *shape, dtype=torch.float64)
    kept = module.state_dict()
    buffers = {b.name: _identity(b.name, kept[b.name]) for b in layout.buffers}
    off = biases(layout)
    found: list[Tensor] = []
    with evaluation(module):
        for mask in networks.masks:
            weights = mask.double().masked_fill(off, 0.0).requires_grad_()
            total = functional_call(module, (layout.tensors(weights), buffers), (ones,)).sum()
            (gradient,) = torch.autograd.grad(total, weights)
            if not gradient.isfinite().all():
                raise InputError("the number of paths is too large for float64: look at the network in parts")
            found.append(torch.where(layout.prunable, mask & (gradient > 0), mask))
    return torch.stack(found)


def biases(layout: Layout) -> Bool[Tensor, " d"]:
    """Where the biases of layers and norms are."""
    off = [e.role == "bias" or (e.role == "norm" and "bias" in e.name) for e in layout.parameters]
    return torch.cat([torch.full((e.size,), one) for e, one in zip(layout.parameters, off, strict=True)])


def require_flow(module: nn.Module) -> None:
    """Raise InputError for layers through which equal positive values do not flow."""
    for name, layer in module.named_modules():
        moving = isinstance(layer, nn.modules.batchnorm._NormBase) and layer.track_running_stats
        if isinstance(layer, _NORMS) and not moving:
            raise InputError(
                f"layer {name} is a {type(layer).__name__}: it takes means over its inputs, so that synaptic flow is not "
                "defined; use another score"
            )


def _identity(name: str, buffer: Tensor) -> Tensor:
    """Statistics that leave values as they are; other buffers belong to the network."""
    if name.endswith("running_mean"):
        return torch.zeros_like(buffer)
    return torch.ones_like(buffer) if name.endswith("running_var") else buffer


def effective_density(networks: Collection, shape: Sequence[int]) -> Float[Tensor, " n"]:
    """Fraction of the prunable weights on some path; see :func:`effective_masks`."""
    prunable = networks.layout.prunable
    return effective_masks(networks, shape)[:, prunable].double().mean(1)


def collapsed_layers(networks: Collection) -> list[list[str]]:
    """For each network, the weight tensors of which nothing is left."""
    layout = networks.layout
    weights = [entry.name for entry in layout.parameters if entry.role == "weight"]
    return [[name for name in weights if not mask[layout.slices[name]].any()] for mask in networks.masks]


def neural_persistence(networks: Collection, p: float = 2.0) -> Float[Tensor, "n layers"]:
    """Normalised neural persistence of each weight tensor (Rieck et al. 2019, arXiv 1812.09764, section 3).

    The weights of a tensor, as a bipartite graph of inputs and outputs, over the largest |w| of the network. A tree of largest
    weights says at which threshold its parts grow together; 1 means that every part does so at the weakest weight.

    Args:
        p: of the norm.
    """
    layout = networks.layout
    entries = [entry for entry in layout.parameters if entry.role == "weight"]
    rows: list[list[float]] = []
    for weights in networks.weights:
        size = weights.abs() / weights[layout.prunable].abs().max()
        rows.append([_persistence(size[layout.slices[e.name]].reshape(e.shape[0], -1).numpy(), p) for e in entries])
    return torch.tensor(rows, dtype=torch.float64)


def _persistence(sizes: np.ndarray, p: float) -> float:
    outputs, inputs = sizes.shape
    i, j = np.nonzero(sizes)
    vertices = outputs + inputs
    # A spanning tree of least negative weight is one of the largest; zeros are no edges, and leave their part at death 0.
    graph = csr_array((-sizes[i, j].astype(np.float64), (i, outputs + j)), shape=(vertices, vertices))
    deaths = -minimum_spanning_tree(graph).data
    alone = vertices - 1 - len(deaths)
    return (np.sum((1 - deaths) ** p) + alone) ** (1 / p) / (vertices - 1) ** (1 / p)


@dataclass(frozen=True)
class Matching:
    """Is one group of networks as accurate as another?

    Args:
        difference: of the mean accuracies, in favour of the first.
        half_width: of its interval.
        matches: the interval lies above minus the tolerance.
    """

    difference: float
    half_width: float
    matches: bool


def matching(
    tickets: Sequence[float], dense: Sequence[float], *, tolerance: float = 0.002, level: float = 0.95
) -> Matching:
    """Accuracies paired by seed: do tickets match the dense networks (arXiv 1912.05671: a drop below 0.2 points)?

    Raises:
        InputError: fewer than two pairs, or unequal numbers.
    """
    if len(tickets) != len(dense) or len(dense) < 2:
        raise InputError(f"matching needs at least two pairs of accuracies, got {len(tickets)} and {len(dense)}")
    differences = [a - b for a, b in zip(tickets, dense, strict=True)]
    half = stats.t.ppf(0.5 + level / 2, len(dense) - 1) * statistics.stdev(differences) / math.sqrt(len(dense))
    mean = statistics.fmean(differences)
    return Matching(mean, float(half), mean - float(half) > -tolerance)


def mask_overlap(first: Collection, second: Collection) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Kept weights that two networks share, over those of the first; and what chance alone would give.

    Pairs networks in order. Chance: masks with as many weights of each layer at random places share a_l b_l / N_l of them.
    Along the levels of a ladder this says how much of a mask a second run finds again (:meth:`IMP.ladder` of networks with
    one start and other data orders, say).

    Raises:
        LayoutMismatch, InputError: other layouts, or unequal numbers.
    """
    first.layout.require(second.layout, "the second collection")
    if len(first) != len(second):
        raise InputError(f"networks are compared in pairs, got {len(first)} and {len(second)}")
    layout = first.layout
    kept = first.masks[:, layout.prunable].sum(1).double()
    shared = (first.masks & second.masks)[:, layout.prunable].sum(1).double()
    chance = torch.zeros(len(first), dtype=torch.float64)
    for entry in layout.parameters:
        if entry.role == "weight":
            at = layout.slices[entry.name]
            chance += first.masks[:, at].sum(1).double() * second.masks[:, at].sum(1) / entry.size
    return shared / kept, chance / kept
