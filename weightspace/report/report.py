"""Report: results per network and in summary, samples beside their baselines."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from weightspace.errors import InputError, StorageError
from weightspace.report.results import CurveResult, Filters, GroupResult, Lines, Pictures, PredictiveResult, Verdict
from weightspace.storage.files import dump_json, read_manifest, write_text

if TYPE_CHECKING:
    from weightspace.report.page import Picture, Table

FORMAT = "weightspace.report"
VERSION = 2
_KEYS = (
    "task",
    "test_samples",
    "arms",
    "samples",
    "reference",
    "points",
    "verdicts",
    "posteriors",
    "pictures",
    "settings",
)


_SPELLING = {"groups": "arms", "ensembles": "posteriors"}  # on disk


@dataclass(frozen=True)
class Report:
    """What `evaluate` measured.

    Args:
        task: name of the task.
        test_samples: size of the test split.
        groups: one result a group of networks.
        samples, reference: names of the groups that were judged and learned from.
        points: the baselines' curves.
        verdicts: what the figures say about each claim.
        ensembles: ensembles of equal numbers as predictive distributions.
        pictures: what the figures show beyond the tables.
        settings: thresholds and numbers that the verdicts rest on.
    """

    task: str
    test_samples: int
    groups: Sequence[GroupResult]
    samples: str
    reference: str
    points: Sequence[CurveResult]
    verdicts: Sequence[Verdict]
    ensembles: Sequence[PredictiveResult]
    pictures: Pictures
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> GroupResult:
        for group in self.groups:
            if group.name == name:
                return group
        raise InputError(f"the report has no row {name!r}: it has {', '.join(group.name for group in self.groups)}")

    def verdict(self, claim: str) -> Verdict:
        """The verdict on a claim, such as "not copies"."""
        for verdict in self.verdicts:
            if verdict.claim == claim:
                return verdict
        raise InputError(f"no verdict on {claim!r}: there are {', '.join(v.claim for v in self.verdicts)}")

    def ensemble(self, name: str) -> PredictiveResult:
        """An ensemble's results as a predictive distribution."""
        for ensemble in self.ensembles:
            if ensemble.name == name:
                return ensemble
        raise InputError(f"no ensemble is called {name!r}: there are {', '.join(p.name for p in self.ensembles)}")

    def relative_distance(self, group: GroupResult) -> float:
        """Median distance to the nearest training network, in medians among training networks."""
        return group.median("nearest distance") / self[self.reference].median("nearest distance")

    def tables(self) -> "list[Table]":
        """The summary, what makes networks new, calibration, and behaviour under shift."""
        from weightspace.report import tables

        return tables.tables(self)

    def plot(self) -> "list[Picture]":
        """The report's figures with their captions; `picture.figure` is matplotlib's."""
        from weightspace.report import figures

        return figures.pictures(self)

    def __str__(self) -> str:
        table = self.tables()[0].text()
        head = f"{self.task}: {self.test_samples} test samples; accuracy as mean ± standard deviation over networks"
        said = [f"[{v.outcome}] {v.claim}: {v.words}" for v in self.verdicts]
        return "\n".join([head, table, "-" * max(map(len, table.splitlines())), *said])

    def html(self, path: str | Path) -> None:
        """Write a page that needs no other file and no network."""
        write_text(Path(path), self._page(self.plot()))

    def _page(self, pictures: "Sequence[Picture]") -> str:
        from weightspace.report.page import render

        return render(
            f"weightspace report: {self.task}",
            f"{self.test_samples} test samples. Every row was measured in the same run on the same test split. "
            "Nothing was trained, stopped or calibrated on it; the strength of the noise that is matched to the samples and "
            "the best of the baselines are read from it, in the baselines' favour.",
            verdicts=self.verdicts, tables=self.tables(), pictures=pictures,
        )  # fmt: skip

    def write(self, folder: Path) -> None:
        """Write report.html, report.json and each figure as PNG and SVG into a folder."""
        folder.mkdir(parents=True, exist_ok=True)
        pictures = self.plot()
        page = self._page(pictures)
        for picture in pictures:
            for kind in ("png", "svg"):
                picture.figure.savefig(folder / f"{picture.name.replace(' ', '_')}.{kind}")
        write_text(folder / "report.html", page)
        self.save(folder / "report.json")

    def to_json(self) -> dict[str, Any]:
        # Through JSON, so that tuples are lists in a report that was measured and in one that was loaded.
        content: dict[str, Any] = json.loads(dump_json(asdict(self), "the report"))
        renamed: dict[str, Any] = {_SPELLING.get(name, name): value for name, value in content.items()}
        return {"format": FORMAT, "version": VERSION, **renamed}

    def save(self, path: str | Path) -> None:
        """Write everything, the figures' data included, as JSON."""
        write_text(Path(path), dump_json(self.to_json(), "the report", indent=1))

    @classmethod
    def load(cls, path: str | Path) -> "Report":
        """Read a report that `save` wrote.

        Raises:
            StorageError: there is none, or it is damaged or of another version.
        """
        path = Path(path)
        if not path.exists():
            raise StorageError(f"{path} does not exist: run `weightspace evaluate` first")
        data = read_manifest(path, FORMAT, VERSION, _KEYS)
        try:
            drawn = dict(data["pictures"])
            drawn["lines"] = {name: Lines(**line) for name, line in drawn["lines"].items()}
            drawn["filters"] = None if drawn["filters"] is None else Filters(**drawn["filters"])
            return cls(
                data["task"], data["test_samples"], [GroupResult(**group) for group in data["arms"]], data["samples"],
                data["reference"], [CurveResult(**p) for p in data["points"]], [Verdict(**v) for v in data["verdicts"]],
                [PredictiveResult(**p) for p in data["posteriors"]], Pictures(**drawn), data["settings"],
            )  # fmt: skip
        except (TypeError, KeyError, ValueError, AttributeError) as error:
            raise StorageError(f"{path} is damaged: its entries are not those of a report ({error})") from error
