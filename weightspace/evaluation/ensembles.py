"""Ensembles as predictive distributions: calibration, foreign inputs, shift; equal numbers, validation temperature."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.evaluation.dropout import FittedDropout
from weightspace.evaluation.measure import ensemble_metrics, of_joint
from weightspace.evaluation.metrics import calibration, ood_detection
from weightspace.evaluation.predictions import Predictions, PredictionSum, logits_in_blocks
from weightspace.evaluation.shift import shifts
from weightspace.networks.collection import Collection
from weightspace.report.results import PredictiveResult
from weightspace.runtime import seeds
from weightspace.tasks.task import Split, Task

_SHIFTED = 500  # test samples under each shift
_FOREIGN = 2000  # out-of-distribution inputs

Stream = Callable[[Tensor], Iterable[Float[Tensor, "n s c"]]]


@dataclass(frozen=True)
class PredictiveEnsemble:
    """An ensemble by what it predicts.

    Args:
        stream: logits of its members on given inputs, a block of members at a time.
    """

    name: str
    note: str
    stream: Stream

    @classmethod
    def of(
        cls, name: str, note: str, networks: Collection, *, memory: int, prepare: Callable[[Collection], Collection]
    ) -> "PredictiveEnsemble":
        return cls(name, note, partial(logits_in_blocks, networks, memory=memory, prepare=prepare))

    @classmethod
    def dropout(cls, fitted: FittedDropout, n: int, *, seed: int) -> "PredictiveEnsemble":
        note = (
            f"{n} passes of one dense network trained with dropout {fitted.rate:g} (the best rate on validation data)"
        )
        return cls("MC dropout", note, lambda x: fitted.passes(x, n, seed=seed))

    def predict(self, inputs: Mapping[str, Tensor]) -> dict[str, Predictions]:
        """What it predicts on several sets of inputs, by name.

        Sets of one shape go through the networks together, as what a block of networks needs before it predicts
        (BatchNorm statistics of the training data) takes longer than predictions do.
        """
        found: dict[str, Predictions] = {}
        for names in _of_one_shape(inputs):
            sums = [PredictionSum() for _ in names]
            for logits in self.stream(torch.cat([inputs[name] for name in names])):
                parts = logits.split([len(inputs[name]) for name in names], dim=1)
                for total, part in zip(sums, parts, strict=True):
                    total.add(part)
            found |= {name: total.result() for name, total in zip(names, sums, strict=True)}
        return found


def _of_one_shape(inputs: Mapping[str, Tensor]) -> list[list[str]]:
    groups: dict[object, list[str]] = {}
    for name, x in inputs.items():
        groups.setdefault((x.shape[1:], x.dtype), []).append(name)
    return list(groups.values())


@dataclass(frozen=True)
class PredictiveBenchmark:
    """The inputs that all ensembles are tried on.

    Args:
        foreign: up to 2,000 out-of-distribution inputs.
        shifted: up to 500 test samples as they are ("none 0") and under each shift, by kind and severity.
    """

    task: Task
    foreign: Tensor
    shifted: list[tuple[str, Split]]

    @classmethod
    def of(cls, task: Task, *, seed: int, shifted: bool = True) -> "PredictiveBenchmark":
        """The inputs of a task.

        Args:
            shifted: try the ensembles under shift as well.
        """
        foreign = task.ood() if task.ood is not None else _shuffled(task.test.x, seed)
        foreign = foreign[
            torch.randperm(len(foreign), generator=seeds.generator(seed, "foreign inputs used"))[:_FOREIGN]
        ]
        if not shifted:
            return cls(task, foreign, [])
        chosen = torch.randperm(len(task.test), generator=seeds.generator(seed, "shifted samples"))[:_SHIFTED]
        some = Split(task.test.x[chosen], task.test.y[chosen])
        moved = [("none 0", some)] + [
            (f"{shift.kind} {shift.severity}", Split(shift.x, some.y)) for shift in shifts(task, some.x, seed=seed)
        ]
        return cls(task, foreign, moved)

    @staticmethod
    def foreign_of(task: Task) -> str:
        """What the out-of-distribution inputs are."""
        own = "the task's own out-of-distribution inputs"
        return own if task.ood is not None else "test inputs with their values in random order"

    def run(self, ensemble: PredictiveEnsemble, predicted: Predictions | None = None) -> PredictiveResult:
        """All results of one ensemble.

        Args:
            predicted: what it predicts on the test split, if that is known.
        """
        test, validation = self.task.test, self.task.validation
        inputs = {"validation": validation.x, "foreign": self.foreign} | {name: part.x for name, part in self.shifted}
        on = ensemble.predict(inputs | ({} if predicted else {"test": test.x}))
        own, away = predicted or on["test"], on["foreign"]
        temperature = calibration.fit_temperature(on["validation"].joint, validation.y)
        scores = {"entropy": (own.entropy, away.entropy)}
        if own.networks > 1:
            scores["mutual information"] = (own.mutual_information, away.mutual_information)
        found = {
            f"{metric} by {name}": f(a, b)
            for name, (a, b) in scores.items()
            for metric, f in (("auroc", ood_detection.auroc), ("fpr95", ood_detection.fpr95))
        }
        moved = {
            name: {k: v for k, v in of_joint(on[name].joint, part.y).items() if k in ("accuracy", "nll", "ece")}
            for name, part in self.shifted
        }
        return PredictiveResult(
            ensemble.name, ensemble.note, own.networks, ensemble_metrics(own, test.y), temperature,
            of_joint(own.joint / temperature, test.y), found, moved,
        )  # fmt: skip


def _shuffled(x: Tensor, seed: int) -> Tensor:
    """Every input's own values, in an order of its own."""
    flat = x.reshape(len(x), math.prod(x.shape[1:]))
    order = torch.rand(flat.shape, generator=seeds.generator(seed, "foreign inputs")).argsort(1)
    return flat.gather(1, order).reshape(x.shape)
