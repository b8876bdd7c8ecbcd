"""evaluate: networks beside their training networks and the baselines, in one report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from weightspace.align import WeightMatching
from weightspace.errors import InputError
from weightspace.evaluation.baselines import EQUAL_ERRORS, NAMES, Baselines
from weightspace.evaluation.dropout import MCDropout
from weightspace.evaluation.ensembles import PredictiveBenchmark
from weightspace.evaluation.figure_data import FigureInputs, Figures
from weightspace.evaluation.groups import SAMPLES, CanonicalForm, Inputs
from weightspace.evaluation.measure import TrainingReference
from weightspace.evaluation.measured_baselines import Curves, Rows, baselines_of
from weightspace.evaluation.measured_ensembles import Ensembles, members
from weightspace.evaluation.measured_groups import MeasuredGroups, Others, measure_groups
from weightspace.evaluation.neighbours import distances_among
from weightspace.evaluation.own_statistics import RowStatistics, Statistics
from weightspace.evaluation.parts import Parts, Together
from weightspace.evaluation.predictions import COMPARED
from weightspace.evaluation.verdicts import Evidence, better_ensemble, judge_claims
from weightspace.networks.collection import Collection
from weightspace.networks.outputs import Regression
from weightspace.report.data import ReportSettings
from weightspace.report.knowledge import FlowKnowledge
from weightspace.report.report import Report
from weightspace.report.results import CurveResult, GroupResult, Verdict
from weightspace.runtime import checks
from weightspace.runtime.executor import Executor, device_for
from weightspace.runtime.progress import whole
from weightspace.storage.runs import open_run
from weightspace.storage.spelling import spelled_text
from weightspace.storage.typed import to_json
from weightspace.tasks.arguments import check_task
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.sending import try_workers
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
    executor: Executor | None = None,
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
            the pass; with "own" and "choose" over inputs as they are or changed as the task's recipe says, whichever is
            better for the training networks on validation data.
        memory_gb: Memory for all that is held at once, in GiB. Collections that do not fit are spooled to a temporary
            folder (with workers in `folder`), and baselines are made from and in as many networks as fit.
        seed: Seed of baselines, shifts and intervals.
        device: Device to compute on, block by block: "cpu", "cuda", or "auto", which is CUDA where there is a card.
        folder: Folder that keeps each part as soon as it is measured, and the report at the end. The same call with it
            goes on where an interrupted one stopped, and gives the same report.
        executor: Workers that measure parts at the same time, on the CPU, one thread each: `weightspace.processes(2)`
            or `OnRay()`. They must see the folder, get the task and the networks, and hold `memory_gb` each.

    Raises:
        LayoutMismatch: A collection is not of the task's architecture.
        InputError: There are fewer than 3 training networks, each network has data of its own, an option is out of
            range, or workers have no folder, do not see it, are to use a card, or cannot be sent the task.
        StorageError: The folder holds an evaluation with other settings or of other networks, or a damaged part.
    """
    require_samples(check_task(task), "evaluate")
    inputs = Inputs(samples, training, held_out, {} if others is None else others)
    _check(align, components, performing, dropout, knowledge, statistics, memory_gb)
    seed, device = checks.seed(seed), device_for(device, executor)
    checks.given(folder, "folder", checks.path)
    if executor is not None and folder is None:
        raise InputError("workers need a folder, where they put what they have measured: give folder=")
    inputs.check(task, reserved={*NAMES, "MC dropout"})
    settings = Settings(align, components, performing, dropout, knowledge, memory_gb, seed, statistics)
    if folder is None:
        return _evaluated(inputs, task, settings, device, Parts())
    folder = Path(folder) if executor is None else Path(folder).absolute()  # workers may be in other folders
    with open_run(folder, "evaluate", settings.to_json(task), inputs.fingerprints()) as run:
        if not run.complete:
            try_workers(executor, folder, task, settings, *(each.architecture for each in inputs.all.values()))
            report = _evaluated(inputs, task, settings, device, Parts(folder, executor))
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
    benchmark, task = PredictiveBenchmark.of(task, seed=seed), replace(task, ood=None)  # which is often not picklable
    with whole("evaluating"), CanonicalForm.of(training, task, align, share_gb, device, parts) as canonical:
        compared = None if canonical.distances is None else canonical.compared
        aligned = canonical(training)
        own = RowStatistics.of(inputs, task, settings.statistics, seed=seed, device=device, parts=parts)
        reference = TrainingReference(
            task, aligned, canonical, settings.performing, share_gb, seed, device, compared, own
        )
        groups = measure_groups(inputs, reference, canonical)
        made = baselines_of(inputs, groups.samples, reference, canonical, settings.components)
        averaged = reference.scorer.total() is not None
        curves = Curves.of(made, reference)
        together = Together(
            [
                Others(inputs.others, reference, canonical, groups.far),
                curves,
                Figures(_figure_inputs(inputs, groups, made, reference)),
                *([Ensembles.of(inputs, groups, benchmark, reference, settings.dropout)] if averaged else []),
            ]
        )
        measured = together.apart(parts.all(together, "curves, figures and ensembles"))
        others, on_curves, (figures,), ensembles = measured if averaged else [*measured, []]
        points = [point for point in on_curves if point is not None]
        rows = Rows.beside(groups.samples, points, made, reference, canonical, groups.far)
        on_rows = parts.all(rows, "baselines")
        baselines = [row for row in on_rows if row is not None]
        verdicts = _judge(inputs, groups, baselines, points, reference, settings.knowledge)
    return Report(
        task.name,
        len(task.test),
        [*groups.results, *baselines, *others],
        SAMPLES,
        inputs.training_name,
        points,
        verdicts,
        ensembles,
        figures,
        _reported_settings(settings, inputs, rows, benchmark),
        reference.scorer.reported,
        [
            *_left_out(reference, averaged),
            *benchmark.left_out,
            *_broken(curves, on_curves, rows, on_rows),
        ],
        settings.knowledge,
    )


