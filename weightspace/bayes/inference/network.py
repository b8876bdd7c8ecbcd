"""Bayesian networks: any module as a Pyro model with a mean-field guide over its live weights alone.

One flat site holds the weights that are left, so that drawing, KL and optimiser shrink with the density; they are
scattered into a zero vector and cut into the module's tensors. N networks lie side by side, in a plate.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import pyro
import torch
from jaxtyping import Bool, Float
from pyro import poutine
from torch import Tensor, nn

from weightspace.bayes.inference import estimators
from weightspace.bayes.inference.distributions import MeanField
from weightspace.bayes.inference.estimators import BAYESIAN
from weightspace.bayes.inference.likelihoods import Likelihood, observed, require_known
from weightspace.bayes.inference.noise_scale import NoiseScale
from weightspace.bayes.inference.priors import Centred, Normal, Prior
from weightspace.errors import InputError
from weightspace.kernels.live_network import LiveNetwork
from weightspace.networks.forward import forward
from weightspace.networks.layout import Layout
from weightspace.networks.outputs import Classes, OutputKind, Regression
from weightspace.runtime import seeds, trees
from weightspace.runtime.trees import Tree

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

_LARGE = 50_000  # parameters

Estimator = Literal["weights", "local", "flipout"]


def bayesian_positions(module: nn.Module, layout: Layout, deterministic: Sequence[str] = ()) -> Bool[Tensor, " d"]:
    """True at the positions of linear and convolutional layers; norm layers stay deterministic.

    Args:
        module: Module whose layers are looked at.
        layout: Layout of the module.
        deterministic: Names of further modules that stay deterministic.

    Raises:
        InputError: A layer of another kind has parameters, or no layer can be Bayesian.
    """
    positions, tied = torch.zeros(layout.size, dtype=torch.bool), dict(layout.aliases)
    for name, part in module.named_modules():
        names = [n for n, _ in part.named_parameters(prefix=name, recurse=False)]
        if not names or isinstance(part, _NORMS) or any(name == d or name.startswith(f"{d}.") for d in deterministic):
            continue
        if not isinstance(part, BAYESIAN):
            raise InputError(
                f"layer {name or 'the module'} is a {type(part).__name__}, and only linear and convolutional layers "
                f"can be Bayesian: keep it deterministic with deterministic=({name!r},), or build it from these layers"
            )
        for one in names:
            positions[layout.slices[tied.get(one, one)]] = True
    if not positions.any():
        raise InputError("the module has no linear or convolutional layer that could be Bayesian")
    return positions


def initial_std(module: nn.Module, layout: Layout, share: float = 0.01) -> Float[Tensor, " d"]:
    """Initial standard deviations: `share` / sqrt(fan-in) for each layer (arXiv 2602.18825, table 1); zero elsewhere.

    Args:
        module: Module whose layers give the fan-in.
        layout: Layout of the module.
        share: Standard deviation in units of 1 / sqrt(fan-in).

    Raises:
        InputError: The share is not positive and finite.
    """
    if not 0 < share < math.inf:
        raise InputError(f"the initial standard deviation is a positive share of 1 / sqrt(fan-in), got {share}")
    std, tied = torch.zeros(layout.size), dict(layout.aliases)
    for name, part in module.named_modules():
        if isinstance(part, BAYESIAN):
            fan_in = part.weight[0].numel()
            for one, _ in part.named_parameters(prefix=name, recurse=False):
                std[layout.slices[tied.get(one, one)]] = share / math.sqrt(fan_in)
    return std


class BayesianNetwork(nn.Module):
    """N Bayesian networks of one architecture: `model` and `guide` for Pyro, and the parameters of the guide.

    Args:
        module: Module that gives the computation; its own parameters are not used.
        weights: Means of the posteriors at the start and centre of a centred prior, (n, D); zero where pruned.
        std: Standard deviations at the start, (n, D).
        masks: True where a weight is kept, (n, D), with equally many in each network; None for dense networks.
        buffers: Buffers by name, (n, *shape).
        prior: Prior of the live weights.
        temperature: Weight of the KL term (arXiv 2002.02405).
        likelihood: What the outputs mean: a categorical distribution for `Classes`, Bernoulli for `Binary`, normal for
            `Regression`; or a function from outputs (n, batch, ...) to the distribution of the targets (n, batch).
        noise: Noise of a regression's targets.
        deterministic: Names of modules that stay deterministic, beside the norm layers.
        estimator: Estimator of the expected log-likelihood: one draw of the "weights" for a batch; "local"
            reparameterisation, which draws pre-activations and needs a prior with an analytic KL; or "flipout".

    Raises:
        InputError: A layer is unsupported, the temperature or a standard deviation is not positive, or the masks keep
            different numbers of weights.
    """

    def __init__(
        self,
        module: nn.Module,
        weights: Float[Tensor, "n d"],
        std: Float[Tensor, "n d"],
        *,
        masks: Bool[Tensor, "n d"] | None = None,
        buffers: dict[str, Tensor] | None = None,
        prior: Prior = Normal(),
        temperature: float = 1.0,
        likelihood: Likelihood = Classes(),
        noise: NoiseScale | None = None,
        deterministic: Sequence[str] = (),
        estimator: Estimator = "weights",
    ) -> None:
        super().__init__()
        _check(module, prior, temperature, deterministic, estimator)
        _check_likelihood(likelihood, noise)
        self.estimator: Estimator = estimator
        rules = {"local": estimators.local_reparameterisation, "flipout": estimators.flipout}
        self._noisy = [estimators.with_second(module, rules[estimator])] if estimator != "weights" else []
        # In a step of training, the weight of the KL term and a seed for each network's noise; outside, no seeds.
        self._kl_weight, self._noise_seeds = temperature, list[int]()
        self._module = [module]  # in a list, so that its parameters are not taken for this one's
        self.layout = Layout.of(module)
        self.prior, self.temperature, self.likelihood = prior, temperature, likelihood
        bayesian = bayesian_positions(module, self.layout, deterministic).to(weights.device)
        live = bayesian.expand(len(weights), -1) if masks is None else bayesian & masks
        if masks is not None and not (bayesian | masks).all():
            raise InputError(
                "weights of a deterministic layer are pruned, and only layers with a posterior can be sparse here: "
                "leave the layer out of the pattern"
            )
        counts = live.sum(1)
        if (counts != counts[0]).any():
            raise InputError(
                f"networks side by side need equally many live weights, got {counts.min()} to {counts.max()}: prune "
                "them to one density, or train them apart"
            )
        count = int(counts[0])
        # `live`: where the posterior's weights lie in the vector of their network; `fixed`: the deterministic rest.
        self.live = nn.Buffer(live.nonzero()[:, 1].reshape(len(weights), count))
        self.fixed = nn.Buffer((~bayesian).nonzero()[:, 0])
        # One after another where the price of vmap is more than it saves: large networks, and sparse ones.
        one = LiveNetwork(module, live[0] | ~bayesian)
        apart = len(weights) == 1 or self.layout.size >= _LARGE or bool(one.sparse)
        self._apart = [one, *(LiveNetwork(module, row | ~bayesian) for row in live[1:])] if apart else []
        self._order = torch.cat([self.live, self.fixed.expand(len(weights), -1)], 1).argsort(1)
        at = std.gather(1, self.live)
        if not (at > 0).all() or not at.isfinite().all():
            raise InputError("standard deviations of live weights must be positive and finite")
        self.mu = nn.Parameter(weights.gather(1, self.live))
        self.rho = nn.Parameter(at.log())
        self.rest = nn.Parameter(weights[:, self.fixed].clone())
        self.centre = nn.Buffer(self.mu.detach().clone())
        self.sites = nn.ParameterDict(prior.parameters(self.mu.detach()))
        self.state = {name: buffer.clone() for name, buffer in (buffers or {}).items()}
        self.noise = noise

    @property
    def module(self) -> nn.Module:
        """The module that gives the computation; its own parameters are not used."""
        return self._module[0]

    def __len__(self) -> int:
        return len(self.mu)

    @property
    def std(self) -> Float[Tensor, "n k"]:
        """Standard deviations of the live weights."""
        return self.rho.exp()

    @property
    def weight_parameters(self) -> list[nn.Parameter]:
        """The parameters of the guide, without the noise, which is learned in a way of its own."""
        return [parameter for name, parameter in self.named_parameters() if not name.startswith("noise.")]

    @contextmanager
    def training_step(self, *, kl_share: float, noise_seeds: Sequence[int]) -> Iterator[None]:
        """Conditions of one step of training, which end with the block.

        Args:
            kl_share: Share of the temperature that the KL term has as its weight, in (0, 1].
            noise_seeds: Seed of each network's noise, for the estimators that have some.
        """
        self._kl_weight, self._noise_seeds = self.temperature * kl_share, list(noise_seeds)
        try:
            yield
        finally:
            self._kl_weight, self._noise_seeds = self.temperature, []

    def restore(self, parameters: Mapping[str, Tensor], buffers: Mapping[str, Tensor]) -> None:
        """Put the networks back to a checkpoint.

        Args:
            parameters: Tensors of `state_dict()`, by name.
            buffers: Buffers of the networks by name, (n, *shape).
        """
        self.load_state_dict(parameters)
        self.state = {name: buffer.to(self.mu.device) for name, buffer in buffers.items()}

    def vectors(self, live: Float[Tensor, "n k"]) -> Float[Tensor, "n d"]:
        """Whole networks, (n, D): zero where pruned, with the deterministic parameters in their places.

        Args:
            live: Values of the live weights, (n, K).
        """
        if live.shape[1] == self.layout.size:
            return live
        whole = live.new_zeros(len(live), self.layout.size).scatter(1, self.live, live)
        return whole.index_copy(1, self.fixed, self.rest) if len(self.fixed) else whole

    def outputs(self, live: Float[Tensor, "n k"], x: Tree) -> Tree:
        """Outputs (n, batch, ...) of the networks with these live weights, in the structure that the module returns.

        Args:
            live: Values of the live weights, (n, K).
            x: Inputs, (n, batch, ...): a tensor, a tuple of a module's inputs, or a mapping of them by name.
        """
        if not self._apart:
            parameters = self.layout.tensors(self.vectors(live))
            return forward(self.module, parameters, self.state, x, shared_input=False)
        if len(self.fixed):
            live = torch.cat([live, self.rest], 1).gather(1, self._order)
        results = [
            network(weights, {name: buffer[i] for name, buffer in self.state.items()}, trees.take(x, i))
            for i, (network, weights) in enumerate(zip(self._apart, live.unbind(), strict=True))
        ]
        return trees.stack(results)

    def _noisy_outputs(self, drawn: Float[Tensor, "n k"], x: Tree) -> Tree:
        """Outputs by the estimator, one network after another where each has noise of its own."""
        if not self._noisy:
            return self.outputs(drawn, x)
        second = self.std.square() if self.estimator == "local" else drawn - self.mu
        first = self.layout.tensors(self.vectors(self.mu))
        zeros = second.new_zeros(len(self), self.layout.size)
        rest = self.layout.tensors(zeros.scatter(1, self.live, second))
        results: list[Tree] = []
        for i in range(len(self)):
            mean, other, state = ({name: t[i] for name, t in part.items()} for part in (first, rest, self.state))
            with seeds.seeded_modules(self._noise_seeds[i], "noise") if self._noise_seeds else nullcontext():
                results.append(estimators.outputs(self._noisy[0], mean, other, state, trees.take(x, i)))
        return trees.stack(results)

    def model(self, x: Tree, y: Tree, total: int) -> None:
        """The Pyro model.

        Args:
            x: Inputs, (n, batch, ...), with a batch for each network.
            y: Targets, (n, batch, ...).
            total: Samples in the training split.
        """
        with pyro.plate("networks", len(self), dim=-2):
            with poutine.scale(scale=self._kl_weight):
                prior: Any = self.prior.distribution(self.centre[:, None])
                weights = pyro.sample("weights", prior)
            outputs = self._noisy_outputs(weights[:, 0], x)
            likelihood: Any
            likelihood, values = observed(self.likelihood, outputs, y, self.noise.std if self.noise else None)
            # Any indices do, as x is the subsample; left to itself a plate shuffles all of the data in each step.
            with pyro.plate("data", total, subsample=torch.arange(trees.first(x).shape[1]), dim=-1):
                pyro.sample("labels", likelihood, obs=values)

    def guide(self, x: Tree, y: Tree, total: int) -> None:
        """The mean-field guide, with the same sites as the model.

        Args:
            x: Inputs, as of `model`.
            y: Targets, as of `model`.
            total: Samples in the training split.
        """
        with pyro.plate("networks", len(self), dim=-2), poutine.scale(scale=self._kl_weight):
            self.prior.guide(dict(self.sites.items()))
            pyro.sample("weights", MeanField(self.mu[:, None], self.rho[:, None]).to_event(1))

    def learn_noise(self, y: Tree, total: float) -> None:
        """Let the noise of a regression follow the gradient that a backward pass left it; others have none.

        Args:
            y: Targets, as of `model`.
            total: Samples that the loss counts: all of the training split, times the scale of the loss if it has one.
        """
        if self.noise is not None and isinstance(self.likelihood, OutputKind):
            self.noise.learn(total * self.likelihood.targets(y)[0, 0].numel())

    def means(self) -> Float[Tensor, "n d"]:
        """Posterior means as whole networks."""
        return self.vectors(self.mu).detach()

    def stds(self) -> Float[Tensor, "n d"]:
        """Posterior standard deviations; zero where pruned or deterministic."""
        zeros = torch.zeros(len(self), self.layout.size, dtype=self.mu.dtype, device=self.mu.device)
        return zeros.scatter(1, self.live, self.std.detach())


def _check(
    module: nn.Module, prior: Prior, temperature: float, deterministic: Sequence[str], estimator: Estimator
) -> None:
    """Raise InputError for settings that a network cannot have."""
    if not 0 < temperature < math.inf:
        raise InputError(f"the temperature, the weight of the KL term, must be positive, got {temperature}")
    if estimator not in ("weights", "local", "flipout"):
        raise InputError(f"the estimator is 'weights', 'local' or 'flipout', got {estimator!r}")
    if estimator == "local" and not isinstance(prior, Normal | Centred):
        raise InputError(
            f"local reparameterisation draws no weights, from which the KL to {prior!r} could be estimated: use a "
            "normal prior, or another estimator"
        )
    other = [name for name, m in module.named_modules() if isinstance(m, BAYESIAN) and type(m) not in BAYESIAN]
    if estimator != "weights" and other:
        raise InputError(
            f"layer {other[0]} is a {type(module.get_submodule(other[0])).__name__}, with a forward of its own: the "
            f"estimator {estimator!r} replaces forwards, use 'weights'"
        )
    dropping = [name for name, m in module.named_modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.p]
    if dropping:
        raise InputError(f"layer {dropping[0]} is a dropout: the weights are random already, so leave it out (p=0)")
    if estimator != "weights" and deterministic:
        raise InputError(
            "layers are kept deterministic with the estimator 'weights' alone: use it, or drop their names"
        )


def _check_likelihood(likelihood: Likelihood, noise: NoiseScale | None) -> None:
    if not isinstance(likelihood, OutputKind):
        return
    require_known(likelihood)
    if isinstance(likelihood, Regression) != (noise is not None):
        raise InputError(
            "a regression, and nothing else, has noise around its outputs: give noise=bayes.NoiseScale.fixed(0.1) with "
            "likelihood=Regression()"
        )
