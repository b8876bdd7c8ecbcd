"""scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels in 10 classes, inside the package."""

from collections.abc import Sequence

import torch

from weightspace.errors import InputError
from weightspace.networks.architecture import Architecture
from weightspace.recipes.optimizers import SGD
from weightspace.recipes.recipe import Recipe
from weightspace.recipes.step import Step
from weightspace.runtime import checks
from weightspace.tasks.arguments import check_widths
from weightspace.tasks.task import Split, Task, split

# Chosen on the validation split among SGD and Adam, learning rates from 1e-3 to 0.3, 20 to 60 epochs.
RECIPE = Recipe(length=Step(epochs=30), batch_size=64, optimizer=SGD(lr=0.2), schedule="cosine")


def digits(hidden: Sequence[int] = (128, 64), *, held_out: Sequence[int] = (), recipe: Recipe = RECIPE) -> Task:
    """Classify digits with an MLP 64-hidden-classes; 1,257 / 180 / 360 samples to train, validate and test.

    Args:
        hidden: Sizes of the hidden layers.
        held_out: Digits that are left out of all splits; their test images become the task's
            out-of-distribution inputs. The remaining classes are numbered from 0.
        recipe: Recipe of one network's training.
    """
    held_out = checks.several(held_out, "held_out", checks.count)
    from sklearn.datasets import load_digits

    pixels, labels = load_digits(return_X_y=True)
    x = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16  # (1797, 1, 8, 8), in [0, 1]
    y = torch.as_tensor(labels, dtype=torch.int64)
    unknown = sorted(set(held_out) - set(range(10)))
    if unknown or len(set(held_out)) > 8:
        raise InputError(f"held_out takes up to 8 digits from 0 to 9, got {list(held_out)}")
    train, validation, test = split(x, y, validation=180, test=360)
    known = [digit for digit in range(10) if digit not in held_out]
    away = test.x[torch.isin(test.y, torch.tensor(sorted(held_out), dtype=torch.int64))]
    number = torch.tensor([known.index(digit) if digit in known else -1 for digit in range(10)])
    train, validation, test = (
        Split(part.x[number[part.y] >= 0], number[part.y[number[part.y] >= 0]]) for part in (train, validation, test)
    )
    architecture = Architecture("MLP", {"sizes": check_widths(hidden, 64, len(known))})
    name = "-".join(["digits", *(["without", *map(str, sorted(held_out))] if held_out else [])])
    return Task(name, architecture, train, validation, test, recipe, ood=away.clone if held_out else None)
