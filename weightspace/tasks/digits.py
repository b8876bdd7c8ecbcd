"""scikit-learn's handwritten digits: 1,797 images of 8 x 8 pixels in 10 classes, inside the package."""

from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits

from weightspace.architecture import Architecture
from weightspace.optimizers import SGD
from weightspace.recipe import Recipe, Step
from weightspace.task import Task, split

# Chosen on the validation split among SGD and Adam, learning rates from 1e-3 to 0.3, 20 to 60 epochs.
RECIPE = Recipe(length=Step(epochs=30), batch_size=64, optimizer=SGD(lr=0.2), schedule="cosine")


def digits(hidden: Sequence[int] = (128, 64), *, recipe: Recipe = RECIPE) -> Task:
    """Classify digits with an MLP 64-hidden-10; 1,257 / 180 / 360 samples to train, validate and test.

    Args:
        hidden: sizes of the hidden layers.
        recipe: how one network is trained.
    """
    pixels, labels = load_digits(return_X_y=True)
    x = torch.as_tensor(pixels, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16  # (1797, 1, 8, 8), in [0, 1]
    y = torch.as_tensor(labels, dtype=torch.int64)
    train, validation, test = split(x, y, validation=180, test=360)
    architecture = Architecture("MLP", {"sizes": [64, *hidden, 10]})
    return Task("digits", architecture, train, validation, test, recipe)
