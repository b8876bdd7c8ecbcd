"""Report: results per network and in summary, samples beside their baselines."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightspace.errors import InputError, StorageError
from weightspace.results import ArmResult
from weightspace.storage import dump_json, read_manifest, write_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT = "weightspace.report"
VERSION = 1


@dataclass(frozen=True)
class Report:
    """What `evaluate` measured.

    Args:
        task: name of the task.
        test_samples: size of the test split.
        arms: one result a group of networks.
        samples, reference: names of the arms that were judged and learned from.
    """

    task: str
    test_samples: int
    arms: Sequence[ArmResult]
    samples: str
    reference: str

    def __getitem__(self, name: str) -> ArmResult:
        for arm in self.arms:
            if arm.name == name:
                return arm
        raise InputError(f"the report has no row {name!r}: it has {', '.join(arm.name for arm in self.arms)}")

    @property
    def columns(self) -> list[str]:
        return [
            "networks", "n", "density", "accuracy", "NLL", "ECE", "ensemble acc.", "ensemble NLL",
            "distance", "error IoU", "dispersion", "mask overlap",
        ]  # fmt: skip

    def rows(self) -> list[list[str]]:
        """The summary table as text, one row an arm. Distances are relative to the training band's median."""
        unit = self[self.reference].median("nearest distance")
        return [
            [
                arm.name,
                str(arm.count),
                f"{arm.mean('density'):.3f}",
                f"{arm.mean('accuracy'):.3f} ± {arm.std('accuracy'):.3f}",
                f"{arm.mean('nll'):.3f}",
                f"{arm.mean('ece'):.3f}",
                f"{arm.together['accuracy']:.3f}",
                f"{arm.together['nll']:.3f}",
                f"{arm.median('nearest distance') / unit:.2f}",
                f"{arm.median('max error IoU'):.2f}",
                f"{arm.together['dispersion']:.2f}",
                f"{arm.together['mask overlap']:.2f}" if "mask overlap" in arm.together else "-",
            ]
            for arm in self.arms
        ]

    def findings(self) -> list[str]:
        """What the table says about the samples, in words, good or bad."""
        samples, reference = self[self.samples], self[self.reference]
        low, high = samples.interval("accuracy")
        lines = [
            f"Samples reach {samples.mean('accuracy'):.3f} (95 % interval of the mean {low:.3f} to {high:.3f}, "
            f"n = {samples.count}), their training tickets {reference.mean('accuracy'):.3f}."
        ]
        rivals = [a for a in self.arms if a.name in ("interpolation", "mean network", "Gaussian") or "soup" in a.name]
        best = max(rivals, key=lambda arm: arm.mean("accuracy"))
        better = samples.interval("accuracy")[0] > best.mean("accuracy")
        lines.append(
            f"The best averaging baseline, {best.name}, reaches {best.mean('accuracy'):.3f}: "
            + ("the samples are better." if better else "the samples are not better than averaging in accuracy.")
        )
        ratio = samples.median("nearest distance") / reference.median("nearest distance")
        lines.append(
            f"A typical sample is {ratio:.2f} times as far from its nearest training ticket as training tickets are "
            "from each other: "
            + ("as far as a new ticket would be." if ratio >= 1 else "closer than a new ticket would be.")
        )
        spread = samples.together["dispersion"]
        lines.append(
            f"Samples spread {spread:.2f} times as much as the training tickets"
            + (": they are drawn towards the mean network." if spread < 0.8 else ".")
        )
        return lines

    def __str__(self) -> str:
        table = [self.columns, *self.rows()]
        widths = [max(len(row[i]) for row in table) for i in range(len(self.columns))]
        lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table]
        rule = "-" * max(map(len, lines))
        head = f"{self.task}: {self.test_samples} test samples; accuracy as mean ± standard deviation over networks"
        return "\n".join([head, lines[0], rule, *lines[1:], rule, *self.findings()])

    def plot(self) -> "dict[str, Figure]":
        """The report's figures by name (matplotlib)."""
        from weightspace import plots

        figures = {
            "accuracy": plots.accuracy(self.arms, self.samples, self.reference),
            "accuracy and distance": plots.plane(self.arms, self.samples, self.reference),
        }
        if any(min(arm.layer_density.values()) < 1 for arm in self.arms):
            figures["density per layer"] = plots.layer_density(self.arms, self.samples, self.reference)
        return figures

    def html(self, path: str | Path, *, figures: "Mapping[str, Figure] | None" = None) -> None:
        """Write a page that needs no other file and no network.

        Args:
            figures: further figures by caption, shown after the report's own.
        """
        from weightspace.page import render

        page = render(
            f"weightspace report: {self.task}",
            f"{self.test_samples} test samples. Every row was measured in the same run on the same test split.",
            self.findings(),
            [self.columns, *self.rows()],
            [(arm.name, arm.note) for arm in self.arms],
            self.samples,
            self.plot() | dict(figures or {}),
        )
        write_text(Path(path), page)

    def write(self, folder: Path, *, figures: "Mapping[str, Figure] | None" = None) -> None:
        """Write report.html, report.json and each figure as PNG into a folder.

        Args:
            folder: an existing one.
            figures: further figures by caption; the caption's first words name the file.
        """
        for name, figure in (self.plot() | dict(figures or {})).items():
            figure.savefig(folder / f"{name.partition(':')[0].replace(' ', '_')}.png")
        self.html(folder / "report.html", figures=figures)
        self.save(folder / "report.json")

    def to_json(self) -> dict[str, Any]:
        return {"format": FORMAT, "version": VERSION, **asdict(self)}

    def save(self, path: str | Path) -> None:
        """Write every figure as JSON."""
        write_text(Path(path), dump_json(self.to_json(), "the report", indent=1))

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Read a report that `save` wrote.

        Raises:
            StorageError: there is none, or it is damaged.
        """
        path = Path(path)
        if not path.exists():
            raise StorageError(f"{path} does not exist: run `weightspace evaluate` first")
        data = read_manifest(path, FORMAT, VERSION, ("task", "test_samples", "arms", "samples", "reference"))
        arms = [ArmResult(**arm) for arm in data["arms"]]
        return cls(data["task"], data["test_samples"], arms, data["samples"], data["reference"])
