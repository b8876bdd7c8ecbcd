"""Gate posteriors: which weights are in the network is what is uncertain, the weights themselves are fixed.

A Bernoulli gate for each weight, relaxed while it is trained. With the task's likelihood and a Bernoulli(density)
prior this is a learned supermask (Zhou et al. 2019, arXiv 1905.01067) as a variational posterior; with the outputs of
the dense network to match and a budget instead of a prior it is Concrete Ticket Search (Arora & Teuscher 2025,
arXiv 2512.07142).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pyro
import torch
from jaxtyping import Float
from pyro import poutine
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from weightspace.bayes.inference.distributions import Gate
from weightspace.bayes.inference.elbo import MeanFieldELBO
from weightspace.bayes.inference.network import classes
from weightspace.bayes.inference.noise import OwnDraws
from weightspace.errors import InputError
from weightspace.masks.patterns import Unstructured, check_density
from weightspace.networks.building import in_blocks
from weightspace.networks.collection import Collection
from weightspace.networks.forward import evaluation, forward
from weightspace.networks.layout import Layout
from weightspace.networks.record import Extra
from weightspace.recipes.step import Step
from weightspace.runtime import seeds
from weightspace.storage.checkpoints import read_checkpoint
from weightspace.storage.files import atomic_file
from weightspace.storage.spelling import spelled
from weightspace.tasks.task import Task
from weightspace.tickets.finder import check_dense_enough, ticket_records

LOGITS = Extra.GATE_LOGITS  # the extra of a collection that holds the gates' logits
_BLOCK = 8  # networks searched side by side
_CHECKPOINT_STEPS = 200
_RELAXED = 2 / 3  # temperature of the relaxation
_ROOM, _INERTIA = 1.1, 0.99  # the budget in training, in targets; the multiplier's moving average


Objective = Literal["labels", "dense", "features", "loss", "gradients", "gradient norm"]


class GatedNetwork(nn.Module):
    """N networks of fixed weights whose prunable weights have gates: `model` and `guide` for Pyro.

    Args:
        module: gives the computation, in evaluation mode.
        weights: (n, D).
        buffers: (n, *shape) by name.
        density: of the prior, and of the gates at the start.
        prior: weight of the KL to the prior; 0 leaves it out.
        objective: what the gates explain; see :class:`GateSearch`.
    """

    def __init__(
        self, module: nn.Module, weights: Float[Tensor, "n d"], buffers: dict[str, Tensor], *, density: float,
        prior: float = 1.0, objective: Objective = "labels",
    ) -> None:  # fmt: skip
        super().__init__()
        self._module = [module.eval()]
        self.layout = Layout.of(module)
        self.weights, self.state = weights, buffers
        self.at = self.layout.prunable.nonzero()[:, 0]
        self.start = torch.tensor(density, dtype=weights.dtype).logit()
        self.prior, self.objective = prior, objective
        self.logits = nn.Parameter(self.start.expand(len(weights), len(self.at)).clone())

    def outputs(self, gates: Float[Tensor, "n k"] | None, x: Tensor) -> Tensor:
        """Outputs (n, batch, ...) for inputs (n, batch, ...); without gates those of the dense networks."""
        weights = self.weights
        if gates is not None:
            weights = weights.index_copy(1, self.at, weights[:, self.at] * gates)
        with evaluation(self._module[0]):
            return forward(self._module[0], self.layout.tensors(weights), self.state, x, shared_input=False)

    def model(self, x: Tensor, y: Tensor, total: int) -> None:
        """The Pyro model; see :meth:`weightspace.bayes.BayesianNetwork.model`."""
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
                    own = outputs.log_softmax(-1)
                    pyro.factor("match", -(own.exp() * (own - dense)).sum(-1))
                else:
                    likelihood: Any = classes(outputs)
                    pyro.sample("labels", likelihood, obs=y)

    def preserved(self, gates: Float[Tensor, "n k"], x: Tensor, y: Tensor) -> Float[Tensor, " n"]:
        """What the gates change of the dense network's loss, features or gradients on a batch: 0 if nothing. For the
        norm of the gradient its negative.
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
        (wanted,) = torch.autograd.grad(self._losses(dense, x, y).sum(), dense)
        parts = []
        for entry in self.layout.weights:
            at = self.layout.slices[entry.name]
            parts.append((_standardised(slope[:, at]) - _standardised(wanted[:, at])).square().mean(1))
        return torch.stack(parts).sum(0)

    def _losses(self, weights: Tensor, x: Tensor, y: Tensor) -> Float[Tensor, " n"]:
        with evaluation(self._module[0]):
            outputs = forward(self._module[0], self.layout.tensors(weights), self.state, x, shared_input=False)
        return torch.stack([F.cross_entropy(own, target) for own, target in zip(outputs, y, strict=True)])

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
        """Independent gates."""
        temperature = torch.tensor(_RELAXED, dtype=self.weights.dtype)
        with pyro.plate("networks", len(self.weights), dim=-2), poutine.scale(scale=self.prior or 1.0):
            pyro.sample("gates", Gate(temperature, self.logits[:, None]).to_event(1))


