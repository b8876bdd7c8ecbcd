"""Conv-2, Conv-4 and Conv-6, the small VGG-like networks of the lottery-ticket paper (arXiv 1803.03635)."""

import math

from torch import nn

from weightspace.errors import InputError
from weightspace.models.sizes import check_sizes, check_width
from weightspace.runtime import checks


class Conv(nn.Sequential):
    """Pairs of 3 x 3 convolutions (64, 128, 256 channels), each pair pooled, then 256-256-outputs.

    4,301,642 parameters for Conv-2, 2,425,930 for Conv-4 and 2,262,602 for Conv-6 on CIFAR-10 (the
    paper's table rounds to 4.3 M and 2.4 M; its 1.7 M for Conv-6 does not follow from its layers).

    Args:
        depth: Number of convolutions: 2, 4 or 6.
        width: Factor of the channels and the hidden units.
        image: Channels, height and width of the input.
        outputs: Number of classes.
    """

    def __init__(
        self, depth: int = 2, *, width: float = 1.0, image: tuple[int, int, int] = (3, 32, 32), outputs: int = 10
    ) -> None:
        check_sizes(outputs=outputs)
        check_width(width, 256)
        if checks.count(depth, "depth") not in (2, 4, 6):
            raise InputError(f"depth must be 2, 4 or 6, got {depth}")
        image = checks.several(image, "image", checks.count, least=3, most=3, at_least=1, at_most=2**16)
        channels, height, side = image
        layers: list[nn.Module] = []
        for pair in range(depth // 2):
            out = math.ceil(width * 64 * 2**pair)
            layers += [nn.Conv2d(channels, out, 3, padding=1), nn.ReLU()]
            layers += [nn.Conv2d(out, out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
            channels, height, side = out, height // 2, side // 2
        hidden = math.ceil(width * 256)
        layers += [nn.Flatten(), nn.Linear(channels * height * side, hidden), nn.ReLU()]
        layers += [nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)]
        super().__init__(*layers)
        self.input_shape = image


class SmallConv(nn.Sequential):
    """The 2,464-parameter network of the model-zoo literature (Unterthiner et al. 2020, arXiv 2002.11448):
    convolutions of 8, 6 and 4 channels and 20 hidden units, for 28 x 28 grey images.

    Args:
        outputs: Number of classes.
    """

    def __init__(self, outputs: int = 10) -> None:
        check_sizes(outputs=outputs)
        super().__init__(
            nn.Conv2d(1, 8, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(8, 6, 5),
            nn.MaxPool2d(2),
            nn.ReLU(),
            nn.Conv2d(6, 4, 2),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(36, 20),
            nn.ReLU(),
            nn.Linear(20, outputs),
        )
        self.input_shape = (1, 28, 28)
