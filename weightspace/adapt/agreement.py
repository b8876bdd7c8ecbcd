"""How often two networks predict the same: what partial tuning is measured by, in the place of a certificate."""

from typing import Literal

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.forward import predict
from weightspace.networks.outputs import Classes, Regression
from weightspace.runtime import checks, trees
from weightspace.tasks.arguments import check_task
from weightspace.tasks.data import Split
from weightspace.tasks.task import Task

_ROWS = 256  # samples in a batch


def agreement(
    networks: Collection,
    others: Collection,
    task: Task,
    split: Literal["train", "validation", "test"] = "test",
) -> list[float]:
    """Share of the targets for which two networks predict the same class, pair by pair.

    It is measured on these data alone and promises nothing about others. Targets that do not count, such as places of
    no hidden word, are left out.

    Args:
        networks: Networks.
        others: What they are compared with, as many; network by network.
        task: Task of both.
        split: Data of the task to predict.

    Raises:
        InputError: The numbers of networks differ, or the task has no classes.
    """
    check_networks(networks)
    check_networks(others, "others")
    check_task(task)
    checks.one_of(split, "split", ["train", "validation", "test"])
    if len(networks) != len(others):
        raise InputError(f"others must be as many networks, got {len(others)} and {len(networks)}")
    if isinstance(task.output_kind, Regression):
        raise InputError(f"networks of {task.name!r} predict values, which agree by chance alone: compare their errors")
    data, kind = getattr(task, split), task.output_kind
    modules = [one.architecture.build_seeded(0) for one in (networks, others)]
    shares: list[float] = []
    for i, record in enumerate(networks.records):
        same: list[Tensor] = []
        for start in range(0, len(data), _ROWS):
            part = data.of(record.data).batch(slice(start, start + _ROWS))
            first, second = (
                _labels(module, one[i : i + 1], task, part)
                for module, one in zip(modules, (networks, others), strict=True)
            )
            equal = first == second
            same.append(equal[kind.targets(part.y) != kind.ignored] if isinstance(kind, Classes) else equal.flatten())
        shares.append(torch.cat(same).double().mean().item())
    return shares


def _labels(module: nn.Module, network: Collection, task: Task, part: Split) -> Tensor:
    """What one network predicts."""
    outputs = predict(module, network.layout, network.weights, network.buffers, part.x)
    return task.output_kind.labels(task.output_kind.predictions(trees.take(outputs, 0)))
