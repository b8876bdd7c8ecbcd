"""Networks that a user's own loop trains, with the operations of `Trainer`."""

import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.networks.sparse_module import keep_sparse
from weightspace.runtime import seeds
from weightspace.tasks.own_loop import LoopTask, require_samples
from weightspace.training.individual import Individual
from weightspace.training.trainer import Trainer


class LoopTrainer(Trainer):
    """Networks trained one after another by a user's function; an iteration is one part, a call of the function.

    Args:
        task: Task with the function.
        networks: Networks to start from, with seeds in their records, under their masks.
        device: Device to train on.
    """

    def __init__(self, task: LoopTask, networks: Collection, device: str) -> None:  # pyright: ignore[reportMissingSuperCall]
        self.task, self.recipe, self.device = task, task.recipe, device
        self.module = task.architecture.build_seeded(0)
        self.layout = networks.layout
        self.per_epoch, self.length = 1, task.recipe.length.total(1)
        self.individual = Individual.of(networks.records, task.recipe)
        self.group_size, self.threads = 1, None
        self.weights = networks.weights.detach().clone()
        self.buffers = {name: buffer.clone() for name, buffer in networks.buffers.items()}
        self.masks: Tensor | None = None
        self.state = {}
        self.step = 0
        self.lr_factor = 1.0
        self.losses = torch.full((len(self.weights),), torch.nan)
        self.checkpoint = None
        self.validation_curve, self.curve, self.looks = None, torch.empty(len(self.weights), 0, 2), []
        self._live = {}
        if not networks.dense:
            self.prune(networks.masks)

    def run(self, until: int, tick: Callable[[int], object] = lambda _steps: None) -> None:
        """Call the loop up to part `until`; a checkpoint is kept after each.

        Args:
            until: Number of parts at the end.
            tick: Function that is called after each part with 1.
        """
        while self.step < until:
            # What was read of the trainer before stays as it was.
            self.weights = self.weights.clone()
            self.buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
            for i in range(len(self.weights)):
                self._train(i)
            self.step += 1
            tick(1)
            if self.checkpoint is not None and self.step < until:
                self.save(self.checkpoint)

    def scale_rates(self, factor: float) -> None:
        """Tell the loop to multiply its learning rate.

        Raises:
            InputError: The loop cannot.
        """
        self.task.require_lr_factor()
        self.lr_factor *= factor

    def gradients(self, weights: Tensor | None = None) -> Tensor:  # noqa: ARG002
        """A loop has no gradients of single batches.

        Raises:
            InputError: Always.
        """
        require_samples(self.task, "a finder that reads gradients")
        raise AssertionError

    def penalise(self, l1: Tensor | None) -> None:
        """A loop has a loss of its own.

        Raises:
            InputError: Always, but for no penalty.
        """
        if l1 is not None:
            require_samples(self.task, "a penalty in the loss")

    def hold(self, places: Tensor) -> None:  # noqa: ARG002
        """A loop moves all weights.

        Raises:
            InputError: Always.
        """
        require_samples(self.task, "holding weights")

    def _train(self, i: int) -> None:
        """One part of one network."""
        seed = self.individual.seeds[i]
        module = self.task.architecture.build_seeded(0)
        before = self.layout.unpack(self.weights[i])
        module.load_state_dict(before | {name: buffer[i] for name, buffer in self.buffers.items()})
        if self.masks is not None:
            masks = self.layout.unpack(self.masks[i])
            keep_sparse(module, {e.name: masks[e.name] for e in self.layout.parameters if not masks[e.name].all()})
        self.task.train_module(
            module.to(self.device).train(),
            seed=seeds.derive(seed, "own loop", self.step),
            part=self.step,
            lr_factor=self.lr_factor,
            device=self.device,
        )
        state = {name: tensor.detach().cpu() for name, tensor in module.state_dict().items()}
        row = self.layout.pack(state)
        if not row.isfinite().all():
            raise InputError(
                f"training diverged: the loop of task {self.task.name!r} left {int((~row.isfinite()).sum())} weights "
                f"that are NaN or infinite in the network of seed {seed}"
            )
        if torch.equal(row, self.weights[i]):
            warnings.warn(
                f"the loop of task {self.task.name!r} changed no weight of the network of seed {seed}: does it train "
                "the module that it gets, in place?",
                stacklevel=2,
            )
        self.weights[i] = row
        for name, buffer in self.buffers.items():
            buffer[i] = state[name]
