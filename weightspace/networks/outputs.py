"""What the outputs of a network mean: logits of classes, logits of yes or no, values, or nothing but their loss."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from weightspace.errors import InputError
from weightspace.runtime import checks, trees
from weightspace.runtime.trees import Tree
from weightspace.storage.typed import Registry

Part = str | None


@runtime_checkable
class OutputKind(Protocol):
    """What outputs mean: a frozen dataclass of settings.

    Outputs and targets have their axes as the network and the data give them, samples first; any number of axes, such
    as one of networks, may come before.
    """

    def predictions(self, outputs: Tree) -> Tensor:
        """The tensor that predictions are made from; logits have their classes on the last axis."""
        ...

    def probabilities(self, predictions: Tensor) -> Tensor:
        """Probabilities, from what `predictions` returned.

        Raises:
            InputError: The outputs are no probabilities of anything.
        """
        ...

    def labels(self, predictions: Tensor) -> Tensor:
        """The targets that are predicted, from what `predictions` returned."""
        ...

    def targets(self, y: Tree) -> Tensor:
        """The tensor of targets."""
        ...


def selected(tree: Tree, part: Part, what: str) -> Tensor:
    """The tensor of a structure that counts.

    Args:
        tree: A structure of tensors.
        part: Its name, such as "logits", or "1" in a tuple. None is the only tensor, or the one called "logits".
        what: What the structure is, for messages.

    Raises:
        InputError: There is no such tensor, or several and none is named.
    """
    if isinstance(tree, Tensor):
        return tree
    named = dict(trees.leaves(tree))
    if part is None and len(named) == 1:
        return next(iter(named.values()))
    name = "logits" if part is None else part
    if name not in named:
        how = "there is none of that name" if part is not None else f'say which counts, with {what}="..."'
        raise InputError(f"the {what} are a structure of tensors ({', '.join(named) or 'none'}): {how}")
    return named[name]


@dataclass(frozen=True)
class Classes:
    """Logits of classes; the targets are class numbers, one a sample or one a position.

    Args:
        axis: Axis of the classes in the outputs, counted from the end: -1 for (samples, ..., classes); PyTorch's own
            cross-entropy has them on the axis after the samples, which is -2 for (samples, classes, positions).
        output: Name of the logits where a network returns several tensors; None for the only tensor, or
            the one called "logits".
        target: Name of the class numbers where there are several targets.
        ignored: Class number of positions that do not count.
    """

    axis: int = -1
    output: Part = None
    target: Part = None
    ignored: int = -100

    def __post_init__(self) -> None:
        checks.settle(self, checks.count, "axis", "ignored", at_least=-(2**63))
        _check_parts(self)
        if self.axis >= 0:
            raise InputError(f"the axis of the classes is counted from the end: -1 for the last, got {self.axis}")

    def predictions(self, outputs: Tree) -> Float[Tensor, "*lead classes"]:
        logits = selected(outputs, self.output, "output")
        return logits if self.axis == -1 else logits.movedim(self.axis, -1)

    def probabilities(self, predictions: Tensor) -> Tensor:
        if predictions.shape[-1] == 1:
            raise InputError(
                "the network has one output: class probabilities need two. For one logit of yes or no, say "
                "outputs=Binary(); for a value, outputs=Regression()"
            )
        return predictions.softmax(-1)

    def labels(self, predictions: Tensor) -> Tensor:
        return predictions.argmax(-1)

    def targets(self, y: Tree) -> Tensor:
        return selected(y, self.target, "target")


@dataclass(frozen=True)
class Binary:
    """A logit of yes for each target: one a sample, or several (multi-label); the targets are 0 or 1.

    Args:
        probabilities_given: Whether the network returns probabilities instead of logits.
        output: Name of the logits where a network returns several tensors; None for the only tensor, or
            the one called "logits".
        target: Name of the targets where there are several.
    """

    probabilities_given: bool = False
    output: Part = None
    target: Part = None

    def __post_init__(self) -> None:
        checks.settle(self, checks.flag, "probabilities_given")
        _check_parts(self)

    def predictions(self, outputs: Tree) -> Tensor:
        tensor = selected(outputs, self.output, "output")
        return torch.logit(tensor) if self.probabilities_given else tensor

    def probabilities(self, predictions: Tensor) -> Tensor:
        return predictions.sigmoid()

    def labels(self, predictions: Tensor) -> Tensor:
        return (predictions > 0).long()

    def targets(self, y: Tree) -> Tensor:
        return selected(y, self.target, "target")


@dataclass(frozen=True)
class Regression:
    """Values; the targets are values of the same shape.

    Args:
        output: Name of the values where a network returns several tensors; None for the only tensor, or
            the one called "logits".
        target: Name of the targets where there are several.
    """

    output: Part = None
    target: Part = None

    def __post_init__(self) -> None:
        _check_parts(self)

    def predictions(self, outputs: Tree) -> Tensor:
        return selected(outputs, self.output, "output")

    def probabilities(self, predictions: Tensor) -> Tensor:
        raise InputError(
            f"the network predicts values of shape {tuple(predictions.shape[1:])}, not classes: there are no "
            "probabilities. Use predict(), or outputs=Binary() if they are logits of yes or no"
        )

    def labels(self, predictions: Tensor) -> Tensor:
        return predictions

    def targets(self, y: Tree) -> Tensor:
        return selected(y, self.target, "target")


@dataclass(frozen=True)
class LossOnly:
    """Nothing is known of the outputs but their loss and the metrics that a user gives."""

    def predictions(self, outputs: Tree) -> Tensor:  # noqa: ARG002
        raise InputError(
            "what the outputs of this network mean is not known: say it when the task is made, with outputs=Classes(), "
            "Binary() or Regression()"
        )

    def probabilities(self, predictions: Tensor) -> Tensor:
        return self.predictions(predictions)

    def labels(self, predictions: Tensor) -> Tensor:
        return self.predictions(predictions)

    def targets(self, y: Tree) -> Tensor:
        return self.predictions(y)


OUTPUT_KINDS: Registry[OutputKind] = Registry("output kind")
"""Kinds of outputs by the name that files know them under."""

OUTPUT_KINDS.register("classes")(Classes)
OUTPUT_KINDS.register("binary")(Binary)
OUTPUT_KINDS.register("regression")(Regression)
OUTPUT_KINDS.register("loss only")(LossOnly)


def like_targets(predictions: Tensor, y: Tensor) -> Tensor:
    """Predictions in the shape of their targets: one output (samples, 1) of one target (samples,) loses its last axis.

    Raises:
        InputError: The shapes differ otherwise.
    """
    if predictions.shape == (*y.shape, 1):
        return predictions.squeeze(-1)
    if predictions.shape != y.shape and (*predictions.shape, 1) != y.shape:
        raise InputError(
            f"predictions of shape {tuple(predictions.shape)} do not fit targets of shape {tuple(y.shape)}: reshape "
            "the outputs or the targets, so that they are the same"
        )
    return predictions.reshape(y.shape)


_CLASS_LOSSES = {"cross_entropy", "CrossEntropyLoss", "nll_loss", "NLLLoss"}
_LOGIT_LOSSES = {"binary_cross_entropy_with_logits", "BCEWithLogitsLoss"}
_PROBABILITY_LOSSES = {"binary_cross_entropy", "BCELoss"}


def infer_kind(loss: Any, outputs: Tree, y: Tree) -> OutputKind:
    """What outputs mean, by the loss and the shapes.

    Args:
        loss: The task's loss.
        outputs: What a network returns for a few samples.
        y: Their targets.

    Raises:
        InputError: Several meanings are possible.
    """
    if not isinstance(y, Tensor):
        return LossOnly()
    tensors = dict(trees.leaves(outputs))
    if len(tensors) != 1 and "logits" not in tensors:
        return LossOnly()
    logits = selected(outputs, None, "output")
    name = _loss_name(loss)
    if name in _LOGIT_LOSSES:
        return Binary()
    if name in _PROBABILITY_LOSSES:
        return Binary(probabilities_given=True)
    if y.is_floating_point():
        return Regression() if name not in _CLASS_LOSSES and _same_shape(logits, y) else LossOnly()
    return _infer_classes(name, getattr(loss, "__module__", ""), logits, y)


def _infer_classes(name: str, module: str, logits: Tensor, y: Tensor) -> OutputKind:
    last = logits.shape[:-1] == y.shape
    second = logits.ndim > 1 and logits.shape[:1] + logits.shape[2:] == y.shape
    if logits.shape == (*y.shape, 1) and name not in _CLASS_LOSSES:
        return Binary()
    if second and (logits.ndim == 2 or (name in _CLASS_LOSSES and module.startswith("torch"))):
        return Classes(axis=1 - logits.ndim)
    if last and second and name not in _CLASS_LOSSES:
        raise InputError(
            f"the classes may be on axis 1 or on the last axis of outputs of shape {tuple(logits.shape)} (targets "
            f"{tuple(y.shape)}): say which, with outputs=Classes(axis=-1) or outputs=Classes(axis={1 - logits.ndim})"
        )
    if last:
        return Classes()
    return Classes(axis=1 - logits.ndim) if second else LossOnly()


def _same_shape(predictions: Tensor, y: Tensor) -> bool:
    return predictions.shape == y.shape or predictions.shape == (*y.shape, 1) or (*predictions.shape, 1) == y.shape


def _loss_name(loss: Any) -> str:
    loss = getattr(loss, "func", loss)  # functools.partial
    return getattr(loss, "__name__", type(loss).__name__)


def nll(kind: OutputKind, predictions: Tensor, y: Tensor) -> Float[Tensor, " samples"]:
    """Negative log-likelihood of each sample's targets in nats, as the mean over a sample's positions.

    Args:
        kind: What the outputs mean; regression has the likelihood of a normal distribution of the residuals' variance.
        predictions: What `kind.predictions` returned, of one network.
        y: Targets.
    """
    if isinstance(kind, Classes):
        flat = F.cross_entropy(
            predictions.reshape(-1, predictions.shape[-1]), y.reshape(-1), reduction="none", ignore_index=kind.ignored
        )
        counted = (y != kind.ignored).reshape(len(y), -1)
        return flat.reshape(len(y), -1).sum(1) / counted.sum(1)
    predictions = like_targets(predictions, y)
    if isinstance(kind, Binary):
        each = F.binary_cross_entropy_with_logits(predictions, y.to(predictions.dtype), reduction="none")
        return each.reshape(len(y), -1).mean(1)
    squares = (predictions - y).square().reshape(len(y), -1)
    variance = squares.mean()
    return 0.5 * ((2 * torch.pi * variance).log() + squares.mean(1) / variance)


def stored_kind(record: Mapping[str, Any]) -> OutputKind | None:
    """What a network's outputs mean by its record; None where the record does not say it.

    Args:
        record: Record of a network.
    """
    data = record.get("outputs")
    return None if data is None else OUTPUT_KINDS.from_json(data, "the record of a network")


def _check_parts(kind: object) -> None:
    checks.settle_given(kind, checks.text, "output", "target")
