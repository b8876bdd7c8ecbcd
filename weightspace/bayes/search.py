"""Bayesian lottery tickets: train a posterior, score its weights, prune, reset, repeat (arXiv 2602.18825)."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.bayes.checks import require_likelihood
from weightspace.bayes.inference.network import bayesian_positions, initial_std
from weightspace.bayes.scores import MeanMagnitude, PosteriorScore
from weightspace.bayes.variational import STD, Variational
from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern, Unstructured, check_density, check_pattern
from weightspace.masks.prunable import require_prunable
from weightspace.masks.schedule import steps_to
from weightspace.networks.collapse import warn_of_lost_layers
from weightspace.networks.collection import Collection
from weightspace.networks.layout import Layout
from weightspace.networks.record import Extra
from weightspace.networks.starts import are_starts
from weightspace.recipes.step import Duration, Step, duration
from weightspace.runtime import checks, devices
from weightspace.runtime.progress import progress
from weightspace.storage.spelling import spelled_text
from weightspace.tasks.arguments import check_run
from weightspace.tasks.task import Task
from weightspace.tickets.finder import check_dense_enough, check_starts, ticket_records
from weightspace.training.conversion import begin


@dataclass(frozen=True)
class BayesianIMP:
    """Iterative pruning of variational posteriors (Kuhn et al. 2026, arXiv 2602.18825).

    Args:
        density: Fraction of the prunable weights that is kept at the end, in (0, 1].
        rate: Fraction of the remaining weights that is removed at each level, in (0, 1).
        score: Score that ranks the weights; see `weightspace.bayes.scores`.
        scope: Where weights are ranked: over the whole network ("global") or inside each layer ("layer").
        pattern: Pattern of the tickets at the end, such as NM(2, 4) or Channels(0.5), in place of density and scope.
        variational: Settings of the training of each level.
        sigma: Standard deviations after a reset: the "initial" ones, the "learned" ones, or the initial ones "rescaled"
            to the number of inputs that are left.
        rewind: Point of the first training that the remaining weights are put back to; 0it is the initialisation.
    """

    density: float = 0.1
    rate: float = 0.2
    score: PosteriorScore = field(default_factory=MeanMagnitude)
    scope: Literal["global", "layer"] = "global"
    pattern: Pattern | None = None
    variational: Variational = field(default_factory=Variational)
    sigma: Literal["initial", "learned", "rescaled"] = "initial"
    rewind: Duration = duration("0it")

    def __post_init__(self) -> None:
        checks.settle(self, check_density, "density")
        checks.settle(self, checks.number, "rate", above=0, below=1)
        checks.settle(self, checks.function, "score", what="that scores weights, such as MeanMagnitude()")
        checks.settle(self, checks.one_of, "scope", choices=("global", "layer"))
        checks.settle_given(self, check_pattern, "pattern")
        checks.settle(self, checks.instance, "variational", kinds=Variational, wanted="a Variational(...)")
        checks.settle(self, checks.one_of, "sigma", choices=("initial", "learned", "rescaled"))
        checks.settle(self, Step.of, "rewind")

    @property
    def goal(self) -> Pattern:
        """The pattern of the tickets."""
        return self.pattern or Unstructured(self.density, self.scope)

    def levels(self) -> list[Pattern]:
        """The pattern of each level after the dense one; none for tickets that keep everything."""
        return [] if self.goal == Unstructured(1.0, self.scope) else steps_to(self.goal, self.rate)

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """A Bayesian ticket of each network: the last level of `find_levels`.

        Args:
            networks: Networks whose seeds give the initialisations, their trained weights are not used; or starts, such
                as imported networks, which are taken as they are.
            task: Task whose training split and recipe are used.
            folder: Folder with one resumable run for each level; None keeps everything in memory.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: The device is not available, a layer is unsupported, a record has no seed, or the rewind point
                is behind the end of training.
        """
        check_run(networks, task, folder, device)
        return self.find_levels(networks, task, folder=folder, device=device)[-1]

    def find_levels(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> list[Collection]:
        """Posteriors of all levels, the dense ones first.

        Args:
            networks: Networks whose seeds give the initialisations, their trained weights are not used; or starts, such
                as imported networks, which are taken as they are.
            task: Task whose training split and recipe are used.
            folder: Folder with one resumable run for each level; None keeps everything in memory.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Returns:
            Collections with means as weights and, as extras, "std" and "rewind", where each ticket starts from.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: The device is not available, no weight can be pruned, a layer is unsupported, a record has no
                seed, or the rewind point is behind the end of training.
        """
        check_run(networks, task, folder, device)
        device = devices.pick(device)
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        require_prunable(networks.layout)
        check_dense_enough(networks, self.goal)
        check_starts(networks, "either", "BayesianIMP")
        per_epoch = task.recipe.per_epoch(len(task.train))
        if self.rewind.total(per_epoch) > task.recipe.length.total(per_epoch):
            raise InputError(
                f"cannot rewind to {self.rewind}, training ends at {task.recipe.length}: choose an earlier step"
            )
        require_likelihood(task, self.variational.noise_std)
        self._require_whole(networks, task)
        root = None if folder is None else Path(folder)
        start = self.start(networks, task, folder=None if root is None else root / "rewind", device=device)
        first = start.replace(extras=start.extras | {Extra.REWIND: start.weights})
        here = None if root is None else root / "level-00"
        posteriors = [self.variational.fit(first, task, after=self.rewind, folder=here, device=device)]
        for level, pattern in progress(
            [*enumerate(self.levels(), 1)], f"Bayesian pruning of {len(networks)} networks, level"
        ):
            pruned = self.pruned(posteriors[-1], first, pattern)
            here = None if root is None else root / f"level-{level:02}"
            posteriors.append(self.variational.fit(pruned, task, after=self.rewind, folder=here, device=device))
        warn_of_lost_layers(posteriors[-1])
        return posteriors

    def _require_whole(self, networks: Collection, task: Task) -> None:
        """Raise InputError if the pattern prunes a layer that stays deterministic."""
        module, layout = task.architecture.build_seeded(0), networks.layout
        bayesian = bayesian_positions(module, layout, self.variational.deterministic)
        pruned = ~self.goal.mask(bayesian.float()[None], layout)[0] & ~bayesian
        for entry in layout.parameters:
            if pruned[layout.slices[entry.name]].any():
                raise InputError(
                    f"{entry.name} stays deterministic and {self.goal} prunes it: only weights with a posterior are "
                    "scored, so leave it out of the pattern"
                )

    def start(
        self, networks: Collection, task: Task, *, folder: Path | None = None, device: str = "auto"
    ) -> Collection:
        """The dense networks at the rewind point, with standard deviations if that is behind the initialisation.

        Args:
            networks: Networks whose seeds give the initialisations.
            task: Task whose training split and recipe are used.
            folder: Folder of the training up to the rewind point, as a resumable run.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.
        """
        start = begin(task.architecture, networks)
        given = {"start": "given"} if are_starts(networks) else {}
        start = start.replace(records=[{"seed": r["seed"], "task": task.name, **given} for r in networks.records])
        if self.rewind.total(task.recipe.per_epoch(len(task.train))):
            start = self.variational.fit(start, task, until=self.rewind, folder=folder, device=device)
        return start

    def pruned(self, posteriors: Collection, start: Collection, pattern: Pattern) -> Collection:
        """Starting point of the next level: fewer weights, at their values of `start`.

        Args:
            posteriors: Posteriors that were trained at this level.
            start: The dense networks at the rewind point; the extra "std", if they have it, is where training starts.
            pattern: Pattern of the weights that stay.
        """
        masks, layout = posteriors.masks.expand(posteriors.weights.shape), posteriors.layout
        live = masks & layout.prunable & (posteriors.extras[STD] > 0)  # deterministic weights have no posterior
        # How many weights a pattern keeps does not depend on the scores.
        stays = pattern.mask(posteriors.weights[:1].abs(), layout, within=masks[:1]) & layout.prunable
        kept, left = stays.sum(), (stays & live[:1]).sum()
        scores = self.score(posteriors.weights, posteriors.extras[STD], live, 1 - (left / live[0].sum()).item())
        masks = pattern.mask(scores, layout, within=masks)
        method = {
            "name": "BayesianIMP",
            "density": (kept / layout.num_prunable).item(),
            "pattern": spelled_text(pattern),
            "rate": self.rate,
            "score": spelled_text(self.score),
            "sigma": self.sigma,
            "rewind": str(self.rewind),
        }
        rewound = start.weights * masks
        return start.replace(
            weights=rewound,
            masks=masks,
            records=ticket_records(start.records, 0, method),
            extras={Extra.REWIND: rewound, STD: self._spread(posteriors, start, masks)},
        )

    def _spread(self, posteriors: Collection, start: Collection, masks: Bool[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Standard deviations that the next level starts from; zero where pruned."""
        layout = posteriors.layout
        if self.sigma == "learned":
            return posteriors.extras[STD] * masks
        fresh = start.extras.get(STD)
        if fresh is None:
            module = posteriors.architecture.build_seeded(0)
            fresh = initial_std(module, layout, self.variational.std).expand(len(posteriors), -1)
        return fresh * masks * (_fewer_inputs(masks, layout) if self.sigma == "rescaled" else 1.0)


def _fewer_inputs(masks: Bool[Tensor, "n d"], layout: Layout) -> Float[Tensor, "n d"]:
    """sqrt(fan-in / mean fan-in that is left) for each weight tensor, 1 elsewhere."""
    factor = torch.ones(masks.shape)
    for entry in layout.weights:
        at = layout.slices[entry.name]
        kept = masks[:, at].float().mean(1, keepdim=True).clamp(min=1 / entry.size)
        factor[:, at] = kept.rsqrt()
    return factor
