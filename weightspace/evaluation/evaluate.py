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
from weightspace.evaluation.baselines import EQUAL_ERRORS, NAMES, Arm, Baselines
from weightspace.evaluation.dropout import MCDropout
from weightspace.evaluation.ensembles import Peer, Trial
from weightspace.evaluation.figure_data import pictures
from weightspace.evaluation.measure import Measured, Yardstick
from weightspace.evaluation.neighbours import distances_among
from weightspace.evaluation.predictions import SOME
from weightspace.evaluation.verdicts import Evidence, better_ensemble, judge_claims
from weightspace.networks.collection import Collection, writer_for
from weightspace.networks.forward import blocks
from weightspace.report.report import Report
from weightspace.report.results import ArmResult, Point
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
    memory: float = 2.0,
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
        memory: GiB for what is held in memory at once. Collections that do not fit are spooled to a
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
    _check(given, further, task, performing, memory)
    trial = Trial.of(task, seed=seed)
    budget = int(memory * 2**30) // 8  # for each of the collections and blocks that are alive together
    if align is not None and align.symmetry is None and align.example is None:
        align = replace(align, example=task.train.x[:8])
    matching = align.fit(reference) if align else None
    fits = max(3, budget // _bytes(reference))

    with tempfile.TemporaryDirectory(prefix="weightspace-evaluate-") as scratch:

        def canonical(networks: Collection) -> Collection:
            plain = matching.transform if matching else lambda part: part
            return plain(networks) if len(networks) <= fits else _spooled(networks, plain, fits, Path(scratch))

        training = canonical(reference)
        yardstick = Yardstick(task, training, canonical, performing, budget, seed)
        _refuse_copies(yardstick)
        trained = yardstick.measure(
            Arm(training_name, "what the generator learned from", training, reference), itself=True
        )
        aligned = {SAMPLES: canonical(samples), training_name: training}
        unseen: Measured | None = None
        if held_out is not None:
            aligned[held_name] = canonical(held_out)
            unseen = yardstick.measure(
                Arm(held_name, "same recipe, not seen by the generator", aligned[held_name], held_out)
            )
        far = None if unseen is None else unseen.around.nearest.first
        own = yardstick.measure(Arm(SAMPLES, "from the generator", aligned[SAMPLES], samples), held_out=far)

        chosen = torch.randperm(len(reference), generator=seeds.generator(seed, "pool"))[:fits].sort().values
        pool = training[chosen], reference[chosen]
        made = Baselines(
            *pool, n=max(3, min(max(_FEWEST, len(samples)), fits)),
            density=statistics.median(own.result.per_network["density"]),
            components=_components(pool[0], components), symmetry=matching.symmetry if matching else None, seed=seed,
        )  # fmt: skip
        points = _curves(replace(made, n=min(_CURVE, made.n)), yardstick)
        sigma = _equal_errors(points, own.result)
        arms = made.arms(distance=own.around.nearest.first.quantile(0.5).item(), sigma=sigma)
        results = [
            yardstick.measure(replace(arm, networks=canonical(arm.networks), given=arm.networks), held_out=far).result
            for arm in progress(arms, "baselines", total=len(NAMES) - (made.symmetry is None))
        ]
        compared = [
            yardstick.measure(Arm(name, "given for comparison", canonical(networks), networks), held_out=far).result
            for name, networks in further.items()
        ]
        equal = next(arm for arm in results if arm.name == EQUAL_ERRORS)
        as_given = distances_among(samples[:SOME], budget), distances_among(reference[:SOME], budget)
        verdicts = judge_claims(Evidence(own, trained, unseen, results, points, equal, yardstick, kind, as_given))

        n = min(len(samples), len(reference), SOME)
        peers = {
            name: Peer.of(
                name, f"an ensemble of {min(n, len(networks))} of them", networks[:n], memory=budget,
                prepare=yardstick.recalibrated,
            )
            for name, networks in (given | further).items()
        }  # fmt: skip
        verdicts.append(better_ensemble(kind, own.judged.right[:n], trained.judged.right[:n], seed=seed))
        one = Peer.of(
            f"one of the training {kind}", "the first", reference[:1], memory=budget, prepare=yardstick.recalibrated
        )
        tried = [*peers.values(), one]
        if dropout is not None:
            tried.append(Peer.dropout(dropout.fit(task, seed=seed), n, seed=seed))
        measured = {SAMPLES: own, training_name: trained} | ({held_name: unseen} if unseen else {})
        known = {k: m.judged.predictions for k, m in measured.items() if m.result.count <= n}
        posteriors = [
            trial.run(peer, known.get(peer.name))
            for peer in progress(tried, "ensembles under shift and on foreign inputs")
        ]
        drawn = pictures(
            aligned[SAMPLES], training, (samples, reference), aligned,
            {SAMPLES: own.judged, training_name: trained.judged}, made.pca, task, yardstick.recalibrated,
        )  # fmt: skip
    rows = [trained.result, *([unseen.result] if unseen else []), own.result, *results, *compared]
    settings = {
        "threshold": yardstick.threshold, "performing": performing, "components": made.components,
        "noise of equal errors": sigma, "aligned": matching is not None, "seed": seed,
        "networks of a baseline": made.n, "made from": len(pool[0]), "foreign inputs": Trial.foreign_of(task),
        "ensemble": n, "memory": memory,
    }  # fmt: skip
    return Report(
        task.name, len(task.test), rows, SAMPLES, training_name, points, verdicts, posteriors, drawn, settings
    )


def _check(
    given: Mapping[str, Collection], others: Mapping[str, Collection], task: Task, performing: float, memory: float
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
    if not memory > 0:
        raise InputError(f"memory is in GiB and must be positive, got {memory}")
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


def _refuse_copies(yardstick: Yardstick) -> None:
    """Distances are told in medians among training networks, which must not be copies of each other."""
    size = yardstick.space.gram.diagonal().mean().sqrt().item()
    if not yardstick.unit > 1e-4 * size:
        raise InputError(
            "half of the reference networks are copies of others (up to the order and scale of their units): leave "
            "the copies out, otherwise there is no distance to compare with"
        )


def _components(pool: Collection, asked: int | None) -> int:
    centred = pool.weights.double() - pool.weights.double().mean(0)
    rank = int(torch.linalg.matrix_rank(centred @ centred.T, hermitian=True))
    return max(1, min(asked or 128, len(pool) - 1, rank))


def _curves(made: Baselines, yardstick: Yardstick) -> list[Point]:
    points: list[Point] = []
    for level in progress(made.levels(), "baseline curves"):
        networks = level.make()
        points.append(Point(level.family, float(level.level), len(networks), **yardstick.point(networks)))
    return points


def _equal_errors(points: Sequence[Point], samples: ArmResult) -> float:
    """The noise at which errors overlap with the training networks' as the samples' do; between points linearly."""
    noise = sorted((p for p in points if p.family == "noise"), key=lambda p: -p.error_iou)
    target = samples.mean("max error IoU")
    at = bisect.bisect_left([-p.error_iou for p in noise], -target)
    if at == 0 or at == len(noise):  # more alike than with the least noise, or less than with the most
        return noise[min(at, len(noise) - 1)].level
    a, b = noise[at - 1], noise[at]
    share = (a.error_iou - target) / (a.error_iou - b.error_iou)
    return math.exp((1 - share) * math.log(a.level) + share * math.log(b.level))
