"""Sample, then polish: a few training steps for all samples side by side, or new last layers, each under its mask."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from weightspace.errors import InputError
from weightspace.generator.arguments import refused_for_changes
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.recipes.step import Step
from weightspace.runtime import checks
from weightspace.tasks.arguments import check_task
from weightspace.tasks.task import Task
from weightspace.training.collect import trained_on
from weightspace.training.engine import block_size
from weightspace.training.last_layer import LastLayer

_REFITTED = 64  # samples whose last layers are refitted before they are kept


@dataclass(frozen=True)
class Polishing:
    """How samples are trained on before they are returned.

    Args:
        task: The task, with the length of the training in its recipe; its training split is read, and its validation
            split for the records.
        device: Device to train on.
        last_layer: The refit of the last layer that takes the place of the training; None where they are trained.
    """

    task: Task
    device: str
    last_layer: LastLayer | None = None

    @classmethod
    def of(
        cls,
        polish: Step | str | LastLayer | None,
        task: Task | None,
        layout: Layout,
        device: str,
        *,
        changes: bool = False,
    ) -> "Polishing | None":
        """Checked settings; None where samples stay as they are.

        Args:
            polish: Length of the training, such as "30it", or `LastLayer()`.
            task: The task.
            layout: Layout of the samples.
            device: Device to train on.
            changes: Whether samples are changes of networks.

        Raises:
            InputError: Samples are changes, one of the two is missing, there are no steps, each network has data of its
                own, or it has no last linear layer to refit.
            LayoutMismatch: The samples are not of the task's architecture.
        """
        last_layer = polish if isinstance(polish, LastLayer) else None
        length = None if polish is None or isinstance(polish, LastLayer) else Step.of(polish, "polish")
        task = checks.given(task, "task", check_task)
        if polish is None and task is None:
            return None
        if changes:
            raise refused_for_changes("polish")
        if task is None:
            raise InputError('samples are polished on a task: give task= too, such as polish="30it", task=task')
        if polish is None:
            raise InputError(
                'task= is for samples that are polished: say how, such as polish="30it" or polish=LastLayer()'
            )
        layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        if task.own_data:
            raise InputError(f"each network of task {task.name!r} has data of its own, and samples have none")
        if last_layer is not None:
            last_layer.check(task)
        recipe = task.recipe if length is None else replace(task.recipe, length=length)
        return cls(replace(task, recipe=recipe), device, last_layer)

    @property
    def steps(self) -> int:
        """Steps of a block."""
        if self.last_layer is not None:
            return 1
        recipe = self.task.recipe
        return recipe.length.total(recipe.per_epoch(len(self.task.train)))

    @property
    def block(self) -> int:
        """Networks that are polished together."""
        return _REFITTED if self.last_layer is not None else block_size(self.task, device=self.device)

    @property
    def config(self) -> dict[str, Any]:
        """What identifies it in a run."""
        how = {"recipe": self.task.recipe.to_json()} if self.last_layer is None else self.last_layer.to_json()
        return {"polish": {"task": self.task.to_json(), **how}}

    def __call__(
        self,
        samples: Collection,
        first: int,
        checkpoint: Path | None,
        tick: Callable[[int], object],
        folder: str | Path | None,
    ) -> Collection:
        """The polished samples, with the same masks.

        Args:
            samples: A block of samples.
            first: Position of the first.
            checkpoint: File to continue from and to save to.
            tick: Called with the steps done.
            folder: Folder of the run, if there is one.
        """
        if self.last_layer is not None:
            refitted = self.last_layer.refit(samples, self.task, device=self.device)
            tick(1)
            return refitted
        block, where = max(self.block, len(samples)), None if folder is None else Path(folder)
        return trained_on(samples, self.task, first, block, checkpoint, tick, where, self.device)
