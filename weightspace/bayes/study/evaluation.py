"""Networks and posteriors as predictive distributions: one row of metrics each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from weightspace.bayes.draws import draw, predict_values
from weightspace.bayes.study.results import Row, ScoreRow, StudyRow
from weightspace.bayes.variational import STD
from weightspace.evaluation.ensembles import PredictiveBenchmark, PredictiveEnsemble
from weightspace.networks.collection import Collection
from weightspace.networks.outputs import Regression, like_targets
from weightspace.networks.placing import placed
from weightspace.report.metrics import ACCURACY, ReportedMetric
from weightspace.report.results import PredictiveResult
from weightspace.runtime import checks, devices, seeds
from weightspace.runtime.trees import Tree
from weightspace.tasks.arguments import check_task
from weightspace.tasks.task import Task

# Of regressions, by their predictive distributions.
_PREDICTIVE = (ReportedMetric("nll", False), ReportedMetric("coverage"))
_NORMAL = 1.96  # standard deviations of a 95 % interval


@dataclass(frozen=True)
class StudyEvaluation:
    """Measures predictive distributions on the test split of a task; temperatures come from the validation split.

    Args:
        task: Task whose test split is used.
        draws: Networks that are drawn from each posterior.
        seed: Seed of the draws and of the OOD inputs.
        memory_gb: Memory for a block of networks and their predictions, in GiB.
        device: Device to predict on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

    Raises:
        InputError: The device is not available.
    """

    task: Task
    draws: int = 20
    seed: int = 0
    memory_gb: float = 1.0
    device: str = "auto"

    def __post_init__(self) -> None:
        checks.settle(self, check_task, "task")
        checks.settle(self, checks.count, "draws", at_least=1)
        checks.settle(self, checks.seed, "seed")
        checks.settle(self, checks.number, "memory_gb", above=0)
        object.__setattr__(self, "device", devices.pick(self.device))

    @cached_property
    def benchmark(self) -> PredictiveBenchmark:
        """The inputs that every method predicts: validation, test and OOD."""
        return PredictiveBenchmark.of(self.task, seed=self.seed, shifted=False)

    @cached_property
    def metrics(self) -> list[ReportedMetric] | None:
        """Metrics that rows have by name, the main one first.

        None for classifiers of one label with OOD inputs, whose rows are `StudyRow`s.
        """
        if self.benchmark.ood is not None:
            return None
        scoring = self.benchmark.scorer.reported
        found = [ACCURACY, ReportedMetric("nll", False)] if scoring is None else list(scoring.metrics)
        if self._with_noise:
            found += [one for one in _PREDICTIVE if one.name in self._with_noise]
        return found

    def rows(self, method: str, networks: Collection) -> list[Row]:
        """One row for each network: a posterior by its draws, any other network by itself.

        Args:
            method: Name of the method.
            networks: Networks of one density.
        """
        rows: list[Row] = []
        for i in range(len(networks)):
            one = networks[[i]]
            seed = seeds.derive(self.seed, "judged", i)  # each network has its own noise
            rows.append(self._row(method, one, seed, network=i))
        return rows

    def ensemble_row(self, method: str, networks: Collection) -> Row:
        """One row for all networks as an ensemble; posteriors give the mixture of their draws.

        Args:
            method: Name of the method.
            networks: Networks of one density.
        """
        return self._row(method, networks, self.seed, network=0, ensemble=True)

    def predictions_row(self, method: str, stream: Callable[[Tree], Sequence[Tree]], density: float = 1.0) -> Row:
        """One row for any other source of predictions.

        Args:
            method: Name of the method.
            stream: Function from inputs to outputs of the members, as blocks (n, samples, ...).
            density: Density of the members.
        """
        result = self.benchmark.run(PredictiveEnsemble(method, "", stream))
        if self.metrics is None:
            return StudyRow(method=method, network=0, density=density, **_metrics(result))
        return ScoreRow(method=method, network=0, density=density, scores=self._scores(result))

    def _row(self, method: str, networks: Collection, seed: int, **place: Any) -> Row:
        """The row of networks as one predictive distribution: posteriors by their draws."""
        posterior = STD in networks.extras
        members = draw(networks, self.draws, seed=seed) if posterior else networks
        there = partial(placed, device=self.device)
        result = self.benchmark.run(PredictiveEnsemble.of("", "", members, memory_gb=self.memory_gb, prepare=there))
        if self.metrics is None:
            return StudyRow(method=method, **place, **_densities(networks), **_metrics(result))
        scores = self._scores(result)
        if posterior and isinstance(self.task.output_kind, Regression):
            scores |= self._predictive(networks, seed)
        return ScoreRow(method=method, **place, **_densities(networks), scores=scores)

    def _scores(self, result: PredictiveResult) -> dict[str, float]:
        assert self.metrics is not None, "rows have metrics by name"
        left_out = self._with_noise  # the spread of the members alone says nothing of the targets
        return {one.name: result.metrics[one.name] for one in self.metrics if one.name not in left_out}

    @cached_property
    def _with_noise(self) -> set[str]:
        """Metrics of regressions that the noise belongs to; none that the task has by itself."""
        own = {metric.name for metric in self.task.scores}
        return {one.name for one in _PREDICTIVE} - own if isinstance(self.task.output_kind, Regression) else set()

    def _predictive(self, posteriors: Collection, seed: int) -> dict[str, float]:
        """Metrics of the predictive distribution of regressions, noise included; empty for a single draw."""
        if self.draws * len(posteriors) < 2:
            return {}
        test = self.task.test
        predicted = predict_values(posteriors, test.x, self.draws, seed=seed, device=self.device)
        y = like_targets(self.task.output_kind.targets(test.y), predicted.mean)
        covered = (predicted.mean - y).abs() <= _NORMAL * predicted.stddev
        figures = {"nll": -predicted.log_prob(y).mean().item(), "coverage": covered.double().mean().item()}
        return {name: value for name, value in figures.items() if name in self._with_noise}


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
