"""evaluate: networks beside their training networks and the baselines, in one report."""

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from weightspace.align import WeightMatching
from weightspace.evaluation.baselines import EQUAL_ERRORS, NAMES, Baselines
from weightspace.evaluation.dropout import MCDropout
from weightspace.evaluation.ensembles import PredictiveBenchmark, PredictiveEnsemble
from weightspace.evaluation.figure_data import FigureInputs, figure_data
from weightspace.evaluation.groups import SAMPLES, CanonicalForm, Group, Inputs
from weightspace.evaluation.measure import MeasuredGroup, TrainingReference
from weightspace.evaluation.neighbours import distances_among
from weightspace.evaluation.predictions import COMPARED
from weightspace.evaluation.verdicts import Evidence, better_ensemble, judge_claims
from weightspace.networks.collection import Collection
from weightspace.networks.outputs import Regression
from weightspace.report.data import ReportSettings
from weightspace.report.knowledge import FlowKnowledge
from weightspace.report.report import Report
from weightspace.report.results import CurveResult, GroupResult, PredictiveResult, Verdict
from weightspace.runtime import checks, devices, seeds
from weightspace.runtime.progress import progress, whole
from weightspace.tasks.arguments import check_task
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task

_FEWEST, _CURVE = 12, 16  # networks of a baseline, and at most at each point of a curve
_PARTS = 8  # collections and blocks that are in memory together


def evaluate(
    samples: Collection,
    task: Task,
    *,
    training: Collection,
    held_out: Collection | None = None,
    others: Mapping[str, Collection] | None = None,
    align: WeightMatching | None = WeightMatching(),
    components: int | None = None,
    performing: float = 0.95,
    dropout: MCDropout | None = MCDropout(),
    knowledge: FlowKnowledge | None = None,
    memory_gb: float = 2.0,
    seed: int = 0,
    device: str = "auto",
) -> Report:
    """Measure networks on the test split, beside the networks they were learned from and baselines.

    Classifiers of one label a sample are judged by accuracy and likelihood, all others by the task's main metric and
    its loss; the report names what does not apply to them.

    Distances are canonical: all networks are aligned to the training networks' mean first. Networks with BatchNorm get
    the same pass over training data in every row.

    Args:
        samples: Networks to judge.
        task: Task that the networks were trained on.
        training: Networks that the generator learned from.
        held_out: Networks of the same recipe that it has not seen; without them nothing says how far new networks are,
            beyond the training networks' own spread.
        others: Further collections to measure, by name, such as the dense networks.
        align: How networks are aligned before distances are taken; None compares networks as they are.
        components: Principal components of the Gaussian and KDE baselines; by default 128 or what fits.
        performing: Share of the training networks' median accuracy from which a network counts as performing. For other
            metrics the median times this share, or over it, whichever is worse.
        dropout: How the MC-dropout row is trained, from scratch by the task's recipe; None leaves it out.
        knowledge: What the generator's flow knows beyond a Gaussian (`generator.knowledge`, or
            `generator.knowledge_of(held_out, tickets)`), for a verdict and a table.
        memory_gb: Memory for all that is held at once, in GiB. Collections that do not fit are spooled to a temporary
            folder, and baselines are made from and in as many networks as fit.
        seed: Seed of baselines, shifts and intervals.
        device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.
            Blocks of networks and inputs go there one by one; metrics are taken on the CPU.

    Raises:
        LayoutMismatch: A collection is not of the task's architecture.
        InputError: There are fewer than 3 training networks, each network has data of its own, or an option is out of
            range.
    """
    require_samples(check_task(task), "evaluate")
    inputs = Inputs(samples, training, held_out, {} if others is None else others)
    _check(align, components, performing, dropout, knowledge, memory_gb)
    seed, share_gb, device = checks.seed(seed), memory_gb / _PARTS, devices.pick(device)
    inputs.check(task, reserved={*NAMES, "MC dropout"})
    with whole("evaluating"), CanonicalForm.of(training, task, align, share_gb, device) as canonical:
        compared = None if canonical.distances is None else canonical.compared
        aligned = canonical(training)
        reference = TrainingReference(task, aligned, canonical, performing, share_gb, seed, device, compared)
        groups = _measure_groups(inputs, reference, canonical)
        baselines = _measure_baselines(inputs, groups, reference, canonical, components)
        verdicts = _judge(inputs, groups, baselines, reference, knowledge)
        benchmark = PredictiveBenchmark.of(task, seed=seed)
        averaged = reference.scorer.total() is not None
        ensembles = _benchmark_ensembles(benchmark, inputs, groups, reference, dropout) if averaged else []
        figures = figure_data(_figure_inputs(inputs, groups, baselines, reference))
    settings = ReportSettings(
        threshold=reference.threshold,
        performing=performing,
        components=baselines.made.components,
        equal_error_noise=baselines.sigma,
        aligned=align is not None,
        seed=seed,
        baseline_networks=baselines.made.n,
        made_from=len(baselines.made.aligned),
        ood_inputs=benchmark.ood_source,
        ensemble=_members(inputs),
        memory_gb=memory_gb,
    )
    return Report(
        task.name,
        len(task.test),
        [*groups.main_results, *baselines.results, *groups.other_results],
        SAMPLES,
        inputs.training_name,
        baselines.points,
        verdicts,
        ensembles,
        figures,
        settings,
        reference.scorer.reported,
        [*_left_out(reference, averaged), *benchmark.left_out, *baselines.left_out],
        knowledge,
    )