def _standardised(values: Float[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    spread = values.std(1, keepdim=True)
    return (values - values.mean(1, keepdim=True)) / spread.clamp(min=torch.finfo(values.dtype).tiny)


@dataclass(frozen=True)
class GateSearch:
    """Find masks by training gates on fixed weights; the gates with the highest logits are kept.

    Args:
        density: fraction of the prunable weights kept, in (0, 1].
        objective: what the sparse network keeps. "labels" explains the training labels; the others are those of
            arXiv 2512.07142, towards the dense network: "dense" its outputs, by KL(sparse || dense); "features" the
            outputs of every layer; "loss" the loss on each batch, as |L_sparse / L_dense - 1|; "gradients" the gradient,
            standardised in each layer; "gradient norm" makes the gradient of the kept weights as large as it can.
        budget: what holds the number of open gates: the "prior", a KL to Bernoulli(density) with weight `strength`; or
            gradient "balance" (arXiv 2512.07142): a multiplier that follows the ratio of the gradients' norms.
        strength: weight of the KL to the prior.
        length: of the search; batches are the task's.
        lr: of Adam on the logits, divided by ten for the last fifth.
    """

    density: float = 0.1
    objective: Objective = "labels"
    budget: Literal["prior", "balance"] = "prior"
    strength: float = 1.0
    length: Step = Step(epochs=20)
    lr: float = 0.1

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", Step.of(self.length))
        check_density(self.density)
        if self.objective not in get_args(Objective) or self.budget not in ("prior", "balance"):
            raise InputError(
                f"the objective is one of {', '.join(get_args(Objective))} and the budget 'prior' or 'balance', got "
                f"{self.objective!r} and {self.budget!r}"
            )
        if self.strength <= 0 or self.lr <= 0:
            raise InputError(f"strength and lr must be positive, got {self.strength} and {self.lr}")
        if self.density == 1:
            raise InputError("at density 1 there is nothing to search: ask for a lower one")

    @classmethod
    def concrete(cls, density: float = 0.1, objective: Objective = "dense", **settings: Any) -> "GateSearch":
        """Concrete Ticket Search, by default with its best objective."""
        return cls(density, objective, budget="balance", **settings)

    def find(self, networks: Collection, task: Task, *, folder: str | Path | None = None) -> Collection:
        """The networks under the masks found, not trained any further.

        Args:
            networks: fixed weights, at initialisation or any later point; their records have seeds.
            folder: write to this folder as a resumable run.

        Returns:
            tickets; as extras the logits of their gates and, as "rewind", the dense weights. :func:`draw_gates` draws
            from them, and :func:`weightspace.train` trains them.

        Raises:
            LayoutMismatch: the networks are not of the task's architecture.
            InputError: a record without a seed, or a loss that is no longer finite.
        """
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        check_dense_enough(networks, Unstructured(self.density))
        recipe = replace(task.recipe, length=self.length)
        per_epoch = recipe.per_epoch(len(task.train))
        last = self.length.total(per_epoch)
        method = {"name": "GateSearch", **spelled(self), "length": str(self.length)}
        own = [record.get("seed") for record in networks.records]
        if any(seed is None for seed in own):
            raise InputError("a network has no seed in its record, so what its gates draw is not defined: add a seed")

        def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
            part = networks[rows]
            search = _Search(self, part, task, [int(s) for s in own[rows] if s is not None], last, per_epoch)
            search.run(tick, checkpoint)
            logits = torch.zeros(part.weights.shape).index_copy(1, search.network.at, search.network.logits.detach())
            masks = Unstructured(self.density).mask(logits, part.layout, within=part.masks)
            return part.replace(
                weights=part.weights * masks, masks=masks, records=ticket_records(part.records, rows.start, method),
                extras=part.extras | {LOGITS: logits, Extra.REWIND: part.weights},
            )  # fmt: skip

        return in_blocks(
            make, architecture=networks.architecture, count=len(networks), block=_BLOCK, ticks=last,
            what=f"searching the gates of {len(networks)} networks", folder=folder, stage="gates",
            config={"method": method, "task": task.to_json(), "batch_size": recipe.batch_size},
            inputs={"networks": networks.fingerprint()} if folder else None,
        )  # fmt: skip


class _Search:
    """Gates of a block of networks, their optimiser and the multiplier of the budget."""

    def __init__(
        self, config: GateSearch, networks: Collection, task: Task, own: list[int], last: int, per_epoch: int
    ) -> None:  # fmt: skip
        prior = config.strength if config.budget == "prior" else 0.0
        self.config, self.task, self.own, self.last, self.per_epoch = config, task, own, last, per_epoch
        self.network = GatedNetwork(
            task.architecture.build_seeded(0), networks.weights, dict(networks.buffers), density=config.density,
            prior=prior, objective=config.objective,
        )  # fmt: skip
        # Closed gates shrink gradients layer by layer, far below Adam's usual epsilon.
        self.optimizer = torch.optim.Adam([self.network.logits], lr=config.lr, eps=1e-20)
        self.multiplier = torch.zeros(len(own), 1)
        self.step = 0

    def run(self, tick: Callable[[int], object], checkpoint: Path | None) -> None:
        if checkpoint is not None and checkpoint.exists():
            self._resume(checkpoint)
            tick(self.step)
        while self.step < self.last:
            self._update()
            tick(1)
            if checkpoint is not None and self.step % _CHECKPOINT_STEPS == 0:
                with atomic_file(checkpoint) as temporary:
                    save_file(self._state(), temporary)

    def _update(self) -> None:
        network, total = self.network, len(self.task.train)
        x, y = self._batch()
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * (0.1 if self.step >= 0.8 * self.last else 1.0)
        with pyro.validation_enabled(False), OwnDraws(self.own, self.step):
            loss = MeanFieldELBO().differentiable_loss(network.model, network.guide, x, y, total) / total
        if not loss.isfinite():
            raise InputError(
                f"the loss of the gates is {loss.item()} at step {self.step + 1}: lower lr ({self.config.lr})"
            )
        self.optimizer.zero_grad()
        loss.backward()
        if self.config.budget == "balance":
            self._balance()
        self.optimizer.step()
        self.step += 1

    def _balance(self) -> None:
        """Add the budget's gradient, as large as the loss's own while there are too many open gates."""
        logits, grad = self.network.logits, self.network.logits.grad
        assert grad is not None
        with torch.no_grad():
            target = _ROOM * self.config.density * logits.shape[1]
            probability = logits.sigmoid()
            error = probability.sum(1, keepdim=True) / target - 1
            slope = probability * (1 - probability) / target
            wanted = grad.norm(dim=1, keepdim=True) / slope.norm(dim=1, keepdim=True).clamp(min=1e-12)
            wanted = torch.where(error > 0, wanted, torch.zeros_like(wanted))
            self.multiplier = _INERTIA * self.multiplier + (1 - _INERTIA) * wanted
            grad.add_(self.multiplier * slope)

    def _batch(self) -> tuple[Tensor, Tensor]:
        epoch, position = divmod(self.step, self.per_epoch)
        size, data = self.task.recipe.batch_size, self.task.train
        orders = [torch.randperm(len(data), generator=seeds.generator(s, "gate data order", epoch)) for s in self.own]
        index = torch.stack([order[position * size : (position + 1) * size] for order in orders])
        return data.x[index], data.y[index]

    def _state(self) -> dict[str, Tensor]:
        moments = self.optimizer.state_dict()["state"][0]
        return {
            "logits": self.network.logits.detach(), "multiplier": self.multiplier, "step": torch.tensor(self.step),
            **{f"adam.{name}": torch.as_tensor(value) for name, value in moments.items()},
        }  # fmt: skip

    def _resume(self, path: Path) -> None:
        saved = read_checkpoint(path, "its block")
        self.step, self.multiplier = int(saved["step"]), saved["multiplier"]
        self.network.logits.data = saved["logits"]
        moments = {name.removeprefix("adam."): t for name, t in saved.items() if name.startswith("adam.")}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": {0: moments}})


def draw_gates(tickets: Collection, n: int, *, seed: int = 0) -> Collection:
    """N networks of each gate posterior, with masks of their own; densities vary around the expected one.

    Args:
        tickets: as :meth:`GateSearch.find` returns them.
        seed: draw j of posterior i depends on (seed, i, j) alone.

    Raises:
        InputError: the networks have no gates.
    """
    if n < 1:
        raise InputError(f"ask for at least one network of each posterior, got n = {n}")
    if LOGITS not in tickets.extras:
        raise InputError(
            f'these networks have no gates: they lack the extra "{LOGITS}" (find them with bayes.GateSearch)'
        )
    rows = torch.arange(len(tickets)).repeat_interleave(n)
    free = ~tickets.layout.prunable
    masks: list[Tensor] = []
    for i, logits in enumerate(tickets.extras[LOGITS]):
        random = seeds.generator(seed, "draws of gates", i)
        masks += [(torch.rand(logits.shape, generator=random) < logits.sigmoid()) | free for _ in range(n)]
    chosen = torch.stack(masks)
    return tickets[rows].replace(weights=tickets.extras[Extra.REWIND][rows] * chosen, masks=chosen, extras={})
