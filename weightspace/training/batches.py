"""Which samples each network reads in which step."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks.calling import call
from weightspace.recipes.by_length import ByLength
from weightspace.recipes.recipe import Augmentation, Recipe
from weightspace.runtime import seeds, trees
from weightspace.runtime.trees import Tree
from weightspace.tasks.data import Data, OwnData
from weightspace.training.augment import augment
from weightspace.training.individual import Individual, noisy_labels

_READ = 1024  # samples whose lengths are read at once
_FEW = 4  # samples that a network is tried on


@dataclass(frozen=True)
class Lengths:
    """Lengths of token ids without their padding.

    Args:
        samples: Length of each sample, at least 1, on the CPU.
        longest: Number of positions with padding.
    """

    samples: Int[Tensor, " samples"]
    longest: int

    @classmethod
    def of(cls, data: Data, settings: ByLength) -> "Lengths":
        """The lengths of a split's samples.

        Args:
            data: The split.
            settings: How batches are gathered.

        Raises:
            InputError: The data hold no token ids, or none with padding at the end, or are each network's own.
        """
        if isinstance(data, OwnData):
            raise InputError(
                "batches by length need data that all networks share, and each has its own: leave them out"
            )
        found = [
            _lengths(_token_ids(data.batch(slice(start, start + _READ)).x), settings.padding).cpu()
            for start in range(0, len(data), _READ)
        ]
        samples, longest = torch.cat(found), _token_ids(data.head(1).x).shape[1]
        if int(samples.min()) == longest:
            raise InputError(
                f"batches by length need padding at the end of samples, and no sample ends with token "
                f"{settings.padding}: give ByLength(padding=...) the token id that pads, pad at the end, or leave "
                "ByLength out"
            )
        return cls(samples, longest)

    def cut(self, tree: Tree, length: int, axis: int) -> Tree:
        """The structure with everything that has as many positions cut to a length.

        Args:
            tree: Inputs or targets.
            length: Number of positions that stay.
            axis: Axis of the positions.
        """

        def shorter(tensor: Tensor) -> Tensor:
            positions = tensor.ndim > axis and tensor.shape[axis] == self.longest
            return tensor.narrow(axis, 0, length) if positions else tensor

        return trees.apply(shorter, tree)


class Batches:
    """The batches of networks in training; they depend on each network's seed and the step alone.

    Args:
        data: The training split.
        recipe: Recipe that says how large batches are, and how they are gathered.
        individual: Seeds and what else the networks have of their own.
    """

    def __init__(self, data: Data, recipe: Recipe, individual: Individual) -> None:
        self.data, self.recipe, self.individual = data, recipe, individual
        self.per_epoch = recipe.per_epoch(len(data))
        self.labels = noisy_labels(data, individual)
        self.lengths = None if recipe.batches is None else Lengths.of(data, recipe.batches)
        self._orders: dict[tuple[int, int], tuple[int, Tensor]] = {}  # by the rows of a group: its last epoch

    def batch(self, rows: slice, step: int) -> tuple[Tree, Tree]:
        """Inputs and targets (group, batch, ...) of a step.

        Args:
            rows: Networks of the group.
            step: Number of the step, from 0.
        """
        epoch, position = divmod(step, self.per_epoch)
        start = position * self.recipe.batch_size
        end = None if position == self.per_epoch - 1 else start + self.recipe.batch_size
        index = self._order(rows, epoch)[:, start:end]
        sets = self.individual.data or [None] * len(self.individual.seeds)
        x, y = self.data.batches(index, sets[rows])
        if self.lengths is not None:
            length = int(self.lengths.samples[index.cpu().long()].max())
            x, y = self.lengths.cut(x, length, 2), self.lengths.cut(y, length, 2)
        if self.recipe.augmentation != Augmentation():
            x = augment(x, self.recipe.augmentation, self.individual.seeds[rows], step)
        return x, y if self.labels is None else self.labels[rows].gather(1, index.long())

    @torch.no_grad()
    def require_ignored(self, module: nn.Module, loss: Callable[[Tree, Tree], Tensor]) -> None:
        """Check that a network does not see the padding that is cut off.

        Args:
            module: The network, in evaluation mode.
            loss: Loss of its outputs.

        Raises:
            InputError: The loss of samples is another one without their padding.
        """
        if self.lengths is None:
            return
        few = self.lengths.samples.argsort()[:_FEW]
        length = int(self.lengths.samples[few].max())
        samples = self.data.batch(few)
        x, y = self.lengths.cut(samples.x, length, 1), self.lengths.cut(samples.y, length, 1)
        with_padding, without = loss(call(module, samples.x), samples.y).item(), loss(call(module, x), y).item()
        if not math.isclose(with_padding, without, rel_tol=1e-4, abs_tol=1e-6):
            raise InputError(
                "batches by length cut padding off, which this network or its loss takes into account: the loss of "
                f"{len(few)} samples is {with_padding:.6g} with {self.lengths.longest} positions and {without:.6g} "
                f"with {length}. Mask the padding in the network, and leave its targets out of the loss, or leave "
                "Recipe(batches=ByLength(...)) out"
            )

    def _order(self, rows: slice, epoch: int) -> Int[Tensor, "group samples"]:
        """The order in which each network of a group walks through the samples in an epoch."""
        group = (rows.start, rows.stop)
        if self._orders.get(group, (None,))[0] != epoch:
            orders = [self._shuffled(seed, epoch).int() for seed in self.individual.seeds[rows]]
            device = trees.first(self.data.head(1).x).device
            self._orders[group] = (epoch, torch.stack(orders).to(device))
        return self._orders[group][1]

    def _shuffled(self, seed: int, epoch: int) -> Int[Tensor, " samples"]:
        random = seeds.generator(seed, "data order", epoch)
        if self.lengths is None or self.recipe.batches is None:
            return torch.randperm(len(self.data), generator=random)
        size, pool = self.recipe.batch_size, self.recipe.batches.pool
        return order_by_length(self.lengths.samples, size, self.per_epoch, pool, random)


def order_by_length(
    lengths: Int[Tensor, " samples"], batch_size: int, batches: int, pool: int, random: torch.Generator
) -> Int[Tensor, " samples"]:
    """A random order of samples, in which batches have similar lengths; every sample is in it once.

    Args:
        lengths: Length of each sample.
        batch_size: Samples of a batch; the last one has what is left, fewer or one more.
        batches: Number of batches.
        pool: Number of batches that are sorted together.
        random: Generator that is used up.
    """
    mixed = torch.randperm(len(lengths), generator=random)
    whole = (batches - 1) * batch_size
    starts = list(range(0, max(whole, 1), pool * batch_size))
    parts = [mixed[start:stop] for start, stop in zip(starts, [*starts[1:], len(mixed)], strict=True)]
    parts = [part[lengths[part].argsort(stable=True)] for part in parts]
    last, left = parts[-1], len(lengths) - whole
    at = batch_size * int(torch.randint((len(last) - left) // batch_size + 1, (), generator=random))
    full = torch.cat([*parts[:-1], last[:at], last[at + left :]]).view(batches - 1, batch_size)
    order = torch.randperm(batches - 1, generator=random)
    return torch.cat([full[order].flatten(), last[at : at + left]])


def _token_ids(x: Tree) -> Tensor:
    """The token ids (samples, positions) among inputs."""
    for name, tensor in trees.leaves(x):
        whole = not tensor.is_floating_point() and not tensor.is_complex() and tensor.dtype != torch.bool
        if whole and tensor.ndim == 2 and "mask" not in name:
            return tensor
    got = f"inputs by the names {', '.join(x)}" if isinstance(x, Mapping) else f"inputs {trees.shapes(x)}"
    raise InputError(
        f"batches by length need token ids, whole numbers of shape (samples, positions), got {got}: leave "
        "Recipe(batches=ByLength(...)) out"
    )


def _lengths(ids: Tensor, padding: int) -> Tensor:
    """The place of the last token that is no padding, from 1; 1 where all are padding."""
    places = torch.arange(1, ids.shape[1] + 1, device=ids.device)
    return (places * (ids != padding)).amax(1).clamp(min=1)
