"""evaluate: networks beside their training networks and the baselines, in one report."""

import bisect
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from weightspace.align import WeightMatching
from weightspace.errors import InputError
from weightspace.evaluation.baselines import EQUAL_ERRORS, NAMES, Baselines, Group
from weightspace.evaluation.dropout import MCDropout
from weightspace.evaluation.ensembles import PredictiveBenchmark, PredictiveEnsemble
from weightspace.evaluation.figure_data import pictures
from weightspace.evaluation.measure import Measured, TrainingReference
from weightspace.evaluation.neighbours import distances_among
from weightspace.evaluation.predictions import SOME
from weightspace.evaluation.verdicts import Evidence, better_ensemble, judge_claims
from weightspace.networks.collection import Collection, writer_for
from weightspace.networks.forward import blocks
from weightspace.report.report import Report
from weightspace.report.results import CurveResult, GroupResult
from weightspace.runtime import seeds
from weightspace.runtime.progress import progress
from weightspace.tasks.task import Task

SAMPLES = "samples"
_FEWEST, _CURVE = 12, 16  # networks of a baseline, and at most at each point of a curve
_BLOCK = 64  # networks brought into canonical form at once


def evaluate(
    samples: Collection,
    task: Task,
    *,
    reference: Collection,
    held_out: Collection | None = None,
    others: Mapping[str, Collection] | None = None,
    align: WeightMatching | None = WeightMatching(),
    components: int | None = None,
    performing: float = 0.95,
    dropout: MCDropout | None = MCDropout(),
    memory_gb: float = 2.0,
    seed: int = 0,
) -> Report:
    """Measure networks on the test split, beside the networks they were learned from and baselines.

    Distances are canonical: all networks are aligned to the reference's mean first. Networks with
    BatchNorm get the same pass over training data in every row.

    Args:
        samples: the networks to judge.
        reference: the networks the generator learned from.
        held_out: networks of the same recipe that it has not seen; without them nothing says how far
            new networks are, beyond the reference's own spread.
        others: further collections to measure, by name, such as the dense networks.
        align: how distances are made canonical; None compares networks as they are.
        components: principal components of the Gaussian and KDE baselines, by default 128 or what fits.
        performing: share of the reference's median accuracy from which a network counts as performing.
        dropout: how the MC-dropout row is trained, from scratch by the task's recipe; None leaves it out.
        memory_gb: GiB for what is held in memory at once. Collections that do not fit are spooled to a
            temporary folder, and baselines are made from and in as many networks as fit.
        seed: of baselines, shifts and intervals.

    Raises:
        LayoutMismatch: a collection is not of the task's architecture.
        InputError: the reference has fewer than 3 networks, the task is no classification, or an
            option is out of range.
    """
    kind = "networks" if reference.dense else "tickets"
    training_name, held_name = f"training {kind}", f"held-out {kind}"
    given = {SAMPLES: samples, training_name: reference, **({held_name: held_out} if held_out is not None else {})}
    further = dict(others or {})
    _check(given, further, task, performing, memory_gb)
    benchmark = PredictiveBenchmark.of(task, seed=seed)
    budget = int(memory_gb * 2**30) // 8  # for each of the collections and blocks that are alive together
    matching = align.fit(reference, example=task.train.x[:8]) if align else None
    fits = max(3, budget // _bytes(reference))

    with tempfile.TemporaryDirectory(prefix="weightspace-evaluate-") as scratch:

        def canonical(networks: Collection) -> Collection:
            plain = matching.transform if matching else lambda part: part
            return plain(networks) if len(networks) <= fits else _spooled(networks, plain, fits, Path(scratch))

        training = canonical(reference)
        training_reference = TrainingReference(task, training, canonical, performing, budget, seed)
        _refuse_copies(training_reference)
        trained = training_reference.measure(
            Group(training_name, "what the generator learned from", training, reference), itself=True
        )
        aligned = {SAMPLES: canonical(samples), training_name: training}
        unseen: Measured | None = None
        if held_out is not None:
            aligned[held_name] = canonical(held_out)
            unseen = training_reference.measure(
                Group(held_name, "same recipe, not seen by the generator", aligned[held_name], held_out)
            )
        far = None if unseen is None else unseen.around.nearest.first
        own = training_reference.measure(Group(SAMPLES, "from the generator", aligned[SAMPLES], samples), held_out=far)

        chosen = torch.randperm(len(reference), generator=seeds.generator(seed, "pool"))[:fits].sort().values
        pool = training[chosen], reference[chosen]
        made = Baselines(
            *pool, n=max(3, min(max(_FEWEST, len(samples)), fits)),
            density=statistics.median(own.result.per_network["density"]),
            components=_components(pool[0], components), symmetry=matching.symmetry if matching else None, seed=seed,
        )  # fmt: skip
        points = _curves(replace(made, n=min(_CURVE, made.n)), training_reference)
        sigma = _equal_errors(points, own.result)
        groups = made.groups(distance=own.around.nearest.first.quantile(0.5).item(), sigma=sigma)
        results = [
            training_reference.measure(
                replace(group, networks=canonical(group.networks), given=group.networks), held_out=far
            ).result
            for group in progress(groups, "baselines", total=len(NAMES) - (made.symmetry is None))
        ]
        compared = [
            training_reference.measure(
                Group(name, "given for comparison", canonical(networks), networks), held_out=far
            ).result
            for name, networks in further.items()
        ]
        equal = next(group for group in results if group.name == EQUAL_ERRORS)
        as_given = distances_among(samples[:SOME], budget), distances_among(reference[:SOME], budget)
        verdicts = judge_claims(
            Evidence(own, trained, unseen, results, points, equal, training_reference, kind, as_given)
        )

        n = min(len(samples), len(reference), SOME)
        ensembles = {
            name: PredictiveEnsemble.of(
                name, f"an ensemble of {min(n, len(networks))} of them", networks[:n], memory=budget,
                prepare=training_reference.recalibrated,
            )
            for name, networks in (given | further).items()
        }  # fmt: skip
        verdicts.append(better_ensemble(kind, own.scored.right[:n], trained.scored.right[:n], seed=seed))
        one = PredictiveEnsemble.of(
            f"one of the training {kind}",
            "the first",
            reference[:1],
            memory=budget,
            prepare=training_reference.recalibrated,
        )
        tried = [*ensembles.values(), one]
        if dropout is not None:
            tried.append(PredictiveEnsemble.dropout(dropout.fit(task, seed=seed), n, seed=seed))
        measured = {SAMPLES: own, training_name: trained} | ({held_name: unseen} if unseen else {})
        known = {k: m.scored.predictions for k, m in measured.items() if m.result.count <= n}
        ensembles = [
            benchmark.run(ensemble, known.get(ensemble.name))
            for ensemble in progress(tried, "ensembles under shift and on foreign inputs")
        ]
        drawn = pictures(
            aligned[SAMPLES], training, (samples, reference), aligned,
            {SAMPLES: own.scored, training_name: trained.scored}, made.pca, task, training_reference.recalibrated,
        )  # fmt: skip
    rows = [trained.result, *([unseen.result] if unseen else []), own.result, *results, *compared]
    settings = {
        "threshold": training_reference.threshold, "performing": performing, "components": made.components,
        "noise of equal errors": sigma, "aligned": matching is not None, "seed": seed,
        "networks of a baseline": made.n, "made from": len(pool[0]), "foreign inputs": PredictiveBenchmark.foreign_of(task),
        "ensemble": n, "memory": memory_gb,
    }  # fmt: skip
    return Report(task.name, len(task.test), rows, SAMPLES, training_name, points, verdicts, ensembles, drawn, settings)


def _check(
    given: Mapping[str, Collection], others: Mapping[str, Collection], task: Task, performing: float, memory_gb: float
) -> None:
    if not task.classification:
        raise InputError(f"evaluate measures classifiers: the targets of task {task.name!r} are not class numbers")
    own = {*given, *NAMES, "MC dropout"}
    taken = [n for n in others if n in own or n.startswith(("soup of", "one of the training", "_"))]
    if taken:
        raise InputError(
            f"{sorted(taken)} are names of the report's own rows, or begin with an underscore: call the other "
            "collections something else"
        )
    for name, networks in {**given, **others}.items():
        task.architecture.layout().require(networks.layout, name)
    samples, reference = list(given.values())[:2]
    if len(reference) < 3:
        raise InputError(f"the reference needs at least 3 networks, got {len(reference)}")
    if not 0 < performing <= 1:
        raise InputError(f"performing is a share of the reference's accuracy, in (0, 1], got {performing}")
    if not memory_gb > 0:
        raise InputError(f"memory_gb is in GiB and must be positive, got {memory_gb}")
    task.try_out()
    outputs = samples[:1].ensemble().logits(task.test.x[:2])
    most = max(int(part.y.max()) for part in (task.train, task.validation, task.test))
    if outputs.ndim != 3 or outputs.shape[-1] <= most:
        raise InputError(
            f"evaluate needs an output for each class: {task.architecture.name} has outputs of shape "
            f"{tuple(outputs.shape[1:])} for 2 samples, the classes run to {most}"
        )


def _bytes(networks: Collection) -> int:
    """Of one network: weights, mask and extras, and buffers."""
    one = networks[:1]
    tensors = [one.weights, one.masks, *one.extras.values(), *one.buffers.values()]
    return sum(t.element_size() * t[0].numel() for t in tensors)


def _spooled(
    networks: Collection, transform: Callable[[Collection], Collection], at_once: int, scratch: Path
) -> Collection:
    """Transformed networks on disk, a block in memory at a time."""
    folder = Path(tempfile.mkdtemp(dir=scratch))
    writer = writer_for(folder, networks.layout, networks.architecture)
    for rows in blocks(len(networks), min(_BLOCK, at_once)):
        transform(networks[rows]).write_to(writer)
    writer.close()
    return Collection.load(folder, factory=networks.architecture.factory, verify=False)


def _refuse_copies(training_reference: TrainingReference) -> None:
    """Distances are told in medians among training networks, which must not be copies of each other."""
    size = training_reference.space.gram.diagonal().mean().sqrt().item()
    if not training_reference.unit > 1e-4 * size:
        raise InputError(
            "half of the reference networks are copies of others (up to the order and scale of their units): leave "
            "the copies out, otherwise there is no distance to compare with"
        )


def _components(pool: Collection, asked: int | None) -> int:
    centred = pool.weights.double() - pool.weights.double().mean(0)
    rank = int(torch.linalg.matrix_rank(centred @ centred.T, hermitian=True))
    return max(1, min(asked or 128, len(pool) - 1, rank))


def _curves(made: Baselines, training_reference: TrainingReference) -> list[CurveResult]:
    points: list[CurveResult] = []
    for level in progress(made.levels(), "baseline curves"):
        networks = level.make()
        points.append(
            CurveResult(level.family, float(level.level), len(networks), **training_reference.point(networks))
        )
    return points


def _equal_errors(points: Sequence[CurveResult], samples: GroupResult) -> float:
    """The noise at which errors overlap with the training networks' as the samples' do; between points linearly."""
    noise = sorted((p for p in points if p.family == "noise"), key=lambda p: -p.error_iou)
    target = samples.mean("max error IoU")
    at = bisect.bisect_left([-p.error_iou for p in noise], -target)
    if at == 0 or at == len(noise):  # more alike than with the least noise, or less than with the most
        return noise[min(at, len(noise) - 1)].level
    a, b = noise[at - 1], noise[at]
    share = (a.error_iou - target) / (a.error_iou - b.error_iou)
    return math.exp((1 - share) * math.log(a.level) + share * math.log(b.level))
