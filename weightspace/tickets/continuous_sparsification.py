"""Continuous sparsification (Savarese et al. 2020, arXiv 1912.04427): soft masks that harden while the weights
train.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from weightspace.masks.patterns import Pattern, Unstructured, check_density, check_pattern
from weightspace.masks.schedule import part_of
from weightspace.networks.collection import Collection
from weightspace.runtime import checks
from weightspace.storage.spelling import spelled_text
from weightspace.tasks.arguments import check_run
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task
from weightspace.tickets.finder import SearchBlock, SearchResult, Starts, recipe_length, search


@dataclass(frozen=True)
class ContinuousSparsification:
    """Train w sigmoid(beta s) with beta rising from 1 to `hardness`, then keep the weights with the largest s and train
    on.

    The paper's ticket keeps all s > 0, as many as there are, after three rounds; here there is one round and the
    largest s are kept, so that the density is the one asked. After the search the survivors go back to their initial
    values and train for the task's recipe. An interrupted search starts anew, the training behind it goes on.

    Args:
        density: Fraction of the prunable weights kept, in (0, 1].
        penalty: Factor of the sum of the soft masks in the loss.
        start: Value of s at the start; below zero is sparser.
        hardness: Value of beta at the end of the search, above 1.
        mask_lr: Learning rate of s, in units of that of the weights.
        pattern: Pattern of the masks instead of the density, such as Only(Unstructured(0.1), "encoder.*").

    Raises:
        InputError: A setting lies outside its range.
    """

    density: float = 0.1
    penalty: float = 1e-8
    start: float = 0.0
    hardness: float = 200.0
    mask_lr: float = 1.0
    pattern: Pattern | None = None

    starts: ClassVar[Starts] = "either"

    def __post_init__(self) -> None:
        checks.settle(self, check_density, "density")
        checks.settle(self, checks.number, "penalty", at_least=0)
        checks.settle(self, checks.number, "start")
        checks.settle(self, checks.number, "hardness", above=1)
        checks.settle(self, checks.number, "mask_lr", above=0)
        checks.settle_given(self, check_pattern, "pattern")

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """A trained ticket for each network; `extras["rewind"]` holds the initialisation.

        Args:
            networks: Networks whose seeds give the initialisations, their own weights are not used; or starts, such as
                imported networks, which are taken as they are.
            task: Task to train on.
            folder: Folder to write to as a resumable run; None keeps everything in memory.
            device: Device to train on.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: A record has no seed.
        """
        check_run(networks, task, folder, device)
        require_samples(task, "ContinuousSparsification")
        length = recipe_length(task)
        goal = self.pattern or Unstructured(self.density)
        selected = part_of(goal, networks.layout)

        def find(block: SearchBlock) -> SearchResult:
            start = block.start
            soft_run = block.trainer(start)
            soft = torch.full_like(soft_run.weights, self.start)
            optimizer, prunable = task.recipe.optimizer, selected.prunable.to(block.device)
            moments = optimizer.start(soft)
            zero = torch.sigmoid(torch.tensor(self.start))
            while soft_run.step < length:
                beta = self.hardness ** (soft_run.step / length)
                gate = torch.where(prunable, (beta * soft).sigmoid() / zero, 1.0)
                lr = soft_run.rates()[0] * task.recipe.lr_factor(soft_run.step, length, soft_run.per_epoch)
                gradient = soft_run.gradients(soft_run.weights * gate)
                slope = beta * gate * (1 - gate * zero) * prunable
                of_soft = (gradient * soft_run.weights + self.penalty) * slope
                soft_run.update(gradient * gate)
                optimizer.update_(soft, of_soft, moments, self.mask_lr * lr, 0.0, soft_run.step)
                block.tick(1)
            masks = goal.mask(soft, start.layout).cpu()
            trainer = block.trainer(start.replace(weights=start.weights * masks, masks=masks))
            block.train(trainer, length)
            return SearchResult(trainer, start.weights)

        return search(
            networks,
            task,
            find,
            method=self._method(),
            ticks=2 * length,
            what=f"continuous sparsification of {len(networks)} networks",
            folder=folder,
            device=device,
            starts=self.starts,
        )

    def _method(self) -> dict[str, Any]:
        settings = {"name": "ContinuousSparsification", **vars(self), "pattern": spelled_text(self.pattern)}
        return settings if self.pattern else {name: value for name, value in settings.items() if name != "pattern"}
