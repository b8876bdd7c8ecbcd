"""Report: results per network and in summary, samples beside their baselines, as tables, figures and a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightspace.report import figures, tables
from weightspace.report.data import ReportData
from weightspace.report.files import load_report, report_to_json
from weightspace.report.headline import headline
from weightspace.report.page import Picture, Table, render, wrapped
from weightspace.runtime import checks
from weightspace.storage.files import dump_json, make_folder, write_text
from weightspace.storage.manifests import add_to_manifest


@dataclass(frozen=True)
class Report(ReportData):
    """What `evaluate` measured, with its tables and figures; `ReportData` explains the fields."""

    def headline(self) -> str:
        """The result in one sentence: how good samples are, whether they are new, and what they are together."""
        return headline(self)

    def tables(self) -> list[Table]:
        """The summary, what makes networks new, calibration, and behaviour under shift."""
        return tables.tables(self)

    def plot(self) -> list[Picture]:
        """The report's figures with their captions; `picture.figure` is matplotlib's."""
        return figures.pictures(self)

    def __str__(self) -> str:
        table = self.tables()[0].text()
        metric = f"{self.metric.label} as mean ± standard deviation over networks"
        head = f"{self.task}: {self.test_samples} test samples; {metric}"
        said = [*(f"[{v.outcome}] {v.claim}: {v.words}" for v in self.verdicts), *self.notes]
        lead, head, *lines = map(wrapped, [headline(self), head, *said])
        return "\n".join([lead, "", head, table, "-" * max(map(len, table.splitlines())), *lines])

    def html(self, path: str | Path) -> None:
        """Write a page that needs no other file and no network.

        Args:
            path: The file to write, such as "report.html".
        """
        write_text(Path(path), self._page(self.plot()))

    def _page(self, pictures: Sequence[Picture]) -> str:
        return render(
            f"weightspace report: {self.task}",
            f"{self.test_samples} test samples. Every row was measured in the same run on the same test split. "
            "Nothing was trained, stopped or calibrated on it. Two choices are read from it, and both favour the "
            "baselines: the strength of the noise that is matched to the samples, and which baseline is the best.",
            findings=self.notes,
            verdicts=self.verdicts,
            tables=self.tables(),
            pictures=pictures,
            lead=headline(self),
        )

    def write(self, folder: Path) -> None:
        """Write report.html, report.json and each figure as PNG and SVG.

        Args:
            folder: Where to write; it is created if it does not exist.
        """
        make_folder(folder)
        pictures = self.plot()
        page = self._page(pictures)
        names = [picture.write(folder, kind) for picture in pictures for kind in ("png", "svg")]
        write_text(folder / "report.html", page)
        self.save(folder / "report.json")
        add_to_manifest(folder, [*names, "report.html", "report.json"])

    def to_json(self) -> dict[str, Any]:
        """Everything, the figures' data included, as JSON data."""
        return report_to_json(self)

    def save(self, path: str | Path) -> None:
        """Write everything, the figures' data included, as JSON.

        Args:
            path: The file to write, such as "report.json".
        """
        write_text(Path(checks.path(path, "path")), dump_json(self.to_json(), "the report", indent=1))

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Read a report that `save` wrote, or a version from 0.1 on.

        Args:
            path: The JSON file.

        Raises:
            StorageError: There is no such file, or it is damaged or of another version.
        """
        checks.path(path, "path")
        return load_report(cls, Path(path))
