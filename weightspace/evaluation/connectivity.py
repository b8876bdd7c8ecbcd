"""Are networks in one basin? Barriers between them, the mean network, instability."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.evaluation.metrics import predictive
from weightspace.evaluation.one_label import OneLabel
from weightspace.evaluation.scoring import scorer_of
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks, predict
from weightspace.networks.placing import placed
from weightspace.recipes.step import Step
from weightspace.report.metrics import ACCURACY, ReportedMetric
from weightspace.runtime import devices
from weightspace.runtime.progress import progress
from weightspace.tasks.data import Data
from weightspace.tasks.measuring import measure as figures
from weightspace.tasks.task import Task
from weightspace.training import SharedStart, collect
from weightspace.training.batchnorm import recalibrated

_NETWORKS = 64  # interpolated networks in memory at once


@dataclass(frozen=True)
class Performance:
    """Loss and main metric of networks on one split.

    Args:
        losses: Loss of each network: the mean cross-entropy in nats of classifiers of one label, the task's own loss of
            others.
        scores: Main metric of each network; the loss where the task has no metric.
        metric: The main metric.
    """

    losses: Float[Tensor, " n"]
    scores: Float[Tensor, " n"]
    metric: ReportedMetric = ACCURACY

    @property
    def loss(self) -> float:
        """Mean loss over networks."""
        return self.losses.mean().item()

    @property
    def score(self) -> float:
        """Mean main metric over networks."""
        return self.scores.mean().item()

    @property
    def accuracies(self) -> Float[Tensor, " n"]:
        """Accuracy of each network.

        Raises:
            InputError: The main metric is another.
        """
        _require_accuracy(self.metric)
        return self.scores

    @property
    def accuracy(self) -> float:
        """Mean accuracy over networks.

        Raises:
            InputError: The main metric is another.
        """
        return self.accuracies.mean().item()


@dataclass(frozen=True)
class Barrier:
    """Loss and main metric along the line between two networks.

    Args:
        pair: Numbers of the networks.
        positions: Positions t on the line (1 - t) A + t B, from 0 to 1.
        losses: Loss at these positions.
        scores: Main metric at these positions.
        metric: The main metric.
    """

    pair: tuple[int, int]
    positions: tuple[float, ...]
    losses: tuple[float, ...]
    scores: tuple[float, ...]
    metric: ReportedMetric = ACCURACY

    @property
    def loss(self) -> float:
        """max_t of the loss above the straight line between the ends (Frankle et al. 2020; 2209.04836, definition 2.2).

        Without the ends, where it is zero: two networks joined by a valley have a negative one.
        """
        return max(self._above(self.losses))

    @property
    def score(self) -> float:
        """How much worse the main metric gets than the straight line between the ends, at most."""
        return max(-self.metric.advantage(value) for value in self._above(self.scores))

    @property
    def midpoint_score(self) -> float:
        """Main metric half way between the networks."""
        return self.scores[len(self.positions) // 2]

    @property
    def accuracies(self) -> tuple[float, ...]:
        """Accuracy at these positions.

        Raises:
            InputError: The main metric is another.
        """
        _require_accuracy(self.metric)
        return self.scores

    @property
    def accuracy(self) -> float:
        """Largest loss of accuracy below the straight line between the ends.

        Raises:
            InputError: The main metric is another.
        """
        _require_accuracy(self.metric)
        return self.score

    @property
    def midpoint_accuracy(self) -> float:
        """Accuracy half way between the networks.

        Raises:
            InputError: The main metric is another.
        """
        return self.accuracies[len(self.positions) // 2]

    def _above(self, values: Sequence[float]) -> list[float]:
        return [v - (1 - t) * values[0] - t * values[-1] for t, v in zip(self.positions, values, strict=True)][1:-1]


def _require_accuracy(metric: ReportedMetric) -> None:
    if metric != ACCURACY:
        raise InputError(f"the networks were measured by {metric.label}, not by accuracy: read the scores")


def measure(
    networks: Collection,
    task: Task,
    *,
    split: Data | None = None,
    reset_statistics: bool = False,
    device: str = "auto",
) -> Performance:
    """Loss and main metric of every network, in blocks; where each has data of its own, on these.

    Args:
        networks: The networks.
        task: The task.
        split: Samples to measure on; by default the task's test split.
        reset_statistics: Whether BatchNorm statistics are estimated anew on training data first.
        device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

    Raises:
        InputError: The device is not available.
    """
    device = devices.pick(device)
    data = split or task.test
    scorer = scorer_of(task)
    module = networks.architecture.build_seeded(0)
    losses: list[Tensor] = []
    scores: list[Tensor] = []
    for rows in blocks(len(networks), _NETWORKS):
        part = networks[rows]
        if reset_statistics:
            part = recalibrated(part, task.train, device=device)
        part = placed(part, device)
        if isinstance(scorer, OneLabel):
            kind, y = scorer.kind, scorer.kind.targets(data.y)
            logits = kind.predictions(predict(module, part.layout, part.weights, part.buffers, data.x))
            losses.append(predictive.nll(logits, y))
            scores.append(predictive.accuracy(logits, y))
        else:
            sets = [record.data for record in part.records] if task.own_data else None
            found = figures(task, module, part.layout, part.weights, part.buffers, data, sets)
            losses.append(torch.tensor(found["loss"], dtype=torch.float64))
            scores.append(torch.tensor(found[scorer.main.name], dtype=torch.float64))
    return Performance(torch.cat(losses), torch.cat(scores), scorer.main)


def _require_shared_data(task: Task, what: str) -> None:
    if task.own_data:
        raise InputError(
            f"each network of task {task.name!r} has data of its own, on which {what} between networks has no loss: "
            "measure() gives the loss of each network on its own data"
        )


def barriers(
    networks: Collection,
    task: Task,
    *,
    pairs: Sequence[tuple[int, int]] | None = None,
    points: int = 9,
    split: Data | None = None,
    reset_statistics: bool | None = None,
    device: str = "auto",
) -> list[Barrier]:
    """Loss and main metric along the lines between networks.

    Weights are interpolated, pruned ones as zeros, so that a point between two tickets has up to twice
    their density; so are floating-point buffers.

    Args:
        networks: The networks.
        task: The task.
        pairs: Numbers of the networks to join; by default all pairs.
        points: Number of interior points of each line, evenly spaced; 1 is the midpoint alone.
        split: Samples to measure on; by default the task's test split.
        reset_statistics: Whether BatchNorm statistics of interior points are estimated anew on training data; by
            default wherever there are any.
        device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

    Raises:
        InputError: There are fewer than two networks, a pair that does not exist, or each network has data of its own.
    """
    _require_shared_data(task, "a line")
    chosen = list(pairs) if pairs is not None else list(combinations(range(len(networks)), 2))
    if not chosen or any(len(pair) != 2 or not all(0 <= i < len(networks) for i in pair) for pair in chosen):
        raise InputError(f"barriers need pairs of the {len(networks)} networks, got {chosen[:3]}")
    if points < 1 or points % 2 == 0:
        raise InputError(f"a line needs an odd number of interior points, so that its midpoint is one; got {points}")
    reset = bool(networks.layout.buffers) if reset_statistics is None else reset_statistics
    device = devices.pick(device)
    ends = measure(networks, task, split=split, device=device)
    inner = [k / (points + 1) for k in range(1, points + 1)]
    result: list[Barrier] = []
    for pair in progress(chosen, "barriers"):
        middle = measure(_between(networks, pair, inner), task, split=split, reset_statistics=reset, device=device)
        columns = [
            (values[pair[0]].item(), *between.tolist(), values[pair[1]].item())
            for values, between in ((ends.losses, middle.losses), (ends.scores, middle.scores))
        ]
        result.append(Barrier(pair, (0.0, *inner, 1.0), columns[0], columns[1], ends.metric))
    return result


def _between(networks: Collection, pair: tuple[int, int], positions: Sequence[float]) -> Collection:
    ends = networks[list(pair)]
    t = torch.tensor(positions, dtype=ends.weights.dtype)

    def line(tensor: Tensor) -> Tensor:
        if not tensor.is_floating_point():
            return tensor[:1].expand(len(t), *tensor.shape[1:]).clone()
        share = t.reshape(-1, *[1] * (tensor.ndim - 1))
        return (1 - share) * tensor[0] + share * tensor[1]

    return Collection(
        ends.layout,
        line(ends.weights),
        architecture=ends.architecture,
        buffers={name: line(b) for name, b in ends.buffers.items()},
    )


def mean_network(networks: Collection, task: Task, *, split: Data | None = None, device: str = "auto") -> Performance:
    """Loss and main metric of the mean of all networks; with BatchNorm, its statistics are estimated anew.

    Raises:
        InputError: Each network has data of its own.
    """
    _require_shared_data(task, "a mean")
    mean = sum_of(networks) / len(networks)
    buffers = {
        name: (b.mean(0, keepdim=True) if b.is_floating_point() else b[:1]) for name, b in networks.buffers.items()
    }
    one = Collection(
        networks.layout, mean.to(networks.layout.dtype)[None], architecture=networks.architecture, buffers=buffers
    )
    return measure(one, task, split=split, reset_statistics=bool(buffers), device=device)


def sum_of(networks: Collection) -> Float[Tensor, " d"]:
    """The sum of all networks' weights, in float64; a block is read at a time."""
    total = torch.zeros(networks.layout.size, dtype=torch.float64)
    for rows in blocks(len(networks), _NETWORKS):
        total += networks.view(rows).weights.double().sum(0)
    return total


