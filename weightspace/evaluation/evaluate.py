"""evaluate: networks beside their training networks and the baselines, in one report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, get_args

from jaxtyping import Float
from torch import Tensor

from weightspace.align import WeightMatching
from weightspace.evaluation.baselines import EQUAL_ERRORS, NAMES
from weightspace.evaluation.dropout import MCDropout
from weightspace.evaluation.ensembles import PredictiveBenchmark, PredictiveEnsemble
from weightspace.evaluation.figure_data import FigureInputs, figure_data
from weightspace.evaluation.groups import SAMPLES, CanonicalForm, Group, Inputs
from weightspace.evaluation.measure import MeasuredGroup, TrainingReference
from weightspace.evaluation.measured_baselines import MeasuredBaselines, measure_baselines
from weightspace.evaluation.neighbours import distances_among
from weightspace.evaluation.own_statistics import RowStatistics, Statistics
from weightspace.evaluation.parts import Parts
from weightspace.evaluation.predictions import COMPARED
from weightspace.evaluation.verdicts import Evidence, better_ensemble, judge_claims
from weightspace.networks.collection import Collection
from weightspace.networks.outputs import Regression
from weightspace.report.data import ReportSettings
from weightspace.report.knowledge import FlowKnowledge
from weightspace.report.report import Report
from weightspace.report.results import FigureData, GroupResult, PredictiveResult, Verdict
from weightspace.runtime import checks, devices
from weightspace.runtime.progress import progress, whole
from weightspace.storage.runs import open_run
from weightspace.storage.spelling import spelled_text
from weightspace.storage.typed import to_json
from weightspace.tasks.arguments import check_task
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task

_REPORT = "report.json"
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
    statistics: Statistics = "anew",
    memory_gb: float = 2.0,
    seed: int = 0,
    device: str = "auto",
    folder: str | Path | None = None,
) -> Report:
    """Measure networks on the test split, beside the networks they were learned from and baselines.

    Classifiers of one label a sample are judged by accuracy and likelihood, all others by the task's main metric and
    its loss; the report names what does not apply to them.

    Distances are canonical: all networks are aligned to the training networks' mean first. Networks with BatchNorm get
    the same pass over training data in every row, where `statistics` does not say otherwise.

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
        statistics: BatchNorm statistics of the networks that are passed in: estimated "anew"; their "own"; or "choose",
            what is better on validation data in each row. Baselines that mix networks have none of their own and get
            the pass, with "own" and "choose" over inputs changed as the task's recipe says.
        memory_gb: Memory for all that is held at once, in GiB. Collections that do not fit are spooled to a temporary
            folder, and baselines are made from and in as many networks as fit.
        seed: Seed of baselines, shifts and intervals.
        device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.
            Blocks of networks and inputs go there one by one; metrics are taken on the CPU.
        folder: Folder that keeps each part as soon as it is measured, and the report at the end. The same call with it
            goes on where an interrupted one stopped, and gives the same report.

    Raises:
        LayoutMismatch: A collection is not of the task's architecture.
        InputError: There are fewer than 3 training networks, each network has data of its own, or an option is out of
            range.
        StorageError: The folder holds an evaluation with other settings or of other networks, or a damaged part.
    """
    require_samples(check_task(task), "evaluate")
    inputs = Inputs(samples, training, held_out, {} if others is None else others)
    _check(align, components, performing, dropout, knowledge, memory_gb)
    checks.one_of(statistics, "statistics", get_args(Statistics))
    seed, device = checks.seed(seed), devices.pick(device)
    checks.given(folder, "folder", checks.path)
    inputs.check(task, reserved={*NAMES, "MC dropout"})
    settings = Settings(align, components, performing, dropout, knowledge, memory_gb, seed, statistics)
    if folder is None:
        return _evaluated(inputs, task, settings, device, Parts())
    folder = Path(folder)
    with open_run(folder, "evaluate", settings.to_json(task), inputs.fingerprints()) as run:
        if not run.complete:
            report = _evaluated(inputs, task, settings, device, Parts(folder))
            run.check()
            report.save(folder / _REPORT)
            run.finish()
        return Report.load(folder / _REPORT)


@dataclass(frozen=True)
class Settings:
    """Settings of an evaluation, as in `evaluate`.

    Args:
        align: How networks are aligned before distances are taken.
        components: Principal components of the Gaussian and KDE baselines.
        performing: Share of the training networks' median metric from which a network counts as performing.
        dropout: How the MC-dropout row is trained.
        knowledge: What the generator's flow knows beyond a Gaussian.
        memory_gb: Memory for all that is held at once, in GiB.
        seed: Seed of baselines, shifts and intervals.
        statistics: BatchNorm statistics of the networks that are passed in.
    """

    align: WeightMatching | None
    components: int | None
    performing: float
    dropout: MCDropout | None
    knowledge: FlowKnowledge | None
    memory_gb: float
    seed: int
    statistics: Statistics = "anew"

    def to_json(self, task: Task) -> dict[str, Any]:
        """What decides the report beside the networks, for the run's folder.

        Args:
            task: The task.
        """
        written = {} if self.statistics == "anew" else {"statistics": self.statistics}
        return {
            "task": task.to_json(),
            "recipe": task.recipe.to_json(),
            "align": None if self.align is None else spelled_text(self.align),
            "components": self.components,
            "performing": self.performing,
            "dropout": None if self.dropout is None else list(self.dropout.rates),
            "knowledge": None if self.knowledge is None else to_json(self.knowledge),
            "memory": self.memory_gb,
            "seed": self.seed,
            **written,
        }


def _evaluated(inputs: Inputs, task: Task, settings: Settings, device: str, parts: Parts) -> Report:
    """Measure everything that is not among the parts."""
    share_gb, seed, align, training = settings.memory_gb / _PARTS, settings.seed, settings.align, inputs.training
    with whole("evaluating"), CanonicalForm.of(training, task, align, share_gb, device) as canonical:
        compared = None if canonical.distances is None else canonical.compared
        aligned = canonical(training)
        rows = RowStatistics.of(inputs, task, settings.statistics, seed=seed, device=device)
        reference = TrainingReference(
            task, aligned, canonical, settings.performing, share_gb, seed, device, compared, rows
        )
        groups = _measure_groups(inputs, reference, canonical, parts)
        baselines = measure_baselines(
            inputs, groups.samples, reference, canonical, settings.components, held_out=groups.far, parts=parts
        )
        verdicts = _judge(inputs, groups, baselines, reference, settings.knowledge)
        benchmark = PredictiveBenchmark.of(task, seed=seed)
        averaged = reference.scorer.total() is not None
        dropout = settings.dropout
        ensembles = _benchmark_ensembles(benchmark, inputs, groups, reference, dropout, parts) if averaged else []
        drawn = _figure_inputs(inputs, groups, baselines, reference)
        figures = parts.kept("figures", "figures", FigureData, lambda: figure_data(drawn))
        assert figures is not None
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
        _reported_settings(settings, inputs, baselines, reference, benchmark),
        reference.scorer.reported,
        [*_left_out(reference, averaged), *benchmark.left_out, *baselines.left_out],
        settings.knowledge,
    )


def _reported_settings(
    settings: Settings,
    inputs: Inputs,
    baselines: MeasuredBaselines,
    training: TrainingReference,
    benchmark: PredictiveBenchmark,
) -> ReportSettings:
    return ReportSettings(
        threshold=training.threshold,
        performing=settings.performing,
        components=baselines.made.components,
        equal_error_noise=baselines.sigma,
        aligned=settings.align is not None,
        seed=settings.seed,
        baseline_networks=baselines.made.n,
        made_from=len(baselines.made.aligned),
        ood_inputs=benchmark.ood_source,
        ensemble=_members(inputs),
        memory_gb=settings.memory_gb,
        statistics=training.statistics.setting,
        own_statistics=training.statistics.own,
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
    def far(self) -> Float[Tensor, " m"] | None:
        """Distances of the held-out networks to the nearest training network, if there are any."""
        return None if self.held_out is None else self.held_out.around.nearest.first

    @property
    def main_results(self) -> list[GroupResult]:
        """The results of these."""
        return [group.result for group in self.main]


def _measure_groups(
    inputs: Inputs, training: TrainingReference, canonical: CanonicalForm, parts: Parts
) -> _MeasuredGroups:
    """Measure the groups that were passed in; those that everything else is compared with are measured in every run."""
    reference = Group(inputs.training_name, "what the generator learned from", training.training, inputs.training)
    samples = canonical.group(SAMPLES, "from the generator", inputs.samples)
    aligned = {SAMPLES: samples.networks, reference.name: reference.networks}
    unseen: MeasuredGroup | None = None
    if inputs.held_out is not None:
        held_out = canonical.group(inputs.held_out_name, "same recipe, not seen by the generator", inputs.held_out)
        aligned[held_out.name] = held_out.networks
        unseen = training.measure(held_out)
    far = None if unseen is None else unseen.around.nearest.first
    others: list[GroupResult] = []
    for i, (name, networks) in enumerate(inputs.others.items()):

        def measure(name: str = name, networks: Collection = networks) -> GroupResult:
            return training.measure(canonical.group(name, "given for comparison", networks), held_out=far).result

        found = parts.kept(f"other-{i:02d}", name, GroupResult, measure)
        assert found is not None
        others.append(found)
    measured = training.measure(samples, held_out=far)
    return _MeasuredGroups(aligned, measured, training.measure(reference, itself=True), unseen, others)


def _judge(
    inputs: Inputs,
    groups: _MeasuredGroups,
    baselines: MeasuredBaselines,
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
    parts: Parts,
) -> list[PredictiveResult]:
    n, one_of = _members(inputs), f"one of the training {inputs.kind}"

    def ensemble(name: str, note: str, networks: Collection) -> PredictiveEnsemble:
        prepare = partial(training.prepared, row=inputs.training_name if name == one_of else name)
        return PredictiveEnsemble.of(name, note, networks, memory_gb=training.memory_gb, prepare=prepare)

    def fitted(rates: MCDropout) -> PredictiveEnsemble:
        trained = rates.fit(training.task, seed=training.seed, device=training.device)
        return PredictiveEnsemble.dropout(trained, n, seed=training.seed)

    made: dict[str, Callable[[], PredictiveEnsemble]] = {
        name: partial(ensemble, name, f"an ensemble of {min(n, len(networks))} of them", networks[:n])
        for name, networks in (inputs.main | dict(inputs.others)).items()
    }
    made[one_of] = partial(ensemble, one_of, "the first", inputs.training[:1])
    if dropout is not None:
        made["MC dropout"] = partial(fitted, dropout)
    predicted = {group.result.name: group.scored.predictions for group in groups.main if group.result.count <= n}
    results: list[PredictiveResult] = []
    for i, (name, make) in enumerate(progress(made.items(), "ensembles under shift and on OOD inputs")):

        def measure(name: str = name, make: Callable[[], PredictiveEnsemble] = make) -> PredictiveResult:
            return benchmark.run(make(), predicted.get(name))

        found = parts.kept(f"ensemble-{i:02d}", name, PredictiveResult, measure)
        assert found is not None
        results.append(found)
    return results


def _figure_inputs(
    inputs: Inputs, groups: _MeasuredGroups, baselines: MeasuredBaselines, training: TrainingReference
) -> FigureInputs:
    return FigureInputs(
        groups.aligned[SAMPLES],
        training.training,
        inputs.samples,
        inputs.training,
        groups=groups.aligned,
        scored={SAMPLES: groups.samples.scored, inputs.training_name: groups.training.scored},
        pca=baselines.made.pca,
        task=training.task_of_pass,
        recalibrated=training.recalibrated,
        device=training.device,
    )
