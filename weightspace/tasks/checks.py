"""What can be known of a task before training: shapes that fit, and no silent stretching of one over another."""

import warnings
from collections.abc import Callable
from typing import Any

from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.outputs import Classes, LossOnly, OutputKind, like_targets
from weightspace.runtime import trees
from weightspace.runtime.trees import Tree
from weightspace.runtime.watching import OperatorMode


class _WatchStretching(OperatorMode):
    """Finds an operator that stretches (samples, 1) and (samples,) to a table of all pairs of samples."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.samples = samples
        self.shapes: list[tuple[int, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        shapes = {tuple(arg.shape) for arg in args if isinstance(arg, Tensor)}
        result = func(*args, **(kwargs or {}))
        n = self.samples
        columns = {shape for shape in shapes if len(shape) > 1 and shape[0] == n and shape[-1] == 1}
        rows = {
            shape for shape in shapes if shape and shape[-1] == n and len(shape) < max(map(len, columns), default=0)
        }
        if columns and rows and isinstance(result, Tensor) and result.shape[-1:] == (n,) and not self.shapes:
            self.shapes = [*columns, *rows]
        return result


def require_no_stretching(loss: Callable[[int], object], name: str) -> None:
    """Raise InputError if a loss compares every sample with every other because of a missing axis.

    Args:
        loss: Function that computes the loss of so many samples.
        name: Name of the task.
    """
    shapes = _stretched(loss)
    if shapes:
        raise InputError(
            f"the loss of task {name!r} stretches a tensor of shape {shapes[0]} over one of shape {shapes[1]}, so that "
            "every sample is compared with every other: give the targets the shape of the outputs, such as y[:, None] "
            "for outputs (samples, 1)"
        )


def warn_of_stretching(metric: Callable[[int], object], name: str, task: str) -> None:
    """Warn of a metric that compares every sample with every other, which is seldom meant.

    Args:
        metric: Function that computes the metric of so many samples.
        name: Name of the metric.
        task: Name of the task.
    """
    shapes = _stretched(metric)
    if shapes:
        warnings.warn(
            f"the metric {name!r} of task {task!r} stretches a tensor of shape {shapes[0]} over one of shape "
            f"{shapes[1]}: it compares every sample with every other. If that is not meant, give both one shape; if it "
            "is, write out both axes, as in x[:, None] - y[None, :]",
            stacklevel=4,
        )


def _stretched(function: Callable[[int], object]) -> list[tuple[int, ...]]:
    """Shapes of what a function of samples stretches over each other; none if it does not."""
    shapes: list[tuple[int, ...]] = []
    for samples in (7, 5):  # an axis of the network that happens to be as long as one of them is not as long as both
        with warnings.catch_warnings(record=True) as said, _WatchStretching(samples) as watch:
            warnings.simplefilter("always")
            function(samples)
        # PyTorch's own losses stretch first, and say so in a warning.
        told = any("target size" in str(warning.message) for warning in said)
        stretched = watch.shapes or ([(samples, 1), (samples,)] if told else [])
        if not stretched:
            return []
        shapes = shapes or stretched
    return shapes


def check_outputs(kind: OutputKind, outputs: Tree, y: Tree, name: str) -> None:
    """Raise InputError unless outputs and targets fit each other.

    Args:
        kind: What the outputs mean.
        outputs: What a network returns for a few samples.
        y: Their targets.
        name: Name of the task.
    """
    if isinstance(kind, LossOnly):
        return
    try:
        predictions, targets = kind.predictions(outputs), kind.targets(y)
        if isinstance(kind, Classes):
            _check_classes(kind, predictions, targets)
        else:
            like_targets(predictions, targets)
    except InputError as error:
        raise InputError(
            f"outputs {trees.shapes(outputs)} do not fit targets {trees.shapes(y)} of task {name!r}: {error}"
        ) from error
    except (IndexError, RuntimeError) as error:
        raise InputError(
            f"outputs {trees.shapes(outputs)} of task {name!r} are not {kind}: {error}. Say what they mean, with "
            "outputs="
        ) from error


def _check_classes(kind: Classes, predictions: Tensor, targets: Tensor) -> None:
    if targets.is_floating_point():
        raise InputError(f"the targets are {targets.dtype}, class numbers are integers: convert them with .long()")
    if predictions.shape[:-1] != targets.shape:
        raise InputError(
            f"logits of {predictions.shape[-1]} classes for each of {tuple(predictions.shape[:-1])} were expected for "
            f"targets {tuple(targets.shape)}: say where the classes are, with outputs=Classes(axis=...)"
        )
    counted = targets[targets != kind.ignored]
    if counted.numel() and not 0 <= int(counted.min()) <= int(counted.max()) < predictions.shape[-1]:
        raise InputError(
            f"the class numbers run from {int(counted.min())} to {int(counted.max())} and there are logits of "
            f"{predictions.shape[-1]} classes"
        )
