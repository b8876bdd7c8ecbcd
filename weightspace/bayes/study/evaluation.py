"""Networks and posteriors as predictive distributions: one row of metrics each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import Tensor

from weightspace.bayes.draws import draw
from weightspace.bayes.search import STD
from weightspace.bayes.study.results import StudyRow
from weightspace.errors import InputError
from weightspace.evaluation.ensembles import PredictiveBenchmark, PredictiveEnsemble
from weightspace.networks.collection import Collection
from weightspace.report.results import PredictiveResult
from weightspace.runtime import seeds
from weightspace.tasks.task import Task


@dataclass(frozen=True)
class StudyEvaluation:
    """Measures predictive distributions on the test split of a task; temperatures come from the validation split.

    Args:
        task: Task whose test split is used.
        draws: Networks that are drawn from each posterior.
        seed: Seed of the draws and of the OOD inputs.
        memory_gb: Memory for a block of networks and their predictions, in GiB.
    """

    task: Task
    draws: int = 20
    seed: int = 0
    memory_gb: float = 1.0

    @cached_property
    def benchmark(self) -> PredictiveBenchmark:
        """The inputs that every method predicts: validation, test and OOD."""
        benchmark = PredictiveBenchmark.of(self.task, seed=self.seed, shifted=False)
        if benchmark.ood is None:
            raise InputError(
                f"a study measures classifiers of one label with out-of-distribution inputs, which task "
                f"{self.task.name!r} has not: use evaluate, or give the task out-of-distribution inputs (ood=)"
            )
        return benchmark

    def rows(self, method: str, networks: Collection) -> list[StudyRow]:
        """One row for each network: a posterior by its draws, any other network by itself.

        Args:
            method: Name of the method.
            networks: Networks of one density.
        """
        rows: list[StudyRow] = []
        for i in range(len(networks)):
            one = networks[[i]]
            seed = seeds.derive(self.seed, "judged", i)  # each network has its own noise
            drawn = draw(one, self.draws, seed=seed) if STD in one.extras else one
            rows.append(StudyRow(method=method, network=i, **_densities(one), **self._metrics(drawn)))
        return rows

    def ensemble_row(self, method: str, networks: Collection) -> StudyRow:
        """One row for all networks as an ensemble; posteriors give the mixture of their draws.

        Args:
            method: Name of the method.
            networks: Networks of one density.
        """
        members = draw(networks, self.draws, seed=self.seed) if STD in networks.extras else networks
        return StudyRow(method=method, network=0, ensemble=True, **_densities(networks), **self._metrics(members))

    def predictions_row(
        self, method: str, stream: Callable[[Tensor], Sequence[Tensor]], density: float = 1.0
    ) -> StudyRow:
        """One row for any other source of predictions.

        Args:
            method: Name of the method.
            stream: Function from inputs to logits of the members, as blocks (n, samples, classes).
            density: Density of the members.
        """
        result = self.benchmark.run(PredictiveEnsemble(method, "", stream))
        return StudyRow(method=method, network=0, density=density, **_metrics(result))

    def _metrics(self, networks: Collection) -> dict[str, Any]:
        ensemble = PredictiveEnsemble.of("", "", networks, memory_gb=self.memory_gb)
        return _metrics(self.benchmark.run(ensemble))


def _densities(networks: Collection) -> dict[str, Any]:
    """Density, and how it is spread over the layers."""
    layout, kept = networks.layout, networks.masks.double().mean(0)
    layers = {e.name: kept[layout.slices[e.name]].mean().item() for e in layout.weights}
    return {"density": networks.densities.mean().item(), "layer_densities": layers}


def _metrics(result: PredictiveResult) -> dict[str, Any]:
    metrics, scaled = result.metrics, result.scaled
    entropy, information = result.by_entropy, result.by_mutual_information
    assert scaled is not None, "classifiers of one label have a temperature"
    assert entropy is not None, "the benchmark has OOD inputs"
    return {
        "accuracy": metrics.accuracy,
        "nll": metrics.nll,
        "brier": metrics.brier,
        "ece": metrics.ece,
        "adaptive_ece": metrics.adaptive_ece,
        "mace": metrics.mace,
        "temperature": result.temperature,
        "scaled_nll": scaled.nll,
        "scaled_brier": scaled.brier,
        "scaled_ece": scaled.ece,
        "scaled_mace": scaled.mace,
        "entropy_auroc": entropy.auroc,
        "entropy_fpr95": entropy.fpr95,
        "mutual_information_auroc": information and information.auroc,
        "mutual_information_fpr95": information and information.fpr95,
    }