def _left_out(training: TrainingReference, averaged: bool) -> list[str]:
    """What does not apply to networks that are no classifiers."""
    if not averaged:
        return [
            "Left out: ensembles, MC dropout, calibration and the verdict on a better ensemble, as what the outputs "
            "mean is not known and they cannot be averaged. Say it when the task is made, with outputs=."
        ]
    if isinstance(training.task.output_kind, Regression):
        return ["Left out: calibration of probabilities. The coverage of an ensemble's intervals stands in its place."]
    return []


def _check(align: Any, components: Any, performing: Any, dropout: Any, knowledge: Any, memory_gb: Any) -> None:
    """Raise InputError for settings of another kind or out of range."""
    checks.given(align, "align", checks.having, methods=("fit", "symmetry_of"), wanted="a WeightMatching(...), or None")
    checks.given(components, "components", checks.count, at_least=1)
    checks.fraction(performing, "performing")
    checks.given(dropout, "dropout", checks.instance, kinds=MCDropout, wanted="an MCDropout(...), or None")
    wanted = "a generator's knowledge, or None"
    checks.given(knowledge, "knowledge", checks.instance, kinds=FlowKnowledge, wanted=wanted)
    checks.number(memory_gb, "memory_gb", above=0)


@dataclass(frozen=True)
class _MeasuredGroups:
    """The groups that were passed in, measured.

    Args:
        aligned: Collections in canonical form, by the name of their row.
        samples: The networks to judge.
        training: The networks that the generator learned from.
        held_out: Networks that it has not seen, if there are any.
        other_results: Results of the further collections.
    """

    aligned: Mapping[str, Collection]
    samples: MeasuredGroup
    training: MeasuredGroup
    held_out: MeasuredGroup | None
    other_results: Sequence[GroupResult]

    @property
    def main(self) -> list[MeasuredGroup]:
        """Training networks, held-out networks and samples, in the order of the report's rows."""
        return [self.training, *([self.held_out] if self.held_out else []), self.samples]

    @property
    def main_results(self) -> list[GroupResult]:
        """The results of these."""
        return [group.result for group in self.main]


def _measure_groups(inputs: Inputs, training: TrainingReference, canonical: CanonicalForm) -> _MeasuredGroups:
    reference = Group(inputs.training_name, "what the generator learned from", training.training, inputs.training)
    samples = canonical.group(SAMPLES, "from the generator", inputs.samples)
    aligned = {SAMPLES: samples.networks, reference.name: reference.networks}
    unseen: MeasuredGroup | None = None
    if inputs.held_out is not None:
        held_out = canonical.group(inputs.held_out_name, "same recipe, not seen by the generator", inputs.held_out)
        aligned[held_out.name] = held_out.networks
        unseen = training.measure(held_out)
    far = None if unseen is None else unseen.around.nearest.first
    others = [
        training.measure(canonical.group(name, "given for comparison", networks), held_out=far).result
        for name, networks in inputs.others.items()
    ]
    measured = training.measure(samples, held_out=far)
    return _MeasuredGroups(aligned, measured, training.measure(reference, itself=True), unseen, others)


@dataclass(frozen=True)
class _MeasuredBaselines:
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


