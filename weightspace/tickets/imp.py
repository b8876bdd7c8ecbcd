"""Iterative magnitude pruning with rewinding.

Frankle & Carbin 2019 (arXiv 1803.03635); rewinding to a later point by Frankle et al. 2019 (arXiv 1903.01611), of the
learning rate by Renda et al. 2020 (arXiv 2003.02389).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch

from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern, Unstructured, check_density, check_pattern
from weightspace.masks.schedule import steps_to
from weightspace.networks.collection import Collection
from weightspace.networks.starts import are_starts
from weightspace.recipes.schedule import Schedule
from weightspace.recipes.step import Duration, Step, duration
from weightspace.runtime import checks
from weightspace.runtime.progress import progress
from weightspace.storage.checkpoints import read_checkpoint, write_checkpoint
from weightspace.storage.spelling import Spelling, spelled, spelled_text
from weightspace.storage.system_errors import exists
from weightspace.tasks.arguments import check_run
from weightspace.tasks.own_loop import LoopTask
from weightspace.tasks.task import Task
from weightspace.tickets.finder import (
    SearchBlock,
    SearchResult,
    Starts,
    check_dense_enough,
    collected,
    recipe_length,
    search,
)
from weightspace.training.trainer import Trainer


@dataclass(frozen=True)
class IMP:
    """Prune the smallest weights, put the others back to where they were early on, train, repeat.

    Every level trains for the task's whole recipe, so a ticket of density 0.1 costs 11 training runs: this is the
    standard that cheaper finders are measured against.

    Args:
        density: Fraction of the prunable weights kept at the end, in (0, 1].
        rate: Fraction of the remaining weights removed at each level; the last level removes just enough to reach the
            density exactly.
        rewind: Point of training that the weights are put back to; 0it is the initialisation.
        scope: Rank weights over the whole network (global) or inside each layer (layer).
        pattern: Pattern that the tickets have at the end, instead of a density and a scope: NM(2, 4), Channels(0.5), or
            LayerRates(16) as in the first paper.
        after_pruning: What follows on pruning: "rewind" puts the weights back; "lr_rewind" leaves them and replays the
            learning rate (learning-rate rewinding); "fine_tune" leaves them and trains at a tenth of the learning rate.

    Raises:
        InputError: A setting lies outside its range, or there is a point to rewind to without rewinding.
    """

    density: float = 0.1
    rate: float = 0.2
    rewind: Duration = duration("0it")
    scope: Literal["global", "layer"] = "global"
    pattern: Pattern | None = None
    after_pruning: Literal["rewind", "lr_rewind", "fine_tune"] = "rewind"

    starts: ClassVar[Starts] = "either"
    spelling: ClassVar[Spelling] = Spelling(
        "IMP",
        {"after_pruning": "survivors"},
        {"after_pruning": {"lr_rewind": "keep", "fine_tune": "fine-tune"}},
    )

    def __post_init__(self) -> None:
        checks.settle(self, check_density, "density")
        checks.settle(self, checks.number, "rate", above=0, below=1)
        checks.settle(self, Step.of, "rewind")
        checks.settle(self, checks.one_of, "scope", choices=("global", "layer"))
        checks.settle_given(self, check_pattern, "pattern")
        checks.settle(self, checks.one_of, "after_pruning", choices=("rewind", "lr_rewind", "fine_tune"))
        if self.after_pruning != "rewind" and self.rewind != Step():
            raise InputError("there is a point to rewind to only with after_pruning='rewind'")

    @property
    def goal(self) -> Pattern:
        """The pattern of the tickets."""
        return self.pattern or Unstructured(self.density, self.scope)

    def levels(self, start: float = 1.0) -> list[Pattern]:
        """The pattern of each pruning; the last is that of the tickets.

        Args:
            start: Density before the first pruning.
        """
        return steps_to(self.goal, self.rate, start)

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """A ticket of each network: trained weights and mask; `extras["rewind"]` holds the weights to train the ticket
        from.

        Args:
            networks: Networks that `collect` trained on this task with this recipe: level 0. Their early weights are
                found by training again from their seeds. Or starts, such as imported networks: they are trained first,
                and are what the initialisation is to the others; with "lr_rewind" and "fine_tune", which go back to
                nothing, they are level 0.
            task: Task to train on.
            folder: Folder to write to as a resumable run; None keeps everything in memory.
            device: Device to train on.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: A network is sparser than the tickets would be, or was not trained by `collect` with the task's
                recipe.
        """
        check_run(networks, task, folder, device)
        rewind, length = self._check(networks, task)
        levels, untrained = self.levels(_sparsest(networks)), self._untrained(networks)

        def find(block: SearchBlock) -> SearchResult:
            early = block.trainer(block.start)
            early.run(rewind, block.tick)
            trained, done = _levels_done(block, -1 if untrained else 0)
            block.tick((length - rewind) * (done + untrained))
            if done < 0:
                done, trained = 0, self._level_zero(early, length, block)
            trainer = early
            for level, pattern in enumerate(levels[done:], done + 1):
                trainer = self._pruned(early, trained, pattern, block)
                trainer.run(length, block.tick)
                trained = _trained(block, trainer)
                # The last level is not kept: its training losses are part of the result.
                if block.checkpoint is not None and level < len(levels):
                    _keep(block.checkpoint, trained, level)
            return SearchResult(trainer, early.weights)

        return search(
            networks,
            task,
            find,
            method=self._method(),
            recorded=self._recorded(),
            density=self.density if self.pattern is None else None,
            continues=not are_starts(networks),
            within_masks=True,
            ticks=rewind + (length - rewind) * (len(levels) + untrained),
            what=f"iterative pruning of {len(networks)} networks, {len(levels)} levels",
            folder=folder,
            device=device,
        )

    def find_levels(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> list[Collection]:
        """The networks and their tickets of every level, the sparsest last, as `find` makes it.

        Args:
            networks: Networks as for `find`; starts that are trained first are so at level 0.
            task: Task to train on.
            folder: Folder with one resumable run for each level; None keeps everything in memory.
            device: Device to train on.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: A network is sparser than the tickets would be, or was not trained by `collect` with the task's
                recipe.
        """
        check_run(networks, task, folder, device)
        rewind, length = self._check(networks, task)
        patterns: list[Pattern | None] = [*self.levels(_sparsest(networks))]
        levels = [] if self._untrained(networks) else [networks]
        numbered = [*enumerate(patterns if levels else [None, *patterns], len(levels))]
        for level, pattern in progress(numbered, f"iterative pruning of {len(networks)} networks, level"):
            before = levels[-1] if levels else None

            def find(
                block: SearchBlock, before: Collection | None = before, pattern: Pattern | None = pattern
            ) -> SearchResult:
                early = block.trainer(block.start)
                early.run(rewind, block.tick)
                if before is None or pattern is None:  # level 0 of starts
                    trainer = early.fork()
                else:
                    trainer = self._pruned(early, before[block.rows], pattern, block)
                block.train(trainer, length)
                return SearchResult(trainer, early.weights)

            tickets = search(
                networks,
                task,
                find,
                method=self._method(),
                recorded=self._recorded(),
                density=self.density if self.pattern is None and not are_starts(networks) else None,
                continues=not are_starts(networks),
                within_masks=True,
                level=level,
                ticks=length,
                what=f"training level {level}",
                folder=None if folder is None else Path(folder) / f"level-{level:02}",
                device=device,
            )
            levels.append(tickets)
        return levels

    def _untrained(self, networks: Collection) -> bool:
        """Whether the networks are starts that have to be trained before they are pruned."""
        return self.after_pruning == "rewind" and are_starts(networks)

    def _level_zero(self, early: Trainer, length: int, block: SearchBlock) -> Collection:
        """Starts, trained from the rewind point to the end."""
        trainer = early.fork()
        trainer.run(length, block.tick)
        trained = _trained(block, trainer)
        if block.checkpoint is not None:
            _keep(block.checkpoint, trained, 0)
        return trained

    def _pruned(self, early: Trainer, trained: Collection, pattern: Pattern, block: SearchBlock) -> Trainer:
        """Where the next level starts.

        Args:
            early: Networks at the rewind point.
            trained: Networks of the level before, which decide the mask.
            pattern: Pattern of the level.
            block: Block that the networks belong to.
        """
        masks = pattern.mask(trained.weights.abs(), trained.layout, within=trained.masks)
        if self.after_pruning == "rewind":
            return early.fork(masks.to(block.device))
        kept = trained.replace(weights=trained.weights * masks, masks=masks, extras={})
        if self.after_pruning == "lr_rewind":
            return block.trainer(kept)
        optimizer = block.task.recipe.optimizer
        recipe = replace(block.task.recipe, optimizer=replace(optimizer, lr=0.1 * optimizer.lr), schedule=Schedule())
        trainer = block.trainer(kept, replace(block.task, recipe=recipe))
        trainer.scale_rates(0.1)
        return trainer

    def _check(self, networks: Collection, task: Task) -> tuple[int, int]:
        """Iterations up to the rewind point and of the whole training."""
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        check_dense_enough(networks, self.goal)
        if isinstance(task, LoopTask) and self.after_pruning == "fine_tune":
            task.require_lr_factor()
        given = are_starts(networks)
        for i, record in enumerate(networks.records):
            if given:
                break
            if not collected(record) or _training(record.get("recipe", {})) != _training(task.recipe.to_json()):
                raise InputError(
                    f"network {i} is not as collect trained it with this task's recipe, so the weights to rewind "
                    "to are not known: collect the networks first, use tickets.GradualPruning, which does not rewind, "
                    "or begin at the networks themselves with starts(networks)"
                )
        rewind, length = self.rewind.total(task.recipe.per_epoch(len(task.train))), recipe_length(task)
        if isinstance(task, LoopTask) and rewind >= length:
            raise InputError(
                f"cannot rewind to {self.rewind}: the loop of task {task.name!r} has {length} part(s), and networks "
                "are rewound to before the last. Divide it, with tasks.from_loop(..., parts=10), or rewind to 0it"
            )
        if rewind > length:
            raise InputError(
                f"cannot rewind to {self.rewind}, training ends at {task.recipe.length}: choose an earlier step"
            )
        return rewind, length

    def _method(self) -> dict[str, Any]:
        """What identifies a run."""
        settings = {"rewind": str(self.rewind), "pattern": spelled_text(self.pattern)}
        return {"name": self.spelling.name, **spelled(self), **settings}

    def _recorded(self) -> dict[str, Any]:
        """What the record of a ticket has."""
        settings = self._method()
        if self.pattern is None:
            del settings["pattern"]
        order = ("name", "density", "rate", "rewind", "scope", "survivors", "pattern")
        return {name: settings[name] for name in order if name in settings}


def _training(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without what does not change the networks."""
    return {name: value for name, value in recipe.items() if name != "watch"}


