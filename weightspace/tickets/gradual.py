"""Gradual magnitude pruning (Zhu & Gupta 2017, arXiv 1710.01878)."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern, Unstructured, check_density, check_pattern
from weightspace.masks.schedule import density_of, with_density
from weightspace.networks.collection import Collection
from weightspace.recipes.step import Duration, Step, duration
from weightspace.runtime import checks
from weightspace.storage.spelling import Spelling, spelled, spelled_text
from weightspace.tasks.arguments import check_run
from weightspace.tasks.task import Task
from weightspace.tickets.finder import (
    SearchBlock,
    SearchResult,
    Starts,
    check_dense_enough,
    densities_in,
    recipe_length,
    search,
)
from weightspace.training.trainer import Trainer


@dataclass(frozen=True)
class GradualPruning:
    """Train the networks on while their smallest weights are removed little by little.

    One training run per ticket, so that a collection of tickets costs little more than a collection of networks. The
    density falls from the networks' own to `density` along a cubic curve during the first part of the run, then the
    weights that are left train on. Nothing is rewound. Networks of several densities follow the curve of the densest.

    Args:
        density: Fraction of the prunable weights kept, in (0, 1].
        scope: Rank weights over the whole network (global) or inside each layer (layer).
        length: Length of the run, such as 30ep; everything else follows the task's recipe.
        ramp: Fraction of the run during which weights are removed.
        every: Iterations between two removals.
        pattern: Pattern of the tickets instead of a density and a scope, with a density that can fall: ERK(0.1), or
            Only(Unstructured(0.1), "encoder.*").

    Raises:
        InputError: A setting lies outside its range, or the pattern has no density that can fall.
    """

    density: float = 0.1
    scope: Literal["global", "layer"] = "global"
    length: Duration = duration("30ep")
    ramp: float = 0.4
    every: int = 10
    pattern: Pattern | None = None

    starts: ClassVar[Starts] = "networks"
    spelling: ClassVar[Spelling] = Spelling("Gradual")

    def __post_init__(self) -> None:
        checks.settle(self, check_density, "density")
        checks.settle(self, checks.one_of, "scope", choices=("global", "layer"))
        checks.settle(self, Step.of, "length")
        checks.settle(self, checks.fraction, "ramp")
        checks.settle(self, checks.count, "every", at_least=1)
        checks.settle_given(self, check_pattern, "pattern")
        with_density(self.goal, 1.0)

    @property
    def goal(self) -> Pattern:
        """The pattern of the tickets."""
        return self.pattern or Unstructured(self.density, self.scope)

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """A ticket of each network: trained weights and mask.

        Args:
            networks: Trained networks, dense or already sparse.
            task: Task to train on.
            folder: Folder to write to as a resumable run; None keeps everything in memory.
            device: Device to train on.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: A network is sparser than the tickets would be, or the length is too short.
        """
        check_run(networks, task, folder, device)
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        check_dense_enough(networks, self.goal)
        task = replace(task, recipe=replace(task.recipe, length=self.length))
        length = recipe_length(task)
        last = round(self.ramp * length) // self.every * self.every
        if not last:
            raise InputError(
                f"{self.length} is too short to prune little by little: it has {length} iterations, of which "
                f"{self.ramp:g} prune every {self.every}; give a greater length or ramp, or a smaller number for every"
            )
        densest = densities_in(networks, self.goal).max().item()  # of all, so that it does not depend on the block

        def find(block: SearchBlock) -> SearchResult:
            trainer = block.trainer(block.networks)
            trainer.continue_from(block.checkpoint, block.tick)
            # A checkpoint may have been written before or after the pruning at its own step: pruning
            # again what is pruned already changes nothing.
            for step in range(trainer.step // self.every * self.every, last + 1, self.every):
                trainer.run(step, block.tick)
                self._prune(trainer, densest, (1 - step / last) ** 3)
            trainer.run(length, block.tick)
            return SearchResult(trainer, rewind=None)

        return search(
            networks,
            task,
            find,
            method=self._method(),
            density=self.density if self.pattern is None else None,
            continues=True,
            ticks=length,
            what=f"gradual pruning of {len(networks)} networks to density {density_of(self.goal):g}",
            folder=folder,
            device=device,
            starts=self.starts,
        )

    def _prune(self, trainer: Trainer, densest: float, left: float) -> None:
        """Prune to the density at which a share `left` of the way from the densest network is still to go."""
        density = density_of(self.goal)
        assert density is not None
        pattern = with_density(self.goal, density + (densest - density) * left)
        # On the way, networks that are sparser already keep all they have; the end is exact.
        masks = pattern.mask(trainer.weights.abs(), trainer.layout, within=trainer.masks if not left else None)
        trainer.prune(masks if trainer.masks is None else masks & trainer.masks)

    def _method(self) -> dict[str, Any]:
        settings = {"name": self.spelling.name, **spelled(self), "length": str(self.length)}
        if self.pattern is None:
            del settings["pattern"]
            return settings
        return settings | {"pattern": spelled_text(self.pattern)}
