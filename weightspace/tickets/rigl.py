"""Networks that are sparse from start to end, with connections that move.

RigL (Evci et al. 2020, arXiv 1911.11134) and SET (Mocanu et al. 2018, arXiv 1707.04780).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.masks.layerwise import ERK
from weightspace.masks.patterns import Pattern, check_density, check_pattern
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.networks.record import Record
from weightspace.runtime import checks, seeds
from weightspace.storage.spelling import Spelling, spelled_text
from weightspace.tasks.arguments import check_run
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task
from weightspace.tickets.finder import SearchBlock, SearchResult, Starts, recipe_length, search
from weightspace.tickets.scores import RandomScore
from weightspace.training.trainer import Trainer


@dataclass(frozen=True)
class DynamicSparseTraining:
    """Train sparse networks; every so often each layer drops its smallest weights and grows as many others, from zero.

    What an update drops does not grow again in the same update (RigL's code lets it).

    Args:
        density: Fraction of the prunable weights kept, in (0, 1], spread over layers by ERK.
        pattern: Pattern of the first, random mask instead, such as Unstructured(0.1, "layer"); layers keep their
            counts.
        grow: Grow connections where the "gradient" is largest (RigL), or at "random" (SET).
        every: Iterations between two updates; an update takes the place of a step of the optimiser.
        until: Fraction of the training in which connections move.
        fraction: Fraction of a layer's weights that move at first; it falls to zero along a cosine.

    Raises:
        InputError: A setting lies outside its range.
    """

    density: float = 0.1
    pattern: Pattern | None = None
    grow: Literal["gradient", "random"] = "gradient"
    every: int = 100
    until: float = 0.75
    fraction: float = 0.3

    starts: ClassVar[Starts] = "either"
    spelling: ClassVar[Spelling] = Spelling("Dynamic")

    def __post_init__(self) -> None:
        checks.settle(self, check_density, "density")
        checks.settle_given(self, check_pattern, "pattern")
        checks.settle(self, checks.one_of, "grow", choices=("gradient", "random"))
        checks.settle(self, checks.count, "every", at_least=1)
        checks.settle(self, checks.fraction, "until")
        checks.settle(self, checks.number, "fraction", above=0, below=1)

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """A sparse trained network for each; `extras["rewind"]` holds the dense initialisation.

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
        require_samples(task, "DynamicSparseTraining")
        length = recipe_length(task)
        first, last = self.pattern or ERK(self.density), self.until * length

        def find(block: SearchBlock) -> SearchResult:
            start = block.start
            masks = first.mask(RandomScore()(start, task), start.layout)
            trainer = block.trainer(start.replace(weights=start.weights * masks, masks=masks))
            trainer.continue_from(block.checkpoint, block.tick)
            while trainer.step < length:
                # A checkpoint at such a step is from before its update: an update moves on by a step.
                if trainer.step % self.every == 0 and 0 < trainer.step < last:
                    self._move(trainer, start.records, last)
                    block.tick(1)
                else:
                    trainer.run(min(length, (trainer.step // self.every + 1) * self.every), block.tick)
            return SearchResult(trainer, start.weights)

        return search(
            networks,
            task,
            find,
            method=self._method(),
            ticks=length,
            what=f"training {len(networks)} sparse networks with moving connections",
            folder=folder,
            device=device,
            starts=self.starts,
        )

    def _move(self, trainer: Trainer, records: Sequence[Record], last: float) -> None:
        """One update of the connections, in place of a step."""
        step, masks = trainer.step, trainer.masks
        assert masks is not None
        moving = 0.5 * self.fraction * (1 + math.cos(math.pi * step / last))
        wanted = trainer.gradients().abs()
        if self.grow == "random":
            own = [seeds.generator(record.seed, "grown connections", step) for record in records]
            wanted = torch.stack([torch.rand(wanted.shape[1], generator=random) for random in own]).to(wanted.device)
        trainer.prune(moved(trainer.weights, masks, wanted, trainer.layout, moving))

    def _method(self) -> dict[str, Any]:
        settings = {name: getattr(self, name) for name in ("density", "grow", "every", "until", "fraction")}
        return {"name": "Dynamic", **settings, "pattern": spelled_text(self.pattern) if self.pattern else None}


def moved(
    weights: Float[Tensor, "n d"],
    masks: Bool[Tensor, "n d"],
    wanted: Float[Tensor, "n d"],
    layout: Layout,
    fraction: float,
) -> Bool[Tensor, "n d"]:
    """Masks after each layer dropped a fraction of its weights, the smallest, and grew as many, the most wanted.

    A dropped connection does not grow again in the same update.

    Args:
        weights: Weights; those with the smallest magnitudes are dropped.
        masks: Masks before the update.
        wanted: Scores of connections that could grow.
        layout: Layout of the networks.
        fraction: Fraction of a layer's weights that are dropped, and grown.
    """
    updated = masks.clone()
    for entry in layout.weights:
        at = layout.slices[entry.name]
        for mask, weight, want, out in zip(masks[:, at], weights[:, at], wanted[:, at], updated[:, at], strict=True):
            count = min(round(fraction * int(mask.sum())), int((~mask).sum()))
            if not count:
                continue
            dropped = weight.abs().masked_fill(~mask, math.inf).topk(count, largest=False).indices
            grown = want.masked_fill(mask, -math.inf).topk(count).indices
            out[dropped] = False
            out[grown] = True
    return updated
