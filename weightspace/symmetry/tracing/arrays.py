"""Arrays of units along some axes of a tensor."""

from collections.abc import Sequence

import numpy as np


def filled(label: np.ndarray, dims: Sequence[int], shape: Sequence[int]) -> np.ndarray:
    """A label written out along these axes."""
    return np.broadcast_to(label, [shape[k] if k in dims else size for k, size in enumerate(label.shape)])


def repeats(label: np.ndarray, dims: Sequence[int]) -> bool:
    """Whether a unit occurs several times along these axes."""
    for k in range(label.ndim):
        if k not in dims:
            one = label.take([0], axis=k)
            if not np.array_equal(np.broadcast_to(one, label.shape), label):
                return False
            label = one
    return len(np.unique(label)) < label.size


def joined(label: np.ndarray, dims: Sequence[int]) -> np.ndarray:
    """A label with consecutive axes as one."""
    return label.reshape(*label.shape[: dims[0]], -1, *label.shape[dims[-1] + 1 :])


def widened(label: np.ndarray | str, dim: int, parts: int, k: int) -> np.ndarray | str:
    """Place the k-th of several parts that one axis was split into among them all."""
    if isinstance(label, str):
        return label
    # The innermost part has all dimensions already.
    return np.expand_dims(label, tuple(dim + k + 1 + m for m in range(parts - 1 - k)))
