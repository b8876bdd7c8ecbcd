"""Trainer: networks of one architecture trained side by side, each with its own seed and mask."""

import copy
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.kernels.live_network import LiveNetwork
from weightspace.networks.architecture import Architecture
from weightspace.networks.forward import blocks
from weightspace.networks.layout import Layout
from weightspace.recipes.optimizers import State
from weightspace.recipes.recipe import Augmentation, Recipe
from weightspace.runtime import seeds, tracking, trees
from weightspace.storage.checkpoints import read_checkpoint, write_checkpoint
from weightspace.storage.system_errors import exists
from weightspace.tasks.data import Data
from weightspace.training.batches import Batches
from weightspace.training.descent import clip_, decaying
from weightspace.training.gradients import Loss, draws_random_numbers, live_weights, one_by_one, side_by_side
from weightspace.training.individual import Individual
from weightspace.training.validation_curve import ValidationCurve

_CHECKPOINT_SECONDS = 15.0
_WORTH = 0.75  # share of the pruned tensors that must be run as sparse matrices for this to be faster


class Trainer:
    """Stacked weights, optimiser state and position of n networks in training.

    What a network draws (data order, augmentation, dropout, label noise) depends on its own seed and
    the step alone. Gradients and optimiser state of pruned weights are zero at every step. On the CPU, networks that
    are sparse enough, and trained one after another, are trained as sparse matrices: the same but for rounding.

    Args:
        data: The training split; the trainer sees no other data.
        weights: (n, D); copied.
        masks: (n, D) or None.
        buffers: (n, *shape) by name; copied.
        individual: Seeds and what else the networks have of their own.
        group_size: Networks trained side by side; the others wait. 1 trains them one after another. The
            result is the same but for rounding.
        threads: CPU threads while training; None leaves PyTorch's setting.
    """

    def __init__(
        self,
        architecture: Architecture,
        data: Data,
        loss: Loss,
        recipe: Recipe,
        *,
        weights: Float[Tensor, "n d"],
        masks: Bool[Tensor, "n d"] | None,
        buffers: Mapping[str, Tensor],
        individual: Individual,
        group_size: int | None = None,
        threads: int | None = None,
        device: str = "cpu",
    ) -> None:
        if len(individual.seeds) != len(weights):
            raise InputError(f"got {len(individual.seeds)} seeds for {len(weights)} networks")
        self.module = architecture.build_seeded(0).to(device).train()
        self.layout = Layout.of(self.module)
        self.data, self.loss, self.recipe = data.to(device), loss, recipe
        self.per_epoch = recipe.per_epoch(len(data))
        self.length = recipe.length.total(self.per_epoch)
        self.individual = individual
        self.group_size = group_size or len(weights)
        self.threads = threads
        self.weights = weights.detach().to(device, copy=True)
        self.buffers = {name: buffer.to(device, copy=True) for name, buffer in buffers.items()}
        self.masks: Tensor | None = None
        self.state: State = {}  # made at the first step, when the given weights may be gone
        self.step = 0
        self.losses = torch.full((len(weights),), torch.nan, device=device)
        self.checkpoint: Path | None = None
        self._l1: Tensor | None = None  # (n, D), weights of |w| in the loss
        self._held: tuple[Tensor, Tensor] | None = None
        self.validation_curve: ValidationCurve | None = None
        self.curve = torch.empty(len(weights), 0, 2)  # what `validation_curve` has seen, and in which iterations
        self.looks: list[int] = []
        self._live: dict[int, LiveNetwork | None] = {}
        self._dense_only = False
        self._saved = time.monotonic()
        self.batches = Batches(self.data, recipe, individual)
        few = data.head(2).x
        if recipe.batches is not None:
            self.batches.require_ignored(architecture.build_seeded(0).to(device).eval(), loss)
        self._random = draws_random_numbers(architecture.build_seeded(0), few)
        if self._random and recipe.batches is not None:
            self.group_size = 1  # what is drawn depends on the length of the batch, which is then each network's own
        decays = decaying(self.layout, recipe.no_decay)
        self._decays = None if decays is None else decays.to(device)
        if recipe.augmentation != Augmentation() and not (isinstance(few, Tensor) and few.ndim == 4):
            raise InputError(f"augmentation needs images (samples, channels, height, width), got {trees.shapes(few)}")
        fixed = [name for name, p in self.module.named_parameters() if not p.requires_grad]
        self._frozen = [(self.layout.slices[n], self.weights[:, self.layout.slices[n]].clone()) for n in fixed]
        if masks is not None:
            self.prune(masks)

    def prune(self, masks: Bool[Tensor, "n d"]) -> None:
        """Set pruned weights and their optimiser state to zero, from now on."""
        self.masks = masks.to(self.weights.device)
        self._live = {}
        self.weights.mul_(self.masks)
        for tensor in self.state.values():
            tensor.mul_(self.masks)

    def hold(self, places: Bool[Tensor, "n d"]) -> None:
        """Keep weights as they are now, whatever their gradients.

        Args:
            places: True at the weights that training no longer changes, (n, D).
        """
        self._held = (places.to(self.weights.device), self.weights.clone())

    def penalise(self, l1: Float[Tensor, "n d"] | None) -> None:
        """Add a penalty to the loss from now on.

        Args:
            l1: Factor of each weight's absolute value, (n, D); None for no penalty.
        """
        self._l1 = None if l1 is None else l1.to(self.weights.device)

    def scale_rates(self, factor: float) -> None:
        """Multiply the learning rates that networks have of their own; the recipe's rate stays as it is."""
        lr = self.individual.lr
        if lr is not None:
            self.individual = replace(self.individual, lr=factor * lr)

    def use_dense_kernels(self) -> None:
        """Train sparse networks as masked dense matrices, where sparse ones would be faster too."""
        self._dense_only = True

    def observe(self, curve: ValidationCurve) -> None:
        """Measure the validation split while training, from now on."""
        self.validation_curve = curve

    def replace_state(
        self,
        *,
        weights: Float[Tensor, "n d"] | None = None,
        masks: Bool[Tensor, "n d"] | None = None,
        optimizer: Mapping[str, Tensor] | None = None,
        step: int | None = None,
    ) -> None:
        """Go on from another state; what is None stays. `prune` sets masks and makes the weights fit them.

        Args:
            weights: Weights, (n, D).
            masks: Masks that the weights fit already, (n, D).
            optimizer: State of the recipe's optimiser, (n, D) by name.
            step: Number of iterations done.

        Raises:
            InputError: The shape of a tensor is not that of the weights.
        """
        tensors = {"weights": weights, "masks": masks} | {
            f"optimizer state {k!r}": t for k, t in (optimizer or {}).items()
        }
        for name, tensor in tensors.items():
            if tensor is not None and tensor.shape != self.weights.shape:
                raise InputError(
                    f"{name} has shape {tuple(tensor.shape)}, the trainer's is {tuple(self.weights.shape)}"
                )
        device = self.weights.device
        if weights is not None:
            self.weights = weights.to(device)
        if masks is not None:
            self.masks = masks.to(device)
        if optimizer is not None:
            self.state = {name: tensor.to(device) for name, tensor in optimizer.items()}
        if step is not None:
            self.step = step
        self._live = {}

    def fork(self, masks: Bool[Tensor, "n d"] | None = None) -> "Trainer":
        """A second trainer at this point of training, under other masks; this one stays as it is."""
        other = copy.copy(self)
        other.weights = self.weights.clone()
        other.buffers = {name: buffer.clone() for name, buffer in self.buffers.items()}
        other.state = {name: tensor.clone() for name, tensor in self.state.items()}
        other.losses = self.losses.clone()
        other.curve, other.looks = self.curve[:, :0], []  # under other masks it is another network
        other._live = dict(self._live)
        if masks is not None:
            other.prune(masks)
        return other

    def run(self, until: int, tick: Callable[[int], object] = lambda _steps: None) -> None:
        """Train up to iteration `until`.

        Args:
            until: Iteration to stop at.
            tick: Function that is called now and then with the number of steps done since its last call.
        """
        if not self.state and self.step < until:
            self.state = self.recipe.optimizer.start(self.weights)
        with _threads(self.threads):
            while self.step < until:
                # All groups reach the end of an epoch before the next begins: until then one group's
                # weights stay in the cache.
                pauses = (
                    (self.per_epoch,)
                    if self.validation_curve is None
                    else (self.per_epoch, self.validation_curve.every)
                )
                stop = min(until, *((self.step // every + 1) * every for every in pauses))
                for rows in blocks(len(self.weights), self.group_size):
                    self._run_group(rows, stop)
                self._require_finite(stop)
                tick(stop - self.step)
                self.step = stop
                tracking.log(self._mean_loss)
                if self.validation_curve is not None and stop % self.validation_curve.every == 0:
                    at = (self.module, self.layout, self.weights, self.buffers)
                    seen = self.validation_curve.look(*at, self.individual.data)
                    self.curve, self.looks = torch.cat([self.curve, seen[:, None]], 1), [*self.looks, stop]
                if self.checkpoint is not None and time.monotonic() - self._saved > _CHECKPOINT_SECONDS:
                    self.save(self.checkpoint)
                    self._saved = time.monotonic()

    def gradients(self, weights: Float[Tensor, "n d"] | None = None) -> Float[Tensor, "n d"]:
        """Gradients of all weights, pruned ones too, on the batch of the next iteration, which is then used up.

        Args:
            weights: Weights to take them at, (n, D); by default those in training. Buffers are updated, weights are
                not.
        """
        at = self.weights if weights is None else weights
        found = torch.empty_like(at)
        with _threads(self.threads):
            for rows in blocks(len(at), self.group_size):
                x, y = self.batches.batch(rows, self.step)
                buffers = {name: buffer[rows] for name, buffer in self.buffers.items()}
                where = (self.module, self.layout, self.loss, at[rows], buffers, x, y, found[rows])
                if self._random:
                    noise = [seeds.derive(seed, "step", self.step) for seed in self.individual.seeds[rows]]
                    self.losses[rows] = one_by_one(*where, noise)
                else:
                    self.losses[rows] = (side_by_side if self.group_size > 1 else one_by_one)(*where)
        self.step += 1
        return found

    def update(self, gradient: Float[Tensor, "n d"]) -> None:
        """One step of the optimiser with the gradients of the iteration that `gradients` has used up.

        Args:
            gradient: What the optimiser takes as gradients, (n, D).
        """
        if not self.state:
            self.state = self.recipe.optimizer.start(self.weights)
        if self.recipe.max_gradient_norm is not None:
            clip_(gradient, self.recipe.max_gradient_norm, self._trained())
        lr, decay = self.rates()
        factor = self.recipe.lr_factor(self.step - 1, self.length, self.per_epoch)
        self.recipe.optimizer.update_(self.weights, gradient, self.state, lr * factor, decay, self.step)
        tracking.log(self._mean_loss)

    def _mean_loss(self) -> dict[str, float]:
        """The mean over the networks of the loss on their last batches."""
        return {"loss": self.losses.mean().item()}

    def rates(self, rows: slice = slice(None)) -> tuple[float | Tensor, float | Tensor]:
        """Learning rate and weight decay: the recipe's, or the networks' own (n, 1); decay (n, D) where some entries
        have none.
        """
        lr, own = self.individual.lr, self.individual.weight_decay
        decay = self.recipe.optimizer.weight_decay if own is None else own[rows].to(self.weights)
        return (
            self.recipe.optimizer.lr if lr is None else lr[rows].to(self.weights),
            decay if self._decays is None else decay * self._decays,
        )

    def _trained(self, rows: slice = slice(None)) -> Tensor | None:
        """Where entries are trained; None where all are."""
        if not self._frozen and self._held is None:
            return None
        trained = torch.ones_like(self.weights[rows], dtype=torch.bool)
        for at, _ in self._frozen:
            trained[:, at] = False
        return trained if self._held is None else trained & ~self._held[0][rows]

    def save(self, path: Path) -> None:
        """Write everything needed to go on; data order and random numbers follow from seeds and step."""
        write_checkpoint(path, self._kept())

    def _kept(self) -> dict[str, Tensor]:
        """What is needed to go on, by name."""
        tensors = {"weights": self.weights, "losses": self.losses, "step": torch.tensor(self.step)}
        tensors |= {"curve": self.curve, "looks": torch.tensor(self.looks, dtype=torch.long)}
        tensors |= {f"state.{name}": tensor for name, tensor in self.state.items()}
        tensors |= {f"buffer.{name}": tensor for name, tensor in self.buffers.items()}
        if self.masks is not None:
            tensors["masks"] = self.masks
        return tensors

    def resume(self, path: Path) -> None:
        """Go on from what `save` wrote."""
        self._restore(read_checkpoint(path, "its block", str(self.weights.device)))

    def _restore(self, tensors: Mapping[str, Tensor]) -> None:
        self.weights, self.losses = tensors["weights"], tensors["losses"]
        self.step = int(tensors["step"])
        prefix = "state."
        self.state = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        self.buffers = {name: tensors[f"buffer.{name}"] for name in self.buffers}
        self.masks, self._live = tensors.get("masks"), {}
        if "curve" in tensors:
            self.curve, self.looks = tensors["curve"].cpu(), tensors["looks"].tolist()

    def continue_from(self, checkpoint: Path | None, tick: Callable[[int], object]) -> None:
        """Keep a checkpoint in this file while running, and go on from it if it is there."""
        self.checkpoint = checkpoint
        if checkpoint is not None and exists(checkpoint):
            self.resume(checkpoint)
            tick(self.step)

    def _run_group(self, rows: slice, stop: int) -> None:
        own_seeds = self.individual.seeds[rows]
        state = {name: tensor[rows] for name, tensor in self.state.items()}
        buffers = {name: buffer[rows] for name, buffer in self.buffers.items()}
        lr, decay = self.rates(rows)
        weights, masks = self.weights[rows], None if self.masks is None else self.masks[rows]
        live, whole = self._live_network(rows), {"": weights, **state}
        if live is not None:  # until `stop` there are live weights only
            weights, masks, state = weights[:, live.places], None, {n: t[:, live.places] for n, t in state.items()}
            decay = decay[:, live.places] if isinstance(decay, Tensor) and decay.shape[1] > 1 else decay
        gradient = torch.empty_like(weights)
        for step in range(self.step, stop):
            x, y = self.batches.batch(rows, step)
            if live is not None:
                losses = live_weights(live, self.loss, weights, buffers, x, y, gradient)
            elif self._random:
                noise = [seeds.derive(seed, "step", step) for seed in own_seeds]
                losses = one_by_one(self.module, self.layout, self.loss, weights, buffers, x, y, gradient, noise)
            else:
                compute = side_by_side if self.group_size > 1 else one_by_one
                losses = compute(self.module, self.layout, self.loss, weights, buffers, x, y, gradient)
            self.losses[rows] = losses
            if self._l1 is not None:
                gradient.addcmul_(weights.sign(), self._l1[rows])
            if masks is not None:
                gradient.mul_(masks)
            if self.recipe.max_gradient_norm is not None:
                clip_(gradient, self.recipe.max_gradient_norm, self._trained(rows))
            factor = self.recipe.lr_factor(step, self.length, self.per_epoch)
            self.recipe.optimizer.update_(weights, gradient, state, lr * factor, decay, step + 1)
            for at, values in self._frozen:  # parameters of modules with requires_grad=False
                weights[:, at] = values[rows] if masks is None else values[rows] * masks[:, at]
            if self._held is not None:
                weights.copy_(torch.where(self._held[0][rows], self._held[1][rows], weights))
        if live is not None:
            for name, tensor in {"": weights, **state}.items():
                whole[name][:, live.places] = tensor

    def _live_network(self, rows: slice) -> LiveNetwork | None:
        """The one network of a group as sparse matrices, where they are faster."""
        alone = self.group_size == 1 and self.weights.device.type == "cpu" and not self._random
        plain = not self._frozen and self._held is None and self._l1 is None
        if self.masks is None or self._dense_only or not alone or not plain:
            return None
        if rows.start not in self._live:
            network = LiveNetwork(self.module, self.masks[rows.start])
            self._live[rows.start] = network if network.share >= _WORTH else None
        return self._live[rows.start]

    def _require_finite(self, step: int) -> None:
        """Stop at the first epoch after which a network is no longer finite."""
        # Row by row: the test needs temporaries as large as what it tests.
        bad = [i for i, row in enumerate(self.weights) if not row.isfinite().all()]
        if bad:
            lr = self.individual.lr
            rate = self.recipe.optimizer.lr if lr is None else lr[bad[0]].item()
            raise InputError(
                f"training diverged: by iteration {step} the weights of {len(bad)} of {len(self.weights)} networks are "
                f"NaN or infinite (the first: number {bad[0]} of its block, seed {self.individual.seeds[bad[0]]}, "
                f"learning rate {rate:g}). Train with a lower learning rate, or leave such settings out"
            )


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    before = torch.get_num_threads()
    if count is None or count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
