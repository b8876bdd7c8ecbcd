"""Exchanges of columns between groups: the search behind `weightspace.sparse.find_order`.

Two facts make it a few matrix operations. With t the n-th largest entry of a group's other columns, a column x in place
of another keeps (sum of their n largest) + max(0, x - t) in each row, so that one table of column against slot has
every exchange of two columns. And of two pairs (hi, lo), the two largest of four are hi + hi' + max(0, lo - hi') +
max(0, lo' - hi), as both corrections cannot be positive at once, so that all exchanges of two columns for two under 2:4
come from one table of pairs. A sum of max(0, a - b) over rows is (sum a - sum b + |a - b|_1) / 2, and torch computes L1
distances of many vectors in one pass.
"""

import time

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.masks.patterns import NM

# Two columns of a group of four, and the other two.
_PAIRS = torch.tensor([[0, 1], [0, 2], [0, 3], [2, 3], [1, 3], [1, 2]])
_OTHER = torch.tensor([3, 4, 5, 0, 1, 2])  # of pair p the rest is pair _OTHER[p]
GAIN = {torch.float32: 1e-6, torch.float64: 1e-12}
"""Smallest gain relative to what is kept, by dtype: less is rounding."""


class ExchangeSearch:
    """Columns in groups, and for each pair of groups the best exchange between them.

    Args:
        columns: Magnitudes of the columns (C, R), C a multiple of M.
        pattern: N:M along the rows of the matrix.
        padded: Number of columns at the end that only fill up the last group.
    """

    def __init__(self, columns: Float[Tensor, "c r"], pattern: NM, padded: int) -> None:
        self.columns, self.n, self.m = columns, pattern.n, pattern.m
        self.count = len(columns) // pattern.m
        self.sums = columns.sum(1)
        # Padding cannot leave its group: of a shorter last group only the first columns are exchanged, one for one.
        self.free = self.m - padded
        self.twos = (self.n, self.m) == (2, 4)
        self.set(torch.arange(len(columns)))

    def set(self, order: Int[Tensor, " c"]) -> None:
        """Start from an order of the columns."""
        self.order = order.clone()
        groups, m = self.count, self.m
        like = self.columns
        self.group_kept = like.new_zeros(groups)
        self.ones = like.new_zeros(groups, m, groups, m)  # kept by group i without its slot a, with slot b of group j
        self.two = like.new_zeros(groups, 6, groups, 6) if self.twos else None
        self._renew(torch.arange(groups))

    def total(self) -> float:
        """Sum of the magnitudes that the pattern keeps in the present order."""
        return float(self.group_kept.double().sum())

    def run(self, deadline: float) -> bool:
        """Make the best exchanges of disjoint pairs of groups together, until nothing is won.

        Args:
            deadline: Time of `time.monotonic` at which the search stops.

        Returns:
            Whether it ended because nothing is won any more.
        """
        while True:
            before, kept = self.order.clone(), self.total()
            gain, kind = self._gains()
            best, at = gain.flatten(1).max(1)
            changed = self._apply(best, at, kind)
            if not len(changed):
                return True
            late = time.monotonic() > deadline
            self._renew(changed, tables=not late)
            if self.total() <= kept:  # what rounding called an improvement
                self.order = before
                self._renew(changed, tables=not late)
                return not late
            if late:
                return False

    def sweep(self, deadline: float) -> bool:
        """Go through the pairs in order, make the best exchange of each at once, until nothing is won.

        Args:
            deadline: Time of `time.monotonic` at which the search stops.

        Returns:
            Whether it ended because nothing is won any more.
        """
        order = self.order.reshape(self.count, self.m)
        changed = True
        while changed:
            changed = False
            for i in range(self.count):
                for j in range(i + 1, self.count):
                    gain, kind = self._gain(i, j)
                    if gain > self._rounding(i):
                        before = torch.cat([order[i], order[j]])
                        self._exchange(i, j, kind)
                        # The first column stays in the first group, and columns in their order: which group is which,
                        # and so all that follows, is then as in the plain search.
                        if j < self.count - 1 or self.free == self.m:
                            stays = torch.isin(before, order[i])
                            stays = stays if stays[0] else ~stays
                            order[i], order[j] = before[stays], before[~stays]
                        self._renew(torch.tensor([i, j]))
                        changed = True
                    if time.monotonic() > deadline:
                        return False
        return True

    def _gain(self, i: int, j: int) -> tuple[float, int]:
        """What the best exchange between two groups wins, and which it is."""
        single = self.ones[i, :, j] + self.ones[j, :, i].t()
        short = self.free < self.m and j == self.count - 1
        if short:
            single = single.clone()
            single[:, self.free :] = -torch.inf
        options = [single.flatten()]
        if self.two is not None and not short:
            options.append((self.two[i, :, j][_OTHER] + self.two[i, :, j][:, _OTHER]).flatten())
        best, kind = torch.cat(options).max(0)
        return float(best - self.group_kept[i] - self.group_kept[j]), int(kind)

    def _rounding(self, i: int) -> float:
        return GAIN[self.columns.dtype] * max(float(self.group_kept[i]), 1e-30)

    def _members(self, groups: Tensor) -> Float[Tensor, "g m r"]:
        return self.columns[self.order.reshape(self.count, self.m)[groups].flatten()].unflatten(
            0, (len(groups), self.m)
        )

    def _renew(self, changed: Int[Tensor, " k"], *, tables: bool = True) -> None:
        """Tables of groups whose columns changed."""
        members = self._members(changed)
        self.group_kept[changed] = members.topk(self.n, dim=1).values.sum((1, 2))
        if not tables:
            return
        rest, last = self._without_one(members)
        everything = self._members(torch.arange(self.count)).flatten(0, 1)
        sums = self.sums[self.order]
        # Slots of changed groups against all columns.
        gain = _positive(everything, sums, last.flatten(0, 1))
        self.ones[changed] = (rest.flatten()[:, None] + gain.t()).reshape(len(changed), self.m, self.count, self.m)
        if len(changed) < self.count:  # all slots against changed columns
            all_rest, all_last = self._without_one(everything.unflatten(0, (self.count, self.m)))
            gain = _positive(members.flatten(0, 1), members.flatten(0, 1).sum(1), all_last.flatten(0, 1))
            gains = (all_rest.flatten()[:, None] + gain.t()).reshape(self.count, self.m, len(changed), self.m)
            self.ones[:, :, changed] = gains
        if self.two is not None:
            self._renew_twos(changed, members, everything)

    def _without_one(self, members: Float[Tensor, "g m r"]) -> tuple[Float[Tensor, "g m"], Float[Tensor, "g m r"]]:
        """Of each group without one slot: the sum of its n largest, and the n-th largest (0 if there are fewer)."""
        left = self.m - 1
        slots = [[b for b in range(self.m) if b != a] for a in range(self.m)]
        if self.n > left:  # n == m: nothing competes
            return members.sum(2).sum(1, keepdim=True) - members.sum(2), torch.zeros_like(members)
        if not left:
            return members.new_zeros(len(members), 1), torch.zeros_like(members)
        top = members[:, torch.tensor(slots)].topk(self.n, dim=2).values
        return top.sum((2, 3)), top[:, :, -1]

    def _renew_twos(self, changed: Tensor, members: Tensor, everything: Tensor) -> None:
        assert self.two is not None
        high, low = _pairs(members)
        all_high, all_low = _pairs(everything.unflatten(0, (self.count, self.m)))
        flat = [t.flatten(0, 1) for t in (high, low, all_high, all_low)]
        sums = [t.sum(1) for t in flat]
        corrections = _positive(flat[1], sums[1], flat[2]) + _positive(flat[3], sums[3], flat[0]).t()
        gains = (sums[0][:, None] + sums[2][None] + corrections).reshape(len(changed), 6, self.count, 6)
        self.two[changed] = gains
        self.two[:, :, changed] = gains.permute(2, 3, 0, 1)

    def _gains(self) -> tuple[Float[Tensor, "g g"], Tensor]:
        """What the best exchange between two groups wins, and which it is."""
        now = self.group_kept[:, None] + self.group_kept[None]
        single = (self.ones + self.ones.permute(2, 3, 0, 1)).permute(0, 2, 1, 3).flatten(2)
        if self.free < self.m:
            slots = torch.arange(self.m) >= self.free
            single = single.unflatten(2, (self.m, self.m))
            single[-1, :, slots] = -torch.inf
            single[:, -1, :, slots] = -torch.inf
            single = single.flatten(2)
        options = [single]
        if self.two is not None:
            # Pair p of group i goes to group j for its pair q: i keeps the rest of p, and gets q.
            both = self.two[:, _OTHER] + self.two[:, :, :, _OTHER]
            both = both.permute(0, 2, 1, 3).flatten(2)
            if self.free < self.m:
                both[-1], both[:, -1] = -torch.inf, -torch.inf
            options.append(both)
        best, kind = torch.cat(options, 2).max(2)
        gain = best - now
        gain.fill_diagonal_(-torch.inf)
        return gain, kind

    def _apply(self, best: Tensor, at: Tensor, kind: Tensor) -> Int[Tensor, " k"]:
        """Make the best exchanges of disjoint pairs of groups; the groups that changed."""
        changed: list[int] = []
        taken: set[int] = set()
        for i in best.argsort(descending=True).tolist():
            j = int(at[i])
            if best[i] <= self._rounding(i):
                break
            if i in taken or j in taken:
                continue
            self._exchange(i, j, int(kind[i, j]))
            taken |= {i, j}
            changed += [i, j]
        return torch.tensor(sorted(changed), dtype=torch.long)

    def _exchange(self, i: int, j: int, option: int) -> None:
        """Exchange columns of two groups: slot a for slot b, or pair p for pair q."""
        order = self.order.reshape(self.count, self.m)
        if option < self.m**2:
            a, b = divmod(option, self.m)
            order[i, a], order[j, b] = order[j, b].clone(), order[i, a].clone()
        else:
            p, q = divmod(option - self.m**2, 6)
            here, there = _PAIRS[p], _PAIRS[q]
            order[i, here], order[j, there] = order[j, there].clone(), order[i, here].clone()


def _pairs(members: Float[Tensor, "g 4 r"]) -> tuple[Float[Tensor, "g 6 r"], Float[Tensor, "g 6 r"]]:
    """The larger and the smaller of every pair of columns, row by row."""
    first, second = members[:, _PAIRS[:, 0]], members[:, _PAIRS[:, 1]]
    return torch.maximum(first, second), torch.minimum(first, second)


def _positive(a: Float[Tensor, "p r"], sums: Float[Tensor, " p"], b: Float[Tensor, "q r"]) -> Float[Tensor, "p q"]:
    """Sums over rows of max(0, a - b) for every a and b."""
    distance = torch.cdist(a, b, p=1.0)
    return 0.5 * (distance + sums[:, None] - b.sum(1)[None])
