"""Iterative magnitude pruning with rewinding (Frankle & Carbin 2019, arXiv 1803.03635;
Frankle et al. 2019, arXiv 1903.01611).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool
from safetensors.torch import save_file
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern, Unstructured
from weightspace.masks.schedule import steps_to
from weightspace.networks.building import in_blocks
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.networks.record import Extra
from weightspace.recipes.schedule import Schedule
from weightspace.recipes.step import Step
from weightspace.runtime import devices
from weightspace.storage.checkpoints import read_checkpoint
from weightspace.storage.files import atomic_file
from weightspace.storage.spelling import Spelling, spelled, spelled_text
from weightspace.tasks.task import Task
from weightspace.tickets.finder import check_dense_enough, collected, ticket_records
from weightspace.training.conversion import finished, initial, trainer_for
from weightspace.training.engine import Execution, block_size, choose_execution
from weightspace.training.trainer import Trainer


@dataclass(frozen=True)
class IMP:
    """Prune the smallest weights, put the survivors back to where they were early on, train, repeat.

    Every level trains for the task's whole recipe, so a ticket of density 0.1 costs 11 training runs:
    this is the standard that cheaper finders are measured against.

    Args:
        density: fraction of the prunable weights kept at the end, in (0, 1].
        rate: fraction of the remaining weights removed at each level; the last level removes just
            enough to reach the density exactly.
        rewind: how far into training the survivors are put back; 0it is the initialisation.
        scope: rank weights over the whole network (global) or inside each layer (layer).
        pattern: that the tickets have at the end, instead of a density and a scope: NM(2, 4), Channels(0.5), or
            LayerRates(16) as in the first paper.
        after_pruning: "rewind" puts them back; "lr_rewind" leaves them and replays the learning rate (learning-rate
            rewinding, Renda et al. 2020, arXiv 2003.02389); "fine_tune" leaves them and trains at a tenth of the learning rate.
    """

    density: float = 0.1
    rate: float = 0.2
    rewind: Step = Step()
    scope: Literal["global", "layer"] = "global"
    pattern: Pattern | None = None
    after_pruning: Literal["rewind", "lr_rewind", "fine_tune"] = "rewind"

    spelling: ClassVar[Spelling] = Spelling(
        "IMP",
        {"after_pruning": "survivors"},
        {"after_pruning": {"lr_rewind": "keep", "fine_tune": "fine-tune"}},
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "rewind", Step.of(self.rewind))
        Unstructured(self.density, self.scope)
        if not 0 < self.rate < 1:
            raise InputError(f"rate, the fraction removed at each level, must lie in (0, 1), got {self.rate}")
        if self.after_pruning not in ("rewind", "lr_rewind", "fine_tune"):
            raise InputError(f"after_pruning is 'rewind', 'lr_rewind' or 'fine_tune', got {self.after_pruning!r}")
        if self.after_pruning != "rewind" and self.rewind != Step():
            raise InputError("there is a point to rewind to only with after_pruning='rewind'")

    def levels(self, start: float = 1.0) -> list[Pattern]:
        """The pattern of each pruning; the last is that of the tickets."""
        return steps_to(self.pattern or Unstructured(self.density, self.scope), self.rate, start)

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """A ticket of each network: trained weights and mask; `extras["rewind"]` holds the weights to
        train the ticket from.

        Args:
            networks: networks that `collect` trained on this task with this recipe: level 0. Their
                early weights are found by training again from their seeds.
            folder: write to this folder as a resumable run.

        Raises:
            LayoutMismatch: the networks are not of the task's architecture.
            InputError: networks are sparser than the density asked, or were not trained by `collect`
                with the task's recipe.
        """
        rewind, length = self._check(networks, task)
        levels = self.levels()

        device = devices.pick(device)
        block = min(len(networks), block_size(task, device=device))

        def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
            start = networks[rows]
            execution = choose_execution(task, block, device=device, folder=Path(folder) if folder else None)
            early = trainer_for(initial(task.architecture, start.records), task, execution=execution, device=device)
            early.run(rewind, tick)
            trained, done = start, 0
            if checkpoint is not None and checkpoint.exists():
                saved = read_checkpoint(checkpoint, "its block")
                done = int(saved["levels"])
                trained = start.replace(
                    weights=saved["weights"],
                    masks=saved["masks"],
                    buffers={n: saved[f"buffer.{n}"] for n in start.buffers},
                )
                tick((length - rewind) * done)
            trainer = early
            for level, pattern in enumerate(levels[done:], done + 1):
                trainer = self._pruned(early, trained, pattern, task, execution, device)
                trainer.run(length, tick)
                assert trainer.masks is not None
                buffers = {n: b.cpu() for n, b in trainer.buffers.items()}
                trained = start.replace(weights=trainer.weights.cpu(), masks=trainer.masks.cpu(), buffers=buffers)
                # The last level is not kept: its training losses are part of the result.
                if checkpoint is not None and level < len(levels):
                    parts = {"weights": trained.weights, "masks": trained.masks, "levels": torch.tensor(level)}
                    with atomic_file(checkpoint) as temporary:
                        save_file(parts | {f"buffer.{n}": b for n, b in buffers.items()}, temporary)
            records = ticket_records(start.records, rows.start, self._method(trained.masks, start.layout))
            return finished(trainer, task, records).replace(extras={Extra.REWIND: early.weights.cpu()})

        return in_blocks(
            make, architecture=networks.architecture, count=len(networks), block=block,
            ticks=rewind + (length - rewind) * len(levels),
            what=f"iterative pruning of {len(networks)} networks, {len(levels)} levels", folder=folder,
            stage="tickets", config=self._config(task), inputs={"networks": networks.fingerprint()} if folder else None,
        )  # fmt: skip

    def find_levels(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> list[Collection]:
        """The networks and their tickets of every level, the sparsest last, as :meth:`find` makes it.

        Args:
            folder: write each level to a folder in it, as a resumable run.

        Raises:
            LayoutMismatch, InputError: as :meth:`find`.
        """
        rewind, length = self._check(networks, task)
        device = devices.pick(device)
        block = min(len(networks), block_size(task, device=device))
        found = [networks]
        for level, pattern in enumerate(self.levels(), 1):
            before = found[-1]
            place = None if folder is None else Path(folder) / f"level-{level:02}"

            def make(
                rows: slice, tick: Callable[[int], object], checkpoint: Path | None, before: Collection = before,
                pattern: Pattern = pattern, place: Path | None = place,
            ) -> Collection:  # fmt: skip
                start = networks[rows]
                execution = choose_execution(task, block, device=device, folder=place)
                early = trainer_for(initial(task.architecture, start.records), task, execution=execution, device=device)
                early.run(rewind, tick)
                trainer = self._pruned(early, before[rows], pattern, task, execution, device)
                trainer.continue_from(checkpoint, tick)
                trainer.run(length, tick)
                assert trainer.masks is not None
                records = ticket_records(start.records, rows.start, self._method(trainer.masks, start.layout))
                return finished(trainer, task, records).replace(extras={Extra.REWIND: early.weights.cpu()})

            rung = in_blocks(
                make, architecture=networks.architecture, count=len(networks), block=block, ticks=length,
                what=f"iterative pruning of {len(networks)} networks, level {level}", folder=place,
                stage="tickets", config=self._config(task) | {"level": level},
                inputs={"networks": networks.fingerprint()} if folder else None,
            )  # fmt: skip
            found.append(rung)
        return found

    def _pruned(
        self, early: Trainer, trained: Collection, pattern: Pattern, task: Task, execution: Execution, device: str
    ) -> Trainer:  # fmt: skip
        """Where the next level starts.

        Args:
            early: networks at the rewind point.
            trained: networks of the level before, which decide the mask.
        """
        masks = pattern.mask(trained.weights.abs(), trained.layout, within=trained.masks)
        if self.after_pruning == "rewind":
            return early.fork(masks.to(device))
        recipe = task.recipe
        if self.after_pruning == "fine_tune":
            recipe = replace(
                recipe, optimizer=replace(recipe.optimizer, lr=0.1 * recipe.optimizer.lr), schedule=Schedule()
            )
        kept = trained.replace(weights=trained.weights * masks, masks=masks, extras={})
        trainer = trainer_for(kept, replace(task, recipe=recipe), execution=execution, device=device)
        if self.after_pruning == "fine_tune":
            trainer.scale_rates(0.1)
        return trainer

    def _check(self, networks: Collection, task: Task) -> tuple[int, int]:
        """Iterations up to the rewind point and of the whole training."""
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        check_dense_enough(networks, self.levels()[-1])
        for i, record in enumerate(networks.records):
            if not collected(record) or _training(record.get("recipe", {})) != _training(task.recipe.to_json()):
                raise InputError(
                    f"network {i} is not as collect trained it with this task's recipe, so the weights to rewind "
                    "to are not known: collect the networks first, or use tickets.GradualPruning, which does not rewind"
                )
        per_epoch = task.recipe.per_epoch(len(task.train))
        length, rewind = task.recipe.length.total(per_epoch), self.rewind.total(per_epoch)
        if rewind > length:
            raise InputError(f"cannot rewind to {self.rewind}, training ends at {task.recipe.length}")
        return rewind, length

    def _method(self, masks: Bool[Tensor, "n d"], layout: Layout) -> dict[str, Any]:
        """What a ticket's record says of its making."""
        density = int(masks[0, layout.prunable.to(masks.device)].sum()) / layout.num_prunable
        pattern = {} if self.pattern is None else {"pattern": spelled_text(self.pattern)}
        return {
            "name": "IMP", "density": density if self.pattern else self.density, "rate": self.rate,
            "rewind": str(self.rewind), "scope": self.scope, "survivors": spelled(self)["survivors"],
        } | pattern  # fmt: skip

    def _config(self, task: Task) -> dict[str, Any]:
        method = {"name": "IMP", **spelled(self), "rewind": str(self.rewind), "pattern": spelled_text(self.pattern)}
        return {"method": method, "task": task.to_json(), "recipe": task.recipe.to_json()}


def _training(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe without what does not change the networks."""
    return {name: value for name, value in recipe.items() if name != "watch"}