def _reported_settings(
    settings: Settings, inputs: Inputs, rows: Rows, benchmark: PredictiveBenchmark
) -> ReportSettings:
    return ReportSettings(
        threshold=rows.training.threshold,
        performing=settings.performing,
        components=rows.made.components,
        equal_error_noise=rows.sigma,
        aligned=settings.align is not None,
        seed=settings.seed,
        baseline_networks=rows.made.n,
        made_from=len(rows.made.aligned),
        ood_inputs=benchmark.ood_source,
        ensemble=members(inputs),
        memory_gb=settings.memory_gb,
        statistics=rows.training.statistics.setting,
        own_statistics=rows.training.statistics.own,
        augmented_statistics=rows.training.statistics.data is not None,
    )


def _broken(
    curves: Curves, on_curves: Sequence[CurveResult | None], rows: Rows, on_rows: Sequence[GroupResult | None]
) -> list[str]:
    """A line on what is so broken that a figure is not finite, if there is anything."""
    broken = [*curves.broken(on_curves), *rows.broken(on_rows)]
    return [f"Left out: baselines whose loss or metrics are not finite: {', '.join(broken)}."] if broken else []


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


def _check(
    align: Any, components: Any, performing: Any, dropout: Any, knowledge: Any, statistics: Any, memory_gb: Any
) -> None:
    """Raise InputError for settings of another kind or out of range."""
    checks.given(align, "align", checks.having, methods=("fit", "symmetry_of"), wanted="a WeightMatching(...), or None")
    checks.given(components, "components", checks.count, at_least=1)
    checks.fraction(performing, "performing")
    checks.given(dropout, "dropout", checks.instance, kinds=MCDropout, wanted="an MCDropout(...), or None")
    wanted = "a generator's knowledge, or None"
    checks.given(knowledge, "knowledge", checks.instance, kinds=FlowKnowledge, wanted=wanted)
    checks.one_of(statistics, "statistics", get_args(Statistics))
    checks.number(memory_gb, "memory_gb", above=0)


def _judge(
    inputs: Inputs,
    groups: MeasuredGroups,
    baselines: Sequence[GroupResult],
    points: Sequence[CurveResult],
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
        baselines,
        points,
        equal_errors=next((group for group in baselines if group.name == EQUAL_ERRORS), None),
        reference=training,
        kind=inputs.kind,
        original_among=(original[0], original[1]),
    )
    n, known = members(inputs), [] if knowledge is None else [knowledge.verdict]
    samples, others = groups.samples.scored.parts, groups.training.scored.parts
    if samples is None or others is None:
        return [*judge_claims(evidence), *known]
    verdict = better_ensemble(inputs.kind, samples[:n], others[:n], scorer=training.scorer, seed=training.seed)
    return [*judge_claims(evidence), verdict, *known]


def _figure_inputs(
    inputs: Inputs, groups: MeasuredGroups, made: Baselines, training: TrainingReference
) -> FigureInputs:
    return FigureInputs(
        groups.aligned[SAMPLES],
        training.training,
        inputs.samples,
        inputs.training,
        groups=groups.aligned,
        scored={SAMPLES: groups.samples.scored, inputs.training_name: groups.training.scored},
        pca=made.pca,
        task=training.task_of_pass,
        recalibrated=training.recalibrated,
        device=training.device,
    )
