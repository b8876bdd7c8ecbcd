"""Comparison: several reports side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weightspace.errors import InputError
from weightspace.report import plots
from weightspace.report.page import Picture, Table, render
from weightspace.report.report import Report
from weightspace.report.results import GroupResult
from weightspace.storage.files import write_text


@dataclass(frozen=True)
class Comparison:
    """Reports of several runs, by name.

    Raises:
        InputError: fewer than two reports, or they are of different tasks or test splits.
    """

    reports: Mapping[str, Report]

    def __post_init__(self) -> None:
        if len(self.reports) < 2:
            raise InputError("a comparison needs at least two reports")
        tasks = {name: (r.task, r.test_samples) for name, r in self.reports.items()}
        if len(set(tasks.values())) > 1:
            found = ", ".join(f"{name}: {task} ({n} test samples)" for name, (task, n) in tasks.items())
            raise InputError(f"reports can be compared if they are of one task and test split, got {found}")

    def tables(self) -> list[Table]:
        """Samples and training networks of each run; the verdicts of each run."""
        header = [
            "run", "n", "density", "accuracy", "NLL", "ECE", "ensemble acc.", "ensemble NLL", "distance", "error IoU",
            "dispersion", "mask overlap", "Z_U",
        ]  # fmt: skip
        rows = [header]
        judged: list[str] = []
        for name, report in self.reports.items():
            rows.append(self._row(name, report, report[report.samples]))
            judged.append(name)
            rows.append(self._row(f"{name}: {report.reference}", report, report[report.reference]))
        legend = [
            ("distance", "to the nearest training network of the same run, relative to that among these"),
            ("the rows", "samples of each run, then the networks they were learned from"),
        ]
        claims = list(dict.fromkeys(v.claim for report in self.reports.values() for v in report.verdicts))
        said = [["run", *claims]]
        for name, report in self.reports.items():
            outcomes = {v.claim: v.outcome for v in report.verdicts}
            said.append([name, *(outcomes.get(claim, "-") for claim in claims)])
        return [Table("Runs side by side", rows, legend, judged), Table("Verdicts", said)]

    def _row(self, name: str, report: Report, group: GroupResult) -> list[str]:
        together = group.together
        return [
            name,
            str(group.count),
            f"{group.mean('density'):.3f}",
            f"{group.mean('accuracy'):.4f} ± {group.std('accuracy'):.4f}",
            f"{group.mean('nll'):.3f}",
            f"{group.mean('ece'):.3f}",
            f"{together['accuracy']:.4f}",
            f"{together['nll']:.4f}",
            f"{report.relative_distance(group):.2f}",
            f"{group.median('max error IoU'):.2f}",
            f"{together['dispersion']:.2f}" if "dispersion" in together else "-",
            f"{together['mask overlap']:.2f}" if "mask overlap" in together else "-",
            f"{together['Z_U']:+.1f}" if "Z_U" in together else "-",
        ]

    def __str__(self) -> str:
        return "\n\n".join(table.text() for table in self.tables())

    def html(self, path: str | Path) -> None:
        """Write a page that needs no other file and no network."""
        task = next(iter(self.reports.values()))
        points = {
            name: (
                report.relative_distance(report[report.samples]),
                report[report.samples].mean("accuracy"),
                report[report.samples].std("accuracy"),
                report[report.samples].together["accuracy"],
            )
            for name, report in self.reports.items()
        }
        picture = Picture(
            "accuracy and distance of each run",
            "Circles are mean and standard deviation over samples, triangles their ensemble. Good and new is the upper "
            "right; left of 1 samples are closer to the training networks than these are to each other.",
            plots.comparison(points, "distance to the nearest training network / median among training networks"),
        )
        page = render(
            f"weightspace comparison: {task.task}",
            f"{len(self.reports)} runs, measured on the same {task.test_samples} test samples.",
            tables=self.tables(), pictures=[picture],
        )  # fmt: skip
        write_text(Path(path), page)
