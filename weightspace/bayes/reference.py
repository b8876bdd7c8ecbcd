"""Posteriors beyond the mean field, by Pyro's own guides and samplers, one network at a time.

For small networks: a low-rank guide has rank + 1 numbers a weight, Laplace's approximation a Hessian of all weights,
and NUTS evaluates the gradient of the whole training split many times for each draw. The training split is read as a
whole. The noise of a regression is learned with a guide; NUTS takes that of the network's residuals at its start. They
run on the CPU.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from pyro.infer import MCMC, NUTS, Trace_ELBO
from pyro.infer.autoguide import AutoLaplaceApproximation, init_to_value
from torch import Tensor

from weightspace.bayes.checks import require_cpu, require_likelihood, warn_of_other_loss
from weightspace.bayes.inference.network import BayesianNetwork
from weightspace.bayes.variational import Variational
from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.runtime import checks, seeds, tracking, trees
from weightspace.runtime.progress import progress
from weightspace.runtime.trees import Tree
from weightspace.tasks.arguments import check_run
from weightspace.tasks.task import Task

MakeGuide = Callable[..., Any]  # (model, init_loc_fn=...) -> one of Pyro's automatic guides


@dataclass(frozen=True)
class WithGuide:
    """Fit one of Pyro's automatic guides to each network and draw from it.

    Args:
        make: Class of the guide, such as `functools.partial(AutoLowRankMultivariateNormal, rank=5)`, or
            `AutoLaplaceApproximation`, which is expanded around the mode on the whole training split.
        draws: Networks that are drawn from each posterior.
        steps: Steps of Adam.
        lr: Learning rate of Adam at the start of a cosine decay.
        variational: Settings whose prior and temperature are used; batches have the size of the task's recipe.
    """

    make: MakeGuide
    draws: int = 20
    steps: int = 2000
    lr: float = 1e-3
    variational: Variational = field(default_factory=Variational)

    def __post_init__(self) -> None:
        checks.settle(self, checks.function, "make", what="that makes a guide, such as AutoDiagonalNormal")
        checks.settle(self, checks.count, "draws", "steps", at_least=1)
        checks.settle(self, checks.number, "lr", above=0)
        checks.settle(self, checks.instance, "variational", kinds=Variational, wanted="a Variational(...)")

    def sample(self, networks: Collection, task: Task, *, seed: int = 0, device: str = "auto") -> Collection:
        """Networks drawn from the posterior around each network, under its mask, one posterior after another.

        Args:
            networks: Networks that the guides start from.
            task: Task whose training split is used.
            seed: Seed of the fits and draws.
            device: Device to compute on: "cpu", or "auto" for the same; there is no other.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: The device is not the CPU, the outputs have no likelihood that is known, or the loss is no
                longer finite.
        """
        check_run(networks, task)
        checks.seed(seed)
        require_cpu(device, "WithGuide")
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        require_likelihood(task, self.variational.noise_std)
        warn_of_other_loss(task)
        x, y = task.train.x, task.train.y
        drawn: list[Tensor] = []
        for i in range(len(networks)):
            network = self.variational.network(networks[[i]], task)
            batch_size, fit_seed = task.recipe.batch_size, seeds.derive(seed, "posterior", i)
            drawn.append(
                guide_draws(
                    network,
                    self.make,
                    x,
                    y,
                    draws=self.draws,
                    steps=self.steps,
                    lr=self.lr,
                    batch_size=batch_size,
                    seed=fit_seed,
                )
            )
        return _drawn(networks, drawn)


@dataclass(frozen=True)
class Nuts:
    """The No-U-Turn sampler (arXiv 1111.4246): the reference that other posteriors are compared with.

    Args:
        draws: Draws kept of each chain; there is one chain for each network.
        warm_up: Draws that adapt the step size and are dropped.
        depth: Largest depth of the tree; a draw takes at most 2^depth gradients.
        variational: Settings whose prior and temperature T are used; the target is likelihood^(1 / T) times prior, as
            it is for the mean field.
    """

    draws: int = 100
    warm_up: int = 100
    depth: int = 8
    variational: Variational = field(default_factory=Variational)

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "draws", "depth", at_least=1)
        checks.settle(self, checks.count, "warm_up")
        checks.settle(self, checks.instance, "variational", kinds=Variational, wanted="a Variational(...)")

    def sample(self, networks: Collection, task: Task, *, seed: int = 0, device: str = "auto") -> Collection:
        """Networks drawn from the posterior of each network's live weights, one chain after another.

        Args:
            networks: Networks that the chains start from.
            task: Task whose training split is used.
            seed: Seed of the chains.
            device: Device to compute on: "cpu", or "auto" for the same; there is no other.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: The device is not the CPU, or the outputs have no likelihood that is known.
        """
        check_run(networks, task)
        checks.seed(seed)
        require_cpu(device, "Nuts")
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        require_likelihood(task, self.variational.noise_std)
        warn_of_other_loss(task)
        drawn: list[Tensor] = []
        for i in progress(range(len(networks)), "sampling posteriors"):
            network = self.variational.network(networks[[i]], task)
            chain_seed = seeds.derive(seed, "chain", i)
            drawn.append(
                nuts_draws(
                    network,
                    task.train.x,
                    task.train.y,
                    draws=self.draws,
                    warm_up=self.warm_up,
                    depth=self.depth,
                    seed=chain_seed,
                )
            )
        return _drawn(networks, drawn)


def nuts_draws(
    network: BayesianNetwork, x: Tree, y: Tree, *, draws: int, warm_up: int, depth: int = 8, seed: int = 0
) -> Float[Tensor, "draws d"]:
    """Draws of one Bayesian network by Pyro's NUTS, which uses all samples in each gradient.

    Args:
        network: One Bayesian network; its means are where the chain starts.
        x: Inputs of all training samples, (samples, ...).
        y: Targets, (samples, ...).
        draws: Draws to keep.
        warm_up: Draws that adapt the step size and are dropped.
        depth: Largest depth of the tree.
        seed: Seed of the chain.

    Raises:
        InputError: There are several networks, buffers, or an estimator that draws no weights.
    """
    _require_one(network)
    start = init_to_value(values={"weights": network.mu.detach()[:, None].clone()})
    model = cold(network)
    with seeds.seeded_modules(seed, "nuts"), pyro.validation_enabled(False), pyro.get_param_store().scope():
        chain = MCMC(
            NUTS(model, max_tree_depth=depth, init_strategy=start),
            num_samples=draws,
            warmup_steps=warm_up,
            disable_progbar=True,
        )
        chain.run(trees.take(x, None), trees.take(y, None), trees.samples(x))
    return _whole(network, chain.get_samples()["weights"][:, 0, 0])


def guide_draws(
    network: BayesianNetwork,
    make: MakeGuide,
    x: Tree,
    y: Tree,
    *,
    draws: int,
    steps: int,
    lr: float,
    batch_size: int,
    seed: int = 0,
) -> Float[Tensor, "draws d"]:
    """Fit a guide to one Bayesian network by Pyro's `Trace_ELBO`, and draw from it.

    Args:
        network: One Bayesian network; its means are where the guide starts.
        make: Class of the guide.
        x: Inputs of all training samples, (samples, ...).
        y: Targets, (samples, ...).
        draws: Networks to draw.
        steps: Steps of Adam.
        lr: Learning rate of Adam at the start of a cosine decay.
        batch_size: Samples of a step.
        seed: Seed of the fit and of the draws.

    Raises:
        InputError: The loss is no longer finite, or there are several networks, buffers, or an estimator that draws no
            weights.
    """
    _require_one(network)
    start = init_to_value(values={"weights": network.mu.detach()[:, None]})
    total, model = trees.samples(x), cold(network)
    size = min(batch_size, total)
    few = (*(trees.take(tree, (None, slice(size))) for tree in (x, y)), total)
    with (
        seeds.seeded_modules(seed, "guide"),
        pyro.validation_enabled(False),
        pyro.get_param_store().scope(),
        tracking.stage("guide", steps) as told,
    ):
        guide = make(model, init_loc_fn=start)
        guide(*few)  # makes its parameters
        optimizer = torch.optim.Adam(guide.parameters(), lr=lr)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        for step in progress(range(steps), "fitting a guide"):
            at = torch.randint(total, (size,)) if size < total else torch.arange(size)
            batch = [trees.take(trees.take(tree, at), None) for tree in (x, y)]
            loss = Trace_ELBO().differentiable_loss(model, guide, *batch, total)
            if not loss.isfinite():
                raise InputError(f"the ELBO is {-loss.item()} at step {step + 1}: lower lr ({lr:g})")
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
            network.learn_noise(batch[1], total / network.temperature)
            told.advance()
            told.log(lambda: {"loss": loss.item() / total})  # noqa: B023
        if isinstance(guide, AutoLaplaceApproximation):
            guide = guide.laplace_approximation(trees.take(x, None), trees.take(y, None), total)
        with torch.no_grad():
            drawn = [guide(*few)["weights"] for _ in range(draws)]
    return _whole(network, torch.stack(drawn)[:, 0, 0])


def cold(network: BayesianNetwork) -> Any:
    """The model whose posterior the tempered mean field approximates: likelihood^(1 / temperature) times prior."""
    return poutine.scale(network.model, scale=1 / network.temperature)


def _require_one(network: BayesianNetwork) -> None:
    if len(network) != 1:
        raise InputError(f"these posteriors are made one network at a time, got {len(network)} side by side")
    if network.estimator != "weights":
        raise InputError(
            f"these posteriors draw whole networks: use the estimator 'weights', not {network.estimator!r}"
        )
    if network.state:
        raise InputError(
            f"the network has buffers ({min(network.state)}), whose values would not be those of the drawn weights: "
            "use bayes.Variational, or a network without running statistics"
        )


def _whole(network: BayesianNetwork, live: Float[Tensor, "draws k"]) -> Float[Tensor, "draws d"]:
    return torch.cat([network.vectors(row[None]) for row in live.detach()]).detach()


def _drawn(networks: Collection, drawn: list[Tensor]) -> Collection:
    rows = torch.arange(len(networks)).repeat_interleave(len(drawn[0]))
    records = [
        {**networks.records[int(i)], "kind": "draw", "posterior": int(i), "index": j} for j, i in enumerate(rows)
    ]
    return networks[rows].replace(weights=torch.cat(drawn), records=records, extras={})
