"""PictureReport: pictures that networks draw, beside real ones, as a table, verdicts and a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from weightspace.report import plots
from weightspace.report.page import Picture, Table, render, wrapped
from weightspace.report.results import Verdict
from weightspace.runtime import checks
from weightspace.storage.files import dump_json, make_folder, read_json, read_manifest, write_text
from weightspace.storage.manifests import add_to_manifest, check_one
from weightspace.storage.typed import from_json, to_json

FORMAT = "weightspace.pictures"
VERSION = 1
SAMPLES, GAUSSIAN = "samples", "Gaussian"
"""Names of the sets that verdicts compare."""
_COLUMNS = (
    "nearest: median distance to the nearest training picture; copies: share that is closer to one than 99 % of the "
    "unseen pictures are; in brackets 95 % intervals"
)


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval.

    Args:
        value: The share, from 0 to 1.
        low: Lower end.
        high: Upper end.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} ({self.low:.3f} to {self.high:.3f})"

    def in_short(self) -> str:
        """In two digits, the interval with a dash."""
        return f"{self.value:.2f} ({self.low:.2f}-{self.high:.2f})"


@dataclass(frozen=True)
class PictureSet:
    """Pictures of one kind beside pictures that no network was fitted to.

    Args:
        name: What they are.
        note: Where they come from.
        nearest: Median distance to the nearest training picture: root mean square over pixels.
        copies: Share that is closer to a training picture than 99 % of the unseen pictures are.
        precision: Share that lies where unseen pictures are; None for the unseen pictures themselves.
        recall: Share of the unseen pictures that lie where these are.
    """

    name: str
    note: str
    nearest: float
    copies: Share
    precision: Share | None = None
    recall: Share | None = None


@dataclass(frozen=True)
class ShownPictures:
    """A row of pictures on the page.

    Args:
        name: What they are.
        pixels: Brightness from 0 to 255 (pictures, rows, columns, channels).
    """

    name: str
    pixels: Sequence[Sequence[Sequence[Sequence[int]]]]


@dataclass(frozen=True)
class PictureReport:
    """What `evaluate_pictures` found.

    Args:
        task: Name of the task.
        count: Pictures in each set.
        features: What pictures are compared by.
        sets: Unseen pictures, then those of each kind of network.
        verdicts: Verdicts on the claims that are made for sampled networks.
        shown: Some pictures of each set.
    """

    task: str
    count: int
    features: str
    sets: Sequence[PictureSet]
    verdicts: Sequence[Verdict]
    shown: Sequence[ShownPictures]

    def headline(self) -> str:
        """The result in one sentence: samples beside a Gaussian's, and how many are copies."""
        rows = {one.name: one for one in self.sets}
        parts = [
            f"{name}: precision {one.precision.value:.3f}, recall {one.recall.value:.3f}"
            for name, one in rows.items()
            if name in (SAMPLES, GAUSSIAN) and one.precision is not None and one.recall is not None
        ]
        copies = rows[SAMPLES].copies.value
        return f"{'; '.join(parts)}; {copies:.1%} of the samples are as close to a training picture as a copy."

    def table(self) -> Table:
        """A row for each set of pictures."""
        rows = [["pictures", "precision", "recall", "nearest training picture", "closer than 99 % of unseen"]]
        for one in self.sets:
            shares = ["-" if share is None else str(share) for share in (one.precision, one.recall)]
            rows.append([one.name, *shares, f"{one.nearest:.3f}", str(one.copies)])
        legend = [
            ("precision", f"share of the pictures that lie where unseen pictures are, by {self.features}"),
            ("recall", "share of the unseen pictures that lie where these are (arXiv 1904.06991)"),
            ("nearest training picture", "median distance, root mean square over pixels"),
            ("in brackets", f"95 % interval over {self.count} pictures"),
        ]
        return Table("Pictures beside unseen ones", rows, legend, [SAMPLES], [(s.name, s.note) for s in self.sets])

    def plot(self) -> list[Picture]:
        """The pictures, a row for each set; `picture.figure` is matplotlib's."""
        rows = {row.name: row.pixels for row in self.shown}
        caption = (
            "Under each sample stands the training picture that is nearest to it: where both are the same, the "
            "generator has copied."
        )
        return [Picture("What the networks draw", caption, plots.rows_of_pictures(rows))]

    def _in_short(self) -> Table:
        """The table in as few letters as a terminal is wide."""
        rows = [["pictures", "precision", "recall", "nearest", "copies"]]
        for one in self.sets:
            shares = ["-" if share is None else share.in_short() for share in (one.precision, one.recall)]
            rows.append([one.name, *shares, f"{one.nearest:.3f}", one.copies.in_short()])
        return Table("Pictures beside unseen ones", rows)

    def __str__(self) -> str:
        table = self._in_short().text()
        said = [f"[{v.outcome}] {v.claim}: {v.words}" for v in self.verdicts]
        head = f"{self.task}: {self.count} pictures of each kind, compared by {self.features}"
        lead, head, *lines = map(wrapped, [self.headline(), head, _COLUMNS, *said])
        return "\n".join([lead, "", head, table, "-" * max(map(len, table.splitlines())), *lines])

    def html(self, path: str | Path) -> None:
        """Write a page that needs no other file and no network.

        Args:
            path: The file to write, such as "pictures.html".
        """
        write_text(Path(path), self._page(self.plot()))

    def _page(self, pictures: Sequence[Picture]) -> str:
        introduction = (
            f"Networks that draw: {self.count} pictures of each kind beside as many that no network was fitted to."
        )
        return render(
            f"weightspace pictures: {self.task}",
            introduction,
            verdicts=self.verdicts,
            tables=[self.table()],
            pictures=pictures,
            lead=self.headline(),
        )

    def write(self, folder: Path) -> None:
        """Write report.html, report.json and the pictures as PNG.

        Args:
            folder: Where to write; it is created if it does not exist.
        """
        make_folder(folder)
        pictures = self.plot()
        names = [picture.write(folder, "png") for picture in pictures]
        write_text(folder / "report.html", self._page(pictures))
        self.save(folder / "report.json")
        add_to_manifest(folder, [*names, "report.html", "report.json"])

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON data."""
        return {"format": FORMAT, "version": VERSION, **to_json(self)}

    def save(self, path: str | Path) -> None:
        """Write everything as JSON.

        Args:
            path: The file to write, such as "report.json".
        """
        write_text(Path(checks.path(path, "path")), dump_json(self.to_json(), "the report", indent=1))

    @classmethod
    def load(cls, path: str | Path) -> "PictureReport":
        """Read a report that `save` wrote.

        Args:
            path: The JSON file.

        Raises:
            StorageError: There is no such file, or it is damaged or of another version.
        """
        path = Path(checks.path(path, "path"))
        check_one(path)
        data = read_manifest(path, FORMAT, VERSION, ("task", "count", "features", "sets", "verdicts", "shown"))
        content = {name: value for name, value in data.items() if name not in ("format", "version")}
        return from_json(cls, content, str(path))


def holds_pictures(path: Path) -> bool:
    """Whether a report.json is one of pictures.

    Args:
        path: The file.
    """
    found = read_json(path)
    return isinstance(found, dict) and found.get("format") == FORMAT
