"""The baselines beside the samples, measured: points of their curves, and the rows of the report."""

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.evaluation.baselines import Baselines
from weightspace.evaluation.groups import CanonicalForm, Inputs
from weightspace.evaluation.measure import MeasuredGroup, TrainingReference
from weightspace.evaluation.parts import Parts
from weightspace.evaluation.planned import BaselineGroup, CurvePoint
from weightspace.networks.collection import Collection
from weightspace.report.results import CurveResult, GroupResult
from weightspace.runtime import seeds
from weightspace.runtime.progress import progress

_FEWEST, _CURVE = 12, 16  # networks of a baseline, and at most at each point of a curve


@dataclass(frozen=True)
class MeasuredBaselines:
    """The baselines, measured.

    Args:
        made: What made them.
        points: Points of their curves.
        sigma: Standard deviation of the noise at which errors overlap as the samples' do.
        results: Their rows in the report.
        left_out: What is so broken that a figure is not finite, a line each.
    """

    made: Baselines
    points: Sequence[CurveResult]
    sigma: float
    results: Sequence[GroupResult]
    left_out: Sequence[str]


def measure_baselines(
    inputs: Inputs,
    samples: MeasuredGroup,
    training: TrainingReference,
    canonical: CanonicalForm,
    components: int | None,
    *,
    held_out: Float[Tensor, " m"] | None,
    parts: Parts,
) -> MeasuredBaselines:
    """Make the baselines and measure them, one after another.

    Args:
        inputs: The collections that the evaluation is about.
        samples: The networks to judge, measured; the strength of noise is matched to them.
        training: The training networks.
        canonical: Brings networks into the form in which distances mean something.
        components: Principal components of the Gaussian and KDE baselines; None is 128, or what fits.
        held_out: Distances of held-out networks to the nearest training network, for Z_U.
        parts: Keeps what has been measured.
    """
    random = seeds.generator(training.seed, "pool")
    chosen = torch.randperm(len(inputs.training), generator=random)[: canonical.at_once].sort().values
    pool = training.training[chosen]
    made = Baselines(
        pool,
        inputs.training[chosen],
        n=max(3, min(max(_FEWEST, len(inputs.samples)), canonical.at_once)),
        density=samples.result.median("density"),
        components=_components(pool, components),
        symmetry=canonical.symmetry,
        seed=training.seed,
        device=training.device,
        gains=canonical.gains,
    )
    measured = _measure_curves(replace(made, n=min(_CURVE, made.n)), training, parts)
    points = [result for _, result in measured if result is not None]
    broken = [f"{point.family} at {point.level:.3g}" for point, result in measured if result is None]
    monotonic = training.scorer.reported is None
    sigma = (_equal_errors if monotonic else _first_equal)(points, samples.result)
    distance = samples.around.nearest.first.quantile(0.5).item()
    results: list[GroupResult] = []
    planned = made.groups(distance=distance, sigma=sigma)
    for i, group in enumerate(progress(planned, "baselines", total=len(planned))):

        def measure(group: BaselineGroup = group) -> GroupResult | None:
            found = training.measure_finite(canonical.group(group.name, group.note, group.make()), held_out=held_out)
            return None if found is None else found.result

        found = parts.kept(f"baseline-{i:02d}", group.name, GroupResult, measure)
        if found is None:
            broken.append(group.name)
        else:
            results.append(found)
    lines = [f"Left out: baselines whose loss or metrics are not finite: {', '.join(broken)}."] if broken else []
    return MeasuredBaselines(made, points, sigma, results, lines)


def _measure_curves(
    made: Baselines, training: TrainingReference, parts: Parts
) -> list[tuple[CurvePoint, CurveResult | None]]:
    """The points of the curves with their figures; None where one is not finite."""
    measured: list[tuple[CurvePoint, CurveResult | None]] = []
    for i, point in enumerate(progress(made.curve_points(), "baseline curves")):

        def measure(point: CurvePoint = point) -> CurveResult | None:
            return training.measure_point(point.family, point.level, point.make())

        what = f"{point.family} at {point.level!r}"
        measured.append((point, parts.kept(f"curve-{i:02d}", what, CurveResult, measure)))
    return measured


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
