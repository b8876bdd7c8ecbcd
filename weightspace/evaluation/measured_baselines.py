"""The baselines beside the samples, measured: points of their curves, and the rows of the report."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.evaluation.baselines import Baselines
from weightspace.evaluation.groups import CanonicalForm, Inputs
from weightspace.evaluation.measure import MeasuredGroup, TrainingReference
from weightspace.evaluation.parts import Part
from weightspace.networks.collection import Collection
from weightspace.report.results import CurveResult, GroupResult
from weightspace.runtime import seeds

_FEWEST, _CURVE = 12, 16  # networks of a baseline, and at most at each point of a curve


def baselines_of(
    inputs: Inputs,
    samples: MeasuredGroup,
    training: TrainingReference,
    canonical: CanonicalForm,
    components: int | None,
) -> Baselines:
    """The baselines beside some samples, not yet made.

    Args:
        inputs: The collections that the evaluation is about.
        samples: The networks to judge, measured.
        training: The training networks.
        canonical: Brings networks into the form in which distances mean something.
        components: Principal components of the Gaussian and KDE baselines; None is 128, or what fits.
    """
    random = seeds.generator(training.seed, "pool")
    chosen = torch.randperm(len(inputs.training), generator=random)[: canonical.at_once].sort().values
    everything = len(chosen) == len(inputs.training)
    pool = training.training if everything else training.training[chosen]
    return Baselines(
        pool,
        inputs.training if everything else inputs.training[chosen],
        n=max(3, min(max(_FEWEST, len(inputs.samples)), canonical.at_once)),
        density=samples.result.median("density"),
        components=_components(pool, components),
        symmetry=canonical.symmetry,
        seed=training.seed,
        device=training.device,
        gains=canonical.gains,
    )


@dataclass(frozen=True)
class Curves:
    """The points of the baselines' curves.

    Args:
        made: The baselines.
        training: The training networks.
    """

    made: Baselines
    training: TrainingReference

    @classmethod
    def of(cls, made: Baselines, training: TrainingReference) -> "Curves":
        """Curves of fewer networks at each point than rows of the report have.

        Args:
            made: The baselines.
            training: The training networks.
        """
        return cls(made.fewer(_CURVE), training)

    @property
    def parts(self) -> Sequence[Part]:
        points = enumerate(self.made.curve_points())
        return [Part(f"curve-{i:02d}", f"{point.family} at {point.level!r}", CurveResult) for i, point in points]

    def measure(self, i: int) -> CurveResult | None:
        point = self.made.curve_points()[i]
        return self.training.measure_point(point.family, point.level, point.make())

    def broken(self, results: Sequence[CurveResult | None]) -> list[str]:
        """The points of which a figure is not finite, in words.

        Args:
            results: The results of all points.
        """
        points = zip(self.made.curve_points(), results, strict=True)
        return [f"{point.family} at {point.level:.3g}" for point, result in points if result is None]


@dataclass(frozen=True)
class Rows:
    """The baselines' rows of the report.

    Args:
        made: The baselines.
        training: The training networks.
        canonical: Brings networks into the form in which distances mean something.
        distance: Length of the noise of the baseline that is as far from the training networks as the samples are.
        sigma: Standard deviation of the noise at which errors overlap with the training networks' as the samples' do.
        held_out: Distances of held-out networks to the nearest training network, for Z_U.
    """

    made: Baselines
    training: TrainingReference
    canonical: CanonicalForm
    distance: float
    sigma: float
    held_out: Float[Tensor, " m"] | None

    @classmethod
    def beside(
        cls,
        samples: MeasuredGroup,
        points: Sequence[CurveResult],
        made: Baselines,
        training: TrainingReference,
        canonical: CanonicalForm,
        held_out: Float[Tensor, " m"] | None,
    ) -> "Rows":
        """Baselines whose noise is as strong as the samples are novel.

        Args:
            samples: The networks to judge, measured.
            points: Points of the curves.
            made: The baselines.
            training: The training networks.
            canonical: Brings networks into the form in which distances mean something.
            held_out: Distances of held-out networks to the nearest training network, for Z_U.
        """
        equal = _equal_errors if training.scorer.reported is None else _first_equal
        distance = samples.around.nearest.first.quantile(0.5).item()
        return cls(made, training, canonical, distance, equal(points, samples.result), held_out)

    @property
    def parts(self) -> Sequence[Part]:
        planned = self.made.groups(distance=self.distance, sigma=self.sigma)
        return [Part(f"baseline-{i:02d}", group.name, GroupResult) for i, group in enumerate(planned)]

    def measure(self, i: int) -> GroupResult | None:
        group = self.made.groups(distance=self.distance, sigma=self.sigma)[i]
        canonical = self.canonical.group(group.name, group.note, group.make())
        found = self.training.measure_finite(canonical, held_out=self.held_out)
        return None if found is None else found.result

    def broken(self, results: Sequence[GroupResult | None]) -> list[str]:
        """The baselines of which a figure is not finite.

        Args:
            results: The results of all.
        """
        return [part.what for part, result in zip(self.parts, results, strict=True) if result is None]


def _components(pool: Collection, components: int | None) -> int:
    centred = pool.weights.double() - pool.weights.double().mean(0)
    rank = int(torch.linalg.matrix_rank(centred @ centred.T, hermitian=True))
    return max(1, min(components or 128, len(pool) - 1, rank))


def _equal_errors(points: Sequence[CurveResult], samples: GroupResult) -> float:
    """The noise at which errors are as like the training networks' as the samples' are; between points linearly."""
    noise = sorted((p for p in points if p.family == "noise"), key=lambda p: -p.error_iou)
    target = samples.mean("max_error_iou")
    at = bisect.bisect_left([-p.error_iou for p in noise], -target)
    if at == 0 or at == len(noise):  # more alike than with the least noise, or less than with the most
        return noise[min(at, len(noise) - 1)].level
    a, b = noise[at - 1], noise[at]
    share = (a.error_iou - target) / (a.error_iou - b.error_iou)
    return math.exp((1 - share) * math.log(a.level) + share * math.log(b.level))


def _first_equal(points: Sequence[CurveResult], samples: GroupResult) -> float:
    """The least noise at which errors are no more like the training networks' than the samples' are.

    Correlations of errors need not fall all the way as noise grows: broken networks err alike.
    """
    noise = sorted((p for p in points if p.family == "noise"), key=lambda p: p.level)
    target = samples.mean("max_error_iou")
    at = next((i for i, p in enumerate(noise) if p.error_iou < target), len(noise) - 1)
    if at == 0 or noise[at].error_iou >= target:
        return noise[at].level
    a, b = noise[at - 1], noise[at]
    share = (a.error_iou - target) / (a.error_iou - b.error_iou)
    return math.exp((1 - share) * math.log(a.level) + share * math.log(b.level))
