"""Do samples look like real data, and do they cover it? Precision and recall by nearest neighbours."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.runtime import checks


class Coverage(NamedTuple):
    """How samples lie beside real data.

    Args:
        precision: Share of the samples that lie where real data are.
        recall: Share of the real data that lie where samples are.
    """

    precision: float
    recall: float


def coverage(real: Float[Tensor, "n d"], samples: Float[Tensor, "m d"], neighbours: int = 3) -> Coverage:
    """Precision and recall of samples (Kynkäänniemi et al. 2019, arXiv 1904.06991, equations 1 to 3).

    A point lies where a set is if, for some point of the set, it is no farther than that point's k-th nearest
    neighbour inside the set. Compare numbers of equal n and m only: both grow with the sets.

    Args:
        real: Features of real data that no model was fitted to.
        samples: Features of samples.
        neighbours: The k of the radius.

    Raises:
        InputError: A set has too few points, or holds NaN.
    """
    near_real, near_samples = covered(real, samples, neighbours)
    return Coverage(near_real.double().mean().item(), near_samples.double().mean().item())


def covered(
    real: Float[Tensor, "n d"], samples: Float[Tensor, "m d"], neighbours: int = 3
) -> tuple[Bool[Tensor, " m"], Bool[Tensor, " n"]]:
    """Which samples lie where real data are, and which real data lie where samples are; see `coverage`.

    Args:
        real: Features of real data that no model was fitted to.
        samples: Features of samples.
        neighbours: The k of the radius.

    Raises:
        InputError: A set has too few points, or holds NaN.
    """
    neighbours = checks.count(neighbours, "neighbours", at_least=1)
    for name, points in (("real", real), ("samples", samples)):
        if len(points) <= neighbours:
            raise InputError(f"{name} needs more than {neighbours} points (neighbours), got {len(points)}")
        if not points.isfinite().all():
            raise InputError(f"{name} holds NaN or infinite values: leave out what failed, and say how many")
    return _within(samples, real, neighbours), _within(real, samples, neighbours)


def _within(points: Float[Tensor, "n d"], others: Float[Tensor, "m d"], neighbours: int) -> Bool[Tensor, " n"]:
    """Which points lie in a ball around one of the others that reaches its k-th neighbour."""
    own = torch.cdist(others.double(), others.double()).fill_diagonal_(torch.inf)
    radius = own.kthvalue(neighbours, dim=1).values
    return (torch.cdist(points.double(), others.double()) <= radius).any(1)
