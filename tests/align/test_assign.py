"""Assignments against SciPy's solver."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment

from weightspace.align import assign as assigning
from weightspace.align.assign import assign
from weightspace.errors import InputError


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_assignments_are_optimal_permutations(size: int) -> None:
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(size))
    found = assign(matrix)
    rows, columns = linear_sum_assignment(matrix.numpy(), maximize=True)
    best = float(matrix[torch.from_numpy(rows), torch.from_numpy(columns)].sum())
    assert sorted(found.tolist()) == list(range(size))
    assert float(matrix.gather(1, found[:, None]).sum()) == pytest.approx(best, rel=1e-6)


def test_a_solver_that_returns_no_permutation_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(cost: np.ndarray, **_: object) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(cost), dtype=int), np.zeros(len(cost), dtype=int)

    monkeypatch.setattr(assigning.lap, "lapjvr", constant)
    assert assign(torch.eye(5)).tolist() == [0, 1, 2, 3, 4]  # SciPy's answer
    monkeypatch.setattr("scipy.optimize.linear_sum_assignment", lambda cost: constant(cost))
    with pytest.raises(InputError, match="did not return a permutation"):
        assign(torch.eye(5))


def test_nan_gains_are_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        assign(torch.full((3, 3), torch.nan))