def residual_share(networks: Collection) -> float:
    """Fraction of the squared norm left after removing the mean: 1 - N |mean|^2 / sum |theta|^2.

    Unrelated networks have 1 - 1/N, equal ones 0. It is what all pairs' inner products add up to, so
    alignment lowers it. Norm parameters, which are near 1 in all networks, do not count.

    Raises:
        InputError: All weights are zero.
    """
    counts = torch.cat([torch.full((e.size,), e.role != "norm") for e in networks.layout.parameters])
    squares = sum(
        networks[rows].weights[:, counts].double().square().sum().item() for rows in blocks(len(networks), _NETWORKS)
    )
    if squares == 0:
        raise InputError("all weights are zero: the networks have no norm to share")
    return 1 - (sum_of(networks)[counts].square().sum().item() / len(networks)) / squares


def instability(
    task: Task,
    starts: Sequence[Step],
    *,
    copies: int = 2,
    seed: int = 0,
    points: int = 9,
    folder: str | Path | None = None,
    device: str = "auto",
) -> list[tuple[Step, list[Barrier]]]:
    """Instability analysis (Frankle et al. 2020, arXiv 1912.05671).

    One network is trained to each start; copies go on from there with different data orders. Once
    training is stable to their noise, the line between them has no barrier.

    Args:
        task: The task; barriers are measured on its test split.
        starts: Steps at which the copies part; Step() is the initialisation.
        copies: Number of networks for each start.
        seed: Seed of the network and of the data orders.
        points: Number of interior points of each line.
        folder: Folder to keep the trained networks in, one folder a start.
        device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

    Returns:
        For each start the barriers between its copies.

    Raises:
        InputError: There are fewer than two copies.
    """
    if copies < 2:
        raise InputError(f"instability is measured between copies: give at least 2, got {copies}")
    result: list[tuple[Step, list[Barrier]]] = []
    for start in starts:
        where = None if folder is None else Path(folder) / f"from-{start}"
        copied = collect(task, copies, plan=SharedStart(start), seed=seed, folder=where, device=device)
        result.append((start, barriers(copied, task, points=points, device=device)))
    return result
