"""Measure one group of networks against the training networks."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.collection import Collection
from weightspace.evaluation import bootstrap, calibration, novelty, predictive
from weightspace.evaluation.baselines import Arm
from weightspace.evaluation.connectivity import recalibrated, sum_of
from weightspace.evaluation.neighbours import Neighbours, largest_error_overlap, largest_mask_overlap, neighbours
from weightspace.evaluation.predictions import Judged, judge
from weightspace.functional import blocks
from weightspace.results import ArmResult
from weightspace.task import Task

PAIRS = 512  # of larger groups so many networks are compared with each other


@dataclass(frozen=True)
class Measured:
    """A group's result, and what verdicts and pictures need beyond it.

    Args:
        among: distances among (up to 512 of) the networks, infinite to oneself.
    """

    result: ArmResult
    judged: Judged
    around: Neighbours
    among: Float[Tensor, "n n"]


@dataclass(frozen=True)
class Yardstick:
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
    def centre(self) -> Float[Tensor, " d"]:
        return sum_of(self.training) / len(self.training)

    @cached_property
    def around(self) -> Neighbours:
        """Of the training networks among themselves: the leave-one-out band."""
        return neighbours(self.training, self.training, self.centre, itself=True, memory=self.memory)

    @cached_property
    def judged(self) -> Judged:
        return judge(self.recalibrated(self.training), self.task.test, memory=self.memory)

    @cached_property
    def dispersion(self) -> float:
        """Root mean square distance of the training networks to their mean."""
        return novelty.spread(self.training, self.centre)

    @property
    def unit(self) -> float:
        """Median distance of a training network to the nearest other."""
        return self.around.distance.quantile(0.5).item()

    @property
    def threshold(self) -> float:
        """Accuracy from which a network counts as performing."""
        return self.performing * self.judged.metrics["accuracy"].quantile(0.5).item()

    def recalibrated(self, networks: Collection) -> Collection:
        """The same pass for every group: BatchNorm statistics from training data."""
        return recalibrated(networks, self.task.train) if networks.layout.buffers else networks

    def point(self, networks: Collection) -> dict[str, float]:
        """The few figures that a point of a curve has."""
        networks = self.canonical(networks)
        judged = judge(self.recalibrated(networks), self.task.test, memory=self.memory)
        nearest = [
            novelty.distances(networks.weights, self.training[columns].weights).min(1).values
            for columns in blocks(len(self.training), self._rows)
        ]
        distance = torch.stack(nearest).min(0).values
        accuracy = judged.metrics["accuracy"]
        overlap = largest_error_overlap(judged.wrong, self.judged.wrong, itself=False)
        return {
            "accuracy": accuracy.mean().item(),
            "std": accuracy.std(correction=1).item() if len(accuracy) > 1 else 0.0,
            "distance": distance.quantile(0.5).item(),
            "error_iou": overlap.mean().item(),
        }

    def measure(self, arm: Arm, *, itself: bool = False, held_out: Float[Tensor, " m"] | None = None) -> Measured:
        """Everything that is reported of a group.

        Args:
            arm: its networks in canonical form.
            itself: they are the training networks.
            held_out: nearest distances of held-out networks, for Z_U.
        """
        networks, test = arm.networks, self.task.test
        judged = self.judged if itself else judge(self.recalibrated(networks), test, memory=self.memory)
        around = (
            self.around
            if itself
            else neighbours(networks, self.training, self.centre, itself=False, memory=self.memory)
        )
        some = networks[:PAIRS]
        among = novelty.distances(some.weights)
        metrics = dict(judged.metrics)
        metrics["gain over nearest"] = metrics["accuracy"] - self.judged.metrics["accuracy"][around.index]
        metrics["nearest distance"] = around.distance
        metrics["nearest over second"] = around.distance / around.second.clamp(min=1e-300)
        metrics["from few"] = around.few
        metrics["max error IoU"] = largest_error_overlap(judged.wrong, self.judged.wrong, itself=itself)
        metrics["density"] = networks.densities
        if not networks.dense and not self.training.dense:
            metrics["mask overlap with training"] = largest_mask_overlap(
                networks, self.training, itself=itself, memory=self.memory
            )
        joint = judged.predictions.joint
        return Measured(
            ArmResult(
                arm.name,
                arm.note,
                {name: values.tolist() for name, values in metrics.items()},
                ensemble_metrics(judged, test.y) | self._together(some, judged, around, among, held_out),
                self._layers(networks),
                bootstrap.intervals(joint, test.y, seed=self.seed),
                reliability(joint, test.y),
            ),
            judged,
            around,
            among,
        )

    def _together(
        self,
        some: Collection,
        judged: Judged,
        around: Neighbours,
        among: Float[Tensor, "n n"],
        held_out: Float[Tensor, " m"] | None,
    ) -> dict[str, float]:
        found = {
            "dispersion": novelty.spread(some, sum_of(some) / len(some)) / self.dispersion,
            "dispersion around the training mean": novelty.spread(some, self.centre) / self.dispersion,
            "copies": (around.distance < 0.5 * around.second).double().mean().item(),
        }
        joint = novelty.novel_and_performing(
            judged.metrics["accuracy"], around.distance, threshold=self.threshold, unit=self.unit
        )
        found |= {f"novel and performing at {tau}": share for tau, share in joint.items()}
        if held_out is not None:
            found["Z_U"], found["farther than held-out"] = novelty.z_u(around.distance, held_out)
        if len(some) > 1:
            wrong = judged.wrong[:PAIRS]
            found["error IoU among"] = novelty.off_diagonal(novelty.error_iou(wrong, wrong))
            found["error IoU by chance"] = novelty.chance_iou(wrong)
            found["nearest among"] = among.min(1).values.quantile(0.5).item()
            if not some.dense:
                prunable = some.layout.prunable
                masks = torch.cat([some[rows].masks[:, prunable] for rows in blocks(len(some), self._rows)])
                found["mask overlap"] = novelty.off_diagonal(novelty.mask_overlap(masks, masks))
                found["mask overlap by chance"] = novelty.chance_mask_overlap(some)
        return found

    def _layers(self, networks: Collection) -> dict[str, float]:
        layout = networks.layout
        total = torch.zeros(layout.size, dtype=torch.float64)
        for rows in blocks(len(networks), self._rows):
            total += networks[rows].masks.sum(0)
        total /= len(networks)
        return {e.name: total[layout.slices[e.name]].mean().item() for e in layout.parameters if e.role == "weight"}

    @property
    def _rows(self) -> int:
        return max(1, self.memory // (32 * self.training.layout.size))


def ensemble_metrics(judged: Judged, y: Tensor) -> dict[str, float]:
    """Metrics of the ensemble as one predictor."""
    predictions = judged.predictions
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
