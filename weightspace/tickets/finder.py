"""What ticket finders share: the protocol, and one search that every finder runs through.

A finder outside the package is a frozen dataclass with a method `find` that calls `search` with a function which
finds the tickets of one block of networks; `search` does the rest: memory, devices, run folders, records.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern
from weightspace.masks.prunable import require_prunable
from weightspace.masks.schedule import count_of, part_of
from weightspace.networks.arguments import check_networks
from weightspace.networks.building import in_blocks
from weightspace.networks.collapse import warn_of_lost_layers
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.networks.record import Extra, Record
from weightspace.networks.starts import are_starts, share_a_start
from weightspace.runtime import devices
from weightspace.tasks.task import Task
from weightspace.tickets.embeddings import warn_of_embeddings
from weightspace.training.conversion import begin, finished, trainer_for
from weightspace.training.engine import Execution, block_size, choose_execution
from weightspace.training.trainer import Trainer


@runtime_checkable
class Finder(Protocol):
    """Finds a ticket in each of many networks; its settings are its fields."""

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """A ticket of each network, in their order: weights that are zero where its mask is, the mask, and a record.

        Args:
            networks: Networks of the task's architecture; what is used of them is said by each finder.
            task: Task to train on.
            folder: Folder to write to as a resumable run; None keeps everything in memory.
            device: Device to train on: "cpu", "cuda", or "auto" for the best there is.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: The networks do not fit the settings; see each finder.
        """
        ...


@runtime_checkable
class LevelFinder(Finder, Protocol):
    """A finder that comes to its tickets level by level."""

    def find_levels(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> list[Collection]:
        """The networks and their tickets of every level, the sparsest last, as `Finder.find` makes it.

        Args:
            networks: Networks of the task's architecture.
            task: Task to train on.
            folder: Folder with one resumable run for each level; None keeps everything in memory.
            device: Device to train on: "cpu", "cuda", or "auto" for the best there is.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: The networks do not fit the settings; see each finder.
        """
        ...


Starts = Literal["either", "networks", "seeds"]
"""Where a finder begins, its attribute `starts`: at starts (imported networks, `weightspace.starts`) as they are and
else at the initialisation of each network's seed ("either", which is assumed of finders without the attribute); at
the networks themselves, whatever they are ("networks"); or at the initialisation of seeds alone ("seeds"), so that it
refuses starts."""
FROM_STARTS = (
    "IMP, GradualPruning, PruneAtInit, DynamicSparseTraining, ContinuousSparsification, EarlyBird, "
    "EdgePopup(weights='initial'), bayes.GateSearch and bayes.BayesianIMP"
)
"""The finders that begin at starts, for messages."""


@dataclass(frozen=True)
class SearchBlock:
    """Networks that are searched together, and how.

    Args:
        rows: Positions of the networks among those of the whole search.
        networks: Networks to find tickets of.
        task: Task to train on.
        execution: Number of networks trained side by side, and of threads.
        device: Device to train on.
        tick: Function to call with the number of steps done since its last call.
        checkpoint: File to keep progress in; None for a search in memory.
    """

    rows: slice
    networks: Collection
    task: Task
    execution: Execution
    device: str
    tick: Callable[[int], object]
    checkpoint: Path | None

    @cached_property
    def start(self) -> Collection:
        """Where training begins: starts, such as imported networks, as they are; others as their seeds initialise."""
        return begin(self.task.architecture, self.networks)

    def trainer(self, networks: Collection, task: Task | None = None) -> Trainer:
        """A trainer at step 0 that starts from these networks, under their masks and with their seeds.

        Args:
            networks: Networks to train.
            task: Task to train on, if it is not the block's own.
        """
        return trainer_for(networks, task or self.task, execution=self.execution, device=self.device)

    def train(self, trainer: Trainer, until: int) -> None:
        """Train up to an iteration, from where the block's checkpoint is if there is one.

        Args:
            trainer: Trainer at the start of what the checkpoint keeps.
            until: Number of iterations at the end.
        """
        trainer.continue_from(self.checkpoint, self.tick)
        trainer.run(until, self.tick)


@dataclass(frozen=True)
class SearchResult:
    """The tickets of a block.

    Args:
        trainer: Trainer that holds the trained tickets and their masks.
        rewind: Dense weights that the tickets were trained from, (n, D); None if there are none to go back to.
        notes: Further entries of each ticket's record, in order; empty for none.
        extras: Further vectors of the tickets in weight space, (n, D) by name.
    """

    trainer: Trainer
    rewind: Float[Tensor, "n d"] | None
    notes: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    extras: Mapping[str, Tensor] = field(default_factory=dict)


def search(
    networks: Collection,
    task: Task,
    find: Callable[[SearchBlock], SearchResult],
    *,
    method: Mapping[str, Any],
    what: str,
    ticks: int,
    folder: str | Path | None = None,
    device: str = "auto",
    recorded: Mapping[str, Any] | None = None,
    density: float | None = None,
    continues: bool = False,
    level: int | None = None,
    starts: Starts = "either",
    within_masks: bool = False,
) -> Collection:
    """Tickets of networks, block by block, in memory or as a resumable run.

    Args:
        networks: Networks to find tickets of.
        task: Task to train on.
        find: Function that finds the tickets of a block. The networks of a block must not depend on each other: an
            interrupted run may divide them differently.
        method: Name and settings of the finder, which identify the run: "name" and what else changes the result.
        what: What is done, for the progress bar.
        ticks: Number of steps that a block takes.
        folder: Folder to write to as a resumable run; None keeps everything in memory.
        device: Device to train on.
        recorded: Name and settings as the records of the tickets have them; by default those of `method`.
        density: Density in the records; by default what each ticket keeps.
        continues: Keep task and recipe of the networks' own training in the records.
        level: Level of the search, for finders that write each to a run of its own.
        starts: Where the finder begins; see `Starts`.
        within_masks: Whether it keeps the masks that starts have, so that they may be sparse.

    Raises:
        LayoutMismatch: The networks are not of the task's architecture.
        InputError: None of their weights can be pruned, or the finder cannot begin at such networks.
    """
    networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
    require_prunable(networks.layout)
    given = check_starts(networks, starts, str(method["name"]), within_masks=within_masks)
    task = replace(task, architecture=task.architecture.following(networks.layout))
    device = devices.pick(device)
    block = min(len(networks), block_size(task, device=device))
    place = Path(folder) if folder is not None else None

    def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
        execution = choose_execution(task, block, device=device, folder=place)
        part = SearchBlock(rows, networks[rows], task, execution, device, tick, checkpoint)
        result = find(part)
        densities = [density] * len(part.networks) if density is not None else _densities(result.trainer)
        notes = result.notes or [{}] * len(part.networks)
        anew = None if continues else task
        records = [
            ticket_record(parent | note, rows.start + i, {**(recorded or method), "density": kept}, anew)
            for i, (parent, note, kept) in enumerate(zip(part.networks.records, notes, densities, strict=True))
        ]
        tickets = finished(result.trainer, task, records)
        extras = {} if result.rewind is None else {Extra.REWIND: result.rewind}
        extras = {name: tensor.cpu() for name, tensor in (extras | dict(result.extras)).items()}
        return tickets.replace(extras=extras) if extras else tickets

    config = {"method": dict(method), "task": task.to_json(), "recipe": task.recipe.to_json()}
    config |= {"start": "given"} if given else {}  # version 0.1 began these at the initialisation of their seeds
    tickets = in_blocks(
        make,
        architecture=networks.architecture,
        count=len(networks),
        block=block,
        ticks=ticks,
        what=what,
        folder=folder,
        stage="tickets",
        config=config if level is None else config | {"level": level},
        inputs={"networks": networks.fingerprint()} if folder else None,
    )
    return warn_of_embeddings(warn_of_lost_layers(tickets))


def recipe_length(task: Task) -> int:
    """Number of iterations of a task's recipe."""
    return task.recipe.length.total(task.recipe.per_epoch(len(task.train)))


