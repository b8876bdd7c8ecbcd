"""Trainer: networks of one architecture trained side by side, each with its own seed and mask."""

import copy
from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.func import vmap

from weightspace import seeds
from weightspace.architecture import Architecture
from weightspace.errors import InputError
from weightspace.functional import forward
from weightspace.layout import Layout
from weightspace.recipe import Recipe
from weightspace.task import Split


class Trainer:
    """Stacked weights, optimiser state and position of n networks in training.

    Network i draws its data order from its own seed alone, so what it learns does not depend on the
    networks beside it. Gradients and optimiser state of pruned weights are zero at every step.

    Args:
        data: the training split; the trainer sees no other data.
        weights: (n, D); copied.
        masks: (n, D) or None.
        buffers: (n, *shape) by name; copied.
        network_seeds: one seed a network.
    """

    def __init__(
        self,
        architecture: Architecture,
        data: Split,
        loss: Callable[[Tensor, Tensor], Tensor],
        recipe: Recipe,
        *,
        weights: Float[Tensor, "n d"],
        masks: Bool[Tensor, "n d"] | None,
        buffers: Mapping[str, Tensor],
        network_seeds: Sequence[int],
        device: str = "cpu",
    ) -> None:
        if len(network_seeds) != len(weights):
            raise InputError(f"got {len(network_seeds)} seeds for {len(weights)} networks")
        self.module = architecture.build_seeded(0).to(device).train()
        self.layout = Layout.of(self.module)
        self.data, self.loss, self.recipe = data.to(device), loss, recipe
        self.per_epoch = recipe.per_epoch(len(data))
        self.length = recipe.length.total(self.per_epoch)
        self.seeds = list(network_seeds)
        self.weights = weights.detach().to(device, copy=True)
        self.buffers = {name: buffer.to(device, copy=True) for name, buffer in buffers.items()}
        self.masks: Tensor | None = None
        self.state = recipe.optimizer.start(self.weights)
        self.step = 0
        self.losses = torch.full((len(weights),), torch.nan, device=device)
        self._order: Tensor | None = None
        if masks is not None:
            self.prune(masks)

    def prune(self, masks: Bool[Tensor, "n d"]) -> None:
        """Set pruned weights and their optimiser state to zero, from now on."""
        self.masks = masks.to(self.weights.device)
        self.weights.mul_(self.masks)
        for tensor in self.state.values():
            tensor.mul_(self.masks)

    def fork(self, masks: Bool[Tensor, "n d"]) -> "Trainer":
        """A second trainer at this point of training, under other masks; this one stays as it is."""
        other = copy.copy(self)
        other.weights = self.weights.clone()
        other.buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        other.state = {name: tensor.clone() for name, tensor in self.state.items()}
        other.prune(masks)
        return other

    def run(self, until: int, tick: Callable[[], object] = lambda: None) -> None:
        """Train up to iteration `until`; `tick` is called after each step."""
        while self.step < until:
            self._one_step()
            tick()

    def _one_step(self) -> None:
        batch = self._batch()
        parameters = {name: view.requires_grad_() for name, view in self.layout.unpack(self.weights.detach()).items()}
        outputs = forward(self.module, parameters, self.buffers, self.data.x[batch], shared_input=False)
        losses = vmap(self.loss)(outputs, self.data.y[batch])  # (n,)
        gradients = torch.autograd.grad(losses.sum(), list(parameters.values()))
        gradient = self.layout.pack(dict(zip(parameters, gradients, strict=True)))
        if self.masks is not None:
            gradient.mul_(self.masks)
        lr = self.recipe.lr(self.step, self.length)
        self.recipe.optimizer.update_(self.weights, gradient, self.state, lr, self.step + 1)
        self.losses = losses.detach()
        self.step += 1

    def _batch(self) -> Int[Tensor, "n batch"]:
        """Sample indices of this step: each network walks through its own order of the epoch."""
        epoch, position = divmod(self.step, self.per_epoch)
        if position == 0 or self._order is None:
            orders = [
                torch.randperm(len(self.data), generator=seeds.generator(seed, "data order", epoch))
                for seed in self.seeds
            ]
            self._order = torch.stack(orders).to(self.weights.device)
        start = position * self.recipe.batch_size
        return self._order[:, start : start + self.recipe.batch_size]
