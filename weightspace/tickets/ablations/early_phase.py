"""What a ticket needs of the first steps of training, and what it is worth on another task.

Rewind weights are perturbed as by Frankle et al. 2020 ("The early phase of neural network training", arXiv 2002.10365);
tickets move to other tasks as by Morcos et al. 2019 ("One ticket to win them all", arXiv 1906.02773).
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError, LayoutMismatch
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.record import Extra
from weightspace.runtime import checks, seeds
from weightspace.tasks.arguments import check_task
from weightspace.tasks.task import Task
from weightspace.tickets.finder import rewind_of, start_from
from weightspace.training.conversion import initial


@dataclass(frozen=True)
class EarlyPhase:
    """Starts for training: tickets whose rewind weights are changed. Give them to `weightspace.train`.

    Every method takes tickets as a finder returns them, with the weights to train from in `extras["rewind"]`, and
    raises InputError without these.

    Args:
        seed: Seed of the permutations and of the noise.
    """

    seed: int = 0

    def __post_init__(self) -> None:
        checks.settle(self, checks.seed, "seed")

    def signs_of(self, tickets: Collection, weights: Float[Tensor, "n d"]) -> Collection:
        """The rewind weights' magnitudes with other weights' signs, such as those of the initialisation."""
        rewind = rewind_of(tickets)
        return start_from(tickets, rewind.abs() * _prunable_of(weights, tickets).sign(), tickets.masks)

    def magnitudes_of(self, tickets: Collection, weights: Float[Tensor, "n d"]) -> Collection:
        """The rewind weights' signs with other weights' magnitudes."""
        rewind = rewind_of(tickets)
        return start_from(tickets, rewind.sign() * _prunable_of(weights, tickets).abs(), tickets.masks)

    def permuted(
        self, tickets: Collection, within: Literal["filter", "layer", "network"], *, same_sign: bool = False
    ) -> Collection:
        """Kept weights change places with each other.

        Args:
            tickets: Tickets as a finder returns them.
            within: Weights of one output unit (filter), of one layer or of the whole network change places.
            same_sign: Positive weights change places among themselves, and negative ones among themselves.

        Raises:
            InputError: The tickets have no rewind weights, or `within` is another word.
        """
        if within not in ("filter", "layer", "network"):
            raise InputError(f"weights are permuted within a filter, a layer or the network, got {within!r}")
        layout, rows = tickets.layout, rewind_of(tickets).clone()
        places = torch.arange(layout.size)
        groups = [places[layout.slices[e.name]].reshape(e.shape[0], -1) for e in layout.weights]
        parts = [group.flatten() for group in groups]
        if within == "filter":
            parts = [row for group in groups for row in group]
        elif within == "network":
            parts = [torch.cat(parts)]
        for i, (row, mask) in enumerate(zip(rows, tickets.masks, strict=True)):
            random = seeds.generator(self.seed, "permuted weights", i)
            before = row.clone()
            for part in parts:
                kept = part[mask[part]]
                sides = (kept[before[kept] < 0], kept[before[kept] >= 0]) if same_sign else (kept,)
                for side in sides:
                    row[side] = before[side[torch.randperm(len(side), generator=random)]]
        return start_from(tickets, rows, tickets.masks)

    def noisy(self, tickets: Collection, scale: float) -> Collection:
        """Normal noise on every kept weight.

        Args:
            tickets: Tickets as a finder returns them.
            scale: Standard deviation of the noise, in standard deviations of the layer's initialisation.

        Raises:
            InputError: The tickets have no rewind weights, or the scale is negative.
        """
        if scale < 0:
            raise InputError(f"the scale of noise is not negative, got {scale}")
        layout, rows = tickets.layout, rewind_of(tickets).clone()
        first = initial(tickets.architecture, tickets.records).weights
        for i, row in enumerate(rows):
            random = seeds.generator(self.seed, "noise on rewind weights", i)
            for entry in layout.weights:
                at = layout.slices[entry.name]
                row[at] += scale * first[i, at].std() * torch.randn(entry.size, generator=random)
        return start_from(tickets, rows, tickets.masks)


def _prunable_of(weights: Tensor, tickets: Collection) -> Tensor:
    """Other weights at the prunable positions; biases and norms stay those of the rewind point."""
    rewind = rewind_of(tickets)
    if weights.shape != rewind.shape:
        raise InputError(
            f"other weights must have the tickets' shape {tuple(rewind.shape)}, got {tuple(weights.shape)}"
        )
    return torch.where(tickets.layout.prunable, weights, rewind)


def transfer(tickets: Collection, task: Task, *, seed: int = 0) -> Collection:
    """Tickets as starts on another task: masks and rewind weights, with a new output layer.

    For another optimiser on the same data, train `TicketControls().rewound(tickets)` on the task with the other recipe.

    Args:
        tickets: Tickets as a finder returns them.
        task: Task whose network differs in the output layer at most.
        seed: Seed of the new output layers. They keep the ticket's mask where the shape is the same, and are dense
            elsewhere.

    Raises:
        InputError: The tickets have no rewind weights.
        LayoutMismatch: Another tensor than the output layer's has another shape.
    """
    check_networks(tickets, "tickets")
    check_task(task)
    checks.seed(seed)
    rewind = rewind_of(tickets)
    records = [
        record | {"task": task.name, "recipe": task.recipe.to_json(), "from_task": record.get("task")}
        for record in tickets.records
    ]
    new = initial(task.architecture, [{"seed": seeds.derive(seed, "transferred", i)} for i in range(len(tickets))])
    source, target = tickets.layout, new.layout
    old = {entry.name: entry for entry in source.parameters}
    output = [entry.name for entry in target.weights][-1].rpartition(".")[0]
    names = [{e.name for e in layout.parameters} for layout in (source, target)]
    if names[0] != names[1]:
        other = min(names[0] ^ names[1])
        raise LayoutMismatch(
            f"tensor {other!r} is in one of the two networks only: tickets move between networks that differ in the "
            "shape of the output layer at most"
        )
    weights, masks = new.weights.clone(), torch.ones(new.weights.shape, dtype=torch.bool)
    for entry in target.parameters:
        at, is_output = target.slices[entry.name], entry.name.rpartition(".")[0] == output
        same = old[entry.name].shape == entry.shape
        if not same and not is_output:
            found = f"has {old[entry.name].shape} there"
            raise LayoutMismatch(
                f"tensor {entry.name!r} of task {task.name!r} has shape {entry.shape}, the tickets' network {found}: "
                "only the output layer may differ"
            )
        if same:
            masks[:, at] = tickets.masks[:, source.slices[entry.name]]
            if not is_output:
                weights[:, at] = rewind[:, source.slices[entry.name]]
    return new.replace(weights=weights * masks, masks=masks, extras={Extra.REWIND: weights}, records=records)
