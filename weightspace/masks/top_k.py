"""The highest scores of each row, exactly so many."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError

_LONG = 4096  # values from which a row is worth a look of its own


def _keep_top(scores: Float[Tensor, "*lead p"], count: int, where: str) -> Bool[Tensor, "*lead p"]:
    """The `count` largest finite scores along the last axis; of equal scores the first come first."""
    if count == 0 or not scores.numel():
        return torch.zeros(scores.shape, dtype=torch.bool, device=scores.device)
    threshold = _threshold(scores, count)
    if threshold.amin() == -math.inf:
        available = int((scores > -math.inf).sum(-1).min())
        raise InputError(
            f"asked to keep {count} weights of {where}, but only {available} are left: ask for a lower density"
        )
    return _at_least(scores, threshold, count)


def _top(scores: Float[Tensor, "*lead p"], count: int) -> Bool[Tensor, "*lead p"]:
    """The `count` largest along the last axis, of those that are -inf too."""
    return _at_least(scores, _threshold(scores, count), count)


def _top_few(scores: Float[Tensor, "*lead m"], count: int) -> Bool[Tensor, "*lead m"]:
    """As `_top`, for very many short rows: each position counts those that come before it, pair by pair."""
    columns = scores.unbind(-1)
    before = [torch.zeros(scores.shape[:-1], dtype=torch.int16, device=scores.device) for _ in columns]
    for j in range(1, len(columns)):
        for i in range(j):
            larger = columns[j] > columns[i]
            before[i] += larger
            before[j] += ~larger  # of equal scores the first come first
    return torch.stack([own < count for own in before], -1)


def _at_least(
    scores: Float[Tensor, "*lead p"], threshold: Float[Tensor, "*lead 1"], count: int
) -> Bool[Tensor, "*lead p"]:
    kept = scores >= threshold
    if _all_count(kept, count):
        return kept
    above = scores > threshold
    ties = scores == threshold
    wanted = count - above.sum(-1, keepdim=True)
    return above | (ties & (ties.cumsum(-1) <= wanted))


def _all_count(mask: Bool[Tensor, "*lead p"], count: int) -> bool:
    """Does every row have so many True?"""
    if mask.device.type != "cpu":
        return bool((mask.sum(-1) == count).all())
    # Summing booleans along rows is slow in torch, and counting them in NumPy is not.
    return all(np.count_nonzero(row) == count for row in mask.reshape(-1, mask.shape[-1]).numpy())


def _threshold(scores: Float[Tensor, "*lead p"], count: int) -> Float[Tensor, "*lead 1"]:
    """The `count`-th largest score along the last axis."""
    at = scores.shape[-1] - count
    if scores.device.type != "cpu" or scores.dtype is torch.bfloat16:
        return scores.kthvalue(at + 1, dim=-1, keepdim=True).values
    # NumPy's selection is vectorised, and tens of times faster than kthvalue or topk.
    rows = scores.detach().numpy()
    if rows.shape[-1] < _LONG:
        return torch.as_tensor(np.partition(rows, at, axis=-1)[..., at : at + 1])
    found = np.stack([_largest(row, count) for row in rows.reshape(-1, rows.shape[-1])])
    return torch.as_tensor(found.reshape(*rows.shape[:-1], 1))


def _largest(row: np.ndarray, count: int) -> np.ndarray:
    """The `count`-th largest value, (1,). With many equal values, as of pruned weights, the selection is slow."""
    positive = row > 0
    few = np.count_nonzero(positive)
    if count <= few < len(row):
        row = row[positive]
    at = len(row) - count
    return np.partition(row, at)[at : at + 1]
