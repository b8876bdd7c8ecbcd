"""Codes that refinement draws from: made once by the flow, as it is fixed and dear to follow."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.flow.flow_matching import FittedFlow
from weightspace.generator.conditions import Conditions, density_for_generators
from weightspace.masks.patterns import Pattern
from weightspace.runtime import seeds

_STOCK = 4096  # codes that are drawn once, for all steps


def of_length(codes: Float[Tensor, "n k"], length: float | None) -> Float[Tensor, "n k"]:
    """Codes (n, K) in their own directions, all of one length.

    Args:
        codes: Codes of the flow, (n, K).
        length: Length of the results; None leaves the codes.
    """
    return codes if length is None else length * torch.nn.functional.normalize(codes)


class CodeStock:
    """A stock of codes for each pattern.

    A linear decoder with fewer components than the stock has codes cannot memorise single ones.

    Args:
        flow: Flow that makes the codes.
        conditions: Conditions of the flow; of these a pattern's density is given, the others are left open.
        patterns: Patterns that samples are pruned by.
        length: Length that codes are brought to; None leaves them.
        networks: Codes in each draw.
        seed: Seed of the refinement.
        device: Device that the codes are made on.
    """

    def __init__(
        self,
        flow: FittedFlow,
        conditions: Conditions,
        patterns: Sequence[Pattern],
        length: float | None,
        networks: int,
        seed: int,
        device: str = "cpu",
    ) -> None:
        self.flow, self.conditions, self.patterns = flow, conditions, patterns
        self.length, self.networks, self.seed, self.device = length, networks, seed, device
        self._codes: dict[int, Tensor] = {}

    def draw(self, random: torch.Generator) -> tuple[Float[Tensor, "n k"], int]:
        """Codes of one step, (networks, K), and the index of the pattern they are pruned by.

        Args:
            random: Random numbers of the step.
        """
        which = int(torch.randint(len(self.patterns), (), generator=random))
        codes = self.codes(which)
        return codes[torch.randperm(len(codes), generator=random)[: self.networks]], which

    def codes(self, which: int) -> Float[Tensor, "s k"]:
        """All codes of a pattern, made when they are first needed.

        Args:
            which: Index of the pattern.
        """
        if which not in self._codes:
            size = max(_STOCK, self.networks)
            x_0 = torch.randn(size, self.flow.codes, generator=seeds.generator(self.seed, "refinement codes", which))
            rows = self.conditions.rows(None, size, density_for_generators(self.patterns[which]))
            codes = self.flow.integrate((x_0 * self.flow.config.source_std).to(self.device), conditions=rows)
            self._codes[which] = of_length(codes, self.length)
        return self._codes[which]
