"""What a flow is trained on: pairs of noise and codes, points on the paths between them, and conditions."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from weightspace.flow.path import linear_path, pair
from weightspace.flow.velocity import with_presence

Pairs = tuple[Tensor, Tensor, Tensor, Tensor]
"""Which codes (b,), and t (b, 1), x_t and dx_t (b, K) on the paths to them."""


@dataclass(frozen=True)
class TrainingPairs:
    """Draws training pairs.

    Args:
        codes: All codes, divided by their scale, (N, K).
        conditions: Conditions of the codes, (N, C), NaN where unknown.
        groups: Condition that each of the C numbers belongs to, (C,).
        source_std: Standard deviation of the noise x_0.
        path_noise_std: Standard deviation of noise added to x_t.
        condition_dropout: Chance that a condition is hidden.
        optimal: Whether noise and codes are paired at the least total squared distance.
    """

    codes: Float[Tensor, "n k"]
    conditions: Float[Tensor, "n c"] | None
    groups: Int[Tensor, " c"]
    source_std: float
    path_noise_std: float
    condition_dropout: float
    optimal: bool

    @staticmethod
    def groups_of(widths: Sequence[int] | None, numbers: int) -> Int[Tensor, " c"]:
        """Condition that each number belongs to.

        Args:
            widths: Neighbouring numbers in each condition; None is one number each.
            numbers: All numbers.
        """
        each = torch.tensor(widths or [1] * numbers, dtype=torch.long)
        return torch.arange(len(widths or range(numbers))).repeat_interleave(each)

    def draw(self, among: Tensor, count: int, random: torch.Generator) -> Pairs:
        """Pairs of noise and codes.

        Args:
            among: Indices of the codes to draw from.
            count: Number of pairs.
            random: Source of the random numbers.
        """
        chosen = among[torch.randint(len(among), (count,), generator=random)]
        x_0 = torch.randn(len(chosen), self.codes.shape[1], generator=random) * self.source_std
        t = torch.rand(len(chosen), 1, generator=random)
        if self.optimal:
            chosen = chosen[pair(x_0, self.codes[chosen])]
        x_t, dx_t = linear_path(x_0, self.codes[chosen], t)
        if self.path_noise_std:
            x_t = x_t + self.path_noise_std * torch.randn(x_t.shape, generator=random)
        return chosen, t, x_t, dx_t

    def known(self, chosen: Tensor, random: torch.Generator) -> Float[Tensor, "b twice"] | None:
        """Conditions of drawn codes as the field sees them in training, some of them hidden; None without conditions.

        Args:
            chosen: Indices of the codes, (b,).
            random: Source of the random numbers.
        """
        if self.conditions is None:
            return None
        rows = self.conditions[chosen]
        # One coin for each condition, and one more for all of them: guidance and open conditions need the field
        # that knows nothing, which the first coins alone would hardly ever train.
        coins = torch.rand(len(rows), int(self.groups.max()) + 2, generator=random) < self.condition_dropout
        hidden = coins[:, :-1][:, self.groups] | coins[:, -1:]
        return with_presence(rows.masked_fill(hidden, math.nan))
