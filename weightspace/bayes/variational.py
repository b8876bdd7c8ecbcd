"""Variational training of posteriors around networks, many side by side."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from weightspace.bayes.checks import require_likelihood, warn_of_other_loss
from weightspace.bayes.inference.network import BayesianNetwork, Estimator, initial_std
from weightspace.bayes.inference.noise_scale import check_noise, noise_of
from weightspace.bayes.inference.priors import Normal, Prior
from weightspace.bayes.inference.variational import Inference
from weightspace.networks.building import in_blocks
from weightspace.networks.collection import Collection
from weightspace.networks.forward import predict
from weightspace.networks.layout import Layout
from weightspace.networks.outputs import OUTPUT_KINDS, Classes, Regression
from weightspace.networks.record import Extra
from weightspace.recipes.step import Duration, Step, duration
from weightspace.runtime import checks, devices
from weightspace.storage.spelling import spelled, spelled_text
from weightspace.storage.system_errors import exists
from weightspace.tasks.arguments import check_run
from weightspace.tasks.measuring import measure
from weightspace.tasks.task import Task
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
    warm_up: Duration = duration("0it")
    draws: int = 1
    std: float = 0.01
    estimator: Estimator = "weights"
    noise_std: float | None = None
    deterministic: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        wanted = "a prior, such as Normal(1.0) or Horseshoe()"
        checks.settle(self, checks.having, "prior", methods=("distribution",), wanted=wanted)
        checks.settle(self, checks.number, "temperature", "std", above=0)
        checks.settle(self, Step.of, "warm_up")
        checks.settle(self, checks.count, "draws", at_least=1)
        checks.settle(self, checks.one_of, "estimator", choices=get_args(Estimator))
        checks.settle(self, check_noise, "noise_std")
        checks.settle(self, checks.several, "deterministic", check=checks.text)

    def to_json(self) -> dict[str, Any]:
        """The settings as they identify a run on disk."""
        settings = spelled(self) | {"prior": spelled_text(self.prior), "warm_up": str(self.warm_up)}
        added = {"noise_std": None, "deterministic": ()}  # since version 0.1
        return {name: value for name, value in settings.items() if name not in added or value != added[name]}

    def network(self, networks: Collection, task: Task, *, device: str = "cpu") -> BayesianNetwork:
        """The Pyro model and guide around networks, under their masks.

        Args:
            networks: Means to start from; the extra "std", if they have it, holds the standard deviations.
            task: Task whose architecture is used, and whose outputs say what the likelihood is; the first training
                samples give the noise that a regression starts from.
            device: Device that the networks are put on.

        Raises:
            InputError: The outputs have no likelihood that is known, or a layer is unsupported.
        """
        kind = require_likelihood(task, self.noise_std)
        module = task.architecture.following(networks.layout).build_seeded(0).to(device).train()
        layout = Layout.of(module)
        std = networks.extras.get(STD)
        if std is None:
            std = initial_std(module, layout, self.std).expand(len(networks), -1)
        weights = networks.weights.to(device)
        buffers = {name: buffer.to(device) for name, buffer in networks.buffers.items()}
        noise = None
        if isinstance(kind, Regression):
            x = task.train.head(_RESIDUALS).x
            noise = noise_of(task, predict(module, layout, weights, buffers, x), self.noise_std).to(device)
        return BayesianNetwork(
            module,
            weights,
            std.to(device),
            masks=None if networks.dense else networks.masks.to(device),
            buffers=buffers,
            prior=self.prior,
            temperature=self.temperature,
            likelihood=kind,
            noise=noise,
            deterministic=self.deterministic,
            estimator=self.estimator,
        )

    def start(self, networks: Collection, task: Task, *, after: Step = Step(), device: str = "cpu") -> Inference:
        """Posteriors around networks before their first step.

        Args:
            networks: Means to start from, as for `network`.
            task: Task whose training split and recipe are used.
            after: Time for which the networks have been trained already; training starts there in the schedule.
            device: Device to train on.
        """
        network = self.network(networks, task, device=device)
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
        device: str = "auto",
    ) -> Collection:
        """Train a posterior around each network, under its mask: the transplant of a deterministic ticket.

        Args:
            networks: Means to start from; the extra "std", if they have it, holds the standard deviations.
            task: Task whose training split and recipe are used.
            after: Time for which the networks have been trained already; training starts there in the schedule.
            until: Time at which training stops; by default the end of the recipe.
            folder: Folder to write to as a resumable run; None keeps everything in memory.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Returns:
            Posteriors: means as weights, standard deviations as the extra "std"; other extras stay.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: The device is not available, the outputs have no likelihood that is known, a layer is
                unsupported, a record has no seed, or the loss is no longer finite (the last checkpoint is kept).
        """
        check_run(networks, task, folder, device)
        after, until = Step.of(after, "after"), checks.given(until, "until", Step.of)
        device = devices.pick(device)
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        require_likelihood(task, self.noise_std)
        warn_of_other_loss(task)
        per_epoch = task.recipe.per_epoch(len(task.train))
        first, last = after.total(per_epoch), (until or task.recipe.length).total(per_epoch)

        def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
            part = networks[rows]
            inference = self.start(part, task, after=after, device=device)
            if checkpoint is not None and exists(checkpoint):
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
        weights=means.cpu(),
        buffers={name: buffer.cpu() for name, buffer in network.state.items()},
        extras=part.extras | {STD: network.stds().cpu()},
        records=[
            record.without("aligned")
            | posterior
            | noise[i]
            | {"metrics": {f"validation_{name}": measured[name][i] for name in names}}
            for i, record in enumerate(part.records)
        ],
    )
