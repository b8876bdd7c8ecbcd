"""Strong tickets: masks found by training scores, of weights that are never trained."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace import devices, seeds
from weightspace.collection import Collection
from weightspace.errors import InputError
from weightspace.layout import Layout
from weightspace.pattern import Unstructured
from weightspace.task import Task
from weightspace.tickets.common import ticket_records
from weightspace.training.blocks import block_size, in_blocks
from weightspace.training.probe import engine
from weightspace.training.start import finished, initial, trainer_for


@dataclass(frozen=True)
class EdgePopup:
    """Keep the weights with the largest |score| of each layer; train the scores straight through that choice.

    Ramanujan et al. 2020 (arXiv 1911.13299); with `binary`, multi-prize tickets (Diffenderfer & Kailkhura 2021,
    arXiv 2103.09377): each layer's weights become alpha sign(w) m with alpha = |m w|_1 / |m|_0. Biases and norm
    parameters stay as initialised. The task's recipe trains the scores; its optimiser should be SGD with momentum.

    Args:
        density: fraction kept; half of the weights is usually best.
        scope: in each layer (layer) or over the whole network (global).
        binary: see above.
        weights: "kaiming" normal ones, for as many inputs as the mask leaves; "signed": random signs times their standard
            deviation; or the "initial" ones of the architecture.
    """

    density: float = 0.5
    scope: Literal["global", "layer"] = "layer"
    binary: bool = False
    weights: Literal["kaiming", "signed", "initial"] = "kaiming"

    def __post_init__(self) -> None:
        Unstructured(self.density, self.scope)
        if self.weights not in ("kaiming", "signed", "initial"):
            raise InputError(f"weights are 'kaiming', 'signed' or 'initial', got {self.weights!r}")

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """The networks at initialisation under the masks found; no weight has been trained.

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

        def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
            records = networks[rows].records
            start = initial(task.architecture, records)
            fixed = fixed_weights(start, self.weights, self.density).to(device)
            how = engine(task, block, device=device, folder=Path(folder) if folder else None)
            # The trainer's weights are the scores here: it keeps their optimiser, data order and checkpoints.
            trainer = trainer_for(start.replace(weights=_scores(start)), task, engine=how, device=device)
            trainer.continue_from(checkpoint, tick)
            optimizer, prunable = task.recipe.optimizer, start.layout.prunable.to(device)
            if not trainer.state:
                trainer.state = optimizer.start(trainer.weights)
            while trainer.step < length:
                masks, values = self._effective(trainer.weights, fixed, start.layout)
                factor = task.recipe.lr_factor(trainer.step, length, trainer.per_epoch)
                gradient = trainer.gradients(values * masks)
                gradient.mul_(values * trainer.weights.sign()).mul_(prunable)
                lr, decay = trainer.rates()
                optimizer.update_(trainer.weights, gradient, trainer.state, lr * factor, decay, trainer.step)
                tick(1)
                if checkpoint is not None and trainer.step % _EVERY == 0:
                    trainer.save(checkpoint)
            masks, values = self._effective(trainer.weights, fixed, start.layout)
            trainer.weights, trainer.masks = values * masks, masks
            found = ticket_records(records, rows.start, self._method(), task)
            return finished(trainer, task, found).replace(extras={"rewind": fixed.cpu()})

        return in_blocks(
            make, architecture=networks.architecture, count=len(networks), block=block, ticks=length,
            what=f"searching {len(networks)} untrained networks", folder=folder, stage="tickets",
            config={"method": self._method(), "task": task.to_json(), "recipe": task.recipe.to_json()},
            inputs={"networks": networks.fingerprint()} if folder else None,
        )  # fmt: skip

    def _effective(
        self, scores: Float[Tensor, "n d"], fixed: Float[Tensor, "n d"], layout: Layout
    ) -> tuple[Bool[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Masks, and the values that the kept weights have."""
        masks = Unstructured(self.density, self.scope).mask(scores.abs(), layout)
        return masks, _binary(fixed, masks, layout) if self.binary else fixed

    def _method(self) -> dict[str, Any]:
        return {"name": "EdgePopup", **vars(self)}


_EVERY = 100  # steps between checkpoints


def fixed_weights(start: Collection, kind: str, density: float) -> Float[Tensor, "n d"]:
    """Weights that are never trained: as initialised, or Kaiming normal for the inputs that a mask leaves."""
    found = start.weights.clone()
    if kind == "initial":
        return found
    for entry in start.layout.parameters:
        if entry.role == "weight":
            std = (2 / (density * entry.size / entry.shape[0])) ** 0.5
            for row, record in zip(found, start.records, strict=True):
                random = seeds.generator(int(record["seed"]), f"fixed weights of {entry.name}")
                drawn = std * torch.randn(entry.size, generator=random)
                row[start.layout.slices[entry.name]] = drawn if kind == "kaiming" else drawn.sign() * std
    return found


def _binary(weights: Tensor, masks: Tensor, layout: Layout) -> Tensor:
    found = weights.clone()
    for entry in layout.parameters:
        if entry.role == "weight":
            at = layout.slices[entry.name]
            kept = masks[:, at].sum(1, keepdim=True).clamp(min=1)
            found[:, at] = weights[:, at].sign() * (weights[:, at].abs() * masks[:, at]).sum(1, keepdim=True) / kept
    return found


def _scores(start: Collection) -> Float[Tensor, "n d"]:
    """Uniform scores of the scale 1 / sqrt(fan-in), as the public code starts from; zero off the weights."""
    found = torch.zeros_like(start.weights)
    for entry in start.layout.parameters:
        if entry.role == "weight":
            bound = (entry.size / entry.shape[0]) ** -0.5
            for row, record in zip(found, start.records, strict=True):
                random = seeds.generator(int(record["seed"]), f"scores of {entry.name}")
                row[start.layout.slices[entry.name]] = (2 * torch.rand(entry.size, generator=random) - 1) * bound
    return found
