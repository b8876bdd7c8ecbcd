"""Early-Bird tickets (You et al. 2020, arXiv 1909.11957): channels that can go are known after a few epochs."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.patterns import check_density
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.runtime import checks
from weightspace.storage.spelling import Spelling, spelled
from weightspace.symmetry import Group, Symmetry, trace
from weightspace.tasks.arguments import check_run
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task
from weightspace.tickets.finder import SearchBlock, SearchResult, Starts, recipe_length, search


@dataclass(frozen=True)
class EarlyBird:
    """Train with a penalty on BatchNorm's scales, draw the channels with the largest as soon as they have settled,
    train on.

    Each epoch proposes the channels with the largest |gamma|; a network's ticket is drawn when the newest proposal
    differs from each of the last few in less than `max_mask_distance` of the channels, or at the latest before the last
    epoch. Rows and columns of the other channels are pruned, so that `weightspace.sparse.compact` makes the
    network physically smaller. One channel of every layer stays; channels without BatchNorm stay, as do those of
    wirings that cannot be traced.

    Args:
        density: Fraction of the channels kept, in (0, 1].
        max_mask_distance: Fraction of the channels in which two proposals of a settled network may differ.
        history: Number of proposals that the newest is compared with.
        penalty: Factor of the sum of |gamma| in the loss, until the ticket is drawn.

    Raises:
        InputError: A setting lies outside its range.
    """

    density: float = 0.5
    max_mask_distance: float = 0.1
    history: int = 5
    penalty: float = 1e-4

    starts: ClassVar[Starts] = "either"
    spelling: ClassVar[Spelling] = Spelling(
        "EarlyBird", {"density": "channels", "max_mask_distance": "distance", "history": "memory"}
    )

    def __post_init__(self) -> None:
        checks.settle(self, check_density, "density")
        checks.settle(self, checks.fraction, "max_mask_distance")
        checks.settle(self, checks.count, "history", at_least=1)
        checks.settle(self, checks.number, "penalty", at_least=0)

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """A narrower trained network for each; records say in which epoch it was drawn.

        Args:
            networks: Networks whose seeds give the initialisations, their own weights are not used; or starts, such as
                imported networks, which are taken as they are.
            task: Task to train on.
            folder: Folder to write to as a resumable run; None keeps everything in memory.
            device: Device to train on.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: No hidden units are followed by BatchNorm, or a record has no seed.
        """
        check_run(networks, task, folder, device)
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        require_samples(task, "EarlyBird")
        architecture = task.architecture.following(networks.layout)
        symmetry = trace(architecture.build_seeded(0).eval(), task.train.head(2).x, fix_unknown=True)
        groups = [group for group in symmetry.groups if _scales(group, symmetry.layout)]
        if not groups:
            raise InputError(
                f"{task.architecture.name} has no hidden channels with BatchNorm, whose scales rank them: use IMP with "
                "pattern=Channels(...) instead"
            )
        per_epoch, length = task.recipe.per_epoch(len(task.train)), recipe_length(task)
        if length < 2 * per_epoch:
            raise InputError(
                f"early-bird tickets are drawn between epochs: train for two at least, got {task.recipe.length}"
            )

        def find(block: SearchBlock) -> SearchResult:
            trainer = block.trainer(block.start)
            l1 = torch.zeros(trainer.layout.size, device=trainer.weights.device)
            for group in groups:
                for name in _scales(group, trainer.layout):
                    l1[trainer.layout.slices[name]] = self.penalty
            # Proposals are made of weights at the ends of epochs, so that an interrupted search starts anew.
            draws = _Draws(self, symmetry, groups, len(trainer.weights))
            while trainer.step < length:
                waiting = torch.tensor([epoch is None for epoch in draws.epochs], device=l1.device)
                trainer.penalise(l1 * waiting[:, None] if draws.waiting else None)
                trainer.run(min(length, (trainer.step // trainer.per_epoch + 1) * trainer.per_epoch), block.tick)
                last = trainer.step + trainer.per_epoch >= length
                if draws.waiting and draws.look(trainer.weights.cpu(), trainer.step // trainer.per_epoch, last=last):
                    trainer.prune(draws.masks.to(trainer.weights.device))
            notes = [{"drawn_in_epoch": epoch} for epoch in draws.epochs]
            return SearchResult(trainer, block.start.weights, notes)

        return search(
            networks,
            task,
            find,
            method=self._method(),
            ticks=length,
            what=f"early-bird tickets of {len(networks)} networks",
            folder=folder,
            device=device,
            starts=self.starts,
        )

    def _method(self) -> dict[str, Any]:
        return {"name": "EarlyBird", **spelled(self)}


class _Draws:
    """Proposals so far, and the tickets that were drawn."""

    def __init__(self, config: EarlyBird, symmetry: Symmetry, groups: list[Group], count: int) -> None:
        self.config, self.symmetry, self.groups = config, symmetry, groups
        self.masks = torch.ones(count, symmetry.layout.size, dtype=torch.bool)
        self.epochs: list[int | None] = [None] * count
        self._seen: list[list[Tensor]] = [[] for _ in range(count)]

    @property
    def waiting(self) -> bool:
        return None in self.epochs

    def look(self, weights: Float[Tensor, "n d"], epoch: int, *, last: bool) -> bool:
        """Propose channels of each network that has no ticket; True if one was drawn."""
        drawn = False
        for i, row in enumerate(weights):
            if self.epochs[i] is not None:
                continue
            kept = channels(row, self.symmetry, self.groups, self.config.density)
            newest, seen = torch.cat(list(kept.values())), self._seen[i]
            settled = len(seen) == self.config.history and all(
                (newest != one).double().mean() < self.config.max_mask_distance for one in seen
            )
            if settled or last:
                self.masks[i] = unit_mask(self.symmetry, kept)
                self.epochs[i] = epoch
                drawn = True
            self._seen[i] = [*seen, newest][-self.config.history :]
        return drawn


def channels(
    weights: Float[Tensor, " d"], symmetry: Symmetry, groups: list[Group], density: float
) -> dict[str, Bool[Tensor, " units"]]:
    """The channels with the largest |gamma| over all groups (of several scales the largest), at least one of each.

    Args:
        weights: Weights of one network.
        symmetry: Symmetry of the architecture.
        groups: Groups of channels with BatchNorm.
        density: Fraction of all channels kept.
    """
    scores: list[Tensor] = []
    for group in groups:
        own = [weights[symmetry.layout.slices[name]].abs() for name in _scales(group, symmetry.layout)]
        scores.append(torch.stack(own).amax(0))
    # The best channel of each group comes first.
    protected = [s.index_fill(0, s.argmax(keepdim=True), torch.inf) for s in scores]
    together = torch.cat(protected)
    count = max(len(groups), round(density * len(together)))
    mask = torch.zeros(len(together), dtype=torch.bool)
    mask[together.topk(count).indices] = True
    return dict(zip([g.name for g in groups], mask.split([len(s) for s in scores]), strict=True))


def unit_mask(symmetry: Symmetry, kept: dict[str, Bool[Tensor, " units"]]) -> Bool[Tensor, " d"]:
    """The mask without rows and columns of all other units.

    Args:
        symmetry: Symmetry of the architecture.
        kept: True for each unit that is kept, by the name of its group.
    """
    layout = symmetry.layout
    mask = torch.ones(layout.size, dtype=torch.bool)
    tensors = layout.tensors(mask)
    weights = {entry.name for entry in layout.weights}
    for group in symmetry.groups:
        for axis in group.axes if group.name in kept else ():
            if axis.tensor in weights:
                gone = symmetry.places[group.name, axis][~kept[group.name]].flatten()
                tensors[axis.tensor].movedim(axis.axis, 0)[gone] = False
    return mask


def _scales(group: Group, layout: Layout) -> list[str]:
    """Names of the BatchNorm scales of a group's units."""
    if group.parent is not None:
        return []
    entries = {entry.name: entry for entry in layout.parameters}
    own = [entries[axis.tensor] for axis in group.incoming if axis.tensor in entries and axis.index is None]
    norms = {b.name.rpartition(".")[0] for b in layout.buffers if b.name.endswith("running_var")}
    scales = [e.name for e in own if e.role == "norm" and e.name.endswith("weight")]
    return [name for name in scales if name.rpartition(".")[0] in norms]
