"""Ensembles as predictive distributions, benchmarked alike: calibration, out-of-distribution (OOD) inputs, shift."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.evaluation.dropout import FittedDropout
from weightspace.evaluation.mean_outputs import JointOutputs
from weightspace.evaluation.metrics import calibration, ood_detection
from weightspace.evaluation.one_label import OneLabel, ensemble_metrics, predictor_metrics
from weightspace.evaluation.predictions import OutputSum, Predictions, PredictionSum, outputs_in_blocks
from weightspace.evaluation.scoring import Scorer, scorer_of
from weightspace.evaluation.shift import shifts
from weightspace.networks.collection import Collection
from weightspace.report.results import Detection, PredictiveResult, ShiftResult
from weightspace.runtime import seeds, trees
from weightspace.runtime.trees import Tree
from weightspace.tasks.data import Split
from weightspace.tasks.task import Task

_SHIFTED = 500  # test samples under each shift
_OOD = 2000  # out-of-distribution inputs

Stream = Callable[[Tree], Iterable[Tree]]
"""Outputs of an ensemble's members on inputs, a block of members at a time, members first."""


@dataclass(frozen=True)
class PredictiveEnsemble:
    """An ensemble by what it predicts.

    Args:
        name: Name of the ensemble.
        note: What its members are.
        stream: Outputs of its members on inputs, a block of members at a time.
    """

    name: str
    note: str
    stream: Stream

    @classmethod
    def of(
        cls,
        name: str,
        note: str,
        networks: Collection,
        *,
        memory_gb: float,
        prepare: Callable[[Collection], Collection] | None = None,
    ) -> "PredictiveEnsemble":
        """Networks as an ensemble.

        Args:
            name: Name of the ensemble.
            note: What its members are.
            networks: The members.
            memory_gb: Memory for a block of networks and what they predict, in GiB.
            prepare: What is done to each block first, such as estimating BatchNorm statistics.
        """
        return cls(name, note, partial(outputs_in_blocks, networks, memory_gb=memory_gb, prepare=prepare))

    @classmethod
    def dropout(cls, fitted: FittedDropout, n: int, *, seed: int) -> "PredictiveEnsemble":
        """Passes of a network with dropout as an ensemble.

        Args:
            fitted: A network that was trained with dropout.
            n: Number of passes.
            seed: Seed of the dropout.
        """
        rate = f"dropout {fitted.rate:g} (the best rate on validation data)"
        note = f"{n} passes of one dense network trained with {rate}"
        return cls("MC dropout", note, lambda x: fitted.passes(x, n, seed=seed))

    def predict(self, inputs: Sequence[Tree], total: Callable[[], OutputSum] = PredictionSum) -> list[Any]:
        """Predictions on several sets of inputs, in order.

        Sets of one shape go through the networks together, as what a block of networks needs before it predicts
        (BatchNorm statistics of the training data) takes longer than predictions do.

        Args:
            inputs: Sets of inputs.
            total: Makes what gathers the members' outputs on a set.
        """
        results: dict[int, Any] = {}
        for members in _of_one_shape(inputs):
            sums = [total() for _ in members]
            counts = [trees.samples(inputs[i]) for i in members]
            starts = [sum(counts[:k]) for k in range(len(counts))]
            for outputs in self.stream(trees.concatenate([inputs[i] for i in members])):
                for one, start, count in zip(sums, starts, counts, strict=True):
                    one.add(trees.take(outputs, (slice(None), slice(start, start + count))))
            results |= {i: one.result() for i, one in zip(members, sums, strict=True)}
        return [results[i] for i in range(len(inputs))]


