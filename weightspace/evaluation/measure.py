"""Measure one group of networks against the training networks."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.evaluation.connectivity import recalibrated, sum_of
from weightspace.evaluation.groups import Group
from weightspace.evaluation.metrics import novelty
from weightspace.evaluation.neighbours import (
    Nearest,
    Neighbours,
    NeighbourSearch,
    distances_by,
    inner_products,
    kept_in_layers,
    largest_error_overlap,
    largest_mask_overlap,
    mask_overlaps,
    spread_by,
    squared_spread,
)
from weightspace.evaluation.own_statistics import RowStatistics
from weightspace.evaluation.predictions import COMPARED, ScoredPredictions
from weightspace.evaluation.scoring import Scorer, scorer_of
from weightspace.masks import overlap
from weightspace.networks.collection import Collection
from weightspace.networks.placing import placed
from weightspace.report.metrics import GroupMetrics
from weightspace.report.results import CurveResult, GroupResult, LayerDensity, Novelty, Variety
from weightspace.tasks.task import Task


@dataclass(frozen=True)
class MeasuredGroup:
    """A group's result, and what verdicts and figures need beyond it.

    Args:
        result: The row of the report.
        scored: Predictions on the test split.
        around: The nearest training networks.
        error_overlap: Overlap of errors with the training networks'.
        among: Distances among (up to 512 of) the networks, infinite to oneself.
    """

    result: GroupResult
    scored: ScoredPredictions
    around: Neighbours
    error_overlap: Nearest
    among: Float[Tensor, "n n"]


@dataclass(frozen=True)
class TrainingReference:
    """The training networks, which every group is measured against.

    Args:
        task: The task; its test split is read.
        training: The training networks in canonical form.
        canonical: What brings networks into that form.
        performing: Share of the training networks' median main metric from which a network counts as performing.
        memory_gb: Memory for blocks, in GiB.
        seed: Seed of the intervals.
        device: Device to compute on, block by block.
        compared: What distances are taken on, of networks in canonical form; None takes them as they are.
        statistics: Which rows keep their BatchNorm statistics.

    Raises:
        InputError: Half of the training networks are copies of others, so that there is no distance to compare with.
    """

    task: Task
    training: Collection
    canonical: Callable[[Collection], Collection]
    performing: float
    memory_gb: float
    seed: int
    device: str = "cpu"
    compared: Callable[[Collection], Collection] | None = None
    statistics: RowStatistics = RowStatistics()

    def __post_init__(self) -> None:
        # Distances are told in medians among training networks, which must not be copies of each other.
        size = self.search.gram.diagonal().mean().sqrt().item()
        if not self.unit > 1e-4 * size:
            raise InputError(
                "half of the reference networks are copies of others (up to the order and scale of their units): leave "
                "the copies out, otherwise there is no distance to compare with"
            )

    @cached_property
    def scorer(self) -> Scorer:
        """How networks are scored."""
        return scorer_of(self.task)

    @cached_property
    def compared_training(self) -> Collection:
        """What distances to the training networks are taken on."""
        return self.to_compare(self.training)

    def to_compare(self, networks: Collection) -> Collection:
        """What distances are taken on.

        Args:
            networks: Networks in canonical form.
        """
        return networks if self.compared is None else self.compared(networks)

    @cached_property
    def search(self) -> NeighbourSearch:
        """Finds the training networks around others."""
        training = self.compared_training
        return NeighbourSearch.of(training, sum_of(training) / len(training), self.memory_gb, self.device)

    @cached_property
    def around(self) -> Neighbours:
        """The training networks around each training network, itself excepted."""
        return self.search.around(self.compared_training, itself=True)

    @cached_property
    def scored(self) -> ScoredPredictions:
        """Predictions of the training networks on the test split."""
        return self.score(self.training, self.statistics.training)

    @cached_property
    def dispersion(self) -> float:
        """Root mean square distance of the training networks to their mean, corrected for their number."""
        spread = squared_spread(self.compared_training, self.search.centre, self.memory_gb, self.device)
        return (spread / (len(self.training) - 1)) ** 0.5

    @property
    def unit(self) -> float:
        """Median distance of a training network to the nearest other."""
        return self.around.nearest.first.quantile(0.5).item()

    @property
    def unit_angle(self) -> float:
        """Median angle between a training network and the nearest other."""
        return self.around.angle.first.quantile(0.5).item()

    def novelty(self, distance: Float[Tensor, " n"], angle: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
        """How far networks are in medians among training networks, by distance or by angle, whichever is less.

        Larger weights alone make distances larger, not angles.

        Args:
            distance: Distance of each to the nearest training network.
            angle: Angle of each to the nearest training network.
        """
        return torch.minimum(distance / self.unit, angle / max(self.unit_angle, 1e-300))

    @property
    def threshold(self) -> float:
        """Value of the main metric from which a network counts as performing.

        The median of the training networks times the share `performing`, or over it, whichever is worse: a loss of
        0.1 becomes one of 0.105 at 0.95, an R^2 of -0.1 one of -0.105.
        """
        median = self.scored.main.quantile(0.5).item()
        worse = min if self.scorer.main.higher_is_better else max
        return worse(self.performing * median, median / self.performing)

    def performs(self, scores: Float[Tensor, " n"]) -> Bool[Tensor, " n"]:
        """Which networks perform, by their main metric."""
        return scores >= self.threshold if self.scorer.main.higher_is_better else scores <= self.threshold

    @property
    def task_of_pass(self) -> Task:
        """The task, with the training inputs that statistics are estimated on."""
        data = self.statistics.data
        return self.task if data is None else replace(self.task, train=data)

    def recalibrated(self, networks: Collection) -> Collection:
        """The networks with BatchNorm statistics from training data: the same pass for every group."""
        if not networks.layout.buffers:
            return networks
        return recalibrated(networks, self.task_of_pass.train, device=self.device)

    def prepared(self, networks: Collection, *, row: str | None = None) -> Collection:
        """A block of networks that is to predict: these statistics, and on the device.

        Args:
            networks: The networks.
            row: Name of their row, whose networks may keep their own statistics.
        """
        return placed(networks if row in self.statistics.own else self.recalibrated(networks), self.device)

    def score(self, networks: Collection, row: str | None = None) -> ScoredPredictions:
        """Predictions on the test split, with each network's metrics.

        Args:
            networks: The networks.
            row: Name of their row, whose networks may keep their own statistics.
        """
        prepare = partial(self.prepared, row=row)
        return self.scorer.score(networks, self.task.test, memory_gb=self.memory_gb, prepare=prepare)

    def copies(self, around: Neighbours) -> Bool[Tensor, " n"]:
        """Which networks count as copies, by distance or by angle.

        Those nearer than a tenth of the median among training networks, or than half as far as the second nearest.
        """
        return _close(around.nearest, self.unit) | _close(around.angle, self.unit_angle)

    def measure_point(self, family: str, level: float, networks: Collection) -> CurveResult | None:
        """The few figures of a point of a curve; None if its networks are so broken that a figure is not finite.

        Args:
            family: Name of the curve.
            level: Strength of the baseline.
            networks: Its networks.
        """
        canonical = self.canonical(networks)
        scored = self.score(canonical)
        score = scored.main
        if not scored.finite:
            return None
        errors = largest_error_overlap(scored.errors, self.scored.errors, itself=False)
        return CurveResult(
            family,
            level,
            len(networks),
            score=score.mean().item(),
            std=score.std(correction=1).item() if len(score) > 1 else 0.0,
            distance=self.search.around(self.to_compare(canonical), itself=False).nearest.first.quantile(0.5).item(),
            error_iou=errors.first.mean().item(),
        )

    def measure(
        self, group: Group, *, itself: bool = False, held_out: Float[Tensor, " m"] | None = None
    ) -> MeasuredGroup:
        """Everything that is reported of a group.

        Args:
            group: The group, its networks in canonical form.
            itself: Whether they are the training networks.
            held_out: Distances of held-out networks to the nearest training network, for Z_U.

        Raises:
            InputError: A network is so broken that a figure is not finite.
        """
        measured = self.measure_finite(group, itself=itself, held_out=held_out)
        if measured is None:
            raise InputError(f"the loss or a metric of {group.name!r} is not finite: leave diverged networks out")
        return measured

    def measure_finite(
        self, group: Group, *, itself: bool = False, held_out: Float[Tensor, " m"] | None = None
    ) -> MeasuredGroup | None:
        """Everything that is reported of a group; None if a network is so broken that a figure is not finite.

        Args:
            group: The group, its networks in canonical form.
            itself: Whether they are the training networks.
            held_out: Distances of held-out networks to the nearest training network, for Z_U.
        """
        networks, test = group.networks, self.task.test
        scored = self.scored if itself else self.score(networks, group.name)
        if not scored.finite:
            return None
        compared = self.compared_training if itself else self.to_compare(networks)
        around = self.around if itself else self.search.around(compared, itself=False)
        errors = largest_error_overlap(scored.errors, self.scored.errors, itself=itself)
        products = self._products(compared, itself=itself)
        among = distances_by(products)
        kept, sizes = kept_in_layers(networks, self.memory_gb)
        densities = (kept / sizes).mean(0).tolist()
        result = GroupResult(
            group.name,
            group.note,
            GroupMetrics(
                {name: values.tolist() for name, values in scored.scores.items()},
                density=(kept.sum(1) / sizes.sum()).tolist(),
                gain_over_nearest=self._gain(scored, around).tolist(),
                nearest_distance=around.nearest.first.tolist(),
                from_few=around.few.tolist(),
                max_error_iou=errors.first.tolist(),
                mask_overlap_with_training=self._mask_overlap(networks, itself=itself),
                nearest_angle=around.angle.first.tolist(),
            ),
            self.scorer.ensemble(scored.predictions, test),
            self._novelty(products, scored, around, itself=itself, held_out=held_out),
            self._variety(group, products, scored, among, kept[:COMPARED], sizes),
            [LayerDensity(e.name, density) for e, density in zip(networks.layout.weights, densities, strict=True)],
            self.scorer.intervals(scored.predictions, test, seed=self.seed),
            self.scorer.reliability(scored.predictions, test),
        )
        return MeasuredGroup(result, scored, around, errors, among)

    def _gain(self, scored: ScoredPredictions, around: Neighbours) -> Float[Tensor, " n"]:
        gain = scored.main - self.scored.main[around.nearest.index]
        return gain if self.scorer.main.higher_is_better else -gain

    def _mask_overlap(self, networks: Collection, *, itself: bool) -> list[float] | None:
        if networks.dense or self.training.dense:
            return None
        return largest_mask_overlap(
            networks, self.training, itself=itself, memory_gb=self.memory_gb, device=self.device
        ).tolist()

    def _products(self, networks: Collection, *, itself: bool) -> Float[Tensor, "k k"]:
        """Inner products of the deviations of (up to 512) networks from the training mean."""
        if itself:
            return self.search.gram[:COMPARED, :COMPARED]
        return inner_products(networks[:COMPARED], self.search.centre, self.memory_gb, self.device)

    def _novelty(
        self,
        products: Float[Tensor, "k k"],
        scored: ScoredPredictions,
        around: Neighbours,
        *,
        itself: bool,
        held_out: Float[Tensor, " m"] | None,
    ) -> Novelty:
        """How the networks lie relative to the training networks."""
        nearest = around.nearest
        dispersion: float | None = None
        if not itself:
            spread = products.trace().item() / len(products)
            dispersion = spread**0.5 / self.dispersion
        z_u, farther = (None, None) if held_out is None else novelty.z_u(nearest.first, held_out)
        return Novelty(
            copies=self.copies(around).double().mean().item(),
            novel_and_performing=novelty.novel_and_performing(
                self.performs(scored.main), self.novelty(nearest.first, around.angle.first), unit=1.0
            ),
            dispersion_around_training=dispersion,
            z_u=z_u,
            farther_than_held_out=farther,
        )

    def _variety(
        self,
        group: Group,
        products: Float[Tensor, "k k"],
        scored: ScoredPredictions,
        among: Float[Tensor, "n n"],
        kept: Float[Tensor, "n layers"],
        sizes: Float[Tensor, " layers"],
    ) -> Variety | None:
        """How different the networks are from each other."""
        compared = group.networks[:COMPARED]
        if len(compared) < 2:
            return None
        errors = scored.errors[:COMPARED]
        spread = spread_by(products) / (len(products) - 1)
        shared: float | None = None
        if not compared.dense:
            # Networks with one mask and other values are put into other orders, which hides that it is one.
            orders = [compared] if group.original is None else [compared, group.original[:COMPARED]]
            shared = max(overlap.off_diagonal(mask_overlaps(o, o, self.memory_gb, self.device)) for o in orders)
        return Variety(
            dispersion=spread**0.5 / self.dispersion,
            error_iou=overlap.off_diagonal(novelty.likeness(errors, errors)),
            error_iou_by_chance=novelty.chance_likeness(errors),
            nearest_distance=among.min(1).values.quantile(0.5).item(),
            mask_overlap=shared,
            mask_overlap_by_chance=None if compared.dense else overlap.chance_mask_overlap(kept, sizes),
        )


def _close(nearest: Nearest, unit: float) -> Bool[Tensor, " n"]:
    return nearest.first < torch.maximum(0.5 * nearest.second, torch.tensor(0.1 * unit, dtype=torch.float64))


def median_of_nearest(among: Float[Tensor, "n n"], size: int, *, seed: int, draws: int = 200) -> Float[Tensor, " d"]:
    """Median nearest distance of random subsets of networks, one a draw: nearest distances shrink with numbers.

    Args:
        among: Distances of all pairs, infinite to oneself.
        size: Networks in each subset.
        seed: Seed of the draws.
        draws: Number of subsets.
    """
    random = torch.Generator().manual_seed(seed)
    medians = [
        among[rows][:, rows].min(1).values.quantile(0.5)
        for rows in (torch.randperm(len(among), generator=random)[:size] for _ in range(draws))
    ]
    return torch.stack(medians)


def clustered(among: Float[Tensor, "n n"], near: float) -> float:
    """Share of the networks that have another nearer than some share of the median distance between two.

    Args:
        among: Distances of all pairs, infinite to oneself.
        near: This share.
    """
    typical = among[~torch.eye(len(among), dtype=torch.bool)].quantile(0.5)
    return (among.min(1).values < near * typical).double().mean().item()
