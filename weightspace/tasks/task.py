"""Task: data in fixed splits, a network, a loss, metrics and a recipe."""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.networks.architecture import Architecture
from weightspace.networks.calling import call
from weightspace.networks.outputs import Classes, OutputKind, infer_kind
from weightspace.recipes.recipe import Recipe
from weightspace.runtime import checks, seeds, trees
from weightspace.runtime.trees import Tree
from weightspace.tasks.checks import check_outputs, require_no_stretching, warn_of_stretching
from weightspace.tasks.data import Data, DatasetSplit, OwnData, Split
from weightspace.tasks.metrics import Metric, default_metrics, metric_of
from weightspace.tasks.torch_metrics import TorchMetric, metric_from

_TRIED = 8  # samples that a network is tried on


def cross_entropy(outputs: Tensor, y: Tensor) -> Tensor:
    """Mean cross-entropy of logits (batch, classes) against class numbers (batch,).

    The same as torch.nn.functional.cross_entropy, whose kernel is slow for a few classes in many
    networks: it took a third of the time of a training step.
    """
    shifted = outputs - outputs.detach().amax(-1, keepdim=True)
    chosen = shifted.gather(-1, y[..., None]).squeeze(-1)
    return (shifted.exp().sum(-1).log() - chosen).mean()


