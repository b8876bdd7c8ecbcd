"""Gate posteriors: it is uncertain which weights the network has, and the weights themselves are fixed.

A Bernoulli gate for each weight, relaxed while it is trained. With the task's likelihood and a Bernoulli(density)
prior this is a learned supermask (Zhou et al. 2019, arXiv 1905.01067) as a variational posterior. With the outputs of
the dense network to match and a budget in place of the prior it is Concrete Ticket Search (Arora & Teuscher 2025,
arXiv 2512.07142).
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import pyro
import torch
from torch import Tensor
from torch.nn import functional as F

from weightspace.bayes.checks import require_likelihood, require_shared_data, warn_of_other_loss
from weightspace.bayes.inference.elbo import MeanFieldELBO
from weightspace.bayes.inference.gated import GatedNetwork, Objective
from weightspace.bayes.inference.noise import OwnDraws
from weightspace.bayes.inference.noise_scale import NoiseScale, check_noise, noise_of
from weightspace.errors import InputError
from weightspace.masks.patterns import Unstructured, check_density
from weightspace.masks.prunable import require_prunable
from weightspace.networks.arguments import check_networks
from weightspace.networks.building import in_blocks
from weightspace.networks.collapse import warn_of_lost_layers
from weightspace.networks.collection import Collection
from weightspace.networks.forward import predict
from weightspace.networks.outputs import Regression
from weightspace.networks.placing import placed
from weightspace.networks.record import Extra
from weightspace.recipes.step import Duration, Step, duration
from weightspace.runtime import checks, devices, seeds, tracking
from weightspace.runtime.room import check_number
from weightspace.runtime.trees import Tree
from weightspace.storage.checkpoints import read_checkpoint, write_checkpoint
from weightspace.storage.spelling import spelled
from weightspace.storage.system_errors import exists
from weightspace.tasks.arguments import check_run
from weightspace.tasks.task import Task, cross_entropy
from weightspace.tickets.finder import check_dense_enough, ticket_records
from weightspace.training.individual import require_seeds

LOGITS = Extra.GATE_LOGITS  # the extra of a collection that holds the gates' logits
_BLOCK = 8  # networks searched side by side
_CHECKPOINT_STEPS = 200
_RESIDUALS = 1024  # training samples that the noise of a regression is estimated on at the start
_ROOM, _INERTIA = 1.1, 0.99  # the budget in training, in targets; the multiplier's moving average


@dataclass(frozen=True)
class GateSearch:
    """Find masks by training gates on fixed weights; the gates with the highest logits are kept.

    Args:
        density: Fraction of the prunable weights that is kept, in (0, 1).
        objective: Quantity that the sparse network keeps. "labels" explains the training labels. The others are those
            of arXiv 2512.07142, towards the dense network: "dense" its predictions, by KL(sparse || dense); "features"
            the outputs of every layer; "loss" the loss on each batch, as |L_sparse / L_dense - 1|; "gradients" the
            gradient, standardised in each layer; "gradient norm" makes the gradient of the kept weights as large as it
            can.
        budget: Rule that limits the number of open gates: "prior" is a KL to Bernoulli(density) with weight `strength`;
            "balance" (arXiv 2512.07142) is a multiplier that follows the ratio of the gradients' norms.
        strength: Weight of the KL to the prior.
        length: Length of the search; batches are those of the task.
        lr: Learning rate of Adam on the logits, divided by ten for the last fifth.
        noise_std: Standard deviation of a regression's targets around the outputs, for "labels" and "dense"; None
            learns one for each network, from the residuals ("dense" takes that of the dense network).
    """

    density: float = 0.1
    objective: Objective = "labels"
    budget: Literal["prior", "balance"] = "prior"
    strength: float = 1.0
    length: Duration = duration("20ep")
    lr: float = 0.1
    noise_std: float | None = None

    def __post_init__(self) -> None:
        checks.settle(self, check_density, "density")
        checks.settle(self, checks.one_of, "objective", choices=get_args(Objective))
        checks.settle(self, checks.one_of, "budget", choices=("prior", "balance"))
        checks.settle(self, checks.number, "strength", "lr", above=0)
        checks.settle(self, Step.of, "length")
        if self.density == 1:
            raise InputError("at density 1 there is nothing to search: give a lower density")
        checks.settle(self, check_noise, "noise_std")

    @classmethod
    def concrete(cls, density: float = 0.1, objective: Objective = "dense", **settings: Any) -> "GateSearch":
        """Concrete Ticket Search, by default with its best objective.

        Args:
            density: Fraction of the prunable weights that is kept, in (0, 1).
            objective: Quantity that the sparse network keeps.
            settings: Further settings of the search, by name.
        """
        return cls(density, objective, budget="balance", **settings)

    def find(
        self, networks: Collection, task: Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> Collection:
        """The networks under the masks of the search; their weights are not trained.

        Args:
            networks: Networks with fixed weights, at initialisation or any later point; their records have seeds.
            task: Task whose training split and batch size are used.
            folder: Folder to write to as a resumable run; None keeps everything in memory.
            device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

        Returns:
            Tickets; as extras the logits of their gates and, as "rewind", the dense weights. `draw_gates` draws
            from them, and `weightspace.train` trains them.

        Raises:
            LayoutMismatch: The networks are not of the task's architecture.
            InputError: The device is not available, the outputs have no likelihood that is known and the objective is
                "labels" or "dense", no weight can be pruned, a record has no seed, a network has too few weights, or
                the loss is no longer finite.
        """
        check_run(networks, task, folder, device)
        device = devices.pick(device)
        networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
        require_prunable(networks.layout)
        if self.objective in ("labels", "dense"):
            require_likelihood(task, self.noise_std)
        if self.objective == "labels":
            warn_of_other_loss(task)
        require_shared_data(task)
        task = replace(task, architecture=task.architecture.following(networks.layout))
        require_seeds(networks.records)
        check_dense_enough(networks, Unstructured(self.density))
        recipe = replace(task.recipe, length=self.length)
        per_epoch = recipe.per_epoch(len(task.train))
        last = self.length.total(per_epoch)
        method = {"name": "GateSearch", **spelled(self), "length": str(self.length)}
        if self.noise_std is None:  # version 0.1 had none
            del method["noise_std"]

        def make(rows: slice, tick: Callable[[int], object], checkpoint: Path | None) -> Collection:
            part = networks[rows]
            search = _Search(self, part, task, last, per_epoch, device)
            search.run(tick, checkpoint)
            found = search.network.logits.detach().cpu()
            logits = torch.zeros(part.weights.shape).index_copy(1, search.network.at.cpu(), found)
            masks = Unstructured(self.density).mask(logits, part.layout, within=part.masks)
            return part.replace(
                weights=part.weights * masks,
                masks=masks,
                records=ticket_records(part.records, rows.start, method),
                extras=part.extras | {LOGITS: logits, Extra.REWIND: part.weights},
            )

        tickets = in_blocks(
            make,
            architecture=networks.architecture,
            count=len(networks),
            block=_BLOCK,
            ticks=last,
            what=f"searching the gates of {len(networks)} networks",
            folder=folder,
            stage="gates",
            config={"method": method, "task": task.to_json(), "batch_size": recipe.batch_size},
            inputs={"networks": networks.fingerprint()} if folder else None,
        )
        return warn_of_lost_layers(tickets)


class _Search:
    """Gates of a block of networks, their optimiser and the multiplier of the budget."""

    def __init__(
        self, settings: GateSearch, networks: Collection, task: Task, last: int, per_epoch: int, device: str
    ) -> None:
        prior = settings.strength if settings.budget == "prior" else 0.0
        self.settings, self.task, self.last, self.per_epoch = settings, task, last, per_epoch
        self.data = task.train.to(device)
        self.network_seeds = [record.seed for record in networks.records]
        networks = placed(networks, device)
        noise = self._noise(networks)
        self.network = GatedNetwork(
            task.architecture.build_seeded(0).to(device),
            networks.weights,
            dict(networks.buffers),
            density=settings.density,
            prior=prior,
            objective=settings.objective,
            outputs=task.output_kind,
            noise=None if noise is None else noise.to(device),
            loss=F.cross_entropy if task.loss is cross_entropy else task.loss,
        )
        # Closed gates shrink gradients layer by layer, far below Adam's usual epsilon.
        self.optimizer = torch.optim.Adam([self.network.logits], lr=settings.lr, eps=1e-20)
        self.multiplier = torch.zeros(len(networks), 1, device=device)
        self.step = 0

    def _noise(self, networks: Collection) -> NoiseScale | None:
        objective, task = self.settings.objective, self.task
        if not isinstance(task.output_kind, Regression) or objective not in ("labels", "dense"):
            return None
        module, x = task.architecture.build_seeded(0), task.train.head(_RESIDUALS).x
        outputs = predict(module, networks.layout, networks.weights, networks.buffers, x)
        noise = noise_of(task, outputs, self.settings.noise_std)
        return noise if objective == "labels" else noise.requires_grad_(False)  # a divergence falls with the noise

    def run(self, tick: Callable[[int], object], checkpoint: Path | None) -> None:
        if checkpoint is not None and exists(checkpoint):
            self._resume(checkpoint)
            tick(self.step)
        while self.step < self.last:
            loss = self._update()
            tick(1)
            tracking.log(lambda: {"loss": loss, "open": self.network.logits.detach().sigmoid().mean().item()})  # noqa: B023
            if checkpoint is not None and self.step % _CHECKPOINT_STEPS == 0:
                write_checkpoint(checkpoint, self._state())

    def _update(self) -> float:
        """One step; returns the loss before it."""
        network, total = self.network, len(self.task.train)
        x, y = self._batch()
        for group in self.optimizer.param_groups:
            group["lr"] = self.settings.lr * (0.1 if self.step >= 0.8 * self.last else 1.0)
        with pyro.validation_enabled(False), OwnDraws(self.network_seeds, self.step):
            loss = MeanFieldELBO().differentiable_loss(network.model, network.guide, x, y, total) / total
        if not loss.isfinite():
            raise InputError(
                f"the loss of the gates is {loss.item()} at step {self.step + 1}: lower lr ({self.settings.lr})"
            )
        self.optimizer.zero_grad()
        loss.backward()
        if self.settings.budget == "balance":
            self._balance()
        self.optimizer.step()
        network.learn_noise(y)
        self.step += 1
        return loss.item()

    def _balance(self) -> None:
        """Add the budget's gradient, as large as the loss's own while there are too many open gates."""
        logits, grad = self.network.logits, self.network.logits.grad
        assert grad is not None
        with torch.no_grad():
            target = _ROOM * self.settings.density * logits.shape[1]
            probability = logits.sigmoid()
            error = probability.sum(1, keepdim=True) / target - 1
            slope = probability * (1 - probability) / target
            wanted = grad.norm(dim=1, keepdim=True) / slope.norm(dim=1, keepdim=True).clamp(min=1e-12)
            wanted = torch.where(error > 0, wanted, torch.zeros_like(wanted))
            self.multiplier = _INERTIA * self.multiplier + (1 - _INERTIA) * wanted
            self.network.add_gradient(self.multiplier * slope)

    def _batch(self) -> tuple[Tree, Tree]:
        epoch, position = divmod(self.step, self.per_epoch)
        size, data = self.task.recipe.batch_size, self.data
        orders = [
            torch.randperm(len(data), generator=seeds.generator(s, "gate data order", epoch))
            for s in self.network_seeds
        ]
        index = torch.stack([order[position * size : (position + 1) * size] for order in orders])
        return data.batches(index.to(self.multiplier.device), [])

    def _state(self) -> dict[str, Tensor]:
        moments = self.optimizer.state_dict()["state"][0]
        state = {
            "logits": self.network.logits.detach(),
            "multiplier": self.multiplier,
            "step": torch.tensor(self.step),
            **({} if self.network.noise is None else {"log_noise": self.network.noise.log_std.detach()}),
            **{f"adam.{name}": torch.as_tensor(value) for name, value in moments.items()},
        }
        return {name: tensor.cpu() for name, tensor in state.items()}

    def _resume(self, path: Path) -> None:
        saved = read_checkpoint(path, "its block", str(self.multiplier.device))
        self.step, self.multiplier = int(saved["step"]), saved["multiplier"]
        self.network.restore(saved["logits"], saved.get("log_noise"))
        moments = {name.removeprefix("adam."): t for name, t in saved.items() if name.startswith("adam.")}
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": {0: moments}})


def draw_gates(tickets: Collection, n: int, *, seed: int = 0) -> Collection:
    """N networks of each gate posterior, with masks of their own; densities vary around the expected one.

    Args:
        tickets: Tickets that `GateSearch.find` returned.
        n: Number of networks drawn from each posterior.
        seed: Seed of the draws; draw j of posterior i depends on (seed, i, j) alone.

    Raises:
        InputError: `n` is less than one, or the networks have no gates.
    """
    check_networks(tickets, "tickets")
    n, seed = check_number(n, "n", tickets.layout.size, in_folder=False), checks.seed(seed)
    if n < 1:
        raise InputError(f"at least one network is drawn from each posterior, got n = {n}: give n = 1 or more")
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
