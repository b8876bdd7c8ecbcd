"""MNIST and Fashion-MNIST: 70,000 grey images of 28 x 28 pixels in 10 classes, from torchvision's files."""

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from weightspace.errors import StorageError
from weightspace.networks.architecture import Architecture
from weightspace.recipes.optimizers import Adam
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step
from weightspace.runtime import seeds
from weightspace.tasks.arguments import check_widths
from weightspace.tasks.task import Split, Task

RECIPE = Recipe(length=Step(epochs=10), batch_size=128, optimizer=Adam(lr=1e-3), schedule="cosine")


def mnist(hidden: Sequence[int] = (300, 100), *, data_root: str | Path | None = None, recipe: Recipe = RECIPE) -> Task:
    """Handwritten digits with an MLP 784-hidden-10; 55,000 / 5,000 / 10,000 samples.

    Args:
        hidden: Sizes of the hidden layers.
        data_root: Folder that holds `MNIST/raw`; by default the environment variable
            WEIGHTSPACE_DATA, else ./data. Missing files are downloaded by torchvision.

    Raises:
        StorageError: The data are not there or not whole, nor to be downloaded.
    """
    return _task("mnist", hidden, data_root, recipe, other="fashion_mnist")


def fashion_mnist(
    hidden: Sequence[int] = (300, 100), *, data_root: str | Path | None = None, recipe: Recipe = RECIPE
) -> Task:
    """Pieces of clothing; as `mnist`, with `FashionMNIST/raw` under the data root."""
    return _task("fashion_mnist", hidden, data_root, recipe, other="mnist")


# Name at torchvision, and mean and standard deviation of the training pixels.
_SETS = {"mnist": ("MNIST", 0.1307, 0.3081), "fashion_mnist": ("FashionMNIST", 0.2860, 0.3530)}


def _task(name: str, hidden: Sequence[int], data_root: str | Path | None, recipe: Recipe, *, other: str) -> Task:
    root = Path(data_root or os.environ.get("WEIGHTSPACE_DATA") or "data")
    _, mean, std = _SETS[name]
    x, y = _read(name, root, train=True)
    test = Split(*_read(name, root, train=False))
    order = torch.randperm(len(x), generator=seeds.generator(0, "splits"))
    train, validation = (Split(x[part], y[part]) for part in (order[:-5000], order[-5000:]))
    train, validation, test = (Split((part.x - mean) / std, part.y) for part in (train, validation, test))
    architecture = Architecture("MLP", {"sizes": check_widths(hidden, 784, 10)})
    # The other set's test images, as this set's networks would get them.
    return Task(name, architecture, train, validation, test, recipe, ood=partial(_strangers, other, root, mean, std))


def _strangers(other: str, root: Path, mean: float, std: float) -> Tensor:
    return (_read(other, root, train=False)[0] - mean) / std


def _read(name: str, root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
    """Images (samples, 1, 28, 28) in [0, 1] and labels."""
    from torchvision import datasets  # here, as it takes seconds

    kind = _SETS[name][0]
    try:
        data = getattr(datasets, kind)(str(root), train=train, download=True)
    except (OSError, RuntimeError, ValueError) as error:  # the last two also for files that end too early
        raise StorageError(
            f"{kind} could neither be read from {root} nor downloaded to it ({error}): put its four whole files "
            f"into {root / kind / 'raw'} (if another process is just unpacking them there, try again), or give "
            "another --data-root"
        ) from error
    return data.data[:, None].float() / 255, data.targets