def _trained(block: SearchBlock, trainer: Trainer) -> Collection:
    """The networks of a level, on the CPU."""
    masks = None if trainer.masks is None else trainer.masks.cpu()
    buffers = {name: buffer.cpu() for name, buffer in trainer.buffers.items()}
    return block.networks.replace(weights=trainer.weights.cpu(), masks=masks, buffers=buffers)


def _keep(checkpoint: Path, trained: Collection, level: int) -> None:
    """Write the networks of a level."""
    parts = {"weights": trained.weights, "masks": trained.masks.contiguous(), "levels": torch.tensor(level)}
    write_checkpoint(checkpoint, parts | {f"buffer.{name}": buffer for name, buffer in trained.buffers.items()})


def _sparsest(networks: Collection) -> float:
    """Density that the levels begin at: of starts that are sparse already, the lowest."""
    return networks.densities.min().item() if are_starts(networks) else 1.0


def _levels_done(block: SearchBlock, before: int) -> tuple[Collection, int]:
    """The networks of the last level that a block's checkpoint keeps, and its number; without one the networks, and
    the number of the level before all.
    """
    if block.checkpoint is None or not exists(block.checkpoint):
        return block.networks, before
    saved = read_checkpoint(block.checkpoint, "its block")
    buffers = {name: saved[f"buffer.{name}"] for name in block.networks.buffers}
    trained = block.networks.replace(weights=saved["weights"], masks=saved["masks"], buffers=buffers)
    return trained, int(saved["levels"])
