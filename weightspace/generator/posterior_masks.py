"""Generate posteriors: codes of means, standard deviations, and gates that come from a Bayesian score."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.generator.mask_rules import MASK_RULES
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.networks.record import Extra
from weightspace.runtime import checks
from weightspace.storage.spelling import Spelling

STD = Extra.STD  # the extra that holds standard deviations, as in weightspace.bayes


@dataclass(frozen=True)
class PosteriorMask:
    """Learn from sparse mean-field posteriors; samples are sparse posteriors too, with the extra "std".

    Beside each mean go its log standard deviation and a gate: -1 where the weight is pruned, between 0 and 1 where it
    is kept, by the rank of |mu| / sigma among the kept weights. Decoded gates rank the weights of a sample, so that
    what the posteriors were certain of is kept first.

    Args:
        gates: Share of the total variance that the gates have, in (0, 1).
        spread: Share that the log standard deviations have, in (0, 1); the rest is the means'.

    Raises:
        InputError: A share is none, or they leave nothing to the means.
    """

    gates: float = 0.4
    spread: float = 0.1

    spelling: ClassVar[Spelling] = Spelling("Posteriors")
    rescaled: ClassVar[tuple[str, ...]] = (STD,)

    def __post_init__(self) -> None:
        checks.settle(self, checks.number, "gates", "spread", above=0, below=1)
        if not self.gates + self.spread < 1:
            raise InputError(
                f"the shares of gates and spread must be positive and leave some to the means, got {self.gates} and "
                f"{self.spread}"
            )

    def check(self, tickets: Collection) -> None:
        """Raise InputError if the tickets are no sparse posteriors.

        Args:
            tickets: Tickets of the fit.
        """
        if STD not in tickets.extras:
            raise InputError(
                f'posteriors have the extra "{STD}": train them with bayes.Variational, or use MagnitudeMask()'
            )
        if tickets.dense:
            raise InputError("gates code which weights a posterior keeps, and these are dense: use sparse ones")

    def fit(self, tickets: Collection) -> "FittedPosteriorMask":
        self.check(tickets)
        random = (tickets.extras[STD] > 0).any(0)
        unit = FittedPosteriorMask(tickets.layout, 1.0, 1.0, random)
        parts = unit.vectors(tickets).split(unit.sizes, dim=1)
        means, gates, spread = (part.var(0).sum().item() for part in parts)
        if not (gates > 0 and spread > 0 and means > 0):
            raise InputError("all posteriors are alike: there is no distribution to learn")
        rest = means / (1 - self.gates - self.spread)
        scales = (rest * self.gates / gates) ** 0.5, (rest * self.spread / spread) ** 0.5
        return FittedPosteriorMask(tickets.layout, *scales, random)


@MASK_RULES.register("posteriors")
@dataclass(frozen=True)
class FittedPosteriorMask:
    """`PosteriorMask` of a collection.

    Args:
        layout: Layout of the networks.
        gate: Size of a gate in the vectors.
        spread: Size of a unit of a log standard deviation in the vectors.
        random: Which parameters have a posterior, (D,); norm layers have none.
    """

    layout: Layout
    gate: float
    spread: float
    random: Bool[Tensor, " d"]

    def __post_init__(self) -> None:
        if not (self.gate > 0 and self.spread > 0):
            raise InputError(f"sizes in the vectors must be positive, got gate={self.gate}, spread={self.spread}")

    @property
    def sizes(self) -> list[int]:
        """Columns of the means, the gates and the log standard deviations in the vectors."""
        return [self.layout.size, self.layout.num_prunable, self.layout.size]

    def vectors(self, tickets: Collection) -> Float[Tensor, "n m"]:
        mu, std, masks = tickets.weights, tickets.extras[STD], tickets.masks
        prunable = self.layout.prunable
        # Parameters without a posterior (pruned, deterministic) get their network's mean, which says nothing.
        live = std > 0
        logs = torch.where(live, std.clamp(min=torch.finfo(std.dtype).tiny).log(), torch.zeros_like(std))
        logs = torch.where(live, logs, logs.sum(1, keepdim=True) / live.sum(1, keepdim=True).clamp(min=1))
        certain = (mu.abs() / logs.exp()).masked_fill(~masks, -1.0)[:, prunable]
        rank = certain.argsort(1).argsort(1).to(mu.dtype)
        pruned = (~masks[:, prunable]).sum(1, keepdim=True)
        kept = (rank - pruned + 1) / masks[:, prunable].sum(1, keepdim=True)
        gates = torch.where(masks[:, prunable], kept, -torch.ones_like(kept))
        return torch.cat([mu, gates * self.gate, logs * self.spread], dim=1)

    def split(self, vectors: Float[Tensor, "n m"]) -> tuple[Float[Tensor, "n d"], Float[Tensor, "n d"]]:
        values, gates, _ = vectors.split(self.sizes, dim=1)
        at = self.layout.prunable.nonzero()[:, 0].to(gates.device)
        return values, torch.zeros_like(values).index_copy(1, at, gates / self.gate)

    def extras(self, vectors: Float[Tensor, "n m"], masks: Tensor) -> dict[str, Tensor]:
        """Standard deviations of the weights that are kept, (n, D), as the extra "std".

        Args:
            vectors: Decoded vectors, (n, M).
            masks: Masks of the samples, (n, D).
        """
        return {STD: (vectors[:, -self.layout.size :] / self.spread).exp() * (masks & self.random)}
