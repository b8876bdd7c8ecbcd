"""What a ticket must beat to be one: its mask on new weights, and other masks with as many weights (arXiv 1803.03635;
the sanity checks of Frankle et al. 2021, arXiv 2009.08576, and Su et al. 2020, arXiv 2009.11094).
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.patterns import keep_counts
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.runtime import seeds
from weightspace.tickets.finder import rewind_of, start_from
from weightspace.training.conversion import initial


@dataclass(frozen=True)
class Controls:
    """Starts for training, each with exactly as many weights as the ticket. Give them to `weightspace.train`.

    BatchNorm's statistics start anew. `train` goes through the data in a new order: compare controls with `rewound` tickets
    trained the same way, as a finder trains its tickets in the order that their masks were found in.

    Args:
        tickets: as a finder returns them, with the weights to train from in `extras["rewind"]`.
        seed: of the new initialisation and the shuffles.

    Raises:
        InputError: the tickets have no rewind weights.
    """

    tickets: Collection
    seed: int = 0

    def __post_init__(self) -> None:
        rewind_of(self.tickets)

    def rewound(self) -> Collection:
        """The tickets themselves, before they were trained."""
        return self._start(self.tickets.masks)

    def reinitialised(self) -> Collection:
        """The tickets' masks on a new initialisation of the architecture."""
        records = [{"seed": seeds.derive(self.seed, "re-initialised", i)} for i in range(len(self.tickets))]
        new = initial(self.tickets.architecture, records)
        return start_from(self.tickets, new.weights, self.tickets.masks)

    def shuffled(self) -> Collection:
        """As many weights in each layer, at random places in it."""
        return self._start(moved_masks(self.tickets.masks, self.tickets.layout, self.seed, apart=True))

    def scattered(self) -> Collection:
        """As many weights in all, at random places in the network."""
        return self._start(moved_masks(self.tickets.masks, self.tickets.layout, self.seed, apart=False))

    def inverted(self, scores: Float[Tensor, "n d"]) -> Collection:
        """As many weights in each layer, those with the lowest scores.

        Args:
            scores: that the tickets were chosen by, such as `dense.weights.abs()`.
        """
        layout, masks = self.tickets.layout, self.tickets.masks
        if scores.shape != masks.shape:
            raise InputError(f"one score for each weight is needed, {tuple(masks.shape)}, got {tuple(scores.shape)}")
        weights = [entry for entry in layout.parameters if entry.role == "weight"]
        rows: list[Tensor] = []
        for mask, score in zip(masks, scores, strict=True):
            counts = [int(mask[layout.slices[entry.name]].sum()) for entry in weights]
            rows.append(keep_counts(-score, layout, counts))
        return self._start(torch.stack(rows))

    def _start(self, masks: Tensor) -> Collection:
        return start_from(self.tickets, rewind_of(self.tickets), masks)


def moved_masks(masks: Bool[Tensor, "n d"], layout: Layout, seed: int, *, apart: bool) -> Bool[Tensor, "n d"]:
    """Masks with as many weights elsewhere.

    Args:
        apart: as many in each layer; else only as many in all.
    """
    places = torch.arange(layout.size)
    groups = [places[layout.slices[entry.name]] for entry in layout.parameters if entry.role == "weight"]
    groups = groups if apart else [torch.cat(groups)]
    masks = masks.clone()
    for i, row in enumerate(masks):
        random = seeds.generator(seed, "shuffled masks", i)
        for group in groups:
            row[group] = row[group][torch.randperm(len(group), generator=random)]
    return masks