def _densities(trainer: Trainer) -> list[float]:
    """The fraction of the prunable weights that each network of a trainer keeps."""
    masks = trainer.masks
    return [1.0] * len(trainer.weights) if masks is None else [achieved(mask[None], trainer.layout) for mask in masks]


def check_starts(networks: Collection, starts: Starts, name: str, *, within_masks: bool = False) -> bool:
    """Whether a finder begins at these networks themselves, in place of the initialisation of their seeds.

    Args:
        networks: Networks to find tickets of.
        starts: Where the finder can begin.
        name: Name of the finder.
        within_masks: Whether it keeps the masks that starts have.

    Raises:
        InputError: The finder needs the initialisation of seeds or dense starts, and the networks are others.
    """
    if starts == "networks":
        return False
    if not are_starts(networks):
        if any(map(share_a_start, networks.records)):
            warnings.warn(
                f"these networks began at one shared start, and {name} begins at the initialisation of each one's own "
                "seed: starts(networks, shared=True) begins where they did, starts(networks) at their weights",
                stacklevel=3,
            )
        return False
    if starts == "seeds":
        raise InputError(
            f"{name} needs the initialisation of each network's seed, which imported networks and other starts do not "
            f"have: from these go {FROM_STARTS}"
        )
    if not (networks.dense or within_masks):
        raise InputError(
            f"these starts are sparse, and {name} makes masks of its own from the first: give it dense ones with "
            "networks.replace(masks=None), or use IMP, GradualPruning or PruneAtInit, which prune within masks"
        )
    return True


