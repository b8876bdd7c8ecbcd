"""Copies of modules that keep tensors which they computed, as old-style weight_norm and spectral_norm do."""

import copy
from typing import TypeVar

from torch import Tensor, nn

M = TypeVar("M", bound=nn.Module)


def copied(module: M) -> M:
    """A deep copy; tensors that the module computed with gradients are copied as plain values.

    Args:
        module: Module, which stays as it is.
    """
    computed = {
        id(value): value.detach().clone()
        for owner in module.modules()
        for value in vars(owner).values()
        if isinstance(value, Tensor) and not value.is_leaf
    }
    return copy.deepcopy(module, computed)
