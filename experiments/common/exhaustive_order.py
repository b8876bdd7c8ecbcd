"""A plain version of the search for column orders: what benchmarks and tests compare the fast one with."""

import itertools

import torch
from torch import Tensor

_SPLITS = [(0, *rest) for rest in itertools.combinations(range(1, 8), 3)]
_BOTH = torch.tensor([[*split, *(k for k in range(8) if k not in split)] for split in _SPLITS])


def exhaustive_order(matrix: Tensor) -> Tensor:
    """Column order for 2:4: every pair of groups in turn takes the best of its 35 splits, until nothing changes."""
    sizes, order = matrix.abs().double(), torch.arange(matrix.shape[1])
    groups = len(order) // 4
    changed = True
    while changed:
        changed = False
        for i in range(groups):
            for j in range(i + 1, groups):
                columns = torch.cat([order[4 * i : 4 * i + 4], order[4 * j : 4 * j + 4]])
                kept = sizes[:, columns[_BOTH]].unflatten(2, (2, 4)).topk(2, dim=3).values.sum((0, 2, 3))
                best = int(kept.argmax())
                if kept[best] > kept[0] + 1e-9:
                    new = columns[_BOTH[best]]
                    order[4 * i : 4 * i + 4], order[4 * j : 4 * j + 4] = new[:4], new[4:]
                    changed = True
    return order