def check_dense_enough(networks: Collection, pattern: Pattern) -> None:
    """Check that every network has as many weights as a pattern keeps, where the pattern says how many.

    Args:
        networks: Networks to prune.
        pattern: Pattern of the tickets.

    Raises:
        InputError: A network has fewer.
    """
    layout = networks.layout
    part, count = part_of(pattern, layout), count_of(pattern, layout)
    sparsest = int(networks.masks[:, part.prunable].sum(1).min())
    count = None if count is None else count - (layout.num_prunable - part.num_prunable)
    if count is not None and sparsest < count:
        density = count / part.num_prunable
        raise InputError(
            f"a network keeps {sparsest} weights already, a ticket of density {density:.4g} would keep {count}: "
            "ask for a lower density"
        )


def densities_in(networks: Collection, pattern: Pattern) -> Float[Tensor, " n"]:
    """The fraction that each network keeps of the weights that a pattern prunes.

    Args:
        networks: Networks to prune.
        pattern: A pattern of all their weights, or a selection.
    """
    part = part_of(pattern, networks.layout)
    return networks.densities if part == networks.layout else networks.masks[:, part.prunable].double().mean(1)


def achieved(masks: Bool[Tensor, "n d"], layout: Layout) -> float:
    """The fraction of the prunable weights that the first network keeps; others of the same pattern keep as many."""
    return int(masks[0, layout.prunable.to(masks.device)].sum()) / layout.num_prunable


def ticket_record(parent: Record, position: int, method: Mapping[str, Any], task: Task | None = None) -> Record:
    """Record of a ticket: that of the network it was found in, with the method and the parent.

    Args:
        parent: Record of the network.
        position: Position of the network, for one without an index of its own.
        method: Name and settings of the finder, with the density.
        task: Task that the ticket was trained on, if it is not the parent's own.
    """
    ticket: dict[str, Any] = {"kind": "ticket", "method": dict(method), "density": method["density"]}
    if task is not None:
        ticket |= {"task": task.name, "recipe": task.recipe.to_json()}
    return parent | ticket | {"parent": parent.get("index", position)}


def ticket_records(
    parents: Sequence[Record], first: int, method: Mapping[str, Any], task: Task | None = None
) -> list[Record]:
    """Records of tickets that share one method; see `ticket_record`.

    Args:
        parents: Records of the networks.
        first: Position of the first network, for those without an index of their own.
        method: Name and settings of the finder, with the density.
        task: Task that the tickets were trained on, if it is not the parents' own.
    """
    return [ticket_record(parent, first + i, method, task) for i, parent in enumerate(parents)]


def rewind_of(tickets: Collection) -> Float[Tensor, "n d"]:
    """The dense weights that tickets are trained from.

    Args:
        tickets: Tickets as a finder returns them.

    Raises:
        InputError: The networks do not have them.
    """
    if Extra.REWIND not in check_networks(tickets, "tickets").extras:
        raise InputError(
            'these networks have no extras["rewind"], the weights to train from: use what a finder returned, or '
            'add them with collection.replace(extras={"rewind": weights})'
        )
    return tickets.extras[Extra.REWIND]


def start_from(
    networks: Collection, weights: Float[Tensor, "n d"], masks: Bool[Tensor, "n d"], *, anew: bool = False
) -> Collection:
    """Networks to be trained from these weights under these masks; statistics are as before training.

    Those of networks that began at given or pre-trained weights, which no seed gives back, stay as they are.

    Args:
        networks: Networks to take architecture and records from.
        weights: Dense weights, (n, D).
        masks: True where a weight is kept, (n, D).
        anew: Whether the weights are a new initialisation, with its statistics.
    """
    state = networks.architecture.build_seeded(0).state_dict()
    buffers = {b.name: state[b.name].expand(len(networks), *b.shape).clone() for b in networks.layout.buffers}
    begun = networks.architecture.pretrained is not None
    given = torch.tensor([(begun or record.from_start) and not anew for record in networks.records])
    for name, own in networks.buffers.items():
        buffers[name][given] = own[given]
    return networks.replace(
        weights=weights * masks,
        masks=masks,
        extras={Extra.REWIND: weights},
        buffers=buffers,
    )


def collected(record: Record) -> bool:
    """Was this network trained from the initialisation of its seed, as `collect` does?"""
    return record.kind in ("independent", "grid") and record.aligned_to is None
