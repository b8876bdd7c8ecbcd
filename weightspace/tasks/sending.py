"""Finds out before the work whether workers can be sent what a user made."""

from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from weightspace.errors import InputError
from weightspace.runtime.executor import Executor, end_with_parent
from weightspace.tasks.data import Split
from weightspace.tasks.task import Task


def try_workers(executor: Executor | None, folder: Path, task: Task, *others: Any) -> None:
    """Send a task and other things to one worker, which says whether it sees the folder.

    Args:
        executor: The workers; None sends nothing.
        folder: Folder that all workers must see; it exists.
        task: The task; of data in memory, which can always be sent, the first sample goes.
        others: What else a user made and workers need.

    Raises:
        InputError: It cannot be sent, as workers would say too, or the worker does not see the folder.
    """
    if executor is None:
        return
    few = {f.name: data.head(1) for f in fields(task) if isinstance(data := getattr(task, f.name), Split)}
    (seen,) = executor.map(partial(_sees, replace(task, ood=None, **few), others), [folder])
    if not seen:
        raise InputError(f"workers do not see {folder}: give a folder that lies where all of them find it")


def _sees(_task: Task, _others: tuple[Any, ...], folder: Path) -> bool:
    end_with_parent()
    return folder.is_dir()
