"""Variational training of Bayesian networks, many side by side."""

import math
from collections.abc import Callable
from pathlib import Path

import pyro
import torch
from jaxtyping import Int
from torch import Tensor

from weightspace.bayes.inference.elbo import MeanFieldELBO
from weightspace.bayes.inference.network import BayesianNetwork
from weightspace.bayes.inference.noise import OwnDraws
from weightspace.errors import InputError
from weightspace.recipes.optimizers import Adam
from weightspace.recipes.recipe import Augmentation
from weightspace.recipes.step import Step
from weightspace.runtime import seeds, tracking
from weightspace.runtime.trees import Tree
from weightspace.storage.checkpoints import read_checkpoint, write_checkpoint
from weightspace.tasks.task import Task

_CHECKPOINT_STEPS = 200


class Inference:
    """Bayesian networks, their optimiser and position in training.

    The data order and the weights that network i draws depend on its seed and the step alone.

    Args:
        network: Networks, which are trained in place.
        task: Task whose training split and recipe are used.
        network_seeds: One seed for each network.
        warm_up: Time over which the weight of the KL term rises from zero.
        draws: Draws of the weights in each step.
        after: Time for which the networks have been trained already; training starts there in the schedule.

    Raises:
        InputError: There is no draw, or the recipe has weight decay, augmentation or an optimizer other than Adam.
    """

    def __init__(
        self,
        network: BayesianNetwork,
        task: Task,
        network_seeds: list[int],
        *,
        warm_up: Step = Step(),
        draws: int = 1,
        after: Step = Step(),
    ) -> None:
        if draws < 1:
            raise InputError(f"a step needs at least one draw of the weights, got draws = {draws}: give 1 or more")
        self.network, self.task, self.network_seeds, self.draws = network, task, network_seeds, draws
        self.recipe, self.data = task.recipe, task.train.to(str(network.mu.device))
        self.per_epoch = self.recipe.per_epoch(len(self.data))
        self.length = self.recipe.length.total(self.per_epoch)
        self.warm_up = warm_up.total(self.per_epoch)
        if not isinstance(self.recipe.optimizer, Adam):
            raise InputError(f"variational training uses Adam, the recipe has {self.recipe.optimizer!r}")
        recipe = self.recipe
        cut = recipe.max_gradient_norm is not None or recipe.batches is not None
        if recipe.optimizer.weight_decay or recipe.augmentation != Augmentation() or cut:
            raise InputError(
                "variational training has neither weight decay (the prior takes its place) nor augmentation, clipped "
                "gradients (max_gradient_norm) or batches by length: leave them out of the recipe"
            )
        settings = self.recipe.optimizer
        self.optimizer = torch.optim.Adam(
            network.weight_parameters, lr=settings.lr, betas=settings.betas, eps=settings.eps, fused=True
        )
        self.step = after.total(self.per_epoch)
        self.loss = math.nan
        self._order: tuple[int, Tensor] = (-1, torch.empty(0))

    def run(
        self, until: int, tick: Callable[[int], object] = lambda _steps: None, checkpoint: Path | None = None
    ) -> None:
        """Train up to an iteration.

        Args:
            until: Number of iterations at the end.
            tick: Function to call with the number of steps done since its last call.
            checkpoint: File to keep progress in; None keeps none.

        Raises:
            InputError: The loss is no longer finite; the last checkpoint is kept.
        """
        elbo = MeanFieldELBO(num_particles=self.draws)
        while self.step < until:
            x, y = self._batch()
            factor = self.recipe.lr_factor(self.step, self.length, self.per_epoch)
            for group in self.optimizer.param_groups:
                group["lr"] = self.recipe.optimizer.lr * factor
            share = min(1.0, (self.step + 1) / self.warm_up) if self.warm_up else 1.0
            noise = [seeds.derive(seed, "likelihood noise", self.step) for seed in self.network_seeds]
            still = ("weights",) if self.network.estimator == "local" else ()
            with (
                pyro.validation_enabled(False),
                OwnDraws(self.network_seeds, self.step, still),
                self.network.training_step(kl_share=share, noise_seeds=noise),
            ):
                loss = elbo.differentiable_loss(self.network.model, self.network.guide, x, y, len(self.data))
            value = loss.item()
            if not math.isfinite(value):
                raise InputError(
                    f"the ELBO is {-value} at step {self.step + 1} "
                    f"(learning rate {self.recipe.optimizer.lr * factor:g}): "
                    "train with a lower learning rate, a lower temperature or a KL warm-up"
                )
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.network.learn_noise(y, len(self.data))
            self.loss = value / len(self.data)
            self.step += 1
            tick(1)
            tracking.log(lambda: {"loss": self.loss})
            if checkpoint is not None and self.step % _CHECKPOINT_STEPS == 0:
                self.save(checkpoint)

    def save(self, path: Path) -> None:
        """Write everything that `resume` needs.

        Args:
            path: File to write.
        """
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        tensors |= {f"buffer.{name}": tensor for name, tensor in self.network.state.items()}
        for i, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{i}.{name}": tensor for name, tensor in state.items()}
        position = {"step": torch.tensor(self.step), "loss": torch.tensor(self.loss, dtype=torch.float64)}
        write_checkpoint(path, tensors | position)

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote.

        Args:
            path: File to read.
        """
        tensors = read_checkpoint(path, "its block")
        self.step, self.loss = int(tensors.pop("step")), float(tensors.pop("loss"))
        part = {p: {k[len(p) :]: t for k, t in tensors.items() if k.startswith(p)} for p in ("network.", "buffer.")}
        self.network.restore(part["network."], part["buffer."])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            if kind == "optimizer":
                i, _, key = rest.partition(".")
                state.setdefault(int(i), {})[key] = tensor
        self.optimizer.load_state_dict(self.optimizer.state_dict() | {"state": state})

    def _batch(self) -> tuple[Tree, Tree]:
        epoch, position = divmod(self.step, self.per_epoch)
        if self._order[0] != epoch:
            orders = [
                torch.randperm(len(self.data), generator=seeds.generator(s, "data order", epoch))
                for s in self.network_seeds
            ]
            self._order = (epoch, torch.stack(orders).to(self.network.mu.device))
        start = position * self.recipe.batch_size
        end = None if position == self.per_epoch - 1 else start + self.recipe.batch_size
        index: Int[Tensor, "n batch"] = self._order[1][:, start:end]
        return self.data.batches(index, [])
