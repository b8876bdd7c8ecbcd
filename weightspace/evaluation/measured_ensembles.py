"""Ensembles of each group, and MC dropout, on the inputs that all of them predict."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from weightspace.evaluation.dropout import MCDropout
from weightspace.evaluation.ensembles import PredictiveBenchmark, PredictiveEnsemble
from weightspace.evaluation.groups import Inputs
from weightspace.evaluation.measure import TrainingReference
from weightspace.evaluation.measured_groups import MeasuredGroups
from weightspace.evaluation.parts import Part
from weightspace.evaluation.predictions import COMPARED
from weightspace.networks.collection import Collection
from weightspace.report.results import PredictiveResult

_DROPOUT = "MC dropout"


def members(inputs: Inputs) -> int:
    """Members of each ensemble, where there are as many networks.

    Args:
        inputs: The collections that the evaluation is about.
    """
    return min(len(inputs.samples), len(inputs.training), COMPARED)


@dataclass(frozen=True)
class Ensembles:
    """Ensembles to run on the benchmark, each a part.

    Args:
        benchmark: The inputs that all ensembles predict.
        training: The training networks.
        networks: What each is, the name of its networks' row, and the networks, by name.
        predicted: Predictions on the test split, of those that are known.
        dropout: How the MC-dropout row is trained; None leaves it out.
        n: Number of passes of it.
    """

    benchmark: PredictiveBenchmark
    training: TrainingReference
    networks: Mapping[str, tuple[str, str, Collection]]
    predicted: Mapping[str, Any]
    dropout: MCDropout | None
    n: int

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        groups: MeasuredGroups,
        benchmark: PredictiveBenchmark,
        training: TrainingReference,
        dropout: MCDropout | None,
    ) -> "Ensembles":
        """As many networks of every collection, the first training network, and MC dropout.

        Args:
            inputs: The collections that the evaluation is about.
            groups: Those that were measured.
            benchmark: The inputs that all ensembles predict.
            training: The training networks.
            dropout: How the MC-dropout row is trained; None leaves it out.
        """
        n, one_of = members(inputs), f"one of the training {inputs.kind}"
        networks = {name: (f"an ensemble of {min(n, len(c))} of them", name, c[:n]) for name, c in inputs.all.items()}
        networks[one_of] = "the first", inputs.training_name, inputs.training[:1]
        predicted = {group.result.name: group.scored.predictions for group in groups.main if group.result.count <= n}
        return cls(replace(benchmark, task=training.task), training, networks, predicted, dropout, n)

    @property
    def parts(self) -> Sequence[Part]:
        names = [*self.networks, *([] if self.dropout is None else [_DROPOUT])]
        return [Part(f"ensemble-{i:02d}", name, PredictiveResult) for i, name in enumerate(names)]

    def measure(self, i: int) -> PredictiveResult:
        name = self.parts[i].what
        return self.benchmark.run(self._ensemble(name), self.predicted.get(name))

    def _ensemble(self, name: str) -> PredictiveEnsemble:
        training = self.training
        if name not in self.networks:
            assert self.dropout is not None
            trained = self.dropout.fit(training.task, seed=training.seed, device=training.device)
            return PredictiveEnsemble.dropout(trained, self.n, seed=training.seed)
        note, row, networks = self.networks[name]
        prepare = partial(training.prepared, row=row)
        return PredictiveEnsemble.of(name, note, networks, memory_gb=training.memory_gb, prepare=prepare)
