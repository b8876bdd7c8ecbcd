"""Masks and starts that a Bayesian ticket must beat to be one."""

from dataclasses import dataclass

from jaxtyping import Bool
from torch import Tensor

from weightspace.bayes.inference.network import initial_std
from weightspace.bayes.search import STD
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.runtime import seeds
from weightspace.tickets.ablations.controls import moved_masks
from weightspace.training.conversion import initial


@dataclass(frozen=True)
class Controls:
    """Starts for variational training, each with exactly as many weights as the ticket.

    Args:
        tickets: posteriors.
        start: where their search started from, dense, at the rewind point; its extra "std" if it has one.
        seed: of the shuffles and the new initialisation.
        std: standard deviations at the start, in units of 1 / sqrt(fan-in).
    """

    tickets: Collection
    start: Collection
    seed: int = 0
    std: float = 0.01

    def reinitialised(self) -> Collection:
        """The tickets' masks on a new initialisation."""
        records = [{"seed": seeds.derive(self.seed, "re-initialised", i)} for i in range(len(self.tickets))]
        return self._under(self.tickets.masks, initial(self.tickets.architecture, records).weights)

    def shuffled(self) -> Collection:
        """As many weights in each layer, elsewhere in it."""
        return self._under(moved_masks(self.tickets.masks, self.tickets.layout, self.seed, apart=True))

    def scattered(self) -> Collection:
        """As many weights in all, anywhere."""
        return self._under(moved_masks(self.tickets.masks, self.tickets.layout, self.seed, apart=False))

    def _under(self, masks: Bool[Tensor, "n d"], weights: Tensor | None = None) -> Collection:
        tickets, std = self.tickets, self.start.extras.get(STD)
        if weights is not None or std is None:  # a new initialisation has initial standard deviations
            module = tickets.architecture.build_seeded(0)
            std = initial_std(module, Layout.of(module), self.std).expand(masks.shape)
        weights = self.start.weights if weights is None else weights
        return tickets.replace(
            weights=weights * masks,
            masks=masks,
            buffers=self.start.buffers,
            extras={STD: std * masks, "rewind": weights * masks},
        )
