"""Networks of fixed weights with a relaxed Bernoulli gate for each prunable weight."""

from typing import Any, Literal

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from weightspace.bayes.inference.distributions import Gate
from weightspace.bayes.inference.network import classes
from weightspace.networks.forward import evaluation, forward
from weightspace.networks.layout import Layout

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
    ) -> None:
        super().__init__()
        self._module = [module.eval()]
        self.layout = Layout.of(module)
        self.weights, self.state = weights, buffers
        self.at = self.layout.prunable.nonzero()[:, 0]
        self.start = torch.tensor(density, dtype=weights.dtype).logit()
        self.prior, self.objective = prior, objective
        self.logits = nn.Parameter(self.start.expand(len(weights), len(self.at)).clone())

    def add_gradient(self, extra: Float[Tensor, "n k"]) -> None:
        """Add to the gradient of the logits, which the last backward pass computed.

        Args:
            extra: Further gradient, (n, K).
        """
        assert self.logits.grad is not None
        self.logits.grad.add_(extra)

    def restore(self, logits: Float[Tensor, "n k"]) -> None:
        """Put the logits back to values of a checkpoint.

        Args:
            logits: Logits of the gates, (n, K).
        """
        self.logits.data = logits

    def outputs(self, gates: Float[Tensor, "n k"] | None, x: Tensor) -> Tensor:
        """Outputs (n, batch, ...) of the networks under these gates.

        Args:
            gates: Gates of the prunable weights, (n, K); None gives the outputs of the dense networks.
            x: Inputs, (n, batch, ...).
        """
        weights = self.weights
        if gates is not None:
            weights = weights.index_copy(1, self.at, weights[:, self.at] * gates)
        with evaluation(self._module[0]):
            return forward(self._module[0], self.layout.tensors(weights), self.state, x, shared_input=False)

    def model(self, x: Tensor, y: Tensor, total: int) -> None:
        """The Pyro model.

        Args:
            x: Inputs, (n, batch, ...), with a batch for each network.
            y: Labels, (n, batch).
            total: Samples in the training split.
        """
        temperature = torch.tensor(_RELAXED, dtype=self.weights.dtype)
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
            with pyro.plate("data", total, subsample=torch.arange(x.shape[1]), dim=-1):
                if self.objective == "dense":
                    with torch.no_grad():
                        dense = self.outputs(None, x).log_softmax(-1)
                    sparse = outputs.log_softmax(-1)
                    pyro.factor("match", -(sparse.exp() * (sparse - dense)).sum(-1))
                else:
                    likelihood: Any = classes(outputs)
                    pyro.sample("labels", likelihood, obs=y)

    def preserved(self, gates: Float[Tensor, "n k"], x: Tensor, y: Tensor) -> Float[Tensor, " n"]:
        """Change of the loss, features or gradients of the dense networks by the gates, (n,): 0 where nothing changes.

        For the norm of the gradient it is the negative norm.

        Args:
            gates: Gates of the prunable weights, (n, K).
            x: Inputs, (n, batch, ...).
            y: Labels, (n, batch).
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

    def _losses(self, weights: Tensor, x: Tensor, y: Tensor) -> Float[Tensor, " n"]:
        with evaluation(self._module[0]):
            outputs = forward(self._module[0], self.layout.tensors(weights), self.state, x, shared_input=False)
        return torch.stack([F.cross_entropy(logits, labels) for logits, labels in zip(outputs, y, strict=True)])

    def _features(self, weights: Tensor, x: Tensor) -> list[Tensor]:
        """Outputs (n, batch, ...) of every layer that has gates."""
        module = self._module[0]
        owners = {e.name.rpartition(".")[0] for e in self.layout.weights}

        def one(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> list[Tensor]:
            seen: list[Tensor] = []

            def keep(_layer: nn.Module, _inputs: Any, out: Tensor) -> None:
                seen.append(out)

            handles = [module.get_submodule(name).register_forward_hook(keep) for name in sorted(owners)]
            try:
                functional_call(module, (parameters, buffers), (x,))
            finally:
                for handle in handles:
                    handle.remove()
            return seen

        with evaluation(module):
            return vmap(one)(self.layout.tensors(weights), self.state, x)

    def guide(self, x: Tensor, y: Tensor, total: int) -> None:
        """Independent gates, with the same sites as the model.

        Args:
            x: Inputs, as of `model`.
            y: Labels, as of `model`.
            total: Samples in the training split.
        """
        temperature = torch.tensor(_RELAXED, dtype=self.weights.dtype)
        with pyro.plate("networks", len(self.weights), dim=-2), poutine.scale(scale=self.prior or 1.0):
            pyro.sample("gates", Gate(temperature, self.logits[:, None]).to_event(1))


def _standardised(values: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    spread = values.std(1, keepdim=True)
    return (values - values.mean(1, keepdim=True)) / spread.clamp(min=torch.finfo(values.dtype).tiny)
