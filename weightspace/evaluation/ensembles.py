"""Ensembles as predictive distributions, benchmarked alike: calibration, out-of-distribution (OOD) inputs, shift."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.evaluation.dropout import FittedDropout
from weightspace.evaluation.measure import ensemble_metrics, predictor_metrics
from weightspace.evaluation.metrics import calibration, ood_detection
from weightspace.evaluation.predictions import Predictions, PredictionSum, logits_in_blocks
from weightspace.evaluation.shift import shifts
from weightspace.networks.collection import Collection
from weightspace.report.results import Detection, PredictiveResult, ShiftResult
from weightspace.runtime import seeds
from weightspace.tasks.task import Split, Task

_SHIFTED = 500  # test samples under each shift
_OOD = 2000  # out-of-distribution inputs

Stream = Callable[[Tensor], Iterable[Float[Tensor, "n s c"]]]
"""Logits of an ensemble's members on inputs, a block of members at a time."""


@dataclass(frozen=True)
class PredictiveEnsemble:
    """An ensemble by what it predicts.

    Args:
        name: Name of the ensemble.
        note: What its members are.
        stream: Logits of its members on inputs, a block of members at a time.
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
        return cls(name, note, partial(logits_in_blocks, networks, memory_gb=memory_gb, prepare=prepare))

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

    def predict(self, inputs: Sequence[Tensor]) -> list[Predictions]:
        """Predictions on several sets of inputs, in order.

        Sets of one shape go through the networks together, as what a block of networks needs before it predicts
        (BatchNorm statistics of the training data) takes longer than predictions do.

        Args:
            inputs: Sets of inputs.
        """
        results: dict[int, Predictions] = {}
        for members in _of_one_shape(inputs):
            sums = [PredictionSum() for _ in members]
            for logits in self.stream(torch.cat([inputs[i] for i in members])):
                parts = logits.split([len(inputs[i]) for i in members], dim=1)
                for total, part in zip(sums, parts, strict=True):
                    total.add(part)
            results |= {i: total.result() for i, total in zip(members, sums, strict=True)}
        return [results[i] for i in range(len(inputs))]


def _of_one_shape(inputs: Sequence[Tensor]) -> list[list[int]]:
    groups: dict[object, list[int]] = {}
    for i, x in enumerate(inputs):
        groups.setdefault((x.shape[1:], x.dtype), []).append(i)
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
        ood: Up to 2,000 out-of-distribution inputs.
        shifted: Up to 500 test samples, as they are and under each shift; empty if shifts are left out.
    """

    task: Task
    ood: Tensor
    shifted: list[ShiftedSplit]

    @classmethod
    def of(cls, task: Task, *, seed: int, shifted: bool = True) -> "PredictiveBenchmark":
        """The inputs of a task.

        Args:
            task: The task.
            seed: Seed of the choice of samples, of shifts, and of OOD inputs that are made from test inputs.
            shifted: Whether shifts are part of the benchmark.
        """
        ood = task.ood() if task.ood is not None else _shuffled(task.test.x, seed)
        ood = ood[torch.randperm(len(ood), generator=seeds.generator(seed, "foreign inputs used"))[:_OOD]]
        if not shifted:
            return cls(task, ood, [])
        chosen = torch.randperm(len(task.test), generator=seeds.generator(seed, "shifted samples"))[:_SHIFTED]
        plain = Split(task.test.x[chosen], task.test.y[chosen])
        moved = [
            ShiftedSplit(shift.kind, shift.severity, Split(shift.x, plain.y))
            for shift in shifts(task, plain.x, seed=seed)
        ]
        return cls(task, ood, [ShiftedSplit("none", 0, plain), *moved])

    @property
    def ood_source(self) -> str:
        """What the OOD inputs are."""
        own = "the task's own out-of-distribution inputs"
        return own if self.task.ood is not None else "test inputs with their values in random order"

    def run(self, ensemble: PredictiveEnsemble, predicted: Predictions | None = None) -> PredictiveResult:
        """All results of one ensemble.

        Args:
            ensemble: The ensemble.
            predicted: Its predictions on the test split, if they are known.
        """
        test, validation = self.task.test, self.task.validation
        inputs = [validation.x, self.ood, *(part.data.x for part in self.shifted)]
        on_validation, on_ood, *rest = ensemble.predict(inputs if predicted else [*inputs, test.x])
        on_test = predicted or rest.pop()
        temperature = calibration.fit_temperature(on_validation.joint, validation.y)
        by_information = (
            _detection(on_test.mutual_information, on_ood.mutual_information) if on_test.networks > 1 else None
        )
        return PredictiveResult(
            ensemble.name,
            ensemble.note,
            on_test.networks,
            metrics=ensemble_metrics(on_test, test.y),
            temperature=temperature,
            scaled=predictor_metrics(on_test.joint / temperature, test.y),
            by_entropy=_detection(on_test.entropy, on_ood.entropy),
            by_mutual_information=by_information,
            shifts=[_shift_result(*pair) for pair in zip(self.shifted, rest, strict=True)],
        )


def _detection(test: Float[Tensor, " s"], ood: Float[Tensor, " t"]) -> Detection:
    return Detection(ood_detection.auroc(test, ood), ood_detection.fpr95(test, ood))


def _shift_result(shifted: ShiftedSplit, predictions: Predictions) -> ShiftResult:
    metrics = predictor_metrics(predictions.joint, shifted.data.y)
    return ShiftResult(shifted.kind, shifted.severity, metrics.accuracy, metrics.nll, metrics.ece)


def _shuffled(x: Tensor, seed: int) -> Tensor:
    """Every input's own values, in an order of its own."""
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    order = torch.rand(flat.shape, generator=seeds.generator(seed, "foreign inputs")).argsort(1)
    return flat.gather(1, order).reshape(x.shape)
