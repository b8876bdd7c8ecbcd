"""Your own data as a task."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from weightspace.errors import InputError
from weightspace.networks.architecture import Architecture
from weightspace.recipes.recipe import Recipe
from weightspace.tasks.task import Split, Task, cross_entropy, split

Network = Architecture | Callable[[], nn.Module]


def from_tensors(
    name: str,
    x: Tensor,
    y: Tensor,
    network: Network,
    *,
    recipe: Recipe = Recipe(),
    validation: float = 0.1,
    test: float = 0.2,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    seed: int = 0,
) -> Task:
    """A task of tensors, cut into fixed splits.

    Args:
        name: Name in records and reports.
        x: Inputs (samples, ...).
        y: Class numbers (samples,) for classification, floats (samples, ...) for regression.
        network: A built-in architecture, or a function that returns a fresh module.
        recipe: Recipe of one network's training.
        validation: Fraction of the samples to choose with.
        test: Fraction of the samples for evaluation alone.
        loss: Mean loss of outputs against targets.
        seed: Seed of the splits.
    """
    Split(x, y)  # as many inputs as targets, all finite
    counts = [round(len(x) * share) for share in (validation, test)]
    train, held, tested = split(x, y, validation=counts[0], test=counts[1], seed=seed)
    architecture = network if isinstance(network, Architecture) else Architecture.of(network)
    return Task(name, architecture, train, held, tested, recipe, loss)


def from_dataset(
    name: str,
    dataset: Dataset,
    network: Network,
    *,
    recipe: Recipe = Recipe(),
    validation: float = 0.1,
    test: float = 0.2,
    loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy,
    seed: int = 0,
) -> Task:
    """A task of a map-style Dataset of (input, target) pairs, read into memory once.

    Arguments as in `from_tensors`.

    Raises:
        InputError: The dataset has no length or its items are not pairs.
    """
    if not hasattr(dataset, "__len__"):
        raise InputError("the dataset must have a length: weightspace reads it into memory")
    items = [dataset[i] for i in range(len(dataset))]  # pyright: ignore[reportArgumentType]
    if not items or not all(isinstance(item, tuple | list) and len(item) == 2 for item in items):
        raise InputError("each item of the dataset must be a pair (input, target)")
    try:
        x = torch.stack([torch.as_tensor(item[0]) for item in items])
        y = torch.stack([torch.as_tensor(item[1]) for item in items])
    except (RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"the dataset's items cannot be stacked ({error}): give it a transform to equal tensors"
        ) from error
    return from_tensors(name, x, y, network, recipe=recipe, validation=validation, test=test, loss=loss, seed=seed)
