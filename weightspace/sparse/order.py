"""The order of a matrix's columns that keeps the most magnitude under N:M (Pool & Yu, NeurIPS 2021).

Which columns share a group decides which weights compete.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.patterns import NM
from weightspace.runtime import checks, seeds
from weightspace.sparse.arguments import check_n_m, check_search
from weightspace.sparse.exchanges import GAIN, ExchangeSearch

_WORK = 10**8  # rows x columns^2 of all restarts together
_SMALL = 2**24  # rows x columns^2 up to which pairs are also gone through one by one


@dataclass(frozen=True)
class Order:
    """A column order and what it is worth.

    Args:
        columns: The order (C,); position p afterwards holds column `columns[p]`.
        kept: Sum of magnitudes under the pattern in this order.
        before: The same in the matrix's own order.
        bound: Upper bound for every order: in each row as many of the largest as the pattern keeps in all.
        finished: Whether no exchange of one column for one, or two for two under 2:4, between any two groups keeps
            more.
    """

    columns: Int[Tensor, " c"]
    kept: float
    before: float
    bound: float
    finished: bool

    @property
    def efficacy(self) -> float:
        """Share of what the matrix's own order loses against the bound that this one keeps; 1 if nothing is lost."""
        return (self.kept - self.before) / (self.bound - self.before) if self.bound > self.before else 1.0


def _check_matrix(matrix: Tensor) -> None:
    checks.tensor(matrix, "matrix", shape=("rows", "columns"))
    if matrix.dtype == torch.bool or matrix.is_complex():
        raise checks.refuse("matrix", "a tensor of real numbers", matrix)


def kept_magnitude(matrix: Float[Tensor, "r c"], pattern: NM) -> float:
    """Sum of the magnitudes that N:M along the rows keeps; a last, shorter group of r keeps min(n, r).

    Args:
        matrix: The weights (rows, columns).
        pattern: N:M along the rows.
    """
    _check_matrix(matrix)
    check_n_m(pattern)
    if not bool(matrix.isfinite().all()):
        raise InputError("matrix must be finite, got NaN or infinite values: mend the weights first")
    return float(_kept(_groups(matrix.abs().double(), pattern.m), pattern.n).sum())


def find_order(
    matrix: Float[Tensor, "r c"],
    pattern: NM = NM(2, 4),
    *,
    seconds: float = 60.0,
    restarts: int | None = None,
    seed: int = 0,
) -> Order:
    """Search for the column order that keeps the most magnitude.

    All pairs of groups are searched at once, over every exchange of one column for one (and two for two under 2:4). The
    best improvements of disjoint pairs are made together, until there is none. Up to about 256 x 256 a second search
    goes through the pairs one by one, as the plain exhaustive search does, so that under 2:4 no less is kept than by
    that (but for ties, which it breaks in its own way). The result never keeps less than the matrix's own order.
    Source: Pool & Yu, "Channel permutations for N:M sparsity", NeurIPS 2021.

    Args:
        matrix: Weights (rows, columns); those of several layers that read the same units lie one above the other.
        pattern: N:M along the rows.
        seconds: Time limit; the best order so far is returned then.
        restarts: Number of times that an eighth of the groups is shuffled and searched on; the best order is kept. By
            default as many as take about a second, at least 10 and at most 200.
        seed: Seed of the shuffles.

    Raises:
        InputError: The input is no matrix, has entries that are not finite, or a time or number of restarts is below 0.
    """
    _check_matrix(matrix)
    check_search(pattern, seconds, restarts, seed)
    if not matrix.numel():
        raise InputError(f"matrix must have at least one column and one row, got shape {tuple(matrix.shape)}")
    if seconds < 0 or (restarts is not None and restarts < 0):
        raise InputError(f"a search takes no fewer than 0 seconds and 0 restarts, got {seconds} and {restarts}")
    if not matrix.isfinite().all():
        raise InputError("matrix must be finite, got NaN or infinite values: mend the weights first")
    matrix, deadline = matrix.detach().cpu(), time.monotonic() + seconds
    count = matrix.shape[1]
    before = kept_magnitude(matrix, pattern)
    limit = pattern.n * (count // pattern.m) + min(pattern.n, count % pattern.m)
    bound = float(matrix.abs().double().topk(limit, dim=1).values.sum())
    if count <= pattern.m or before >= bound:  # one group, or nothing is lost: no order keeps more
        return Order(torch.arange(count), before, before, bound, finished=True)
    padded = -count % pattern.m
    small = matrix.shape[0] * count**2 <= _SMALL
    sizes = matrix.abs().to(torch.float64 if small else torch.float32)
    columns = torch.nn.functional.pad(sizes, (0, padded)).t().contiguous()
    search = ExchangeSearch(columns, pattern, padded)
    finished = search.run(deadline)
    best, kept = search.order.clone(), search.total()
    if small and time.monotonic() <= deadline:
        search.set(torch.arange(len(columns)))
        finished = search.sweep(deadline) and finished
        if search.total() > kept:
            best, kept = search.order.clone(), search.total()
    random = seeds.generator(seed, "column orders")
    for _ in range(_restarts(matrix.shape) if restarts is None else restarts):
        if time.monotonic() > deadline:
            break
        search.set(_shaken(best, pattern.m, padded, random))
        finished = search.run(deadline) and finished
        if search.total() > kept * (1 + GAIN[columns.dtype]):
            best, kept = search.order.clone(), search.total()
    after = kept_magnitude(matrix[:, best[:count]], pattern)
    if after < before:  # what single precision called an improvement
        best, after = torch.arange(count), before
    return Order(best[:count].clone(), after, before, bound, finished)


def _restarts(shape: Sequence[int]) -> int:
    return max(10, min(200, _WORK // (shape[0] * shape[1] ** 2)))


def _shaken(order: Tensor, m: int, padded: int, random: torch.Generator) -> Tensor:
    """Columns of some groups in another order; a shorter last group stays."""
    groups = order.reshape(-1, m).clone()
    free = len(groups) - bool(padded)
    if free < 2:
        return order
    chosen = torch.randperm(free, generator=random)[: max(2, free // 8)]
    mixed = groups[chosen].flatten()
    groups[chosen] = mixed[torch.randperm(len(mixed), generator=random)].reshape(-1, m)
    return groups.flatten()


def _groups(matrix: Float[Tensor, "r c"], m: int) -> Float[Tensor, "r g m"]:
    return torch.nn.functional.pad(matrix, (0, -matrix.shape[1] % m)).unflatten(1, (-1, m))


def _kept(groups: Float[Tensor, "r g m"], n: int) -> Float[Tensor, "r g"]:
    return groups.topk(n, dim=2).values.sum(2)
