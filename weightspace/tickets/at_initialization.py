"""Prune before training: a score, a pattern, then one training run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from jaxtyping import Bool
from torch import Tensor

from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern, Unstructured, check_density, check_pattern
from weightspace.networks.collection import Collection
from weightspace.networks.starts import are_starts
from weightspace.recipes.step import Duration, Step, duration
from weightspace.runtime import checks
from weightspace.storage.spelling import Spelling, spelled_text
from weightspace.tasks.arguments import check_run
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task
from weightspace.tickets.finder import SearchBlock, SearchResult, Starts, check_dense_enough, recipe_length, search
from weightspace.tickets.scores import SNIP, GraSP, InitScore, SynFlow

_SYNFLOW_ROUNDS = 100  # Tanaka et al. 2020, section 7


@dataclass(frozen=True)
class PruneAtInit:
    """Choose the weights at initialisation, or a little later, and train those that are left.

    Args:
        score: Score that ranks the weights.
        density: Fraction of the prunable weights kept, in (0, 1].
        scope: Rank weights over the whole network (global) or inside each layer (layer).
        pattern: Pattern of the masks instead of density and scope, such as ERK(0.1) or NM(2, 4).
        rounds: Number of rounds of scoring; round k of K keeps the fraction density^(k/K). None is 100 for SynFlow,
            which one round makes lose a layer, and 1 for other scores and with a pattern.
        start: Length of dense training before the weights are chosen.

    Raises:
        InputError: The density lies outside (0, 1], or rounds are below 1 or go with a pattern.
    """

    score: InitScore = SNIP()
    density: float = 0.1
    scope: Literal["global", "layer"] = "global"
    pattern: Pattern | None = None
    rounds: int | None = None
    start: Duration = duration("0it")

    starts: ClassVar[Starts] = "either"
    spelling: ClassVar[Spelling] = Spelling("AtStart")

    def __post_init__(self) -> None:
        wanted = "a score, such as SNIP() or GraSP()"
        checks.settle(self, checks.instance, "score", kinds=InitScore, wanted=wanted)
        checks.settle(self, check_density, "density")
        checks.settle(self, checks.one_of, "scope", choices=("global", "layer"))
        checks.settle_given(self, check_pattern, "pattern")
        checks.settle_given(self, checks.count, "rounds", at_least=1)
        checks.settle(self, Step.of, "start")
        if self.rounds is None:
            many = isinstance(self.score, SynFlow) and self.pattern is None
            object.__setattr__(self, "rounds", _SYNFLOW_ROUNDS if many else 1)
        if self.scorings > 1 and self.pattern is not None:
            raise InputError("rounds approach a density step by step: leave pattern out, or score once")

    @property
    def scorings(self) -> int:
        """Number of rounds of scoring."""
        assert self.rounds is not None
        return self.rounds

    def masks(self, networks: Collection, task: Task) -> Bool[Tensor, "n d"]:
        """The masks of networks as they are.

        Args:
            networks: Networks to prune, within their own masks.
            task: Task whose training data the score may use.
        """
        if self.pattern is not None:
            return self.pattern.mask(self.score(networks, task), networks.layout, within=networks.masks)
        masks, sparsest = networks.masks, networks.densities.min().item()
        for k in range(1, self.scorings + 1):
            left = networks.replace(weights=networks.weights * masks, masks=masks)
            rule = Unstructured(min(self.density ** (k / self.scorings), sparsest), self.scope)
            masks = rule.mask(self.score(left, task), networks.layout, within=masks)
        return masks

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """A trained ticket for each network; `extras["rewind"]` holds the dense weights it was chosen from.

        Args:
            networks: Networks whose seeds give the initialisations, their own weights are not used; or starts, such as
                imported networks, which are taken as they are.
            task: Task to train on.
            folder: Folder to write to as a resumable run; None keeps everything in memory.
            device: Device to train on.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: A record has no seed, or `start` lies behind the end of training.
        """
        check_run(networks, task, folder, device)
        if isinstance(self.score, SNIP | GraSP | SynFlow):
            require_samples(task, type(self.score).__name__)
        first, length = self.start.total(task.recipe.per_epoch(len(task.train))), recipe_length(task)
        if first > length:
            raise InputError(
                f"cannot prune at {self.start}, training ends at {task.recipe.length}: choose an earlier step"
            )
        if are_starts(networks):
            check_dense_enough(networks, self.pattern or Unstructured(self.density, self.scope))

        def find(block: SearchBlock) -> SearchResult:
            early = block.trainer(block.start)
            early.run(first, block.tick)
            buffers = {name: buffer.cpu() for name, buffer in early.buffers.items()}
            masks = self.masks(block.start.replace(weights=early.weights.cpu(), buffers=buffers), task)
            trainer = early.fork(masks.to(block.device))
            block.train(trainer, length)
            return SearchResult(trainer, early.weights)

        return search(
            networks,
            task,
            find,
            method=self._method(),
            ticks=length,
            what=f"pruning {len(networks)} networks at the start, and training them",
            folder=folder,
            device=device,
            starts=self.starts,
            within_masks=True,
        )

    def _method(self) -> dict[str, Any]:
        return {
            "name": self.spelling.name,
            "score": spelled_text(self.score),
            "density": self.density,
            "scope": self.scope,
            "pattern": spelled_text(self.pattern) if self.pattern else None,
            "rounds": self.rounds,
            "start": str(self.start),
        }
