"""Shifted test inputs: noise, blur, contrast and rotation at three severities each.

Strengths are relative to the data (their spread, their image size), so that they mean the same on 8 x 8
digits and on 32 x 32 photographs. Made after Hendrycks & Dietterich 2019 (arXiv 1903.12261), which has
them for photographs only.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from weightspace.runtime import seeds
from weightspace.runtime.trees import Tree
from weightspace.tasks.data import Split
from weightspace.tasks.task import Task

_READ = 10_000  # training samples that are looked at where they are read from a dataset
_NOISE = (0.25, 0.5, 1.0)  # standard deviations of the training inputs
_BLUR = (1 / 28, 2 / 28, 3 / 28)  # standard deviation of the kernel, in image heights
_CONTRAST = (0.6, 0.4, 0.2)  # share of the contrast that is left
_ROTATION = (15.0, 30.0, 45.0)  # degrees


@dataclass(frozen=True)
class Shift:
    """Shifted inputs.

    Args:
        kind: "noise", "blur", "contrast" or "rotation".
        severity: Strength: 1, 2 or 3.
        x: The shifted inputs.
    """

    kind: str
    severity: int
    x: Tensor


def shifts(task: Task, x: Tree, *, seed: int = 0) -> Iterator[Shift]:
    """Inputs under every shift that applies to them; blur and rotation need images (samples, channels, height, width).

    What counts as spread, middle and background is taken from the training split. Inputs that are not numbers on a
    scale (integers, such as tokens), or are several tensors, have no shifts.

    Args:
        task: The task.
        x: Inputs to shift.
        seed: Seed of the noise.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point():
        return
    train = (task.train if isinstance(task.train, Split) else task.train.head(_READ)).x
    flat = train.reshape(len(train), -1)
    image = x.ndim == 4
    # The spread of pixels over the whole image; of a table's columns one by one, which have units of their own.
    spread = train.std() if image else flat.std(0).reshape(x.shape[1:])
    middle = train.mean() if image else flat.mean(0).reshape(x.shape[1:])
    for i, amount in enumerate(_NOISE):
        random = seeds.generator(seed, "shift noise", i)
        yield Shift("noise", i + 1, x + amount * spread * torch.randn(x.shape, generator=random, dtype=x.dtype))
    for i, left in enumerate(_CONTRAST):
        yield Shift("contrast", i + 1, middle + left * (x - middle))
    if not image:
        return
    from torchvision.transforms.v2 import InterpolationMode  # here, as they take seconds
    from torchvision.transforms.v2 import functional as images

    height = x.shape[-2]
    background = train.amin((0, 2, 3)).tolist()
    for i, width in enumerate(_BLUR):
        sigma = width * height
        reach = max(1, round(2 * sigma))
        # The kernel is padded by reflection, which must stay inside the image.
        kernel = [2 * min(reach, side - 1) + 1 for side in (x.shape[-1], height)]
        yield Shift("blur", i + 1, images.gaussian_blur(x, kernel, [sigma, sigma]))
    for i, angle in enumerate(_ROTATION):
        yield Shift("rotation", i + 1, images.rotate(x, angle, InterpolationMode.BILINEAR, fill=background))
