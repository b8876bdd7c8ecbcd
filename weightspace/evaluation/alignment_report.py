"""AlignmentReport: what an alignment did, before and after, on networks that nobody aligned to each other."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from weightspace.errors import InputError
from weightspace.evaluation import connectivity
from weightspace.evaluation.connectivity import Barrier
from weightspace.masks.overlap import Overlap, overlap_within
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.report import plots
from weightspace.report.metrics import ACCURACY, ReportedMetric
from weightspace.report.page import Picture, Table, render, wrapped
from weightspace.report.results import Verdict
from weightspace.runtime import checks
from weightspace.storage.files import dump_json, write_text
from weightspace.storage.manifests import add_to_manifest
from weightspace.tasks.arguments import check_task
from weightspace.tasks.task import Task

FORMAT = "weightspace.alignment"


@dataclass(frozen=True)
class Side:
    """One state of the same networks, before or after alignment.

    Args:
        name: "as found" or "aligned".
        residual_share: Fraction of the squared norm that is not in the mean network.
        barriers: Barriers of all pairs of networks.
        mean_loss: Loss of the mean network.
        mean_score: Main metric of the mean network.
        overlap: Overlap of masks; None for dense networks.
    """

    name: str
    residual_share: float
    barriers: Sequence[Barrier]
    mean_loss: float
    mean_score: float
    overlap: Overlap | None

    @property
    def barrier(self) -> float:
        """Mean loss barrier over pairs."""
        return statistics.fmean(b.loss for b in self.barriers)


@dataclass(frozen=True)
class AlignmentReport:
    """Networks before and after alignment.

    Args:
        task: Name of the task; everything is measured on its test split.
        networks: Number of networks that were measured.
        score: Mean of the networks' main metric.
        sides: The networks before alignment, then after it.
        settings: A sentence that says how they were aligned.
        centre: Number of the network that all others were matched to; None if there is none or it was not measured.
        metric: The main metric.
    """

    task: str
    networks: int
    score: float
    sides: Sequence[Side]
    settings: str = ""
    centre: int | None = None
    metric: ReportedMetric = ACCURACY

    @property
    def columns(self) -> list[str]:
        """Headings of the table."""
        short = "acc." if self.metric == ACCURACY else self.metric.label
        names = (
            "mean barrier",
            "largest",
            f"mean network {short}",
            "mean network loss",
            "residual share",
            "mask overlap",
        )
        return ["networks", *names]

    def rows(self) -> list[list[str]]:
        """Rows of the table, one for each side."""
        return [
            [
                side.name,
                f"{side.barrier:.4f}",
                f"{max(b.loss for b in side.barriers):.4f}",
                f"{side.mean_score:.4f}",
                f"{side.mean_loss:.4f}",
                f"{side.residual_share:.3f}",
                "-" if side.overlap is None else f"{side.overlap.shared:.3f} (chance {side.overlap.chance_shared:.3f})",
            ]
            for side in self.sides
        ]

    def headline(self) -> str:
        """The result in one sentence: whether the networks are in one basin, by their mean network and the barriers."""
        before, after = self.sides[0], self.sides[-1]
        basin = "one basin" if self._near(after) else "not one basin"
        label = self.metric.label
        return (
            f"{self.networks} networks, {basin} after alignment: their mean network has {label} {after.mean_score:.4f} "
            f"({before.mean_score:.4f} as found, the networks themselves {self.score:.4f}); barriers went from "
            f"{before.barrier:.4f} to {after.barrier:.4f}."
        )

    def verdicts(self) -> list[Verdict]:
        """Whether the networks are in one basin."""
        return [
            Verdict(
                "one basin",
                "pass" if self._near(self.sides[-1]) else "fail",
                self._verdict(self.sides[0], self.sides[-1]),
                "the mean network is at most a tenth worse than its members",
            )
        ]

    def findings(self) -> list[str]:
        """What the table says, in words."""
        return [*self._measured(), self._verdict(self.sides[0], self.sides[-1])]

    def _measured(self) -> list[str]:
        before, after = self.sides[0], self.sides[-1]
        lines = [
            f"The networks reach{self._what} {self.score:.4f} on average; their mean network {before.mean_score:.4f} "
            f"as found and {after.mean_score:.4f} aligned.",
            f"The loss barrier between two networks is {before.barrier:.4f} as found and {after.barrier:.4f} aligned "
            f"(mean over {len(after.barriers)} pairs, {len(after.barriers[0].positions) - 2} points on each line).",
            f"{after.residual_share:.0%} of their squared norm is not in the mean ({before.residual_share:.0%} as "
            f"found; "
            f"unrelated networks: {1 - 1 / self.networks:.0%}).",
        ]
        if self.centre is not None:
            joined = [b.loss for b in after.barriers if self.centre in b.pair]
            others = [b.loss for b in after.barriers if self.centre not in b.pair]
            if others:
                lines.append(
                    f"All were matched to network {self.centre}: pairs with it have a barrier of "
                    f"{statistics.fmean(joined):.4f}, all others, which nobody aligned to each other, of "
                    f"{statistics.fmean(others):.4f}."
                )
        return lines

    def _verdict(self, before: Side, after: Side) -> str:
        if not self._near(after):
            return (
                "Not in one basin: the mean network is far below its members, so that averages, codes and distances of "
                "these networks mean little. Wider networks align better."
            )
        if self._near(before):
            return "They were in one basin already, as copies of one start or networks aligned before are."
        return "In one basin: the mean network works."

    @property
    def _what(self) -> str:
        return "" if self.metric == ACCURACY else f" {self.metric.phrase} of"

    def _near(self, side: Side) -> bool:
        """Whether the mean network is no more than a tenth worse than its members."""
        worse = min if self.metric.higher_is_better else max
        least = worse(0.9 * self.score, self.score / 0.9)
        return self.metric.advantage(side.mean_score) >= self.metric.advantage(least)

    def __str__(self) -> str:
        head = f"{self.task}, test split, {self.networks} networks"
        table = Table("Before and after", [self.columns, *self.rows()])
        return "\n".join([wrapped(self.headline()), "", head, table.text(), *map(wrapped, self.findings())])

    def plot(self) -> list[Picture]:
        """Lines of loss and accuracy, barriers of all pairs, overlap of masks."""
        loss = {s.name: [(b.positions, b.losses) for b in s.barriers] for s in self.sides}
        scores = {s.name: [(b.positions, b.scores) for b in s.barriers] for s in self.sides}
        losses = [value for side in self.sides for barrier in side.barriers for value in barrier.losses]
        positive = self.metric == ACCURACY or min(losses) > 0
        label, hump = self.metric.label, "a dip" if self.metric.higher_is_better else "a hump"
        barriers = {s.name: self._matrix(s) for s in self.sides}
        pictures = [
            Picture(
                "loss between networks",
                "flat is good, a hump is a barrier",
                plots.lines(loss, "test loss", logarithmic=positive),
            ),
            Picture(
                f"{label} between networks",
                f"flat is good, {hump} is a barrier",
                plots.lines(scores, f"test {label}"),
            ),
            Picture("barriers of all pairs, light is good", self._star(), plots.matrices(barriers, "loss barrier")),
        ]
        overlaps = {s.name: s.overlap for s in self.sides if s.overlap is not None}
        if overlaps:
            rows = {name: {"shared": o.shared, "by chance": o.chance_shared} for name, o in overlaps.items()}
            pictures.append(
                Picture(
                    "mask overlap",
                    "above chance means that the same weights are kept",
                    plots.bars(rows, "shared non-zeros over non-zeros"),
                )
            )
        return pictures

    def _star(self) -> str:
        if self.centre is None:
            return ""
        return f"only row {self.centre} was aligned directly; dark elsewhere means that the others are not joined"

    def _matrix(self, side: Side) -> np.ndarray:
        matrix = np.full((self.networks, self.networks), np.nan)
        for barrier in side.barriers:
            i, j = barrier.pair
            matrix[i, j] = matrix[j, i] = barrier.loss
        return matrix

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON data."""
        data = asdict(self)
        metric = data.pop("metric")
        for barrier in (barrier for side in data["sides"] for barrier in side["barriers"]):
            del barrier["metric"]
        if self.metric != ACCURACY:
            return {"format": FORMAT, "version": 1, **data, "metric": metric}
        names = {"score": "accuracy", "mean_score": "mean_accuracy", "scores": "accuracies"}
        return {"format": FORMAT, "version": 1, **_renamed(data, names)}

    def write(self, folder: Path) -> None:
        """Write alignment.json, alignment.html and the figures as PNG.

        Args:
            folder: An existing folder.
        """
        pictures = self.plot()
        names = [picture.write(folder, "png") for picture in pictures]
        legend = [
            ("barrier", "test loss on the line between two networks above the straight line between their own losses"),
            ("residual share", "fraction of squared norm that is not in the mean network"),
            ("mask overlap", "shared non-zeros over non-zeros"),
        ]
        page = render(
            f"weightspace alignment: {self.task}",
            f"{self.networks} networks, measured on the test split before and after alignment. {self.settings}".strip(),
            findings=self._measured(),
            verdicts=self.verdicts(),
            lead=self.headline(),
            tables=[Table("Before and after", [self.columns, *self.rows()], legend, [self.sides[-1].name])],
            pictures=pictures,
        )
        write_text(folder / "alignment.html", page)
        write_text(folder / "alignment.json", dump_json(self.to_json(), "the alignment report", indent=1))
        add_to_manifest(folder, [*names, "alignment.html", "alignment.json"])


