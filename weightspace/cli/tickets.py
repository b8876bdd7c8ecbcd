"""The command line's verbs that find tickets: the options of each are the fields of its finder."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar, get_args

from tyro.conf import AvoidSubcommands, OmitArgPrefixes, SuppressFixed

from weightspace.cli.describe import report_done
from weightspace.cli.inputs import Common, Folder, Shared, begun_as, find_task, open_collection, task_of
from weightspace.cli.workers import parts_for, workers_of
from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern
from weightspace.networks.starts import starts
from weightspace.storage.again import write_again
from weightspace.tickets import (
    IMP,
    ContinuousSparsification,
    DynamicSparseTraining,
    EarlyBird,
    EdgePopup,
    Finder,
    GradualPruning,
    PruneAtInit,
    TicketControls,
    refill,
    regroup,
    transfer,
)
from weightspace.training import find_on

F = TypeVar("F", bound=Finder)


@dataclass(frozen=True, kw_only=True)
class Find(Generic[F]):
    """Find a ticket in each network.

    Args:
        networks: Folder of networks that `weightspace collect` wrote; add @START:STOP to take a part.
        out: Folder to write.
        finder: How tickets are found.
        task: Task that the networks were trained on; None is what their records say.
        as_starts: Whether training begins at the networks themselves, as with imported ones, and not at the
            initialisation of their seeds.
        workers: Number of processes on this machine, one thread each.
        ray: Whether the parts run on a Ray cluster instead (RAY_ADDRESS, or one on this machine).
        common: Options that mean the same in every verb.
    """

    networks: Folder
    out: Path
    finder: SuppressFixed[AvoidSubcommands[OmitArgPrefixes[F]]]
    task: str | None = None
    as_starts: bool = False
    workers: int = 1
    ray: bool = False
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Find the tickets."""
        collection = open_collection(self.networks, self.common, self.task)
        task = task_of(collection, self.task, self.common)
        if self.as_starts:
            collection = starts(collection)
        with workers_of(self.workers, self.ray, "tickets", self.common) as executor:
            if executor is None:
                tickets = self.finder.find(collection, task, folder=self.out, device=self.common.device)
            else:
                parts = parts_for(self.workers, len(collection))
                tickets = find_on(executor, self.finder, collection, task, shards=parts, folder=self.out)
        report_done(tickets, self.out)


@dataclass(frozen=True, kw_only=True)
class Control:
    """Write what a ticket is compared with, before training: `weightspace train` goes on from there.

    Args:
        tickets: Folder that a finder wrote; add @START:STOP to take a part.
        out: Folder to write.
        kind: The tickets themselves, at the weights they were trained from (rewound); their masks on a new
            initialisation (reinitialised); as many weights elsewhere in each layer (shuffled), on a new initialisation
            as well (random), or elsewhere in the network (globally-shuffled); whole units (refill) or dense blocks
            (regroup) for about as many weights; the tickets on another task (transfer).
        task: Task to transfer to, with as many classes; from Python, `tickets.transfer` changes the output layer.
        pattern: Pattern of the tickets; of a selection, "0.5 only encoder.*", weights are moved between the selected
            tensors, and of pre-trained networks only these are drawn anew. None is the whole network.
        seed: Seed of what is drawn.
        common: Options that mean the same in every verb.
    """

    tickets: Folder
    out: Path
    kind: Literal[
        "rewound", "reinitialised", "shuffled", "random", "globally-shuffled", "refill", "regroup", "transfer"
    ]
    task: str | None = None
    pattern: Pattern | None = None
    seed: int = 0
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Write the control."""
        tickets = open_collection(self.tickets, self.common)
        if (self.task is not None) != (self.kind == "transfer"):
            raise InputError("--task names the task to transfer to: it goes with --kind transfer, which needs it")
        if self.task is not None:
            target = find_task(self.task, self.common)
            target = replace(target, architecture=begun_as(tickets.architecture, target))
            target.try_out()
            start = transfer(tickets, target, seed=self.seed)
        elif self.kind == "refill":
            start = refill(tickets)
        elif self.kind == "regroup":
            start = regroup(tickets, seed=self.seed)
        else:
            start = getattr(TicketControls(self.seed, self.pattern), self.kind.replace("-", "_"))(tickets)
        write_again(self.out, start.save)
        report_done(start, self.out)


VERBS: Mapping[str, Any] = {
    "gradual": Find[GradualPruning],
    "imp": Find[IMP],
    "prune-at-init": Find[PruneAtInit],
    "dynamic": Find[DynamicSparseTraining],
    "edge-popup": Find[EdgePopup],
    "continuous": Find[ContinuousSparsification],
    "early-bird": Find[EarlyBird],
    "control": Control,
}
"""The verbs behind `weightspace tickets`."""


def documented(verb: Any) -> Any:
    """The class whose docstring says what a verb does: the finder's, for a verb that runs a finder."""
    return get_args(verb)[0] if get_args(verb) else verb
