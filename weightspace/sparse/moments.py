"""Moments of what a layer reads and of what it should return: all that a least-squares problem needs of its data."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from weightspace.errors import InputError
from weightspace.sparse.layer_inputs import Layer

_ROWS_BYTES = 2**25  # of what a layer reads, as a matrix, at once
_WIDE, _COLUMNS = 1536, 576  # columns from which on half of the products suffice, a block of columns at a time


@dataclass(frozen=True)
class Moments:
    """Moments of what layers read (c inputs) and what the dense ones made of it (o outputs), over all examples.

    Args:
        inputs: Second moments of what the pruned network's layers read, around the mean if there is a bias.
        cross: Moments of the dense layers' outputs with that.
        mean: Mean of what is read.
        mean_goal: Mean of the dense layers' outputs.
        size: Mean square of what is read.
    """

    inputs: Float[Tensor, "c c"]
    cross: Float[Tensor, "o c"]
    mean: Float[Tensor, " c"]
    mean_goal: Float[Tensor, " o"]
    size: float


class MomentSums:
    """Adds up moments in double precision, a block of rows at a time.

    Args:
        layer: A layer whose inputs they are; others that share its weight have its shape.
        names: Names of the layers, for errors.
        centred: Whether moments are around the means.
    """

    def __init__(self, layer: Layer, names: str, *, centred: bool) -> None:
        weight = layer.weight.detach()
        outputs, columns = len(weight), weight[0].numel()
        self.names, self.centred = names, centred
        self.inputs = weight.new_zeros(columns, columns, dtype=torch.float64)
        self.cross = self.inputs.new_zeros(outputs, columns)
        self.mean, self.mean_goal = self.inputs.new_zeros(columns), self.inputs.new_zeros(outputs)
        self.pilot, self.pilot_goal = self.mean, self.mean_goal  # near the means: sums of squares lose no digits
        self.rows, self.squares = 0, 0.0

    def add(self, layer: Layer, x: Tensor, goal: Float[Tensor, "rows o"]) -> None:
        """A block of what one call reads.

        Args:
            layer: The layer of that call.
            x: What it reads.
            goal: What the dense layer made of what it read in the same call.

        Raises:
            InputError: These are of other numbers of rows.
        """
        done = 0
        for read in _rows(layer, x):
            made = goal[done : done + len(read)].double()
            done += len(read)
            if len(made) == len(read):
                self._add(read, made)
        if done != len(goal):
            raise InputError(f"{self.names} read other inputs in the pruned network than in the dense one")

    def _add(self, read: Float[Tensor, "rows c"], made: Float[Tensor, "rows o"]) -> None:
        self.squares += float(read.flatten().dot(read.flatten()))
        if self.centred:
            if not self.rows:
                self.pilot, self.pilot_goal = read.mean(0), made.mean(0)
            read -= self.pilot
            made = made - self.pilot_goal
            self.mean += read.sum(0)
            self.mean_goal += made.sum(0)
        for columns in self._blocks():  # what lies left of them is the transpose
            self.inputs[columns, columns.start :].addmm_(read[:, columns].T, read[:, columns.start :])
        self.cross.addmm_(made.T, read)
        self.rows += len(read)

    def _blocks(self) -> list[slice]:
        width = len(self.inputs)
        each = width if width <= _WIDE else _COLUMNS
        return [slice(start, min(start + each, width)) for start in range(0, width, each)]

    def result(self) -> Moments:
        """The moments; nothing can be added afterwards.

        Raises:
            InputError: What was read is not finite.
        """
        for columns in self._blocks():
            self.inputs[columns.stop :, columns] = self.inputs[columns, columns.stop :].T
        for total in (self.inputs, self.cross, self.mean, self.mean_goal):
            total /= self.rows
        if not (self.inputs.isfinite().all() and self.cross.isfinite().all()):
            raise InputError(
                f"what {self.names} read or returned is not finite: the networks cannot be compared on these inputs"
            )
        if self.centred:
            self.inputs.addr_(self.mean, self.mean, alpha=-1)
            self.cross.addr_(self.mean_goal, self.mean, alpha=-1)
            self.inputs.diagonal().clamp_(min=0)
        size = self.squares / self.rows / len(self.inputs)
        return Moments(self.inputs, self.cross, self.mean + self.pilot, self.mean_goal + self.pilot_goal, size)


def product(layer: Layer, x: Tensor) -> Float[Tensor, "rows o"]:
    """What a layer makes of what it reads, without its bias, a row for each row that it reads; at least in float32.

    Args:
        layer: The layer.
        x: What it reads.
    """
    dtype = torch.promote_types(x.dtype, torch.float32)
    x, weight = x.to(dtype), layer.weight.detach().to(dtype)
    if isinstance(layer, nn.Linear):
        return F.linear(x, weight).reshape(-1, len(weight))
    assert not isinstance(layer.padding, str)
    made = F.conv2d(x, weight, None, layer.stride, layer.padding, layer.dilation)
    return made.movedim(1, -1).reshape(-1, len(weight))


def _rows(layer: Layer, x: Tensor) -> Iterator[Float[Tensor, "rows c"]]:
    """What a layer multiplies its `as_matrix` with, block by block, in double precision; each block is a new tensor."""
    if isinstance(layer, nn.Linear):
        flat = x.reshape(-1, x.shape[-1])
        step = max(1, _ROWS_BYTES // (8 * flat.shape[1]))
        for start in range(0, len(flat), step):
            yield flat[start : start + step].to(torch.float64, copy=True)
        return
    assert not isinstance(layer.padding, str)
    (height, width), (down, right) = layer.kernel_size, layer.stride
    (far_down, far_right), (above, left) = layer.dilation, layer.padding
    channels = x.shape[1]
    rows = (x.shape[2] + 2 * above - far_down * (height - 1) - 1) // down + 1
    columns = (x.shape[3] + 2 * left - far_right * (width - 1) - 1) // right + 1
    step = max(1, _ROWS_BYTES // (8 * rows * columns * height * width * channels))
    for start in range(0, len(x), step):
        block = (
            F.pad(x[start : start + step].to(torch.float64, copy=True), (left, left, above, above))
            .movedim(1, -1)
            .contiguous()
        )
        image, row, column, _ = block.stride()
        patches = block.as_strided(
            (len(block), rows, columns, height, width, channels),
            (image, row * down, column * right, row * far_down, column * far_right, 1),
        )
        yield patches.reshape(-1, height * width * channels)
