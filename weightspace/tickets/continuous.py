"""Continuous sparsification (Savarese et al. 2020, arXiv 1912.04427): soft masks that harden while the weights train."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from weightspace import devices
from weightspace.collection import Collection
from weightspace.errors import InputError
from weightspace.pattern import Unstructured
from weightspace.task import Task
from weightspace.tickets.common import ticket_records
from weightspace.training.blocks import block_size, in_blocks
from weightspace.training.probe import engine
from weightspace.training.start import finished, initial, trainer_for


@dataclass(frozen=True)
class ContinuousSparsification:
    """Train w sigmoid(beta s) with beta rising from 1 to `hardness`, then keep the weights with the largest s and train on.

    The paper's ticket keeps all s > 0, as many as there are, after three rounds; here there is one round and the largest s
    are kept, so that the density is the one asked. After the search the survivors go back to their initial values and
    train for the task's recipe. An interrupted search starts anew, the training behind it goes on.

    Args:
        density: fraction of the prunable weights kept.
        penalty: weight of the sum of the soft masks.
        start: s at the start; below zero is sparser.
        hardness: beta at the end of the search.
        mask_lr: learning rate of s, in units of that of the weights.
    """

    density: float = 0.1
    penalty: float = 1e-8
    start: float = 0.0
    hardness: float = 200.0
    mask_lr: float = 1.0

    def __post_init__(self) -> None:
        Unstructured(self.density)
        if self.hardness <= 1 or self.penalty < 0 or self.mask_lr <= 0:
            raise InputError(
                "hardness is above 1, the penalty not negative and mask_lr positive, got "
                f"{self.hardness}, {self.penalty} and {self.mask_lr}"
            )

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """A trained ticket for each network; `extras["rewind"]` holds the initialisation.

        Args:
            networks: whose seeds give the initialisations; their own weights are not used.
            folder: write to this folder as a resumable run.

        Raises:
            LayoutMismatch: the networks are not of the task's architecture.
            InputError: a record has no seed.
        """
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        length = task.recipe.length.total(task.recipe.per_epoch(len(task.train)))
        device = devices.pick(device)
        block = min(len(networks), block_size(task, device=device))
        method: dict[str, Any] = {"name": "ContinuousSparsification", **vars(self)}

        def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
            start = initial(task.architecture, networks[rows].records)
            how = engine(task, block, device=device, folder=Path(folder) if folder else None)
            search = trainer_for(start, task, engine=how, device=device)
            soft = torch.full_like(search.weights, self.start)
            optimizer, prunable = task.recipe.optimizer, start.layout.prunable.to(device)
            moments = optimizer.start(soft)
            search.state = optimizer.start(search.weights)
            zero = torch.sigmoid(torch.tensor(self.start))
            while search.step < length:
                beta = self.hardness ** (search.step / length)
                gate = torch.where(prunable, (beta * soft).sigmoid() / zero, 1.0)
                lr, decay = search.rates()
                lr = lr * task.recipe.lr_factor(search.step, length, search.per_epoch)
                gradient = search.gradients(search.weights * gate)
                slope = beta * gate * (1 - gate * zero) * prunable
                of_soft = (gradient * search.weights + self.penalty) * slope
                optimizer.update_(search.weights, gradient * gate, search.state, lr, decay, search.step)
                optimizer.update_(soft, of_soft, moments, self.mask_lr * lr, 0.0, search.step)
                tick(1)
            masks = Unstructured(self.density).mask(soft, start.layout)
            trainer = trainer_for(start.replace(weights=start.weights * masks.cpu(), masks=masks.cpu()), task, engine=how,
                                  device=device)  # fmt: skip
            trainer.continue_from(checkpoint, tick)
            trainer.run(length, tick)
            records = ticket_records(start.records, rows.start, method, task)
            return finished(trainer, task, records).replace(extras={"rewind": start.weights})

        return in_blocks(
            make, architecture=networks.architecture, count=len(networks), block=block, ticks=2 * length,
            what=f"continuous sparsification of {len(networks)} networks", folder=folder, stage="tickets",
            config={"method": method, "task": task.to_json(), "recipe": task.recipe.to_json()},
            inputs={"networks": networks.fingerprint()} if folder else None,
        )  # fmt: skip
