"""Train some entries of networks, and leave all others bit for bit."""

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from weightspace.adapt.task_vectors import TaskVectors
from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.networks.record import Extra
from weightspace.runtime import checks
from weightspace.runtime.hashing import raw_bytes
from weightspace.tasks.arguments import check_run
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task
from weightspace.tickets.finder import SearchBlock, SearchResult, recipe_length, search


def train_only(
    base: Collection,
    task: Task,
    trained: Bool[Tensor, "n d"],
    *,
    method: Mapping[str, Any] | None = None,
    folder: str | Path | None = None,
    device: str = "auto",
) -> TaskVectors:
    """The task vectors of a training that changes only some entries.

    Args:
        base: Dense networks to begin at.
        task: Task to train on.
        trained: True where an entry is trained, (n, D).
        method: Name and settings of what chose the entries, for the records.
        folder: Folder to write to as a resumable run; None keeps everything in memory.
        device: Device to train on.

    Raises:
        LayoutMismatch: The networks are not of the task's architecture.
        InputError: The networks are sparse, or the entries have another shape, or there are none.
    """
    check_run(base, task, folder, device, name="base")
    checks.tensor(trained, "trained", shape=(len(base), base.layout.size), dtype=torch.bool)
    checks.given(method, "method", checks.mapping, what="of what records say of the choice")
    if not bool(trained.any(1).all()):
        raise InputError("a network has no entry to train: choose more")
    named = dict(method or {"name": "train_only"})
    return train_entries(
        base,
        task,
        lambda block: trained[block.rows],
        method=named | {"entries": hashlib.sha256(raw_bytes(trained.contiguous())).hexdigest()},
        recorded=named,
        density=trained.double().mean().item(),
        folder=folder,
        device=device,
    )


def train_entries(
    base: Collection,
    task: Task,
    entries: Callable[[SearchBlock], Bool[Tensor, "n d"]],
    *,
    method: Mapping[str, Any],
    recorded: Mapping[str, Any],
    density: float,
    before: int = 0,
    folder: str | Path | None,
    device: str,
) -> TaskVectors:
    """As `train_only`, where the entries are found block by block.

    Args:
        base: Dense networks to begin at.
        task: Task to train on.
        entries: Function that says which entries of a block's networks are trained; it ticks the steps it takes.
        method: What identifies a run.
        recorded: What records say of it.
        density: Density in the records.
        before: Number of steps that finding the entries takes.
        folder: Folder to write to as a resumable run; None keeps everything in memory.
        device: Device to train on.

    Raises:
        InputError: The task is a loop, or the networks are sparse.
    """
    require_samples(task, str(method["name"]))
    if not base.dense:
        raise InputError("dense networks are adapted, got sparse ones: use networks.replace(masks=None)")
    length = recipe_length(task)

    def find(block: SearchBlock) -> SearchResult:
        own = entries(block)
        trainer = block.trainer(block.networks.replace(extras={}))
        trainer.hold(~own)
        block.train(trainer, length)
        return SearchResult(trainer, None, extras={Extra.TRAINED: own.to(base.weights.dtype)})

    adapted = search(
        base,
        task,
        find,
        method=method,
        recorded=recorded,
        density=density,
        ticks=before + length,
        what=f"adapting {len(base)} networks",
        folder=folder,
        device=device,
        starts="networks",
    )
    return TaskVectors.between(adapted, base)
