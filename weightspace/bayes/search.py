"""Bayesian lottery tickets: train a posterior, score its weights, prune, reset, repeat (arXiv 2602.18825)."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from safetensors.torch import save_file
from torch import Tensor

from weightspace.bayes.network import BayesianNetwork, initial_std
from weightspace.bayes.priors import Normal, Prior
from weightspace.bayes.scores import Magnitude, Score
from weightspace.bayes.variational import Inference
from weightspace.collection import Collection
from weightspace.errors import InputError
from weightspace.layout import Layout
from weightspace.pattern import Unstructured
from weightspace.recipe import Step
from weightspace.storage import Record, atomic_file
from weightspace.task import Task
from weightspace.tickets.common import check_dense_enough, ticket_records
from weightspace.training.blocks import in_blocks
from weightspace.training.start import initial
from weightspace.training.trainer import load_checkpoint

STD = "std"  # the extra of a collection of posteriors that holds standard deviations
_BLOCK = 8  # posteriors trained side by side


@dataclass(frozen=True)
class Variational:
    """How posteriors are trained; the rest is the task's recipe, whose optimizer must be Adam.

    Args:
        prior: of the live weights.
        temperature: weight of the KL term (arXiv 2002.02405); 1 is the exact bound on the evidence.
        warm_up: how long the weight of the KL term rises from zero.
        draws: of the weights, a step.
        std: standard deviations at the start, in units of 1 / sqrt(fan-in).
    """

    prior: Prior = field(default_factory=Normal)
    temperature: float = 0.1
    warm_up: Step = Step()
    draws: int = 1
    std: float = 0.01

    def __post_init__(self) -> None:
        object.__setattr__(self, "warm_up", Step.of(self.warm_up))
        if self.temperature <= 0:
            raise InputError(f"the temperature, the weight of the KL term, must be positive, got {self.temperature}")
        if self.std <= 0:
            raise InputError(f"the initial standard deviation must be positive, got {self.std}")

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"prior": repr(self.prior), "warm_up": str(self.warm_up)}

    def start(self, networks: Collection, task: Task, std: Float[Tensor, "n d"] | None = None) -> Inference:
        """Posteriors around given networks, under their masks, at step 0."""
        module = task.architecture.build_seeded(0).train()
        layout = Layout.of(module)
        own = initial_std(module, layout, self.std).expand(len(networks), -1) if std is None else std
        network = BayesianNetwork(
            module, networks.weights, own, masks=None if networks.dense else networks.masks, buffers=networks.buffers,
            prior=self.prior, temperature=self.temperature,
        )  # fmt: skip
        seeds = [int(record["seed"]) for record in networks.records]
        return Inference(network, task, seeds, warm_up=self.warm_up, draws=self.draws)

    def fit(self, networks: Collection, task: Task, *, folder: str | Path | None = None) -> Collection:
        """Train a posterior around each network, under its mask: the transplant of a deterministic ticket.

        Returns:
            posteriors: means as weights, standard deviations as the extra "std".
        """
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        length = task.recipe.length.total(task.recipe.per_epoch(len(task.train)))

        def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
            part = networks[rows]
            inference = self.start(part, task)
            if checkpoint is not None and checkpoint.exists():
                inference.resume(checkpoint)
                tick(inference.step)
            inference.run(length, tick, checkpoint)
            records = [record | {"kind": "posterior", "variational": self.to_json()} for record in part.records]
            return posteriors(inference, part, records)

        return in_blocks(
            make, architecture=networks.architecture, count=len(networks), block=_BLOCK, ticks=length,
            what=f"variational training of {len(networks)} posteriors", folder=folder, stage="posteriors",
            config={"variational": self.to_json(), "task": task.to_json(), "recipe": task.recipe.to_json()},
            inputs={"networks": networks.fingerprint()} if folder else None,
        )  # fmt: skip


def posteriors(inference: Inference, start: Collection, records: list[Record]) -> Collection:
    """Trained posteriors as a collection."""
    network = inference.network
    return Collection(
        start.layout, network.means(), architecture=start.architecture, masks=None if start.dense else start.masks,
        buffers=network.state, extras={STD: network.stds()},
        records=[record | {"metrics": {"negative_elbo": inference.loss}} for record in records],
    )  # fmt: skip


@dataclass(frozen=True)
class BayesianIMP:
    """Iterative pruning of variational posteriors.

    Args:
        density: fraction of the prunable weights kept at the end, in (0, 1].
        rate: fraction of the remaining weights removed at each level.
        score: ranks the weights; see :mod:`weightspace.bayes.scores`.
        scope: rank weights over the whole network (global) or inside each layer (layer).
        variational: how each level is trained.
        sigma: at each reset, standard deviations are the "initial" ones, the "learned" ones, or the initial ones
            "rescaled" to the number of inputs that are left.
        rewind: how far into the first training the survivors are put back; 0it is the initialisation.
    """

    density: float = 0.1
    rate: float = 0.2
    score: Score = field(default_factory=Magnitude)
    scope: Literal["global", "layer"] = "global"
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

    def levels(self) -> list[float]:
        """The density after each pruning."""
        densities = [1.0]
        while densities[-1] > self.density:
            densities.append(max(self.density, densities[-1] * (1 - self.rate)))
        return densities[1:]

    def find(self, networks: Collection, task: Task, *, folder: str | Path | None = None) -> Collection:
        """A Bayesian ticket of each network: means as weights, "std" and "rewind" (where it starts from) as extras.

        Args:
            networks: whose seeds give the initialisations; their trained weights are not used.
            folder: write to this folder as a resumable run.

        Raises:
            LayoutMismatch: the networks are not of the task's architecture.
        """
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        check_dense_enough(networks, self.density)
        length = task.recipe.length.total(task.recipe.per_epoch(len(task.train)))
        rewind = self.rewind.total(task.recipe.per_epoch(len(task.train)))
        if rewind > length:
            raise InputError(f"cannot rewind to {self.rewind}, training ends at {task.recipe.length}")
        levels = self.levels()
        method = {
            "name": "BayesianIMP", "density": self.density, "rate": self.rate, "score": repr(self.score),
            "scope": self.scope, "sigma": self.sigma, "rewind": str(self.rewind),
            "variational": self.variational.to_json(),
        }  # fmt: skip

        def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
            start = initial(task.architecture, networks[rows].records)
            early = self.variational.start(start, task)
            early.run(rewind, tick)
            means, std = early.network.means(), self._spread(early, None)
            masks, done = torch.ones(means.shape, dtype=torch.bool), 0
            if checkpoint is not None and checkpoint.exists():
                saved = load_checkpoint(checkpoint, "cpu")
                masks, std, done = saved["masks"], saved["std"], int(saved["levels"])
                tick(length * done)
            while True:
                ticket = start.replace(weights=means * masks, masks=masks)
                inference = self.variational.start(ticket, task, std)
                inference.run(length, tick)
                if done == len(levels):
                    break
                live = masks & start.layout.prunable
                share = 1 - levels[done] / ([1.0, *levels][done])
                scores = self.score(inference.network.means(), inference.network.stds(), live, share)
                masks = Unstructured(levels[done], self.scope).mask(scores, start.layout, within=masks)
                std, done = self._spread(inference, masks), done + 1
                if checkpoint is not None:
                    with atomic_file(checkpoint) as temporary:
                        save_file({"masks": masks, "std": std, "levels": torch.tensor(done)}, temporary)
            records = ticket_records(networks[rows].records, rows.start, method)
            found = posteriors(inference, ticket, records)
            return found.replace(extras=found.extras | {"rewind": ticket.weights})

        return in_blocks(
            make, architecture=networks.architecture, count=len(networks), block=_BLOCK,
            ticks=rewind + length * (len(levels) + 1),
            what=f"Bayesian pruning of {len(networks)} networks, {len(levels)} levels", folder=folder, stage="tickets",
            config={"method": method, "task": task.to_json(), "recipe": task.recipe.to_json()},
            inputs={"networks": networks.fingerprint()} if folder else None,
        )  # fmt: skip

    def _spread(self, inference: Inference, masks: Bool[Tensor, "n d"] | None) -> Float[Tensor, "n d"]:
        """Standard deviations that the next level starts from."""
        network = inference.network
        fresh = initial_std(network.module, network.layout, self.variational.std).expand(len(network), -1)
        if self.sigma == "learned" and masks is not None:
            learned = network.stds()
            return torch.where(learned > 0, learned, fresh)
        if self.sigma == "rescaled" and masks is not None:
            return fresh * _fewer_inputs(masks, network.layout)
        return fresh.clone()


def _fewer_inputs(masks: Bool[Tensor, "n d"], layout: Layout) -> Float[Tensor, "n d"]:
    """sqrt(fan-in / mean fan-in that is left) for each weight tensor, 1 elsewhere."""
    factor = torch.ones(masks.shape)
    for entry in layout.parameters:
        if entry.role == "weight":
            at = layout.slices[entry.name]
            kept = masks[:, at].float().mean(1, keepdim=True).clamp(min=1 / entry.size)
            factor[:, at] = kept.rsqrt()
    return factor