def _measure_baselines(
    inputs: Inputs,
    groups: _MeasuredGroups,
    training: TrainingReference,
    canonical: CanonicalForm,
    components: int | None,
) -> _MeasuredBaselines:
    random = seeds.generator(training.seed, "pool")
    chosen = torch.randperm(len(inputs.training), generator=random)[: canonical.at_once].sort().values
    pool = training.training[chosen]
    made = Baselines(
        pool,
        inputs.training[chosen],
        n=max(3, min(max(_FEWEST, len(inputs.samples)), canonical.at_once)),
        density=groups.samples.result.median("density"),
        components=_components(pool, components),
        symmetry=canonical.symmetry,
        seed=training.seed,
        device=training.device,
        gains=canonical.gains,
    )
    curves = replace(made, n=min(_CURVE, made.n))
    measured = [
        (point, training.measure_point(point.family, point.level, point.make()))
        for point in progress(curves.curve_points(), "baseline curves")
    ]
    points = [result for _, result in measured if result is not None]
    broken = [f"{point.family} at {point.level:.3g}" for point, result in measured if result is None]
    monotonic = training.scorer.reported is None
    sigma = _equal_errors(points, groups.samples.result) if monotonic else _first_equal(points, groups.samples.result)
    distance = groups.samples.around.nearest.first.quantile(0.5).item()
    far = None if groups.held_out is None else groups.held_out.around.nearest.first
    made_groups = made.groups(distance=distance, sigma=sigma)
    results: list[GroupResult] = []
    for group in progress(made_groups, "baselines", total=len(NAMES) - (made.symmetry is None)):
        found = training.measure_finite(canonical.group(group.name, group.note, group.networks), held_out=far)
        if found is None:
            broken.append(group.name)
        else:
            results.append(found.result)
    lines = [f"Left out: baselines whose loss or metrics are not finite: {', '.join(broken)}."] if broken else []
    return _MeasuredBaselines(made, points, sigma, results, lines)


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


def _judge(
    inputs: Inputs,
    groups: _MeasuredGroups,
    baselines: _MeasuredBaselines,
    training: TrainingReference,
    knowledge: FlowKnowledge | None,
) -> list[Verdict]:
    original = [
        distances_among(part[:COMPARED], training.memory_gb, training.device)
        for part in (inputs.samples, inputs.training)
    ]
    evidence = Evidence(
        groups.samples,
        groups.training,
        groups.held_out,
        baselines.results,
        baselines.points,
        equal_errors=next((group for group in baselines.results if group.name == EQUAL_ERRORS), None),
        reference=training,
        kind=inputs.kind,
        original_among=(original[0], original[1]),
    )
    n, known = _members(inputs), [] if knowledge is None else [knowledge.verdict]
    samples, others = groups.samples.scored.parts, groups.training.scored.parts
    if samples is None or others is None:
        return [*judge_claims(evidence), *known]
    verdict = better_ensemble(inputs.kind, samples[:n], others[:n], scorer=training.scorer, seed=training.seed)
    return [*judge_claims(evidence), verdict, *known]


def _members(inputs: Inputs) -> int:
    """Members of each ensemble, where there are as many networks."""
    return min(len(inputs.samples), len(inputs.training), COMPARED)


def _benchmark_ensembles(
    benchmark: PredictiveBenchmark,
    inputs: Inputs,
    groups: _MeasuredGroups,
    training: TrainingReference,
    dropout: MCDropout | None,
) -> list[PredictiveResult]:
    n = _members(inputs)

    def ensemble(name: str, note: str, networks: Collection) -> PredictiveEnsemble:
        return PredictiveEnsemble.of(name, note, networks, memory_gb=training.memory_gb, prepare=training.prepared)

    ensembles = [
        ensemble(name, f"an ensemble of {min(n, len(networks))} of them", networks[:n])
        for name, networks in (inputs.main | dict(inputs.others)).items()
    ]
    ensembles.append(ensemble(f"one of the training {inputs.kind}", "the first", inputs.training[:1]))
    if dropout is not None:
        fitted = dropout.fit(training.task, seed=training.seed, device=training.device)
        ensembles.append(PredictiveEnsemble.dropout(fitted, n, seed=training.seed))
    predicted = {group.result.name: group.scored.predictions for group in groups.main if group.result.count <= n}
    return [
        benchmark.run(one, predicted.get(one.name))
        for one in progress(ensembles, "ensembles under shift and on OOD inputs")
    ]


def _figure_inputs(
    inputs: Inputs, groups: _MeasuredGroups, baselines: _MeasuredBaselines, training: TrainingReference
) -> FigureInputs:
    return FigureInputs(
        groups.aligned[SAMPLES],
        training.training,
        inputs.samples,
        inputs.training,
        groups=groups.aligned,
        scored={SAMPLES: groups.samples.scored, inputs.training_name: groups.training.scored},
        pca=baselines.made.pca,
        task=training.task,
        recalibrated=training.recalibrated,
        device=training.device,
    )
