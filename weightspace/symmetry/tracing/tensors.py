"""What tracing asks of tensors and layers: whose memory it is, and which axes lie in space."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor, nn

from weightspace.symmetry.tracing.labels import Label


def convolution_groups(module: nn.Module) -> dict[str, int]:
    """The weights of convolutions, normed or not, by name, and their numbers of groups.

    Args:
        module: The module.
    """
    ends = (".weight", ".weight_v", ".weight_orig", *(f".parametrizations.weight.original{k}" for k in ("", 0, 1)))
    layers = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.modules.conv._ConvNd)}
    return {(name + end).lstrip("."): layer.groups for name, layer in layers.items() for end in ends}


def identical(a: Sequence[Label], b: Sequence[Label]) -> bool:
    """Whether two tensors have the same labels.

    Args:
        a: Labels of the first.
        b: Labels of the second.
    """
    return all(
        x == y
        if isinstance(x, str) and isinstance(y, str)
        else x is y or (not isinstance(x, str) and np.array_equal(x, y))
        for x, y in zip(a, b, strict=True)
    )


def memory(tensor: Tensor) -> int:
    """Where a tensor's memory begins; views of it have the same."""
    return tensor.untyped_storage().data_ptr()
