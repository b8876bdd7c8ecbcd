"""The search for column orders against brute force."""

import itertools
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import weightspace as ws
from experiments.common.exhaustive_order import exhaustive_order
from tests.sparse.examples import matrix
from weightspace import sparse


def by_hand(weights: torch.Tensor, n: int, m: int) -> float:
    """The sum that N:M keeps, in plain Python."""
    total = 0.0
    for row in weights.abs().double().tolist():
        for start in range(0, len(row), m):
            total += sum(sorted(row[start : start + m], reverse=True)[:n])
    return total


@given(st.integers(1, 5), st.integers(1, 19), st.integers(1, 4), st.integers(1, 5), st.integers(0, 50))
def test_an_order_is_a_permutation_that_keeps_what_it_says(rows: int, columns: int, n: int, m: int, seed: int) -> None:
    pattern = ws.NM(min(n, m), m)
    weights = matrix(rows, columns, seed, normal=True)
    order = sparse.find_order(weights, pattern, restarts=2)
    assert sorted(order.columns.tolist()) == list(range(columns))
    assert order.before == pytest.approx(by_hand(weights, pattern.n, m))
    assert order.kept == pytest.approx(by_hand(weights[:, order.columns], pattern.n, m))
    assert order.before <= order.kept <= order.bound * (1 + 1e-12)
    mask = pattern.mask(
        torch.cat([weights[:, order.columns].abs().flatten(), torch.zeros(rows)]),
        ws.Layout.of(nn.Linear(columns, rows)),
    )
    kept = (weights[:, order.columns].abs().flatten() * mask[: rows * columns]).sum()
    assert kept.item() == pytest.approx(order.kept, rel=1e-5)  # what the pattern of the library keeps


@pytest.mark.parametrize("seed", range(5))
def test_two_groups_get_the_best_of_all_splits(seed: int) -> None:
    weights = matrix(6, 8, seed)
    splits = [[0, *rest] for rest in itertools.combinations(range(1, 8), 3)]
    best = max(by_hand(weights[:, [*s, *(k for k in range(8) if k not in s)]], 2, 4) for s in splits)
    assert len(splits) == 35
    found = sparse.find_order(weights)
    assert found.kept == pytest.approx(best)
    assert found.finished
    # Shuffling inside groups changes nothing.
    shuffled = found.columns.reshape(2, 4)[
        :, torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    ].flatten()
    assert sparse.kept_magnitude(weights[:, shuffled], ws.NM(2, 4)) == pytest.approx(found.kept)


@pytest.mark.parametrize("seed", [4, 5])
@pytest.mark.parametrize(
    ("rows", "columns", "normal"), [(128, 64, False), (64, 64, True), (40, 96, False), (100, 48, False)]
)
def test_never_less_than_the_exhaustive_search_over_pairs(rows: int, columns: int, normal: bool, seed: int) -> None:
    weights = matrix(rows, columns, seed, normal=normal)
    oracle = sparse.kept_magnitude(weights[:, exhaustive_order(weights)], ws.NM(2, 4))
    found = sparse.find_order(weights)
    assert found.kept >= oracle * (1 - 1e-12)
    assert oracle > found.before


def test_nothing_is_left_to_win_at_the_end() -> None:
    """The last state of a search is a fixed point of the oracle too; the given order is not."""
    weights = matrix(32, 32, 3)
    found = sparse.find_order(weights, restarts=0)
    assert torch.equal(exhaustive_order(weights[:, found.columns]), torch.arange(32))
    assert not torch.equal(exhaustive_order(weights), torch.arange(32))


def test_more_time_and_more_restarts_never_keep_less() -> None:
    weights = matrix(48, 128, 0)
    kept = [sparse.find_order(weights, seconds=0.0).kept]
    kept += [sparse.find_order(weights, restarts=restarts).kept for restarts in (0, 3, 10)]
    assert kept == sorted(kept)
    assert sparse.find_order(weights, seconds=0.0).finished is False
    assert torch.equal(sparse.find_order(weights, restarts=3).columns, sparse.find_order(weights, restarts=3).columns)
    assert not torch.equal(
        sparse.find_order(weights, restarts=10, seed=1).columns, sparse.find_order(weights, restarts=10).columns
    )


@pytest.mark.parametrize("columns", [5, 6, 7])
def test_a_shorter_last_group_takes_part(columns: int) -> None:
    weights = matrix(6, columns, 1)
    best = max(by_hand(weights[:, list(order)], 2, 4) for order in itertools.permutations(range(columns)))
    found = sparse.find_order(weights)
    assert found.kept == pytest.approx(best)
    assert found.kept > found.before


def test_equal_columns_do_not_keep_the_search_going() -> None:
    kinds = matrix(4000, 2, 0)
    weights = kinds[:, torch.arange(32) % 2]
    found = sparse.find_order(weights, seconds=30.0, restarts=0)
    assert found.finished
    assert found.kept <= found.bound * (1 + 1e-9)


def test_bad_matrices_are_refused() -> None:
    with pytest.raises(ws.InputError, match="at least one column and one row"):
        sparse.find_order(torch.zeros(0, 4))
    with pytest.raises(ws.InputError, match=r"finite|NaN"):
        sparse.find_order(torch.tensor([[1.0, float("nan")]]))
    equal = sparse.find_order(torch.ones(3, 12))
    assert torch.equal(equal.columns, torch.arange(12))
    assert equal.efficacy == 1.0  # there was nothing to win


@pytest.mark.parametrize("pattern", [ws.NM(2, 1000), ws.NM(4, 4)])
def test_nothing_to_win_is_seen_at_once(pattern: ws.NM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["weightspace.sparse.order"], "ExchangeSearch", None)
    order = sparse.find_order(matrix(8, 64, 0), pattern)
    assert order.columns.tolist() == list(range(64))
    assert order.finished
    assert order.kept == order.bound
    with pytest.raises(TypeError):  # otherwise it is searched
        sparse.find_order(matrix(8, 64, 0))
