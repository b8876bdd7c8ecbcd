"""Multi-layer perceptron with ReLU units."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from weightspace.errors import InputError
from weightspace.models.sizes import check_sizes
from weightspace.runtime import checks


class MLP(nn.Sequential):
    """Linear layers with ReLU between them; inputs are flattened.

    Args:
        sizes: Units per layer, inputs and outputs included: (64, 128, 64, 10).
    """

    def __init__(self, sizes: Sequence[int]) -> None:
        sizes = checks.several(sizes, "sizes", checks.count)
        if len(sizes) < 2 or any(size < 1 for size in sizes):
            raise InputError(f"sizes needs an input and an output size, all positive, got {list(sizes)}")
        check_sizes(**{f"sizes[{i}]": size for i, size in enumerate(sizes)})
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
        super().__init__(*layers[:-1])
        self.input_shape = (sizes[0],)
