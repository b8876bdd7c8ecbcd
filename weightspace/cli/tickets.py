"""The command line's verbs that find tickets."""

from dataclasses import replace
from pathlib import Path
from typing import Literal, Protocol

from tyro.conf import OmitArgPrefixes, SuppressFixed

from weightspace.cli.describe import report_done
from weightspace.cli.inputs import Common, Folder, Shared, find_task, open_collection, task_of
from weightspace.errors import InputError
from weightspace.masks.layerwise import ERK, Balanced
from weightspace.masks.patterns import NM, Pattern
from weightspace.networks.collection import Collection
from weightspace.recipes.step import Step
from weightspace.tasks.task import Task
from weightspace.tickets import (
    IMP,
    SNIP,
    ContinuousSparsification,
    DynamicSparseTraining,
    EarlyBird,
    EdgePopup,
    GradualPruning,
    GraSP,
    MagnitudeScore,
    PruneAtInit,
    RandomScore,
    SynFlow,
    TicketControls,
    refill,
    regroup,
    transfer,
)


class Finder(Protocol):
    """A ticket finder."""

    def find(self, networks: Collection, task: Task, *, folder: Path, device: str) -> Collection: ...


def gradual(
    networks: Folder, *, out: Path, task: str | None = None, method: OmitArgPrefixes[GradualPruning] = GradualPruning(),
    common: Shared = Common(),
) -> None:  # fmt: skip
    """Find a ticket in each network by gradual magnitude pruning.

    Args:
        networks: folder of trained networks; add @START:STOP to take a part.
        out: folder to write.
        task: what the networks were trained on; by default what their records say.
    """
    _find(networks, out, task, method, common)


def imp(
    networks: Folder, *, out: Path, task: str | None = None, method: SuppressFixed[OmitArgPrefixes[IMP]] = IMP(),
    common: Shared = Common(),
) -> None:  # fmt: skip
    """Find a ticket in each network by iterative magnitude pruning with rewinding.

    Args:
        networks: folder of networks trained by `weightspace collect`; add @START:STOP to take a part.
        out: folder to write.
        task: what the networks were trained on; by default what their records say.
    """
    _find(networks, out, task, method, common)


def start(
    networks: Folder,
    *,
    out: Path,
    score: Literal["snip", "grasp", "synflow", "magnitude", "random"] = "snip",
    density: float = 0.1,
    layers: Literal["together", "alike", "erk", "balanced"] = "together",
    nm: str | None = None,
    after: str = "0it",
    task: str | None = None,
    common: Shared = Common(),
) -> None:
    """Prune at initialisation, then train: SNIP, GraSP, SynFlow, magnitude, random.

    Args:
        networks: folder of networks, whose seeds give the initialisations; add @START:STOP to take a part.
        out: folder to write.
        score: what ranks the weights.
        density: fraction of the prunable weights kept.
        layers: rank the weights of all layers together, keep the same fraction of each (alike), or so many as ERK or an
            equal share for every layer (balanced) say.
        nm: an N:M pattern such as 2:4, instead of a density.
        after: train the dense network for so long first.
        task: what the networks were trained on; by default what their records say.
    """
    scores = {
        "snip": SNIP(), "grasp": GraSP(), "synflow": SynFlow(), "magnitude": MagnitudeScore(), "random": RandomScore(),
    }  # fmt: skip
    patterns: dict[str, Pattern] = {"erk": ERK(density), "balanced": Balanced(density)}
    pattern = NM.of(nm) if nm is not None else patterns.get(layers)
    method = PruneAtInit(
        scores[score], density, "layer" if layers == "alike" else "global", pattern,
        rounds=100 if score == "synflow" and pattern is None else 1, start=Step.of(after),
    )  # fmt: skip
    _find(networks, out, task, method, common)


def dynamic(
    networks: Folder,
    *,
    out: Path,
    task: str | None = None,
    method: SuppressFixed[OmitArgPrefixes[DynamicSparseTraining]] = DynamicSparseTraining(),
    common: Shared = Common(),
) -> None:
    """Train sparse networks whose connections move: RigL, or SET with --grow random.

    Args:
        networks: folder of networks, whose seeds give the initialisations; add @START:STOP to take a part.
        out: folder to write.
        task: what the networks were trained on; by default what their records say.
    """
    _find(networks, out, task, method, common)


def popup(
    networks: Folder, *, out: Path, task: str | None = None, method: OmitArgPrefixes[EdgePopup] = EdgePopup(),
    common: Shared = Common(),
) -> None:  # fmt: skip
    """Find strong tickets among weights that are never trained: edge-popup, or multi-prize with --binary.

    Args:
        networks: folder of networks, whose seeds give the initialisations; add @START:STOP to take a part.
        out: folder to write.
        task: what the networks were trained on; by default what their records say.
    """
    _find(networks, out, task, method, common)


def continuous(
    networks: Folder, *, out: Path, task: str | None = None,
    method: OmitArgPrefixes[ContinuousSparsification] = ContinuousSparsification(), common: Shared = Common(),
) -> None:  # fmt: skip
    """Find tickets by continuous sparsification: soft masks that harden while the weights train.

    Args:
        networks: folder of networks, whose seeds give the initialisations; add @START:STOP to take a part.
        out: folder to write.
        task: what the networks were trained on; by default what their records say.
    """
    _find(networks, out, task, method, common)


def bird(
    networks: Folder, *, out: Path, task: str | None = None, method: OmitArgPrefixes[EarlyBird] = EarlyBird(),
    common: Shared = Common(),
) -> None:  # fmt: skip
    """Find narrower networks early in training, by the scales of BatchNorm: Early-Bird tickets.

    Args:
        networks: folder of networks, whose seeds give the initialisations; add @START:STOP to take a part.
        out: folder to write.
        task: what the networks were trained on; by default what their records say.
    """
    _find(networks, out, task, method, common)


def control(
    tickets: Folder,
    *,
    out: Path,
    kind: Literal["rewound", "reinitialised", "shuffled", "scattered", "refill", "regroup", "transfer"],
    task: str | None = None,
    seed: int = 0,
    common: Shared = Common(),
) -> None:
    """Write what a ticket is compared with, before training: `weightspace train` goes on from there.

    Args:
        tickets: folder that a finder wrote; add @START:STOP to take a part.
        out: folder to write.
        kind: the tickets themselves, at the weights they were trained from (rewound); their masks on a new
            initialisation; as many weights elsewhere in each layer (shuffled) or in the network (scattered); whole units
            (refill) or dense blocks (regroup) for about as many weights; the tickets on another task (transfer).
        task: to transfer to, with as many classes; from Python, `tickets.transfer` changes the output layer.
        seed: of what is drawn.
    """
    found = open_collection(tickets, common)
    if (task is not None) != (kind == "transfer"):
        raise InputError("--task names the task to transfer to: it goes with --kind transfer, which needs it")
    if task is not None:
        target = replace(find_task(task, common), architecture=found.architecture)
        target.try_out()
        start = transfer(found, target, seed=seed)
    elif kind in ("refill", "regroup"):
        start = refill(found) if kind == "refill" else regroup(found, seed=seed)
    else:
        start = getattr(TicketControls(seed), "globally_shuffled" if kind == "scattered" else kind)(found)
    start.save(out)
    report_done(start, out)


def _find(networks: str, out: Path, task: str | None, method: Finder, common: Common) -> None:
    collection = open_collection(networks, common)
    found = method.find(collection, task_of(collection, task, common), folder=out, device=common.device)
    report_done(found, out)
