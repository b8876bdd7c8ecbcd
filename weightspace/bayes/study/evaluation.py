"""Networks and posteriors as predictive distributions: one row of figures each."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from weightspace.bayes.draws import draw
from weightspace.bayes.search import STD
from weightspace.evaluation.ensembles import PredictiveBenchmark, PredictiveEnsemble
from weightspace.networks.collection import Collection
from weightspace.report.results import PredictiveResult
from weightspace.runtime import seeds
from weightspace.tasks.task import Task

_MEMORY = 2**30  # bytes for a block of networks and what they predict

Row = dict[str, object]


@dataclass(frozen=True)
class StudyEvaluation:
    """Measures predictive distributions on the test split; the temperature comes from validation data.

    Args:
        draws: networks drawn from each posterior.
        seed: of the draws and of the foreign inputs.
    """

    task: Task
    draws: int = 20
    seed: int = 0

    @cached_property
    def benchmark(self) -> PredictiveBenchmark:
        return PredictiveBenchmark.of(self.task, seed=self.seed, shifted=False)

    def rows(self, method: str, networks: Collection) -> list[Row]:
        """One row for each network: a posterior by its draws, any other by itself.

        Args:
            networks: all of one density.
        """
        found: list[Row] = []
        for i in range(len(networks)):
            one = networks[[i]]
            own = seeds.derive(self.seed, "judged", i)  # noise of its own for each
            drawn = draw(one, self.draws, seed=own) if STD in one.extras else one
            found.append({"method": method, "network": i} | _of(one) | self._row(drawn))
        return found

    def together(self, method: str, networks: Collection) -> Row:
        """One row for all networks as an ensemble; of posteriors, for the mixture of their draws."""
        members = draw(networks, self.draws, seed=self.seed) if STD in networks.extras else networks
        return {"method": method, "network": 0} | _of(networks) | self._row(members)

    def passes(self, method: str, stream: Callable[[Tensor], Sequence[Tensor]], density: float = 1.0) -> Row:
        """One row for any other source of predictions.

        Args:
            stream: logits of the members, blocks (n, samples, classes), for given inputs.
        """
        found = self.benchmark.run(PredictiveEnsemble(method, "", stream))
        return {"method": method, "network": 0, "density": density} | _figures(found)

    def _row(self, networks: Collection) -> Row:
        peer = PredictiveEnsemble.of("", "", networks, memory=_MEMORY, prepare=lambda part: part)
        return _figures(self.benchmark.run(peer))


def _of(networks: Collection) -> Row:
    """Density, and how it is spread over the layers."""
    layout, kept = networks.layout, networks.masks.double().mean(0)
    layers = [f"{e.name} {kept[layout.slices[e.name]].mean().item():.4f}" for e in layout.weights]
    return {"density": networks.densities.mean().item(), "layers": "; ".join(layers)}


def _figures(found: PredictiveResult) -> Row:
    named = {name: found.metrics[name] for name in ("accuracy", "nll", "brier", "ece", "adaptive ece", "mace")}
    scaled = {f"{name}, scaled": found.scaled[name] for name in ("nll", "brier", "ece", "mace")}
    return {**named, "temperature": found.temperature, **scaled, **found.detection}
