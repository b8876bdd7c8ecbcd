"""scikit-learn's small tables: iris, wine and breast cancer, standardised by their training split."""

from collections.abc import Sequence
from typing import Any

import torch

from weightspace.networks.architecture import Architecture
from weightspace.recipes.optimizers import Adam
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step
from weightspace.tasks.arguments import check_widths
from weightspace.tasks.task import Split, Task, split

RECIPE = Recipe(length=Step(epochs=60), batch_size=16, optimizer=Adam(lr=3e-3), schedule="cosine")


def iris(hidden: Sequence[int] = (16,), *, recipe: Recipe = RECIPE) -> Task:
    """150 flowers, 4 measures, 3 species; 90 / 30 / 30 samples."""
    from sklearn.datasets import load_iris

    return _task("iris", load_iris(return_X_y=True), hidden, recipe)


def wine(hidden: Sequence[int] = (16,), *, recipe: Recipe = RECIPE) -> Task:
    """178 wines, 13 measures, 3 cultivars; 108 / 35 / 35 samples."""
    from sklearn.datasets import load_wine

    return _task("wine", load_wine(return_X_y=True), hidden, recipe)


def breast_cancer(hidden: Sequence[int] = (16,), *, recipe: Recipe = RECIPE) -> Task:
    """569 tumours, 30 measures, 2 diagnoses; 343 / 113 / 113 samples."""
    from sklearn.datasets import load_breast_cancer

    return _task("breast_cancer", load_breast_cancer(return_X_y=True), hidden, recipe)


def _task(name: str, data: Any, hidden: Sequence[int], recipe: Recipe) -> Task:
    x = torch.as_tensor(data[0], dtype=torch.float32)
    y = torch.as_tensor(data[1], dtype=torch.int64)
    fifth = len(x) // 5
    parts = split(x, y, validation=fifth, test=fifth)
    mean, std = parts[0].x.mean(0), parts[0].x.std(0)
    train, validation, test = (Split((part.x - mean) / std, part.y) for part in parts)
    architecture = Architecture("MLP", {"sizes": check_widths(hidden, x.shape[1], int(y.max()) + 1)})
    return Task(name, architecture, train, validation, test, recipe)
