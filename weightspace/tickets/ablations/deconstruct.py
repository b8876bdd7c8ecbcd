"""What makes a ticket: mask criteria, signs, and the values of kept and of pruned weights.

Zhou et al. 2019, "Deconstructing Lottery Tickets" (arXiv 1905.01067).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern, Unstructured, check_density, check_pattern
from weightspace.networks.collection import Collection
from weightspace.networks.record import Extra
from weightspace.runtime import checks, seeds
from weightspace.storage.spelling import spelled_text
from weightspace.tasks.arguments import check_run
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task
from weightspace.tickets.finder import SearchBlock, SearchResult, Starts, check_starts, collected, recipe_length, search
from weightspace.training.conversion import initial, redrawn

Criterion = Callable[[Tensor, Tensor], Tensor]
"""Scores (n, D) from initial and final weights (n, D); the highest are kept."""


def large_final(_initial: Tensor, final: Tensor) -> Tensor:
    """|w_f|, the criterion of the lottery ticket paper."""
    return final.abs()


def small_final(_initial: Tensor, final: Tensor) -> Tensor:
    """-|w_f|, a control."""
    return -final.abs()


def large_init(initial: Tensor, _final: Tensor) -> Tensor:
    """|w_i|."""
    return initial.abs()


def small_init(initial: Tensor, _final: Tensor) -> Tensor:
    """-|w_i|, a control."""
    return -initial.abs()


def large_init_large_final(initial: Tensor, final: Tensor) -> Tensor:
    """min(|w_f|, |w_i|)."""
    return torch.minimum(final.abs(), initial.abs())


def small_init_small_final(initial: Tensor, final: Tensor) -> Tensor:
    """-max(|w_f|, |w_i|), a control."""
    return -torch.maximum(final.abs(), initial.abs())


def magnitude_increase(initial: Tensor, final: Tensor) -> Tensor:
    """|w_f| - |w_i|."""
    return final.abs() - initial.abs()


def movement(initial: Tensor, final: Tensor) -> Tensor:
    """|w_f - w_i|."""
    return (final - initial).abs()


CRITERIA: tuple[Criterion, ...] = (
    large_final,
    small_final,
    large_init,
    small_init,
    large_init_large_final,
    small_init_small_final,
    magnitude_increase,
    movement,
)
"""The criteria of the paper."""


@dataclass(frozen=True)
class Deconstruction:
    """One variant of one-shot tickets from trained networks.

    Args:
        density: Fraction of the prunable weights kept, the same in every layer.
        criterion: Score of the weights: one of those in this module, or any function of initial and final weights.
        signs: Signs that matter: "any", or rank weights whose sign is the "same" before and after training (or
            "opposite") above all others.
        kept: Values of the kept weights: their initial ones ("rewind"), new draws ("reinitialise"), those of the kept
            weights of their layer in another order ("reshuffle"), or their layer's standard deviation with random signs
            ("constant").
        keep_signs: Keep the signs of the initial values, whatever happens to the magnitudes.
        pruned: Values of the pruned weights: "zero"; "frozen" at their initial values; or frozen where their magnitude
            grew in training and zero elsewhere ("frozen if grown").
        pattern: Pattern of the masks instead of the density.

    Raises:
        InputError: The density lies outside (0, 1], or a setting is another word.
    """

    density: float = 0.2
    criterion: Criterion = large_final
    signs: Literal["any", "same", "opposite"] = "any"
    kept: Literal["rewind", "reinitialise", "reshuffle", "constant"] = "rewind"
    keep_signs: bool = False
    pruned: Literal["zero", "frozen", "frozen if grown"] = "zero"
    pattern: Pattern | None = None

    starts: ClassVar[Starts] = "seeds"

    def __post_init__(self) -> None:
        checks.settle(self, check_density, "density")
        checks.settle(self, checks.function, "criterion", what="of initial and final weights, such as large_final")
        checks.settle(self, checks.flag, "keep_signs")
        checks.settle_given(self, check_pattern, "pattern")
        choices = {
            "signs": ("any", "same", "opposite"),
            "kept": ("rewind", "reinitialise", "reshuffle", "constant"),
            "pruned": ("zero", "frozen", "frozen if grown"),
        }
        for name, allowed in choices.items():
            checks.settle(self, checks.one_of, name, choices=allowed)

    def start(self, networks: Collection) -> Collection:
        """The tickets before any training: supermasks, if they are accurate.

        With frozen weights the networks are dense, and the extra "trained" is 1 where a weight is kept.

        Args:
            networks: Networks trained from the initialisation of their seeds.
        """
        check_starts(networks, self.starts, "Deconstruction")
        unknown = [i for i, record in enumerate(networks.records) if not collected(record)]
        if unknown:
            raise InputError(
                f"network {unknown[0]} was not trained by `collect` from the initialisation of its seed, which all "
                "criteria compare with: collect the networks first"
            )
        layout = networks.layout
        begun = initial(networks.architecture, networks.records)
        first, final = begun.weights, networks.weights
        scores = self.criterion(first, final)
        if self.signs != "any":
            wanted = (first.sign() == final.sign()) == (self.signs == "same")
            prunable = scores[:, layout.prunable]
            below = float(prunable.max() - prunable.min()) + 1
            scores = torch.where(wanted, scores, scores - below)
        masks = (self.pattern or Unstructured(self.density, "layer")).mask(scores, layout)
        values = self._values(begun, masks)
        if self.keep_signs:
            values = values.abs() * first.sign()
        values = torch.where(layout.prunable, values, first)
        kept = begun.replace(weights=values * masks, masks=masks, extras={Extra.REWIND: values})
        if self.pruned == "zero":
            return kept
        stays = ~masks if self.pruned == "frozen" else ~masks & (final.abs() > first.abs())
        return begun.replace(
            weights=torch.where(stays, first, values * masks),
            masks=None,
            extras={Extra.TRAINED: masks.to(values.dtype)},
        )

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """The tickets, trained for the task's recipe.

        Args:
            networks: Networks trained from the initialisation of their seeds, as `collect` does.
            task: Task to train on.
            folder: Folder to write to as a resumable run; None keeps everything in memory.
            device: Device to train on.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: A network was not trained by `collect`, or there is a folder and a criterion without a name.
        """
        check_run(networks, task, folder, device)
        name = getattr(self.criterion, "__qualname__", "<")
        if folder is not None and "<" in name:
            raise InputError(
                f"the criterion {name} cannot be told from another one of that name in a run folder: use a named "
                "function of a module, or no folder"
            )
        require_samples(task, "Deconstruction")
        length = recipe_length(task)
        whole = self.start(networks)

        def find(block: SearchBlock) -> SearchResult:
            part = whole[block.rows].replace(records=block.networks.records)
            trainer = block.trainer(part)
            if Extra.TRAINED in part.extras:
                trainer.hold(part.extras[Extra.TRAINED] == 0)
            block.train(trainer, length)
            return SearchResult(trainer, part.extras.get(Extra.REWIND, part.weights))

        return search(
            networks,
            task,
            find,
            method=self._method(),
            ticks=length,
            what=f"deconstructed tickets of {len(networks)} networks",
            folder=folder,
            device=device,
            starts=self.starts,
        )

    def _values(self, begun: Collection, masks: Bool[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Values that kept weights start from."""
        layout, own = begun.layout, [seeds.derive(record.seed, "deconstruction") for record in begun.records]
        if self.kept == "reinitialise":
            return redrawn(begun.architecture, [{"seed": seed} for seed in own]).weights
        values = begun.weights.clone()
        for row, mask, seed in zip(values, masks, own, strict=True):
            random = seeds.generator(seed, "order of kept weights")
            for entry in layout.weights:
                part, chosen = row[layout.slices[entry.name]], mask[layout.slices[entry.name]]
                if self.kept == "reshuffle":
                    part[chosen] = part[chosen][torch.randperm(int(chosen.sum()), generator=random)]
                elif self.kept == "constant":
                    part.copy_(part.std() * (2.0 * torch.randint(2, part.shape, generator=random) - 1))
        return values

    def _method(self) -> dict[str, Any]:
        settings = {f: getattr(self, f) for f in ("density", "signs", "kept", "keep_signs", "pruned")}
        name = getattr(self.criterion, "__qualname__", repr(self.criterion))
        return {"name": "Deconstruction", "criterion": name, **settings, "pattern": spelled_text(self.pattern)}


def variants(density: float = 0.2) -> dict[str, Deconstruction]:
    """The paper's study at one density: every criterion, signs, kept and pruned weights, one change at a time."""
    base = Deconstruction(density)
    found = {criterion.__name__: replace(base, criterion=criterion) for criterion in CRITERIA}
    found |= {
        "large_final, same sign": replace(base, signs="same"),
        "large_final, opposite sign": replace(base, signs="opposite"),
    }
    for kept in ("reinitialise", "reshuffle", "constant"):
        found[f"kept: {kept}"] = replace(base, kept=kept)
        found[f"kept: {kept}, signs kept"] = replace(base, kept=kept, keep_signs=True)
    found |= {f"pruned: {pruned}": replace(base, pruned=pruned) for pruned in ("frozen", "frozen if grown")}
    return found
