"""Small networks before and after two tasks."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace import adapt

RECIPE = ws.Recipe(ws.Step(iterations=6), batch_size=24, optimizer=ws.Adam(lr=0.01, weight_decay=0.1, decoupled=True))


class Body(nn.Module):
    """A body with a norm, and a head of so many classes."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 8), nn.ReLU())
        self.head = nn.Linear(8, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x))


def body(classes: int) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return Body(classes)

    return build


@pytest.fixture(scope="session")
def first() -> ws.Task:
    return replace(ws.tasks.iris(), architecture=ws.Architecture.of(body(3)), recipe=RECIPE)


@pytest.fixture(scope="session")
def second(first: ws.Task) -> ws.Task:
    """Another task with another head: the first class or one of the others."""

    def split(data: object) -> ws.Split:
        assert isinstance(data, ws.Split)
        return ws.Split(data.x, (data.y > 0).long())

    return replace(
        first,
        name="first or other",
        architecture=ws.Architecture.of(body(2)),
        train=split(first.train),
        validation=split(first.validation),
        test=split(first.test),
    )


@pytest.fixture(scope="session")
def base(first: ws.Task) -> ws.Collection:
    return ws.starts(ws.collect(first, 2, seed=0))


@pytest.fixture(scope="session")
def vectors(base: ws.Collection, first: ws.Task) -> adapt.TaskVectors:
    return adapt.LoTA(density=0.2, whole="head.*").find(base, first)
