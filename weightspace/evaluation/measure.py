"""Measure one group of networks against the training networks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.evaluation.baselines import Group
from weightspace.evaluation.connectivity import recalibrated, sum_of
from weightspace.evaluation.metrics import calibration, intervals, novelty, predictive
from weightspace.evaluation.neighbours import (
    Nearest,
    Neighbours,
    Training,
    distances_among,
    kept_in_layers,
    largest_error_overlap,
    largest_mask_overlap,
    mask_overlaps,
    squared_spread,
)
from weightspace.evaluation.predictions import SOME, Predictions, ScoredPredictions, score
from weightspace.masks import overlap
from weightspace.networks.collection import Collection
from weightspace.report.results import GroupResult
from weightspace.tasks.task import Task


@dataclass(frozen=True)
class Measured:
    """A group's result, and what verdicts and pictures need beyond it.

    Args:
        overlap: of errors with the training networks'.
        among: distances among (up to 512 of) the networks, infinite to oneself.
    """

    result: GroupResult
    scored: ScoredPredictions
    around: Neighbours
    overlap: Nearest
    among: Float[Tensor, "n n"]


@dataclass(frozen=True)
class TrainingReference:
    """What every group is measured against.

    Args:
        task: its test split is read.
        training: the training networks in canonical form.
        canonical: brings networks into that form.
        performing: share of the training networks' median accuracy that counts as performing.
        memory: bytes for blocks.
    """

    task: Task
    training: Collection
    canonical: Callable[[Collection], Collection]
    performing: float
    memory: int
    seed: int

    @cached_property
    def space(self) -> Training:
        return Training.of(self.training, sum_of(self.training) / len(self.training), self.memory)

    @cached_property
    def around(self) -> Neighbours:
        """Of the training networks among themselves: the leave-one-out band."""
        return self.space.around(self.training, itself=True)

    @cached_property
    def scored(self) -> ScoredPredictions:
        return self.score(self.training)

    @cached_property
    def dispersion(self) -> float:
        """Root mean square distance of the training networks to their mean, corrected for their number."""
        return (squared_spread(self.training, self.space.centre, self.memory) / (len(self.training) - 1)) ** 0.5

    @property
    def unit(self) -> float:
        """Median distance of a training network to the nearest other."""
        return self.around.nearest.first.quantile(0.5).item()

    @property
    def threshold(self) -> float:
        """Accuracy from which a network counts as performing."""
        return self.performing * self.scored.metrics["accuracy"].quantile(0.5).item()

    def recalibrated(self, networks: Collection) -> Collection:
        """The same pass for every group: BatchNorm statistics from training data."""
        return recalibrated(networks, self.task.train) if networks.layout.buffers else networks

    def score(self, networks: Collection) -> ScoredPredictions:
        return score(networks, self.task.test, memory=self.memory, prepare=self.recalibrated)

    def point(self, networks: Collection) -> dict[str, float]:
        """The few figures that a point of a curve has."""
        networks = self.canonical(networks)
        scored = self.score(networks)
        accuracy = scored.metrics["accuracy"]
        overlap = largest_error_overlap(scored.wrong, self.scored.wrong, itself=False)
        return {
            "accuracy": accuracy.mean().item(),
            "std": accuracy.std(correction=1).item() if len(accuracy) > 1 else 0.0,
            "distance": self.space.around(networks, itself=False).nearest.first.quantile(0.5).item(),
            "error_iou": overlap.first.mean().item(),
        }

    def measure(self, group: Group, *, itself: bool = False, held_out: Float[Tensor, " m"] | None = None) -> Measured:
        """Everything that is reported of a group.

        Args:
            group: its networks in canonical form.
            itself: they are the training networks.
            held_out: nearest distances of held-out networks, for Z_U.
        """
        networks, test = group.networks, self.task.test
        scored = self.scored if itself else self.score(networks)
        around = self.around if itself else self.space.around(networks, itself=False)
        overlap = largest_error_overlap(scored.wrong, self.scored.wrong, itself=itself)
        some = networks[:SOME]
        among = distances_among(some, self.memory)
        kept, sizes = kept_in_layers(networks, self.memory)
        nearest = around.nearest
        metrics = dict(scored.metrics)
        metrics["gain over nearest"] = metrics["accuracy"] - self.scored.metrics["accuracy"][nearest.index]
        metrics["nearest distance"] = nearest.first
        metrics["from few"] = around.few
        metrics["max error IoU"] = overlap.first
        metrics["density"] = kept.sum(1) / sizes.sum()
        if not networks.dense and not self.training.dense:
            metrics["mask overlap with training"] = largest_mask_overlap(
                networks, self.training, itself=itself, memory=self.memory
            )
        names = [entry.name for entry in networks.layout.weights]
        joint = scored.predictions.joint
        together = ensemble_metrics(scored.predictions, test.y) | self._variety(
            group, scored, among, kept[:SOME], sizes
        )
        together["copies"] = (nearest.first < self.close(nearest)).double().mean().item()
        if not itself:
            together["dispersion around the training mean"] = (
                squared_spread(some, self.space.centre, self.memory) / len(some)
            ) ** 0.5 / self.dispersion
        together |= {
            f"novel and performing at {tau}": share
            for tau, share in novelty.novel_and_performing(
                scored.metrics["accuracy"], nearest.first, threshold=self.threshold, unit=self.unit
            ).items()
        }
        if held_out is not None:
            together["Z_U"], together["farther than held-out"] = novelty.z_u(nearest.first, held_out)
        result = GroupResult(
            group.name, group.note, {name: values.tolist() for name, values in metrics.items()}, together,
            dict(zip(names, (kept / sizes).mean(0).tolist(), strict=True)),
            intervals.intervals(joint, test.y, seed=self.seed), reliability(joint, test.y),
        )  # fmt: skip
        return Measured(result, scored, around, overlap, among)

    def close(self, nearest: Nearest) -> Float[Tensor, " n"]:
        """Distances below which networks count as copies: a tenth of the band's median, or half of the second nearest."""
        return torch.maximum(0.5 * nearest.second, torch.tensor(0.1 * self.unit, dtype=torch.float64))

    def _variety(
        self, group: Group, scored: ScoredPredictions, among: Float[Tensor, "n n"], kept: Float[Tensor, "n layers"],
        sizes: Float[Tensor, " layers"],
    ) -> dict[str, float]:  # fmt: skip
        """How different the networks are from each other."""
        some = group.networks[:SOME]
        if len(some) < 2:
            return {}
        wrong = scored.wrong[:SOME]
        own = squared_spread(some, sum_of(some) / len(some), self.memory) / (len(some) - 1)
        found = {
            "dispersion": own**0.5 / self.dispersion,
            "error IoU among": overlap.off_diagonal(novelty.error_iou(wrong, wrong)),
            "error IoU by chance": novelty.chance_iou(wrong),
            "nearest among": among.min(1).values.quantile(0.5).item(),
        }
        if not some.dense:
            # Networks with one mask and other values are put into other orders, which hides that it is one.
            orders = [some] if group.given is None else [some, group.given[:SOME]]
            found["mask overlap"] = max(overlap.off_diagonal(mask_overlaps(o, o, self.memory)) for o in orders)
            found["mask overlap by chance"] = overlap.chance_mask_overlap(kept, sizes)
        return found


