"""Networks of fixed weights with a relaxed Bernoulli gate for each prunable weight."""

from collections.abc import Callable
from typing import Any, Literal

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn
from torch.func import vmap
from torch.nn import functional as F

from weightspace.bayes.inference.distributions import Gate
from weightspace.bayes.inference.likelihoods import divergence, observed
from weightspace.bayes.inference.noise_scale import NoiseScale
from weightspace.networks.calling import call_with
from weightspace.networks.forward import evaluation, forward
from weightspace.networks.layout import Layout
from weightspace.networks.outputs import Classes, OutputKind
from weightspace.runtime import trees
from weightspace.runtime.trees import Tree

_RELAXED = 2 / 3  # temperature of the relaxation

Objective = Literal["labels", "dense", "features", "loss", "gradients", "gradient norm"]


class GatedNetwork(nn.Module):
    """N networks of fixed weights whose prunable weights have gates: `model` and `guide` for Pyro.

    Args:
        module: Module that gives the computation, in evaluation mode.
        weights: Fixed weights, (n, D).
        buffers: Buffers by name, (n, *shape).
        density: Density of the prior, and of the gates at the start.
        prior: Weight of the KL to the prior; 0 leaves it out.
        objective: Quantity that the gates explain or preserve; see `GateSearch`.
        outputs: What the outputs mean, which gives the likelihood of "labels" and the divergence of "dense".
        noise: Noise of a regression's targets.
        loss: Mean loss of one network's outputs against its targets, for the objectives that look at it.
    """

    def __init__(
        self,
        module: nn.Module,
        weights: Float[Tensor, "n d"],
        buffers: dict[str, Tensor],
        *,
        density: float,
        prior: float = 1.0,
        objective: Objective = "labels",
        outputs: OutputKind = Classes(),
        noise: NoiseScale | None = None,
        loss: Callable[[Any, Any], Tensor] = F.cross_entropy,
    ) -> None:
        super().__init__()
        self._module = [module.eval()]
        self.layout = Layout.of(module)
        self.weights, self.state = weights, buffers
        self.at = self.layout.prunable.nonzero()[:, 0].to(weights.device)
        self.start = torch.tensor(density, dtype=weights.dtype).logit().to(weights.device)
        self.prior, self.objective, self.kind, self.loss = prior, objective, outputs, loss
        self.logits = nn.Parameter(self.start.expand(len(weights), len(self.at)).clone())
        self.noise = noise

    def add_gradient(self, extra: Float[Tensor, "n k"]) -> None:
        """Add to the gradient of the logits, which the last backward pass computed.

        Args:
            extra: Further gradient, (n, K).
        """
        assert self.logits.grad is not None
        self.logits.grad.add_(extra)

    def restore(self, logits: Float[Tensor, "n k"], log_noise: Float[Tensor, " n"] | None = None) -> None:
        """Put the logits back to values of a checkpoint.

        Args:
            logits: Logits of the gates, (n, K).
            log_noise: Logarithm of the noise of regressions, (n,).
        """
        self.logits.data = logits
        if self.noise is not None and log_noise is not None:
            self.noise.log_std.data = log_noise

    def learn_noise(self, y: Tree) -> None:
        """Let the noise of a regression follow the gradient that a backward pass left it; others have none.

        Args:
            y: Targets, as of `model`; the loss is that of `model` divided by the number of samples.
        """
        if self.noise is not None:
            self.noise.learn(self.kind.targets(y)[0, 0].numel())

    def outputs(self, gates: Float[Tensor, "n k"] | None, x: Tree) -> Tree:
        """Outputs (n, batch, ...) of the networks under these gates, in the structure that the module returns.

        Args:
            gates: Gates of the prunable weights, (n, K); None gives the outputs of the dense networks.
            x: Inputs, (n, batch, ...).
        """
        weights = self.weights
        if gates is not None:
            weights = weights.index_copy(1, self.at, weights[:, self.at] * gates)
        with evaluation(self._module[0]):
            return forward(self._module[0], self.layout.tensors(weights), self.state, x, shared_input=False)

    def model(self, x: Tree, y: Tree, total: int) -> None:
        """The Pyro model.

        Args:
            x: Inputs, (n, batch, ...), with a batch for each network.
            y: Targets, (n, batch, ...).
            total: Samples in the training split.
        """
        temperature = self.weights.new_tensor(_RELAXED)
        with pyro.plate("networks", len(self.weights), dim=-2):
            # Without a prior the gates' own distribution stands in for it, whose KL and gradient are zero.
            before = self.start.expand_as(self.logits) if self.prior else self.logits.detach()
            with poutine.scale(scale=self.prior or 1.0):
                prior: Any = Gate(temperature, before[:, None]).to_event(1)
                gates = pyro.sample("gates", prior)
            if self.objective not in ("labels", "dense"):
                pyro.factor("objective", -total * self.preserved(gates[:, 0], x, y)[:, None])
                return
            outputs = self.outputs(gates[:, 0], x)
            noise = None if self.noise is None else self.noise.std
            with pyro.plate("data", total, subsample=torch.arange(trees.first(x).shape[1]), dim=-1):
                if self.objective == "dense":
                    with torch.no_grad():
                        dense = self.outputs(None, x)
                    pyro.factor("match", -divergence(self.kind, outputs, dense, y, noise))
                else:
                    likelihood: Any
                    likelihood, values = observed(self.kind, outputs, y, noise)
                    pyro.sample("labels", likelihood, obs=values)

    def preserved(self, gates: Float[Tensor, "n k"], x: Tree, y: Tree) -> Float[Tensor, " n"]:
        """Change of the loss, features or gradients of the dense networks by the gates, (n,): 0 where nothing changes.

        For the norm of the gradient it is the negative norm.

        Args:
            gates: Gates of the prunable weights, (n, K).
            x: Inputs, (n, batch, ...).
            y: Targets, (n, batch, ...).
        """
        weights = self.weights.index_copy(1, self.at, self.weights[:, self.at] * gates)
        if self.objective == "features":
            pairs = zip(self._features(weights, x), self._features(self.weights, x), strict=True)
            parts = [(sparse - dense.detach()).square().flatten(1).mean(1) for sparse, dense in pairs]
            return torch.stack(parts).sum(0)
        sparse = self._losses(weights, x, y)
        if self.objective == "loss":
            return (sparse / self._losses(self.weights, x, y).detach() - 1).abs()
        (slope,) = torch.autograd.grad(sparse.sum(), weights, create_graph=True)
        if self.objective == "gradient norm":
            return -slope[:, self.at].mul(gates).norm(dim=1)
        dense = self.weights.detach().requires_grad_()
        (slope_dense,) = torch.autograd.grad(self._losses(dense, x, y).sum(), dense)
        parts = []
        for entry in self.layout.weights:
            at = self.layout.slices[entry.name]
            parts.append((_standardised(slope[:, at]) - _standardised(slope_dense[:, at])).square().mean(1))
        return torch.stack(parts).sum(0)

    def _losses(self, weights: Tensor, x: Tree, y: Tree) -> Float[Tensor, " n"]:
        with evaluation(self._module[0]):
            outputs = forward(self._module[0], self.layout.tensors(weights), self.state, x, shared_input=False)
        return torch.stack([self.loss(trees.take(outputs, i), trees.take(y, i)) for i in range(len(weights))])

    def _features(self, weights: Tensor, x: Tree) -> list[Tensor]:
        """Outputs (n, batch, ...) of every layer that has gates."""
        module = self._module[0]
        owners = {e.name.rpartition(".")[0] for e in self.layout.weights}

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tree) -> list[Tensor]:
            seen: list[Tensor] = []

            def keep(_layer: nn.Module, _inputs: Any, out: Tree) -> None:
                seen.extend(trees.tensors(out))

            handles = [module.get_submodule(name).register_forward_hook(keep) for name in sorted(owners)]
            try:
                call_with(module, (parameters, buffers), x)
            finally:
                for handle in handles:
                    handle.remove()
            return seen

        with evaluation(module):
            return vmap(one)(self.layout.tensors(weights), self.state, x)

    def guide(self, x: Tree, y: Tree, total: int) -> None:
        """Independent gates, with the same sites as the model.

        Args:
            x: Inputs, as of `model`.
            y: Targets, as of `model`.
            total: Samples in the training split.
        """
        temperature = self.weights.new_tensor(_RELAXED)
        with pyro.plate("networks", len(self.weights), dim=-2), poutine.scale(scale=self.prior or 1.0):
            pyro.sample("gates", Gate(temperature, self.logits[:, None]).to_event(1))


def _standardised(values: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    spread = values.std(1, keepdim=True)
    return (values - values.mean(1, keepdim=True)) / spread.clamp(min=torch.finfo(values.dtype).tiny)
