"""Controls that a ticket must beat: its mask on new weights, and other masks with as many weights.

Frankle & Carbin 2019 (arXiv 1803.03635), and the sanity checks of Frankle et al. 2021 (arXiv 2009.08576) and Su et al.
2020 (arXiv 2009.11094).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern, check_pattern, keep_counts
from weightspace.masks.schedule import part_of
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.runtime import checks, seeds
from weightspace.tickets.finder import rewind_of, start_from
from weightspace.training.conversion import redrawn


@dataclass(frozen=True)
class TicketControls:
    """Starts for training, each with exactly as many weights as the ticket. Give them to `weightspace.train`.

    Every method takes tickets as a finder returns them, with the weights to train from in `extras["rewind"]`, and
    raises InputError without these. BatchNorm's statistics start anew. `train` goes through the data in a new order:
    compare controls with `rewound` tickets trained the same way, as a finder trains its tickets in the order that
    their masks were found in.

    Args:
        seed: Seed of the new initialisations and of the shuffles.
        pattern: Pattern of the tickets; of a selection of tensors (`Only`, `Except`) weights are moved between those
            that it selects, and of pre-trained networks only the selected tensors are drawn anew. None is the whole
            network.
    """

    seed: int = 0
    pattern: Pattern | None = None

    def __post_init__(self) -> None:
        checks.settle(self, checks.seed, "seed")
        checks.settle_given(self, check_pattern, "pattern")

    def rewound(self, tickets: Collection) -> Collection:
        """The tickets themselves, before they were trained."""
        return start_from(tickets, rewind_of(tickets), tickets.masks)

    def reinitialised(self, tickets: Collection) -> Collection:
        """The tickets' masks on a new initialisation of the architecture, which forgets what was pre-trained."""
        return self._redrawn(tickets, tickets.masks)

    def random(self, tickets: Collection) -> Collection:
        """Random sparse networks: a new initialisation, with as many weights in each layer at random places in it."""
        return self._redrawn(tickets, moved_masks(tickets.masks, tickets.layout, self.seed, apart=True))

    def _redrawn(self, tickets: Collection, masks: Bool[Tensor, "n d"]) -> Collection:
        """A new initialisation under these masks."""
        rewind = rewind_of(tickets)
        records = [{"seed": seeds.derive(self.seed, "re-initialised", i)} for i in range(len(tickets))]
        new = redrawn(tickets.architecture, records)
        if torch.equal(new.weights, rewind):
            raise InputError(
                f"{tickets.architecture.name} has the same weights whatever the seed, so that there is no other "
                "initialisation: use shuffled(), or give the tickets a factory without pre-trained weights"
            )
        if tickets.architecture.pretrained is not None and self.pattern is not None:
            selected = part_of(self.pattern, tickets.layout).prunable
            return start_from(tickets, torch.where(selected, new.weights, rewind), masks)
        return start_from(tickets, new.weights, masks, anew=True)

    def shuffled(self, tickets: Collection) -> Collection:
        """As many weights in each layer, at random places in it."""
        rewind = rewind_of(tickets)
        return start_from(tickets, rewind, moved_masks(tickets.masks, tickets.layout, self.seed, apart=True))

    def globally_shuffled(self, tickets: Collection) -> Collection:
        """As many weights in all, at random places in the network."""
        rewind = rewind_of(tickets)
        layout = tickets.layout if self.pattern is None else part_of(self.pattern, tickets.layout)
        return start_from(tickets, rewind, moved_masks(tickets.masks, layout, self.seed, apart=False))

    def inverted(self, tickets: Collection, scores: Float[Tensor, "n d"]) -> Collection:
        """As many weights in each layer, those with the lowest scores.

        Args:
            tickets: Tickets as a finder returns them.
            scores: Scores that the tickets were chosen by, such as `dense.weights.abs()`.

        Raises:
            InputError: The tickets have no rewind weights, or the scores have another shape than the masks.
        """
        rewind, layout, masks = rewind_of(tickets), tickets.layout, tickets.masks
        checks.tensor(scores, "scores", shape=masks.shape)
        if scores.dtype == torch.bool or scores.is_complex():
            raise checks.refuse("scores", "real numbers", scores)
        weights = layout.weights
        rows: list[Tensor] = []
        for mask, score in zip(masks, scores, strict=True):
            counts = [int(mask[layout.slices[entry.name]].sum()) for entry in weights]
            rows.append(keep_counts(-score, layout, counts))
        return start_from(tickets, rewind, torch.stack(rows))


def moved_masks(masks: Bool[Tensor, "n d"], layout: Layout, seed: int, *, apart: bool) -> Bool[Tensor, "n d"]:
    """Masks with as many weights at random places.

    Args:
        masks: Masks to count the weights of.
        layout: Layout of the networks, whose prunable weights are moved.
        seed: Seed of the places.
        apart: Keep as many weights in each layer; else only as many in all.
    """
    places = torch.arange(layout.size)
    groups = [places[layout.slices[entry.name]] for entry in layout.weights]
    groups = groups if apart else [torch.cat(groups)]
    masks = masks.clone()
    for i, row in enumerate(masks):
        random = seeds.generator(seed, "shuffled masks", i)
        for group in groups:
            row[group] = row[group][torch.randperm(len(group), generator=random)]
    return masks
