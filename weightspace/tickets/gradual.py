"""Gradual magnitude pruning (Zhu & Gupta 2017, arXiv 1710.01878)."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal

from weightspace.errors import InputError
from weightspace.masks.patterns import Unstructured
from weightspace.networks.building import in_blocks
from weightspace.networks.collection import Collection
from weightspace.recipes.step import Step
from weightspace.runtime import devices
from weightspace.storage.spelling import Spelling, spelled
from weightspace.tasks.task import Task
from weightspace.tickets.finder import check_dense_enough, ticket_records
from weightspace.training.conversion import finished, trainer_for
from weightspace.training.engine import block_size, choose_execution


@dataclass(frozen=True)
class GradualPruning:
    """Train the given networks on while their smallest weights are removed little by little.

    One training run per ticket, so that a collection of tickets costs little more than a collection
    of networks. The density falls from the networks' own to `density` along a cubic curve during the
    first part of the run, then the survivors train on. Nothing is rewound. Networks of several densities
    follow the curve of the densest.

    Args:
        density: fraction of the prunable weights kept, in (0, 1].
        scope: rank weights over the whole network (global) or inside each layer (layer).
        length: of the run, such as 30ep; everything else follows the task's recipe.
        ramp: fraction of the run during which weights are removed.
        every: iterations between two removals.
    """

    density: float = 0.1
    scope: Literal["global", "layer"] = "global"
    length: Step = Step(epochs=30)
    ramp: float = 0.4
    every: int = 10

    spelling: ClassVar[Spelling] = Spelling("Gradual")

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", Step.of(self.length))
        Unstructured(self.density, self.scope)
        if not 0 < self.ramp <= 1 or self.every < 1:
            raise InputError(f"ramp must lie in (0, 1] and every be at least 1, got {self.ramp} and {self.every}")

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """A ticket of each network: trained weights and mask.

        Args:
            networks: trained networks, dense or already sparse.
            folder: write to this folder as a resumable run.

        Raises:
            LayoutMismatch: the networks are not of the task's architecture.
            InputError: networks are sparser than the density asked.
        """
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        check_dense_enough(networks, Unstructured(self.density, self.scope))
        recipe = replace(task.recipe, length=self.length)
        length = self.length.total(recipe.per_epoch(len(task.train)))
        last = round(self.ramp * length) // self.every * self.every
        if not last:
            raise InputError(
                f"{self.length} is too short to prune little by little: it has {length} iterations, of which "
                f"{self.ramp:g} prune every {self.every}"
            )
        method = {"name": self.spelling.name, **spelled(self), "length": str(self.length)}

        sparse_task = replace(task, recipe=recipe)
        device = devices.pick(device)
        block = min(len(networks), block_size(sparse_task, device=device))

        def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
            start = networks[rows]
            execution = choose_execution(sparse_task, block, device=device, folder=Path(folder) if folder else None)
            trainer = trainer_for(start, sparse_task, execution=execution, device=device)
            trainer.continue_from(checkpoint, tick)
            trained = networks.densities.max().item()  # of all, so that it does not depend on the block
            # A checkpoint may have been written before or after the pruning at its own step: pruning
            # again what is pruned already changes nothing.
            for step in range(trainer.step // self.every * self.every, last + 1, self.every):
                trainer.run(step, tick)
                left = (1 - step / last) ** 3
                pattern = Unstructured(self.density + (trained - self.density) * left, self.scope)
                # On the way, networks that are sparser already keep all they have; the end is exact.
                masks = pattern.mask(trainer.weights.abs(), trainer.layout, within=trainer.masks if not left else None)
                trainer.prune(masks if trainer.masks is None else masks & trainer.masks)
            trainer.run(length, tick)
            records = ticket_records(start.records, rows.start, method)
            return finished(trainer, task, records)

        return in_blocks(
            make, architecture=networks.architecture, count=len(networks), block=block, ticks=length,
            what=f"gradual pruning of {len(networks)} networks to density {self.density:g}", folder=folder,
            stage="tickets", config={"method": method, "task": task.to_json(), "recipe": recipe.to_json()},
            inputs={"networks": networks.fingerprint()} if folder else None,
        )  # fmt: skip
