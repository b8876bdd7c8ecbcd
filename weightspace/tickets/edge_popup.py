"""Strong tickets: masks found by training scores, of weights that are never trained."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.masks.patterns import Pattern, Unstructured, check_density, check_pattern
from weightspace.masks.schedule import density_of, part_of
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.runtime import checks, seeds
from weightspace.storage.spelling import spelled_text
from weightspace.tasks.arguments import check_run
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task
from weightspace.tickets.finder import SearchBlock, SearchResult, Starts, recipe_length, search


@dataclass(frozen=True)
class EdgePopup:
    """Keep the weights with the largest |score| of each layer; train the scores straight through that choice.

    Ramanujan et al. 2020 (arXiv 1911.13299); with `binary`, multi-prize tickets (Diffenderfer & Kailkhura 2021,
    arXiv 2103.09377): each layer's weights become alpha sign(w) m with alpha = |m w|_1 / |m|_0. Biases and norm
    parameters stay as initialised. The task's recipe trains the scores; its optimiser should be SGD with momentum.

    Args:
        density: Fraction of the prunable weights kept; half of them is usually best.
        scope: Keep the best scores of each layer (layer) or of the whole network (global).
        binary: Find multi-prize tickets: one magnitude for all kept weights of a layer.
        weights: Weights under the mask: "kaiming" normal ones, for as many inputs as the mask leaves; "signed", random
            signs times their standard deviation; or the "initial" ones of the architecture.
        pattern: Pattern of the masks instead of density and scope: Only(Unstructured(0.5, "layer"), "encoder.*").

    Raises:
        InputError: The density lies outside (0, 1], or the weights are other ones.
    """

    density: float = 0.5
    scope: Literal["global", "layer"] = "layer"
    binary: bool = False
    weights: Literal["kaiming", "signed", "initial"] = "kaiming"
    pattern: Pattern | None = None

    def __post_init__(self) -> None:
        checks.settle(self, check_density, "density")
        checks.settle(self, checks.one_of, "scope", choices=("global", "layer"))
        checks.settle(self, checks.flag, "binary")
        checks.settle(self, checks.one_of, "weights", choices=("kaiming", "signed", "initial"))
        checks.settle_given(self, check_pattern, "pattern")

    @property
    def goal(self) -> Pattern:
        """The pattern of the masks."""
        return self.pattern or Unstructured(self.density, self.scope)

    @property
    def starts(self) -> Starts:
        """Whether it begins at imported networks: only if it is their own weights that are masked."""
        return "either" if self.weights == "initial" else "seeds"

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """The networks at initialisation under the best masks; no weight has been trained.

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
        require_samples(task, "EdgePopup")
        length = recipe_length(task)
        density = density_of(self.goal) or self.density
        selected = part_of(self.goal, networks.layout)

        def find(block: SearchBlock) -> SearchResult:
            start = block.start
            fixed = fixed_weights(start, self.weights, density, selected).to(block.device)
            # The trainer's weights are the scores here: it keeps their optimiser, data order and checkpoints.
            trainer = block.trainer(start.replace(weights=_scores(start)))
            trainer.continue_from(block.checkpoint, block.tick)
            prunable = start.layout.prunable.to(block.device)
            while trainer.step < length:
                masks, values = self._effective(trainer.weights, fixed, start.layout)
                gradient = trainer.gradients(values * masks)
                gradient.mul_(values * trainer.weights.sign()).mul_(prunable)
                trainer.update(gradient)
                block.tick(1)
                if block.checkpoint is not None and trainer.step % _EVERY == 0:
                    trainer.save(block.checkpoint)
            masks, values = self._effective(trainer.weights, fixed, start.layout)
            trainer.replace_state(weights=values * masks, masks=masks)
            return SearchResult(trainer, fixed)

        return search(
            networks,
            task,
            find,
            method=self._method(),
            ticks=length,
            what=f"searching {len(networks)} untrained networks",
            folder=folder,
            device=device,
            starts=self.starts,
        )

    def _effective(
        self, scores: Float[Tensor, "n d"], fixed: Float[Tensor, "n d"], layout: Layout
    ) -> tuple[Bool[Tensor, "n d"], Float[Tensor, "n d"]]:
        """Masks, and the values that the kept weights have."""
        masks = self.goal.mask(scores.abs(), layout)
        return masks, _binary(fixed, masks, layout) if self.binary else fixed

    def _method(self) -> dict[str, Any]:
        settings = {"name": "EdgePopup", **vars(self), "pattern": spelled_text(self.pattern)}
        return settings if self.pattern else {name: value for name, value in settings.items() if name != "pattern"}


_EVERY = 100  # steps between checkpoints


def fixed_weights(start: Collection, kind: str, density: float, selected: Layout | None = None) -> Float[Tensor, "n d"]:
    """Weights that are never trained: as initialised, or Kaiming normal for the inputs that a mask leaves.

    Args:
        start: Networks as initialised.
        kind: One of "kaiming", "signed" and "initial"; see `EdgePopup`.
        density: Fraction of the inputs that a mask leaves.
        selected: Layout whose prunable tensors the mask prunes; None is that of the networks.
    """
    pruned = {entry.name for entry in (selected or start.layout).weights}
    found = start.weights.clone()
    if kind == "initial":
        return found
    for entry in start.layout.weights:
        left = density if entry.name in pruned else 1.0
        std = (2 / (left * entry.size / entry.shape[0])) ** 0.5
        for row, record in zip(found, start.records, strict=True):
            random = seeds.generator(record.seed, f"fixed weights of {entry.name}")
            drawn = std * torch.randn(entry.size, generator=random)
            row[start.layout.slices[entry.name]] = drawn if kind == "kaiming" else drawn.sign() * std
    return found


def _binary(weights: Tensor, masks: Tensor, layout: Layout) -> Tensor:
    found = weights.clone()
    for entry in layout.weights:
        at = layout.slices[entry.name]
        kept = masks[:, at].sum(1, keepdim=True).clamp(min=1)
        found[:, at] = weights[:, at].sign() * (weights[:, at].abs() * masks[:, at]).sum(1, keepdim=True) / kept
    return found


def _scores(start: Collection) -> Float[Tensor, "n d"]:
    """Uniform scores of the scale 1 / sqrt(fan-in), as the public code starts from; zero off the weights."""
    found = torch.zeros_like(start.weights)
    for entry in start.layout.weights:
        bound = (entry.size / entry.shape[0]) ** -0.5
        for row, record in zip(found, start.records, strict=True):
            random = seeds.generator(record.seed, f"scores of {entry.name}")
            row[start.layout.slices[entry.name]] = (2 * torch.rand(entry.size, generator=random) - 1) * bound
    return found
