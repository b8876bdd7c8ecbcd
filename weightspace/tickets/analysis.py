"""What a mask is worth, without training: neural persistence, and whether tickets match dense networks."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.report.intervals import half_width
from weightspace.runtime import checks

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def neural_persistence(networks: Collection, p: float = 2.0) -> Float[Tensor, "n layers"]:
    """Normalised neural persistence of each weight tensor (Rieck et al. 2019, arXiv 1812.09764, section 3).

    The weights of a tensor, as a bipartite graph of inputs and outputs, over the largest |w| of the network. A tree of
    largest weights says at which threshold its parts grow together; 1 means that every part does so at the weakest
    weight.

    Args:
        networks: Networks of any density.
        p: Exponent of the norm.
    """
    check_networks(networks)
    p = checks.number(p, "p", above=0)
    layout = networks.layout
    entries = layout.weights
    rows: list[list[float]] = []
    for i, weights in enumerate(networks.weights):
        largest = weights[layout.prunable].abs().max()
        if not largest.isfinite():  # the caller's own tensor, who may have written to it
            raise InputError(f"networks must have finite weights, got NaN or infinite ones in network {i}")
        size = weights.abs() / largest if largest > 0 else weights.abs()
        rows.append([_persistence(size[layout.slices[e.name]].reshape(e.shape[0], -1).numpy(), p) for e in entries])
    return torch.tensor(rows, dtype=torch.float64)


def _persistence(sizes: np.ndarray, p: float) -> float:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import minimum_spanning_tree

    outputs, inputs = sizes.shape
    i, j = (places.astype(np.int32) for places in np.nonzero(sizes))  # all that scipy's graphs take before 1.15
    vertices = outputs + inputs
    # A spanning tree of least negative weight is one of the largest; zeros are no edges; their part dies at 0.
    graph = csr_array((-sizes[i, j].astype(np.float64), (i, outputs + j)), shape=(vertices, vertices))
    deaths = -minimum_spanning_tree(graph).data
    alone = vertices - 1 - len(deaths)
    return (np.sum((1 - deaths) ** p) + alone) ** (1 / p) / (vertices - 1) ** (1 / p)


@dataclass(frozen=True)
class MatchingResult:
    """Is one group of networks as accurate as another?

    Args:
        difference: Difference of the mean accuracies, in favour of the first group.
        half_width: Half-width of its confidence interval.
        matches: True if the whole interval lies above minus the tolerance.
    """

    difference: float
    half_width: float
    matches: bool


def matching(
    tickets: Sequence[float], dense: Sequence[float], *, tolerance: float = 0.002, level: float = 0.95
) -> MatchingResult:
    """Accuracies paired by seed: do tickets match the dense networks (arXiv 1912.05671: a drop below 0.2 points)?

    Args:
        tickets: Accuracy of each ticket.
        dense: Accuracy of the dense network of the same seed.
        tolerance: Drop of accuracy that still counts as a match.
        level: Confidence level of the interval (Student's t).

    Raises:
        InputError: There are fewer than two pairs, or unequal numbers.
    """
    tickets = checks.several(tickets, "tickets", checks.number)
    dense = checks.several(dense, "dense", checks.number)
    tolerance = checks.number(tolerance, "tolerance", at_least=0)
    level = checks.number(level, "level", above=0, below=1)
    if len(tickets) != len(dense) or len(dense) < 2:
        raise InputError(f"matching needs at least two pairs of accuracies, got {len(tickets)} and {len(dense)}")
    differences = [a - b for a, b in zip(tickets, dense, strict=True)]
    half = half_width(differences, level=level)
    mean = statistics.fmean(differences)
    return MatchingResult(mean, half, mean - half > -tolerance)