def _of_one_shape(inputs: Sequence[Tree]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for i, x in enumerate(inputs):
        shapes = tuple((name, tensor.shape[1:], tensor.dtype) for name, tensor in trees.leaves(x))
        groups.setdefault(shapes, []).append(i)
    return list(groups.values())


@dataclass(frozen=True)
class ShiftedSplit:
    """Test samples under one shift.

    Args:
        kind: Kind of shift; "none" for the samples as they are.
        severity: Strength from 1 to 3; 0 for the samples as they are.
        data: The shifted samples with their labels.
    """

    kind: str
    severity: int
    data: Split


@dataclass(frozen=True)
class PredictiveBenchmark:
    """The inputs that all ensembles predict.

    Args:
        task: The task.
        ood: Up to 2,000 out-of-distribution inputs; None where there are none.
        shifted: Up to 500 test samples, as they are and under each shift; empty if shifts are left out.
    """

    task: Task
    ood: Tree | None
    shifted: list[ShiftedSplit]

    @classmethod
    def of(cls, task: Task, *, seed: int, shifted: bool = True) -> "PredictiveBenchmark":
        """The inputs of a task.

        Args:
            task: The task.
            seed: Seed of the choice of samples, of shifts, and of OOD inputs that are made from test inputs.
            shifted: Whether shifts are part of the benchmark.
        """
        ood = _ood(task, seed) if isinstance(scorer_of(task), OneLabel) else None
        if not shifted:
            return cls(task, ood, [])
        chosen = torch.randperm(len(task.test), generator=seeds.generator(seed, "shifted samples"))[:_SHIFTED]
        plain = task.test.batch(chosen)
        moved = [
            ShiftedSplit(shift.kind, shift.severity, Split(shift.x, plain.y))
            for shift in shifts(task, plain.x, seed=seed)
        ]
        if not moved and not isinstance(plain.x, Tensor):
            return cls(task, ood, [])
        return cls(task, ood, [ShiftedSplit("none", 0, plain), *moved])

    @cached_property
    def scorer(self) -> Scorer:
        """How networks are scored on the task."""
        return scorer_of(self.task)

    @property
    def left_out(self) -> list[str]:
        """What does not apply to the task, a line each; nothing for classifiers of one label of one tensor."""
        lines: list[str] = []
        inputs = self.task.test.head(1).x
        one_label, lone = isinstance(self.scorer, OneLabel), isinstance(inputs, Tensor)
        if not one_label:
            lines.append(
                "Left out: temperatures, Brier score, confusion, intervals of ensembles' metrics and the detection of "
                "out-of-distribution inputs, which are for classifiers of one label a sample."
            )
        elif self.ood is None:
            lines.append(
                "Left out: the detection of out-of-distribution inputs, as inputs are several tensors and the task has "
                "no out-of-distribution inputs of its own (ood=)."
            )
        if not lone or (not one_label and not inputs.is_floating_point()):
            what = "are several tensors" if not lone else "are no numbers on a scale"
            lines.append(f"Left out: shifts of the inputs, as these {what}.")
        return lines

    @property
    def ood_source(self) -> str:
        """What the OOD inputs are; empty where there are none."""
        if self.ood is None:
            return ""
        own = "the task's own out-of-distribution inputs"
        return own if self.task.ood is not None else "test inputs with their values in random order"

    def run(self, ensemble: PredictiveEnsemble, predicted: Any = None) -> PredictiveResult:
        """All results of one ensemble.

        Args:
            ensemble: The ensemble.
            predicted: Its predictions on the test split, if they are known.
        """
        return (
            self._one_label(ensemble, predicted)
            if isinstance(self.scorer, OneLabel)
            else self._other(ensemble, predicted)
        )

    def _other(self, ensemble: PredictiveEnsemble, predicted: JointOutputs | None) -> PredictiveResult:
        """Metrics as they are and under each shift."""
        test, scorer = self.task.test, self.scorer
        total = cast("Callable[[], OutputSum]", scorer.total)
        inputs: list[Tree] = [part.data.x for part in self.shifted]
        rest: list[JointOutputs] = ensemble.predict(inputs if predicted else [*inputs, test.x], total)
        on_test = predicted or rest.pop()
        shifted = [
            ShiftResult(part.kind, part.severity, scorer.shifted(predictions, part.data))
            for part, predictions in zip(self.shifted, rest, strict=True)
        ]
        metrics = scorer.ensemble(on_test, test)
        return PredictiveResult(
            ensemble.name, ensemble.note, on_test.networks, metrics, None, None, None, None, shifted
        )

    def _one_label(self, ensemble: PredictiveEnsemble, predicted: Predictions | None) -> PredictiveResult:
        """Metrics, temperature, detection of OOD inputs, and metrics under each shift."""
        task, kind = self.task, self.task.output_kind
        y = kind.targets(task.test.y)
        inputs = [task.validation.x, *([] if self.ood is None else [self.ood]), *(part.data.x for part in self.shifted)]
        total = partial(PredictionSum, kind)
        predictions = ensemble.predict(inputs if predicted else [*inputs, task.test.x], total)
        on_validation, *rest = predictions
        on_ood = None if self.ood is None else rest.pop(0)
        on_test = predicted or rest.pop()
        temperature = calibration.fit_temperature(on_validation.joint, kind.targets(task.validation.y))
        by_information = (
            _detection(on_test.mutual_information, on_ood.mutual_information)
            if on_ood is not None and on_test.networks > 1
            else None
        )
        return PredictiveResult(
            ensemble.name,
            ensemble.note,
            on_test.networks,
            metrics=ensemble_metrics(on_test, y),
            temperature=temperature,
            scaled=predictor_metrics(on_test.joint / temperature, y),
            by_entropy=None if on_ood is None else _detection(on_test.entropy, on_ood.entropy),
            by_mutual_information=by_information,
            shifts=[
                ShiftResult(part.kind, part.severity, self.scorer.shifted(predictions, part.data))
                for part, predictions in zip(self.shifted, rest, strict=True)
            ],
        )


def _detection(test: Float[Tensor, " s"], ood: Float[Tensor, " t"]) -> Detection:
    return Detection(ood_detection.auroc(test, ood), ood_detection.fpr95(test, ood))


def _ood(task: Task, seed: int) -> Tree | None:
    """The task's own OOD inputs, or test inputs with values in random order; None if those are several tensors."""
    if task.ood is None and not isinstance(task.test.head(1).x, Tensor):
        return None
    ood = task.ood() if task.ood is not None else _shuffled(task.test.x, seed)
    order = torch.randperm(trees.samples(ood), generator=seeds.generator(seed, "foreign inputs used"))
    return trees.take(ood, order[:_OOD])


def _shuffled(x: Tensor, seed: int) -> Tensor:
    """Every input's own values, in an order of its own."""
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    order = torch.rand(flat.shape, generator=seeds.generator(seed, "foreign inputs")).argsort(1)
    return flat.gather(1, order).reshape(x.shape)
