"""Implicit networks: coordinates in, values of a signal out."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.models.sizes import check_sizes
from weightspace.runtime import checks


class Siren(nn.Sequential):
    """Linear layers with sines between them (Sitzmann et al. 2020, arXiv 2006.09661).

    Args:
        sizes: Units per layer, coordinates and values included: (2, 32, 32, 1).
        omega: Frequency of the sines, sin(omega (W x + b)).

    Raises:
        InputError: A size or the frequency is not positive.
    """

    def __init__(self, sizes: Sequence[int], omega: float = 30.0) -> None:
        sizes = checks.several(sizes, "sizes", checks.count)
        if len(sizes) < 2:
            raise InputError(f"sizes needs the numbers of coordinates and of values, got {list(sizes)}")
        check_sizes(**{f"sizes[{i}]": size for i, size in enumerate(sizes)})
        omega = checks.number(omega, "omega", above=0)
        layers: list[nn.Module] = []
        for i, (fan_in, fan_out) in enumerate(pairwise(sizes)):
            layer = nn.Linear(fan_in, fan_out)
            nn.init.uniform_(layer.weight, *_bounds(1 / fan_in if i == 0 else math.sqrt(6 / fan_in) / omega))
            layers += [layer, Sine(omega)]
        super().__init__(*layers[:-1])
        self.input_shape = (sizes[0],)


class Sine(nn.Module):
    """sin(omega x).

    Args:
        omega: Frequency.
    """

    def __init__(self, omega: float) -> None:
        super().__init__()
        self.omega = omega

    def forward(self, x: Tensor) -> Tensor:
        """The sine of each number, of the shape of the input."""
        return torch.sin(self.omega * x)


def _bounds(limit: float) -> tuple[float, float]:
    return -limit, limit