def _renamed(data: Any, names: Mapping[str, str]) -> Any:
    """The same data with other names of fields."""
    if isinstance(data, dict):
        return {names.get(name, name): _renamed(value, names) for name, value in data.items()}
    return [_renamed(value, names) for value in data] if isinstance(data, list | tuple) else data


def alignment_report(
    original: Collection,
    aligned: Collection,
    task: Task,
    *,
    networks: int = 8,
    points: int = 9,
    settings: str = "",
    reference: int | None = None,
    device: str = "auto",
) -> AlignmentReport:
    """Compare networks before and after alignment, on the test split.

    Args:
        original: Networks before alignment.
        aligned: The same networks in the same order, aligned.
        task: Task that the networks were trained on.
        networks: Number of networks to measure, spread evenly (and the reference); all pairs among them are tried.
        points: Number of interior points of each line.
        settings: A sentence that says how they were aligned, for the page.
        reference: Number of the network that all others were matched to, if it is one of them.
        device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

    Raises:
        InputError: There are fewer than two networks, the two collections differ in length, or each network has data
            of its own.
    """
    check_networks(original, "original")
    check_networks(aligned, "aligned")
    check_task(task)
    if len(original) != len(aligned):
        raise InputError(
            f"original and aligned must be the same networks, got {len(original)} and {len(aligned)} of them"
        )
    networks, points = checks.count(networks, "networks", at_least=2), checks.count(points, "points", at_least=1)
    if not isinstance(settings, str):
        raise checks.refuse("settings", "a sentence, or empty", settings)
    if len(original) < 2:
        raise InputError("a report on alignment needs at least two networks, got one")
    reference = checks.given(reference, "reference", checks.count, at_most=len(original) - 1)
    count = min(networks, len(original))
    rows = [i * len(original) // count for i in range(count)]
    if reference is not None and reference not in rows:
        rows[0] = reference
    centre = None if reference is None else rows.index(reference)
    performance = connectivity.measure(original[rows], task, device=device)
    sides = [
        _side(name, collection[rows], task, points, device)
        for name, collection in (("as found", original), ("aligned", aligned))
    ]
    return AlignmentReport(task.name, count, performance.score, sides, settings, centre, performance.metric)


def _side(name: str, networks: Collection, task: Task, points: int, device: str) -> Side:
    mean = connectivity.mean_network(networks, task, device=device)
    return Side(
        name,
        connectivity.residual_share(networks),
        connectivity.barriers(networks, task, points=points, device=device),
        mean.loss,
        mean.score,
        None if networks.dense else overlap_within(networks),
    )
