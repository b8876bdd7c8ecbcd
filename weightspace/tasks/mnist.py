"""MNIST and Fashion-MNIST: 70,000 grey images of 28 x 28 pixels in 10 classes, from torchvision's files."""

import os
from collections.abc import Sequence
from pathlib import Path

import torch
from torchvision import datasets

from weightspace import seeds
from weightspace.architecture import Architecture
from weightspace.errors import StorageError
from weightspace.optimizers import Adam
from weightspace.recipe import Recipe, Step
from weightspace.task import Split, Task

RECIPE = Recipe(length=Step(epochs=10), batch_size=128, optimizer=Adam(lr=1e-3), schedule="cosine")


def mnist(hidden: Sequence[int] = (300, 100), *, data_root: str | Path | None = None, recipe: Recipe = RECIPE) -> Task:
    """Handwritten digits with an MLP 784-hidden-10; 55,000 / 5,000 / 10,000 samples.

    Args:
        hidden: sizes of the hidden layers.
        data_root: folder that holds `MNIST/raw`; by default the environment variable
            WEIGHTSPACE_DATA, else ./data. Missing files are downloaded by torchvision.

    Raises:
        StorageError: the data are neither there nor to be downloaded.
    """
    return _task("mnist", datasets.MNIST, (0.1307, 0.3081), hidden, data_root, recipe)


def fashion_mnist(
    hidden: Sequence[int] = (300, 100), *, data_root: str | Path | None = None, recipe: Recipe = RECIPE
) -> Task:
    """Pieces of clothing; as :func:`mnist`, with `FashionMNIST/raw` under the data root."""
    return _task("fashion_mnist", datasets.FashionMNIST, (0.2860, 0.3530), hidden, data_root, recipe)


def _task(
    name: str,
    kind: type[datasets.MNIST],
    moments: tuple[float, float],
    hidden: Sequence[int],
    data_root: str | Path | None,
    recipe: Recipe,
) -> Task:
    root = Path(data_root or os.environ.get("WEIGHTSPACE_DATA") or "data")
    try:
        parts = [kind(str(root), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise StorageError(
            f"{kind.__name__} was not found under {root} and could not be downloaded ({error}): put its four "
            f"files into {root / kind.__name__ / 'raw'}, or give another --data-root"
        ) from error
    mean, std = moments
    (x, y), (x_test, y_test) = (((p.data[:, None].float() / 255 - mean) / std, p.targets) for p in parts)
    order = torch.randperm(len(x), generator=seeds.generator(0, "splits"))
    train, validation = order[:55_000], order[55_000:]
    architecture = Architecture("MLP", {"sizes": [784, *hidden, 10]})
    return Task(
        name,
        architecture,
        Split(x[train], y[train]),
        Split(x[validation], y[validation]),
        Split(x_test, y_test),
        recipe,
    )
