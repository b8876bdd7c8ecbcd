"""Lottery ticket adaptation: train a few of a pre-trained network's weights, and leave the others bit for bit.

Panda et al. 2024, "Lottery Ticket Adaptation: Mitigating Destructive Interference in LLMs" (arXiv 2406.16797).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.adapt.task_vectors import TaskVectors, check_globs, check_vectors, moved_to, paired, parameters_named
from weightspace.adapt.train_only import train_entries
from weightspace.errors import InputError
from weightspace.masks.patterns import Unstructured
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step
from weightspace.runtime import checks, seeds
from weightspace.storage.checkpoints import read_checkpoint, write_checkpoint
from weightspace.tasks.arguments import check_run
from weightspace.tasks.task import Task
from weightspace.tickets.finder import SearchBlock, Starts, recipe_length

_SUPPORT = "support"


@dataclass(frozen=True)
class LoTA:
    """Train the weights that a first tuning changed most, from the base again; all others stay.

    1. Calibrate: tune everything, for `calibration`. 2. Extract: the weights whose change is largest. 3. Adapt: go back
    to the base and train these weights alone. Few weights need larger steps: the paper's learning rate for them is 20
    times that of full tuning, so give the task's recipe the rate for step 3, and `calibration` that of step 1.

    Args:
        density: Fraction of the weights in `on` that is trained, in (0, 1].
        calibration: Recipe of the first tuning, or its length; None is the task's recipe.
        on: Names or globs of the weights to choose among; by default all prunable ones.
        whole: Names or globs of tensors that are trained entirely, such as a new head.
        apart_from: Task vectors whose trained entries stay as they are, so that two tasks share none (LoTTO).
        by: How weights are chosen: the largest "change" of the calibration; as controls the largest "magnitude" in the
            base, or at "random", from the networks' seeds. The controls calibrate nothing.
        scope: Rank weights of all tensors together (global) or inside each tensor (layer).

    Raises:
        InputError: A setting lies outside its range.
    """

    density: float = 0.1
    calibration: Recipe | Step | str | None = None
    on: str | Sequence[str] = ()
    whole: str | Sequence[str] = ()
    apart_from: TaskVectors | None = None
    by: Literal["change", "magnitude", "random"] = "change"
    scope: Literal["global", "layer"] = "global"

    starts: ClassVar[Starts] = "networks"

    def __post_init__(self) -> None:
        Unstructured(self.density, self.scope)
        checks.settle(self, check_globs, "on", "whole")
        checks.settle_given(self, check_vectors, "apart_from")
        if isinstance(self.calibration, str | Step):
            object.__setattr__(self, "calibration", Step.of(self.calibration, "calibration"))
        elif not (self.calibration is None or isinstance(self.calibration, Recipe)):
            raise checks.refuse("calibration", 'a Recipe, or a length such as "30it"', self.calibration)
        checks.settle(self, checks.one_of, "by", choices=("change", "magnitude", "random"))
        if self.by != "change" and self.calibration is not None:
            raise InputError(f"by={self.by!r} chooses weights without a calibration: leave `calibration` out")

    def find(
        self, base: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> TaskVectors:
        """The task vector of each network: what to add to it, zero wherever nothing was trained.

        Args:
            base: Dense networks to begin at, such as imported ones; `starts(networks[[0] * 3], seed=0)` begins three
                times at one network, each time with another order of the data.
            task: Task to train on, of the networks' architecture.
            folder: Folder to write to as a resumable run; None keeps everything in memory. It holds the adapted
                networks; save task vectors with their own `save`.
            device: Device to train on.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: The networks are sparse, a glob matches nothing, a network has no seed, or fewer weights are
                left than are to be trained.
        """
        check_run(base, task, folder, device, name="base")
        part, whole = self._parts(base.layout)
        taken = self._taken(base)
        first = self._calibration(task)

        def entries(block: SearchBlock) -> Bool[Tensor, "n d"]:
            return self._support(block, first, part, taken[block.rows]) | whole

        return train_entries(
            base,
            task,
            entries,
            method=self._method(first, taken),
            recorded=self._recorded(),
            density=self.density,
            before=recipe_length(first) if self.by == "change" else 0,
            folder=folder,
            device=device,
        )

    def _parts(self, layout: Layout) -> tuple[Layout, Bool[Tensor, " d"]]:
        """The layout in which only the weights to choose among are prunable, and what is trained entirely."""
        entirely = parameters_named(layout, self.whole) if self.whole else []
        chosen = layout.selected(self.on) if self.on else tuple(entry.name for entry in layout.weights)
        chosen = tuple(name for name in chosen if name not in entirely)
        if not chosen:
            raise InputError("no weights are left to choose among: `whole` names all that `on` does")
        whole = torch.zeros(layout.size, dtype=torch.bool)
        for name in entirely:
            whole[layout.slices[name]] = True
        return layout.with_prunable(chosen), whole

    def _taken(self, base: Collection) -> Bool[Tensor, "n d"]:
        """The entries of the vectors to stay apart from, for each network."""
        if self.apart_from is None:
            return torch.zeros(len(base), 1, dtype=torch.bool).expand(-1, base.layout.size)
        own, rows = paired(len(self.apart_from), len(base), "task vectors to stay apart from and networks")
        if len(rows) != len(base):
            raise InputError(f"got {len(self.apart_from)} task vectors to stay apart from, and {len(base)} network")
        trained = self.apart_from.trained[own]
        return moved_to(trained, self.apart_from.layout, base.layout, "the vectors to stay apart from")

    def _calibration(self, task: Task) -> Task:
        """The task with the recipe of the first tuning."""
        if self.calibration is None:
            return task
        recipe = self.calibration
        return replace(task, recipe=recipe if isinstance(recipe, Recipe) else replace(task.recipe, length=recipe))

    def _support(
        self, block: SearchBlock, first: Task, part: Layout, taken: Bool[Tensor, "n d"]
    ) -> Bool[Tensor, "n d"]:
        """The weights that are trained, of each network of a block; kept beside its checkpoint."""
        kept = _beside(block.checkpoint, _SUPPORT)
        if kept is not None and kept.exists():
            block.tick(recipe_length(first) if self.by == "change" else 0)
            return read_checkpoint(kept, "its block")[_SUPPORT]
        scores = self._scores(block, first, taken)
        within = ~taken | ~part.prunable
        support = Unstructured(self.density, self.scope).mask(scores, part, within=within) & part.prunable
        if kept is not None:
            write_checkpoint(kept, {_SUPPORT: support})
        return support

    def _scores(self, block: SearchBlock, first: Task, taken: Bool[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        weights = block.networks.weights
        if self.by == "magnitude":
            return weights.abs()
        if self.by == "random":
            draws = [seeds.generator(record.seed, "random weights to adapt") for record in block.networks.records]
            return torch.stack([torch.rand(weights.shape[1], generator=draw) for draw in draws])
        trainer = block.trainer(block.networks.replace(extras={}), first)
        if bool(taken.any()):
            trainer.hold(taken)
        trainer.continue_from(_beside(block.checkpoint, "calibration"), block.tick)
        trainer.run(recipe_length(first), block.tick)
        return (trainer.weights.cpu() - weights).abs()

    def _recorded(self) -> dict[str, Any]:
        settings = {"density": self.density, "on": list(self.on), "whole": list(self.whole), "by": self.by}
        return {"name": "LoTA", **settings, "scope": self.scope, "apart": self.apart_from is not None}

    def _method(self, first: Task, taken: Bool[Tensor, "n d"]) -> dict[str, Any]:
        """What identifies a run."""
        apart = self.apart_from.fingerprint() if self.apart_from is not None else None
        calibration = first.recipe.to_json() if self.by == "change" else None
        return self._recorded() | {"calibration": calibration, "apart_from": apart, "taken": int(taken.sum())}


def _beside(checkpoint: Path | None, what: str) -> Path | None:
    """A second checkpoint of a block, which is removed with the first."""
    if checkpoint is None:
        return None
    return checkpoint.with_name(checkpoint.name.replace(".checkpoint.", f"-{what}.checkpoint."))