@dataclass(frozen=True)
class Task:
    """Data in fixed splits, a network, a loss and metrics: anything that is trained by gradients.

    Only `train` is used to fit anything; `validation` chooses between settings; `test` is read by
    evaluation alone.

    Args:
        name: Name in records and reports.
        architecture: The network of this task.
        train: Samples to train on: in memory (`Split`), read batch by batch (`DatasetSplit`), or each network's own
            (`OwnData`).
        validation: Samples to choose with.
        test: Samples for evaluation alone.
        recipe: Recipe of one network's training.
        loss: Mean loss of outputs (batch, ...) against targets (batch, ...); any function of what the network returns
            and what the data hold.
        ood: Function that returns out-of-distribution inputs; None where there are none.
        outputs: What the outputs mean: `Classes`, `Binary`, `Regression` or `LossOnly`; None finds it out by the loss
            and the shapes.
        metrics: Metrics, or names of known ones, the main one first; None takes what is usual for such outputs.
    """

    name: str
    architecture: Architecture
    train: Data
    validation: Data
    test: Data
    recipe: Recipe
    loss: Callable[[Any, Any], Tensor] = cross_entropy
    ood: Callable[[], Tree] | None = None
    outputs: OutputKind | None = None
    metrics: Sequence[str | Metric | TorchMetric] | None = None

    def __post_init__(self) -> None:
        checks.text(self.name, "name", "digits")
        wanted = "an Architecture, such as Architecture.of(factory)"
        checks.instance(self.architecture, "architecture", Architecture, wanted)
        for name in ("train", "validation", "test"):
            checks.instance(getattr(self, name), name, Data, "data, such as Split(x, y)")
        checks.instance(self.recipe, "recipe", Recipe, 'a Recipe, such as Recipe("30ep")')
        checks.function(self.loss, "loss", "of outputs and targets")
        checks.given(self.ood, "ood", checks.function, what="that returns inputs")
        wanted = "what outputs mean, such as Classes() or Regression(), or None"
        checks.given(self.outputs, "outputs", checks.having, methods=("predictions",), wanted=wanted)
        if self.metrics is not None and (isinstance(self.metrics, str) or not isinstance(self.metrics, Sequence)):
            raise checks.refuse("metrics", "a list of metrics or their names", self.metrics)
        for metric in self.metrics or ():
            if isinstance(metric, type) or not isinstance(metric, str | Metric | TorchMetric):
                raise checks.refuse("metrics", "a list of metrics or their names", self.metrics)

    def __getstate__(self) -> dict[str, Any]:
        """What other processes get: the fields, without what was computed from them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @property
    def classification(self) -> bool:
        """True if the outputs are logits of classes, one class a sample."""
        kind = self.output_kind
        return isinstance(kind, Classes) and kind.targets(self.train.head(1).y).ndim == 1

    @property
    def own_data(self) -> bool:
        """True if each network has data of its own."""
        return isinstance(self.train, OwnData)

    def require_shared_data(self, what: str) -> None:
        """Check that all networks are trained on the same data.

        Args:
            what: What needs it, for the message.

        Raises:
            InputError: Each network has data of its own.
        """
        if self.own_data:
            raise InputError(
                f"each network of task {self.name!r} has data of its own, and {what} needs data that all share: "
                "collect, train and the ticket finders work with own data"
            )

    @cached_property
    def output_kind(self) -> OutputKind:
        """What the outputs mean.

        Raises:
            InputError: It cannot be told from the loss and the shapes, or the network does not fit the data.
        """
        if self.outputs is not None:
            return self.outputs
        if self.loss is cross_entropy:
            return Classes()
        return infer_kind(self.loss, self._tried[1], self.train.head(_TRIED).y)

    @cached_property
    def scores(self) -> tuple[Metric, ...]:
        """The metrics, the main one first; empty where only the loss is known.

        Raises:
            InputError: A metric is unknown, does not apply to such outputs, or has another's name.
        """
        kind = self.output_kind
        if self.metrics is None:
            return default_metrics(kind)
        metrics = tuple(
            metric_of(metric, kind) if isinstance(metric, str | Metric) else metric_from(metric, kind)
            for metric in self.metrics
        )
        names = [metric.name for metric in metrics]
        if len(set(names)) < len(names):
            raise InputError(f"two metrics have one name: {', '.join(names)}")
        return metrics

    def try_out(self) -> float:
        """The loss of a fixed untrained network on a few training samples; checks what can be known before training.

        It warns of a network of which no weight can be pruned: it can be trained, but no finder takes it.

        Raises:
            InputError: The network does not fit the inputs, the loss or a metric does not fit the outputs, or two
                shapes would be stretched over each other without a word.
        """
        loss, outputs = self._tried
        kind, y = self.output_kind, self.train.head(_TRIED).y
        if self.outputs is not None or self.loss is not cross_entropy:
            check_outputs(kind, outputs, y, self.name)
        for metric in self.scores:
            try:
                metric(outputs, y)
                if self.metrics is not None and metric in self.metrics:
                    warn_of_stretching(partial(self._metric_of, metric), metric.name, self.name)
            except InputError:
                raise
            except Exception as error:
                raise InputError(
                    f"the metric {metric.name!r} of task {self.name!r} fails on outputs {trees.shapes(outputs)} and "
                    f"targets {trees.shapes(y)}: {type(error).__name__}: {error}"
                ) from error
        if self.loss is cross_entropy:
            self._require_known_classes(trees.first(outputs).shape[-1])
        return loss

    @cached_property
    def _tried(self) -> tuple[float, Tree]:
        """Loss and outputs of a fixed untrained network on a few training samples."""
        module = self.architecture.build_seeded(0).eval()
        few = self.train.head(_TRIED)
        if not self.architecture.layout().num_prunable:
            warnings.warn(
                f"none of the parameters of {self.architecture.name} can be pruned: its networks can be trained, but "
                "no finder takes them. Architecture.of(build, prunable=[...]) names what can be pruned",
                stacklevel=4,
            )
        with torch.no_grad():
            try:
                outputs = call(module, few.x)
                loss = _number(self.loss(outputs, few.y))
                if self.loss is not cross_entropy:
                    require_no_stretching(partial(self._loss_of, module), self.name)
                return loss, outputs
            except InputError:
                raise
            except (RuntimeError, IndexError, ValueError, TypeError, KeyError, AttributeError) as error:
                kinds = ", ".join(sorted({str(tensor.dtype) for tensor in trees.tensors(few.y)}))
                raise InputError(
                    f"{self.architecture.name} does not fit the data of task {self.name!r} (inputs "
                    f"{trees.shapes(few.x)}, targets {trees.shapes(few.y)} of {kinds}): {error}; "
                    "give a network that takes these inputs, or the task that it is for"
                ) from error

    def _loss_of(self, module: nn.Module, samples: int) -> Tensor:
        few = self.train.head(samples)
        return self.loss(call(module, few.x), few.y)

    @torch.no_grad()
    def _metric_of(self, metric: Metric, samples: int) -> object:
        few = self.train.head(samples)
        return metric(call(self.architecture.build_seeded(0).eval(), few.x), few.y)

    def _require_known_classes(self, classes: int) -> None:
        for part in (self.train, self.validation, self.test):
            if isinstance(part, DatasetSplit):
                continue  # read as a whole only where nothing else helps
            low, high = int(trees.first(part.y).min()), int(trees.first(part.y).max())
            if not 0 <= low <= high < classes:
                raise InputError(
                    f"{self.architecture.name} has {classes} outputs and does not fit the data of task "
                    f"{self.name!r}: its classes run from {low} to {high}"
                )

    def to_json(self) -> dict[str, Any]:
        """What a run's configuration says of its task.

        Data count by their checksum; the loss and networks from a user's factory, whose code cannot be
        compared, by what they compute.

        Raises:
            InputError: Network, data and loss do not fit together.
        """
        digest = hashlib.sha256()
        for part in (self.train, self.validation, self.test):
            part.update(digest)
        described = {
            "name": self.name,
            "architecture": self.architecture.to_json(),
            "samples": [len(self.train), len(self.validation), len(self.test)],
            "network": hashlib.sha256(repr(self.architecture.build_seeded(0)).encode()).hexdigest()[:16],
            "untrained_loss": f"{self.try_out():.5g}",
            "sha256": digest.hexdigest()[:16],
        }
        if self.metrics is not None:
            described["metrics"] = [metric.name for metric in self.scores]
        return described


def _number(loss: Any) -> float:
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        got = f"a tensor of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise InputError(f"the loss must return one number, the mean over the batch, got {got}: end it with .mean()")
    return loss.item()


def split(x: Tree, y: Tree, *, validation: int, test: int, seed: int = 0) -> tuple[Split, Split, Split]:
    """Cut samples into fixed, disjoint training, validation and test splits.

    Raises:
        InputError: The counts leave no samples for a split.
    """
    train, held, tested = (
        Split(trees.take(x, rows), trees.take(y, rows))
        for rows in split_rows(trees.samples(x), validation=validation, test=test, seed=seed)
    )
    return train, held, tested


def split_rows(samples: int, *, validation: int, test: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers of the samples in fixed, disjoint training, validation and test splits.

    Raises:
        InputError: The counts leave no samples for a split.
    """
    validation, test = checks.count(validation, "validation"), checks.count(test, "test")
    if validation < 1 or test < 1 or validation + test >= samples:
        raise InputError(
            f"cannot cut {validation} validation and {test} test samples from {samples} and leave some to train on: "
            "each split needs at least one"
        )
    order = torch.randperm(samples, generator=seeds.generator(seed, "splits"))
    train, held, tested = order.split([samples - validation - test, validation, test])
    return train, held, tested