def ensemble_metrics(predictions: Predictions, y: Tensor) -> dict[str, float]:
    """Metrics of the ensemble as one predictor."""
    return of_joint(predictions.joint, y) | {
        "mutual information": predictions.mutual_information.mean().item(),
        "disagreement": predictive.disagreement(predictions.votes),
    }


def of_joint(joint: Float[Tensor, "1 s c"], y: Tensor) -> dict[str, float]:
    """Metrics of one predictor."""
    width, mass = calibration.equal_width(joint, y), calibration.equal_mass(joint, y)
    return {
        "accuracy": 1 - predictive.errors(joint, y).double().mean().item(),
        "nll": predictive.nll(joint, y).item(),
        "brier": predictive.brier(joint, y).item(),
        "ece": width.ece.item(),
        "adaptive ece": mass.ece.item(),
        "mace": width.mace.item(),
    }


def reliability(joint: Float[Tensor, "1 s c"], y: Tensor) -> list[tuple[float, float, float]]:
    """Count, mean confidence and accuracy of each bin of confidence; zeros where a bin is empty."""
    bins = calibration.equal_width(joint, y)
    return [
        (count, confidence / max(count, 1), right / max(count, 1))
        for count, confidence, right in zip(
            bins.count[0].tolist(), bins.confidence[0].tolist(), bins.accuracy[0].tolist(), strict=True
        )
    ]


def median_of_nearest(among: Float[Tensor, "n n"], size: int, *, seed: int, draws: int = 200) -> Float[Tensor, " d"]:
    """Median nearest distance of random subsets of networks, one a draw: nearest distances shrink with numbers."""
    random = torch.Generator().manual_seed(seed)
    found = [
        among[rows][:, rows].min(1).values.quantile(0.5)
        for rows in (torch.randperm(len(among), generator=random)[:size] for _ in range(draws))
    ]
    return torch.stack(found)


def clustered(among: Float[Tensor, "n n"], near: float) -> float:
    """Share of the networks that have another nearer than so much of the median distance between two."""
    typical = among[~torch.eye(len(among), dtype=torch.bool)].quantile(0.5)
    return (among.min(1).values < near * typical).double().mean().item()
