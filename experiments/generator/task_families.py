"""Families of related tasks, and a ticket of each task: what a generator of networks for unseen tasks learns from."""

import functools
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

import weightspace as ws

CLASSES, SIDE = 10, 14
TRAINING, VALIDATION, TEST = 700, 40, 60  # tasks
TRAINING_IMAGES, JUDGED_IMAGES = 1000, 2000
NETWORK = ws.Architecture("MLP", {"sizes": (SIDE**2, 16, 1)})
RECIPE = ws.Recipe("300it", batch_size=64, optimizer=ws.Adam(lr=3e-3), schedule="cosine")
DENSITY = 0.2


@dataclass(frozen=True)
class Digits:
    """Digits of 28 x 28 pixels.

    Args:
        x: Images (N, 1, 28, 28) of mean 0 and variance 1.
        y: Digits (N,).
    """

    x: Tensor
    y: Tensor

    @classmethod
    def of(cls, split: ws.tasks.Data, count: int) -> "Digits":
        """The first images of a split."""
        first = split.head(count)
        x = first.x.reshape(-1, 1, 28, 28)
        return cls((x - x.mean()) / x.std(), first.y)

    def turned(self, angle: float) -> Tensor:
        """Inputs (N, 196): the images, turned by an angle in radians, with half as many pixels a side."""
        x = self.x
        if angle:
            turn = torch.tensor([[math.cos(angle), -math.sin(angle), 0.0], [math.sin(angle), math.cos(angle), 0.0]])
            grid = functional.affine_grid(turn.expand(len(x), 2, 3), list(x.shape), align_corners=False)
            x = functional.grid_sample(x, grid, padding_mode="border", align_corners=False)
        return functional.avg_pool2d(x, 2).flatten(1)


@dataclass(frozen=True)
class Family:
    """Tasks of one kind: is the digit, which may be turned, in this group of digits?

    The first 700 tasks are learned from, the next 40 choose settings, and the last 60 are judged.

    Args:
        turn: Largest angle in degrees that the digits of a task are turned by.
        starts: Number of starts; a ticket begins at one of them, and no record says at which.
    """

    turn: float = 0.0
    starts: int = 1

    @functools.cached_property
    def signs(self) -> Tensor:
        """Groups (N, 10): 1 for digits inside, -1 for others; groups have 3 to 7 digits and are all different."""
        every = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * CLASSES)
        every = every[every.sum(1).abs() <= 4]
        return every[torch.randperm(len(every), generator=torch.Generator().manual_seed(0))[: self.count]]

    @property
    def count(self) -> int:
        """Number of tasks."""
        return TRAINING + VALIDATION + TEST

    @functools.cached_property
    def angles(self) -> Tensor:
        """Angles of the tasks (N,), in radians."""
        random = torch.Generator().manual_seed(1)
        return (2 * torch.rand(self.count, generator=random) - 1) * math.radians(self.turn)

    @functools.cached_property
    def descriptions(self) -> Tensor:
        """What a generator is told of each task, (N, 10) or with the angle's sine and cosine (N, 12)."""
        angle = torch.stack([self.angles.sin(), self.angles.cos()], 1)
        return torch.cat([self.signs, angle], 1) if self.turn else self.signs

    @property
    def start(self) -> Tensor:
        """Start of each task's ticket, (N,)."""
        return torch.arange(self.count) % self.starts

    def task(self, digits: Digits) -> ws.Task:
        """One task for the library, in which network i has the data of task i."""
        y = (self.signs[:, digits.y] > 0).float()[..., None]
        x = torch.stack([digits.turned(float(angle)) for angle in self.angles]) if self.turn else digits.turned(0.0)
        return ws.tasks.from_own_data(
            "groups of digits",
            x,
            y,
            NETWORK,
            recipe=RECIPE,
            loss=functional.binary_cross_entropy_with_logits,
            shared_inputs=not self.turn,
        )

    def beginnings(self, task: ws.Task) -> ws.Collection:
        """The start of each ticket: networks at their initialisation."""
        one = ws.collect(task, 1)
        weights = [one.layout.pack(NETWORK.build_seeded(seed).state_dict()) for seed in range(self.starts)]
        networks = ws.starts(one[[0] * self.count].replace(weights=torch.stack(weights)[self.start]), seed=0)
        return networks.replace(records=[record | {"data": i} for i, record in enumerate(networks.records)])

    def tickets(self, task: ws.Task, folder: Path) -> ws.Collection:
        """A ticket of each task by gradual pruning; its record has the description."""
        finder = ws.tickets.GradualPruning(density=DENSITY, length=RECIPE.length)
        found = finder.find(self.beginnings(task), task, folder=folder)
        told = [{"description": row} for row in self.descriptions.tolist()]
        return found.replace(records=[record | more for record, more in zip(found.records, told, strict=True)])

    def accuracy(self, networks: Tensor, numbers: Tensor, digits: Digits) -> Tensor:
        """Accuracy (n,) of networks, each on its own task.

        Args:
            networks: Weights (n, D).
            numbers: Number of each network's task, (n,).
            digits: Images to judge on.
        """
        layout, found = NETWORK.layout(), torch.empty(len(networks), dtype=torch.float64)
        for number in numbers.unique().tolist():
            own = (numbers == number).nonzero()[:, 0]
            together = ws.Collection(layout, networks[own], architecture=NETWORK)
            outputs = together.ensemble().raw(digits.turned(float(self.angles[number])))
            assert isinstance(outputs, Tensor)
            right = (outputs[..., 0] > 0) == (self.signs[number][digits.y] > 0)
            found[own] = right.double().mean(1)
        return found


FAMILIES = {
    "groups": Family(),
    "groups of turned digits": Family(turn=90.0),
    "groups, three starts": Family(starts=3),
}
