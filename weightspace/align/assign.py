"""Linear assignment: the exact best permutation for a matrix of gains."""

import lap
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import InputError


def assign(gain: Float[Tensor, "units units"]) -> Int[Tensor, " units"]:
    """For each row the column that maximises the sum of gains, each column once.

    Solved by lapx (Jonker-Volgenant with row reduction), which is faster than SciPy's solver. SciPy solves it if
    another package called `lap` is installed in its place, or its answer is no permutation.

    Args:
        gain: Gain of giving each row (of the reference) each column (of the network).

    Returns:
        The columns, on the CPU.

    Raises:
        InputError: The gains hold NaN or infinite values.
    """
    from scipy.optimize import linear_sum_assignment

    cost = -gain.cpu().numpy()
    if not np.isfinite(cost).all():
        raise InputError("the gains of an assignment hold NaN or infinite values: the weights or activations may, too")
    if hasattr(lap, "lapjvr") and len(cost) > 1:
        columns = np.asarray(lap.lapjvr(cost, return_cost=False)[1], dtype=np.int64)
        if _is_permutation(columns, len(cost)):
            return torch.from_numpy(columns)
    rows, columns = linear_sum_assignment(cost)
    if not (np.array_equal(rows, np.arange(len(cost))) and _is_permutation(columns, len(cost))):
        raise InputError("the assignment solvers did not return a permutation: the weights may hold NaN")
    return torch.from_numpy(columns.astype(np.int64))


def _is_permutation(columns: np.ndarray, size: int) -> bool:
    return columns.shape == (size,) and np.array_equal(np.sort(columns), np.arange(size))
