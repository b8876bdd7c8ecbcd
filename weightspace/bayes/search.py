"""Bayesian lottery tickets: train a posterior, score its weights, prune, reset, repeat (arXiv 2602.18825)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.bayes.checks import require_cpu, require_likelihood, warn_of_other_loss
from weightspace.bayes.inference.network import BayesianNetwork, Estimator, bayesian_positions, initial_std
from weightspace.bayes.inference.noise_scale import check_noise, noise_of
from weightspace.bayes.inference.priors import Normal, Prior
from weightspace.bayes.inference.variational import Inference
from weightspace.bayes.scores import MeanMagnitude, PosteriorScore
from weightspace.errors import InputError
from weightspace.masks.patterns import Pattern, Unstructured
from weightspace.masks.prunable import require_prunable
from weightspace.masks.schedule import steps_to
from weightspace.networks.building import in_blocks
from weightspace.networks.collapse import warn_of_lost_layers
from weightspace.networks.collection import Collection
from weightspace.networks.forward import predict
from weightspace.networks.layout import Layout
from weightspace.networks.outputs import OUTPUT_KINDS, Classes, Regression
from weightspace.networks.record import Extra
from weightspace.networks.starts import are_starts
from weightspace.recipes.step import Step
from weightspace.storage.spelling import spelled, spelled_text
from weightspace.tasks.measuring import measure
from weightspace.tasks.task import Task
from weightspace.tickets.finder import check_dense_enough, check_starts, ticket_records
from weightspace.training.conversion import begin
from weightspace.training.individual import require_seeds

STD = Extra.STD  # the extra of a collection of posteriors that holds standard deviations
_BLOCK = 8  # posteriors trained side by side
_RESIDUALS = 1024  # training samples that the noise of a regression is estimated on at the start


@dataclass(frozen=True)
class Variational:
    """Settings of variational training; the rest is the task's recipe, whose optimizer must be Adam.

    Args:
        prior: Prior of the live weights.
        temperature: Weight of the KL term (arXiv 2002.02405); 1 is the exact bound on the evidence.
        warm_up: Time over which the weight of the KL term rises from zero.
        draws: Draws of the weights in each step.
        std: Standard deviations at the start, in units of 1 / sqrt(fan-in).
        estimator: Estimator of the expected log-likelihood; see `BayesianNetwork`.
        noise_std: Standard deviation of a regression's targets around the outputs; None learns one for each network,
            from the residuals.
        deterministic: Names of modules that stay deterministic, such as embeddings, beside the norm layers.
    """

    prior: Prior = field(default_factory=Normal)
    temperature: float = 0.1
    warm_up: Step = Step()
    draws: int = 1
    std: float = 0.01
    estimator: Estimator = "weights"
    noise_std: float | None = None
    deterministic: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "warm_up", Step.of(self.warm_up))
        if self.temperature <= 0:
            raise InputError(f"the temperature, the weight of the KL term, must be positive, got {self.temperature}")
        if self.std <= 0:
            raise InputError(f"the initial standard deviation must be positive, got {self.std}")
        check_noise(self.noise_std)

    def to_json(self) -> dict[str, Any]:
        """The settings as they identify a run on disk."""
        settings = spelled(self) | {"prior": spelled_text(self.prior), "warm_up": str(self.warm_up)}
        added = {"noise_std": None, "deterministic": ()}  # since version 0.1
        return {name: value for name, value in settings.items() if name not in added or value != added[name]}

    def network(self, networks: Collection, task: Task) -> BayesianNetwork:
        """The Pyro model and guide around networks, under their masks.

        Args:
            networks: Means to start from; the extra "std", if they have it, holds the standard deviations.
            task: Task whose architecture is used, and whose outputs say what the likelihood is; the first training
                samples give the noise that a regression starts from.

        Raises:
            InputError: The outputs have no likelihood that is known, or a layer is unsupported.
        """
        kind = require_likelihood(task, self.noise_std)
        module = task.architecture.following(networks.layout).build_seeded(0).train()
        layout = Layout.of(module)
        std = networks.extras.get(STD)
        if std is None:
            std = initial_std(module, layout, self.std).expand(len(networks), -1)
        noise = None
        if isinstance(kind, Regression):
            x = task.train.head(_RESIDUALS).x
            noise = noise_of(task, predict(module, layout, networks.weights, networks.buffers, x), self.noise_std)
        return BayesianNetwork(
            module,
            networks.weights,
            std,
            masks=None if networks.dense else networks.masks,
            buffers=networks.buffers,
            prior=self.prior,
            temperature=self.temperature,
            likelihood=kind,
            noise=noise,
            deterministic=self.deterministic,
            estimator=self.estimator,
        )

    def start(self, networks: Collection, task: Task, *, after: Step = Step()) -> Inference:
        """Posteriors around networks before their first step.

        Args:
            networks: Means to start from, as for `network`.
            task: Task whose training split and recipe are used.
            after: Time for which the networks have been trained already; training starts there in the schedule.
        """
        network = self.network(networks, task)
        require_seeds(networks.records)
        seeds = [record.seed for record in networks.records]
        return Inference(network, task, seeds, warm_up=self.warm_up, draws=self.draws, after=after)

    def fit(
        self,
        networks: Collection,
        task: Task,
        *,
        after: Step = Step(),
        until: Step | None = None,
        folder: str | Path | None = None,
    ) -> Collection:
        """Train a posterior around each network, under its mask: the transplant of a deterministic ticket.

        Args:
            networks: Means to start from; the extra "std", if they have it, holds the standard deviations.
            task: Task whose training split and recipe are used.
            after: Time for which the networks have been trained already; training starts there in the schedule.
            until: Time at which training stops; by default the end of the recipe.
            folder: Folder to write to as a resumable run; None keeps everything in memory.

        Returns:
            Posteriors: means as weights, standard deviations as the extra "std"; other extras stay.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: The outputs have no likelihood that is known, a layer is unsupported, a record has no seed, or
                the loss is no longer finite (the last checkpoint is kept).
        """
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        require_likelihood(task, self.noise_std)
        warn_of_other_loss(task)
        per_epoch = task.recipe.per_epoch(len(task.train))
        first, last = after.total(per_epoch), (until or task.recipe.length).total(per_epoch)

        def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
            part = networks[rows]
            inference = self.start(part, task, after=after)
            if checkpoint is not None and checkpoint.exists():
                inference.resume(checkpoint)
                tick(inference.step - first)
            inference.run(last, tick, checkpoint)
            return _finished(part, inference.network, task, {"kind": "posterior", "variational": self.to_json()})

        return in_blocks(
            make,
            architecture=networks.architecture,
            count=len(networks),
            block=_BLOCK,
            ticks=last - first,
            what=f"variational training of {len(networks)} posteriors of density {networks.densities.mean():.3g}",
            folder=folder,
            stage="posteriors",
            config={
                "variational": self.to_json(),
                "task": task.to_json(),
                "recipe": task.recipe.to_json(),
                "until": str(until or task.recipe.length),
                **({"after": str(after)} if first else {}),
            },
            inputs={"networks": networks.fingerprint()} if folder else None,
        )


def _finished(part: Collection, network: BayesianNetwork, task: Task, posterior: dict[str, Any]) -> Collection:
    """Trained posteriors as a collection, with validation losses and metrics of their mean networks in the records."""
    means = network.means()
    measured = measure(task, network.module, part.layout, means, network.state, task.validation)
    plain = task.output_kind == Classes() and task.classification and task.metrics is None
    names = ["loss"] if plain else list(measured)  # version 0.1 knew classifiers, and recorded their loss
    if task.output_kind != Classes():
        posterior["outputs"] = OUTPUT_KINDS.to_json(task.output_kind)
    noise = [{}] * len(part) if network.noise is None else [{"noise_std": std} for std in network.noise.std.tolist()]
    return part.replace(
        weights=means,
        buffers=network.state,
        extras=part.extras | {STD: network.stds()},
        records=[
            record.without("aligned")
            | posterior
            | noise[i]
            | {"metrics": {f"validation_{name}": measured[name][i] for name in names}}
            for i, record in enumerate(part.records)
        ],
    )


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
    rewind: Step = Step()

    def __post_init__(self) -> None:
        object.__setattr__(self, "rewind", Step.of(self.rewind))
        Unstructured(self.density, self.scope)
        if not 0 < self.rate < 1:
            raise InputError(f"rate, the fraction removed at each level, must lie in (0, 1), got {self.rate}")
        if self.sigma not in ("initial", "learned", "rescaled"):
            raise InputError(f"sigma is 'initial', 'learned' or 'rescaled', got {self.sigma!r}")

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
            device: Device to compute on: "cpu", or "auto" for the same; there is no other for posteriors yet.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: The device is not the CPU, a layer is unsupported, a record has no seed, or the rewind point is
                behind the end of training.
        """
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
            device: Device to compute on: "cpu", or "auto" for the same; there is no other for posteriors yet.

        Returns:
            Collections with means as weights and, as extras, "std" and "rewind", where each ticket starts from.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: The device is not the CPU, no weight can be pruned, a layer is unsupported, a record has no
                seed, or the rewind point is behind the end of training.
        """
        require_cpu(device)
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        require_prunable(networks.layout)
        check_dense_enough(networks, self.goal)
        check_starts(networks, "either", "BayesianIMP")
        per_epoch = task.recipe.per_epoch(len(task.train))
        if self.rewind.total(per_epoch) > task.recipe.length.total(per_epoch):
            raise InputError(f"cannot rewind to {self.rewind}, training ends at {task.recipe.length}")
        require_likelihood(task, self.variational.noise_std)
        self._require_whole(networks, task)
        root = None if folder is None else Path(folder)
        start = self.start(networks, task, folder=None if root is None else root / "rewind")
        first = start.replace(extras=start.extras | {Extra.REWIND: start.weights})
        here = None if root is None else root / "level-00"
        posteriors = [self.variational.fit(first, task, after=self.rewind, folder=here)]
        for level, pattern in enumerate(self.levels(), 1):
            pruned = self.pruned(posteriors[-1], first, pattern)
            posteriors.append(
                self.variational.fit(
                    pruned, task, after=self.rewind, folder=None if root is None else root / f"level-{level:02}"
                )
            )
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

    def start(self, networks: Collection, task: Task, *, folder: Path | None = None) -> Collection:
        """The dense networks at the rewind point, with standard deviations if that is behind the initialisation.

        Args:
            networks: Networks whose seeds give the initialisations.
            task: Task whose training split and recipe are used.
            folder: Folder of the training up to the rewind point, as a resumable run.
        """
        start = begin(task.architecture, networks)
        given = {"start": "given"} if are_starts(networks) else {}
        start = start.replace(records=[{"seed": r["seed"], "task": task.name, **given} for r in networks.records])
        if self.rewind.total(task.recipe.per_epoch(len(task.train))):
            start = self.variational.fit(start, task, until=self.rewind, folder=folder)
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
