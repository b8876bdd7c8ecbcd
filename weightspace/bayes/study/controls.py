"""Controls of Bayesian tickets: masks and starting points that a ticket must do better than."""

from dataclasses import dataclass

from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.bayes.inference.network import initial_std
from weightspace.bayes.variational import STD
from weightspace.masks.patterns import Pattern
from weightspace.masks.schedule import part_of
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.networks.record import Extra
from weightspace.runtime import seeds
from weightspace.tickets.ablations.controls import moved_masks
from weightspace.training.conversion import redrawn


@dataclass(frozen=True)
class StudyControls:
    """Starting points for variational training, each with exactly as many weights as the ticket.

    Args:
        seed: Seed of the shuffles and of the new initialisation.
        std: Standard deviations at the start, in units of 1 / sqrt(fan-in).
        pattern: Pattern of the tickets; of a selection of tensors (`Only`, `Except`) weights are moved between those
            that it selects. None moves them in the whole network.
    """

    seed: int = 0
    std: float = 0.01
    pattern: Pattern | None = None

    def reinitialised(self, tickets: Collection, start: Collection) -> Collection:
        """The tickets' masks on a new initialisation.

        Args:
            tickets: Posteriors that a search returned.
            start: The dense networks at the rewind point, where the search of the tickets started.
        """
        records = [{"seed": seeds.derive(self.seed, "re-initialised", i)} for i in range(len(tickets))]
        weights = redrawn(tickets.architecture, records).weights
        # A new initialisation has initial standard deviations.
        return _under(tickets, start, tickets.masks, weights, self._initial_std(tickets))

    def shuffled(self, tickets: Collection, start: Collection) -> Collection:
        """Masks that keep as many weights in each layer, at random places in it.

        Args:
            tickets: Posteriors that a search returned.
            start: The dense networks at the rewind point; the extra "std", if they have it, is where training starts.
        """
        return self._moved(tickets, start, apart=True)

    def globally_shuffled(self, tickets: Collection, start: Collection) -> Collection:
        """Masks that keep as many weights in all, at random places in the whole network.

        Args:
            tickets: Posteriors that a search returned.
            start: The dense networks at the rewind point; the extra "std", if they have it, is where training starts.
        """
        return self._moved(tickets, start, apart=False)

    def _moved(self, tickets: Collection, start: Collection, *, apart: bool) -> Collection:
        layout = tickets.layout if self.pattern is None else part_of(self.pattern, tickets.layout)
        masks = moved_masks(tickets.masks, layout, self.seed, apart=apart)
        std = start.extras.get(STD)
        return _under(tickets, start, masks, start.weights, self._initial_std(tickets) if std is None else std)

    def _initial_std(self, tickets: Collection) -> Float[Tensor, "n d"]:
        module = tickets.architecture.build_seeded(0)
        return initial_std(module, Layout.of(module), self.std).expand(len(tickets), -1)


def _under(
    tickets: Collection, start: Collection, masks: Bool[Tensor, "n d"], weights: Tensor, std: Tensor
) -> Collection:
    """Networks with these weights and standard deviations under these masks."""
    extras = {STD: std * masks, Extra.REWIND: weights * masks}
    return tickets.replace(weights=weights * masks, masks=masks, buffers=start.buffers, extras=extras)
