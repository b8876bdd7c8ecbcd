"""Residual networks for 32 x 32 images (He et al. 2016, arXiv 1512.03385)."""

import math
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from weightspace.models.sizes import check_sizes, check_width
from weightspace.runtime import checks

Shortcut = Literal["projection", "pad"]


class Block(nn.Module):
    """Two 3 x 3 convolutions with BatchNorm and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int, shortcut: Shortcut) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(outputs)
        self.stride = stride
        self.extra = outputs - inputs
        self.project: nn.Module | None = None
        if shortcut == "projection" and (stride > 1 or self.extra):
            self.project = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for a batch."""
        if self.project is not None:
            around = self.project(x)
        elif self.stride > 1 or self.extra:  # every other pixel, zeros for the new channels
            around = F.pad(
                x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra // 2, self.extra - self.extra // 2)
            )
        else:
            around = x
        h = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(h)) + around)


class ResNet(nn.Module):
    """A stem, stages of residual blocks (each stage after the first halves the image), pooling, one linear layer.

    Args:
        blocks: Residual blocks in each stage.
        channels: Channels of each stage.
        shortcut: "projection" (1 x 1 convolution, as in open_lth) or "pad" (zeros, no parameters, as in
            the paper's CIFAR networks) where a stage changes the shape.
        inputs: Channels of the image.
        outputs: Number of classes.
    """

    def __init__(
        self,
        blocks: tuple[int, ...],
        channels: tuple[int, ...],
        *,
        shortcut: Shortcut = "projection",
        inputs: int = 3,
        outputs: int = 10,
    ) -> None:
        super().__init__()
        check_sizes(inputs=inputs, outputs=outputs)
        self.input_shape = (inputs, 32, 32)
        self.stem = nn.Conv2d(inputs, channels[0], 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(channels[0])
        layers: list[nn.Module] = []
        before = channels[0]
        for stage, (count, width) in enumerate(zip(blocks, channels, strict=True)):
            for i in range(count):
                layers.append(Block(before, width, 2 if stage and i == 0 else 1, shortcut))
                before = width
        self.blocks = nn.Sequential(*layers)
        self.head = nn.Linear(before, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for a batch."""
        h = self.blocks(F.relu(self.norm(self.stem(x))))
        return self.head(h.mean((2, 3)))


class ResNet20(ResNet):
    """ResNet-20 for CIFAR-10: 269,722 parameters with padded shortcuts (paper: 0.27 M), 272,474 with projections.

    Args:
        width: Factor of the channels 16, 32, 64.
        shortcut: "projection" or "pad".
        inputs: Channels of the image.
        outputs: Number of classes.
    """

    def __init__(
        self, *, width: float = 1.0, shortcut: Shortcut = "projection", inputs: int = 3, outputs: int = 10
    ) -> None:
        check_width(width, 64)
        channels = tuple(math.ceil(width * c) for c in (16, 32, 64))
        checks.one_of(shortcut, "shortcut", ("projection", "pad"))
        super().__init__((3, 3, 3), channels, shortcut=shortcut, inputs=inputs, outputs=outputs)


class ResNet18(ResNet):
    """ResNet-18 with a 3 x 3 stem and no first pooling: 11,173,962 parameters on CIFAR-10.

    Args:
        width: Factor of the channels 64, 128, 256, 512.
        inputs: Channels of the image.
        outputs: Number of classes.
    """

    def __init__(self, *, width: float = 1.0, inputs: int = 3, outputs: int = 10) -> None:
        check_width(width, 512)
        channels = tuple(math.ceil(width * c) for c in (64, 128, 256, 512))
        super().__init__((2, 2, 2, 2), channels, inputs=inputs, outputs=outputs)
