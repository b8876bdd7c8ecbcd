"""A collection as a page: its metrics, the densities of its layers, how alike its masks are, where it comes from."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.masks.overlap import off_diagonal, overlap_matrix, overlap_within
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.report.page import Picture, Table, render
from weightspace.report.plots import collection as plots
from weightspace.runtime import checks
from weightspace.storage.files import write_text

_MEASURED = 256  # networks whose tensors are read; records are read of all
_DRAWN = 48  # networks in the matrix of overlaps


@dataclass(frozen=True)
class CollectionPage:
    """Tables and figures of a collection.

    Args:
        title: Title of the page.
        introduction: What is shown.
        tables: Tables, in order.
        pictures: Figures, in order.
    """

    title: str
    introduction: str
    tables: Sequence[Table]
    pictures: Sequence[Picture]

    def __str__(self) -> str:
        return "\n\n".join(f"{table.heading}\n{table.text()}" for table in self.tables)

    def html(self, path: str | Path) -> None:
        """Write a page that needs no other file and no network.

        Args:
            path: The file to write, such as "collection.html".
        """
        path = Path(checks.path(path, "path"))
        write_text(path, render(self.title, self.introduction, tables=self.tables, pictures=self.pictures))


def collection_page(networks: Collection, *, provenance: Sequence[tuple[str, str, str]] = ()) -> CollectionPage:
    """Describe a collection by tables and figures.

    Args:
        networks: The networks. Records are read of all; of many, the tensors of some, spread evenly.
        provenance: What it comes from, the collection itself first: rows of (what, folder, how it was made).
    """
    check_networks(networks)
    step = -(-len(networks) // _MEASURED)
    part = networks[::step]
    masks = part.masks
    kept = _kept(masks, part)
    tables = [_facts(networks), *_metrics(networks), _layers(part, kept)]
    pictures = [Picture(name, caption, figure) for name, caption, figure in _of_metrics(networks)]
    names = [entry.name for entry in part.layout.weights]
    if not part.dense:
        caption = (
            "Share of each layer's weights that the networks keep; a line for the mean, a band from the sparsest to "
            "the densest network. A layer at zero lets nothing through."
        )
        pictures.append(Picture("Densities by layer", caption, plots.by_layer(names, kept)))
    if not part.dense and len(part) > 1:
        overlaps = overlap_matrix(masks[:, part.layout.prunable], masks[:, part.layout.prunable])
        tables.append(_overlap(part, overlaps))
        caption = (
            f"Kept weights that two networks share, over those of one, for the first {min(_DRAWN, len(part))} "
            "networks. Blocks are networks of one kind; a matrix without structure is what independent searches give."
        )
        pictures.append(Picture("Overlap of masks", caption, plots.matrix(overlaps[:_DRAWN, :_DRAWN])))
    if provenance:
        tables.append(Table("Where it comes from", [("what", "folder", "how it was made"), *provenance]))
    measured = "" if step == 1 else f" Of the tensors, those of {len(part)} networks were read, spread evenly."
    return CollectionPage(
        f"weightspace collection: {len(networks)} networks of {networks.architecture.name}",
        f"What the records and tensors of a collection say; nothing was run for it.{measured}",
        tables,
        pictures,
    )


def _kept(masks: Bool[Tensor, "n d"], networks: Collection) -> Float[Tensor, "n layers"]:
    """Share of each weight tensor that each network keeps."""
    slices = networks.layout.slices
    shares = [masks[:, slices[entry.name]].double().mean(1) for entry in networks.layout.weights]
    return torch.stack(shares, 1) if shares else torch.ones(len(masks), 0, dtype=torch.float64)


def _facts(networks: Collection) -> Table:
    layout, densities = networks.layout, networks.densities
    low, high = densities.min().item(), densities.max().item()
    rows = [
        ("networks", f"{len(networks)} of {networks.architecture.name}"),
        ("weights", f"{layout.size:,}, of which {layout.num_prunable:,} can be pruned"),
        ("density", f"{low:.4g}" + (f" to {high:.4g}" if high > low else "")),
    ]
    for key, title in (("kind", "made as"), ("task", "task"), ("run", "runs")):
        found = Counter(str(record[key]) for record in networks.records if key in record)
        if found:
            shown = ", ".join(f"{word} ({count})" for word, count in found.most_common(5))
            rows.append((title, shown + (f" and {len(found) - 5} more" if len(found) > 5 else "")))
    finders = Counter(str(record.method.get("name")) for record in networks.records if record.method)
    if finders:
        rows.append(("ticket finder", ", ".join(f"{name} ({count})" for name, count in finders.most_common())))
    rows.append(("fingerprint", networks.fingerprint()))
    return Table("What it holds", [("", "value"), *rows])


def _values(networks: Collection) -> dict[str, list[float]]:
    """Each metric of the records, of the networks that have it."""
    found: dict[str, list[float]] = {}
    for record in networks.records:
        for name, value in record.metrics.items():
            if isinstance(value, int | float):
                found.setdefault(name, []).append(float(value))
    return found


def _metrics(networks: Collection) -> list[Table]:
    rows: list[tuple[str, ...]] = []
    for name, values in _values(networks).items():
        spread = torch.tensor(values, dtype=torch.float64)
        numbers = (spread.mean(), spread.std(correction=0), spread.min(), spread.quantile(0.5), spread.max())
        rows.append((name, str(len(values)), *(f"{number.item():.4g}" for number in numbers)))
    header = ("metric", "networks", "mean", "std", "least", "median", "greatest")
    return [Table("Metrics in the records", [header, *rows])] if rows else []


def _of_metrics(networks: Collection) -> list[tuple[str, str, plots.Figure]]:
    """A histogram of the main metric, where there are networks enough to draw one."""
    name, higher = networks.records[0].main_metric
    values = _values(networks).get(name, [])
    if len(values) < 2:
        return []
    better = "more" if higher else "less"
    caption = f"{name} of each network, as its record says; {better} is better. The dashed line is the median."
    return [("Main metric", caption, plots.histogram(values, name))]


def _layers(networks: Collection, kept: Float[Tensor, "n layers"]) -> Table:
    """A row for each tensor: how much is kept, and how large it is."""
    shares = {entry.name: kept[:, i] for i, entry in enumerate(networks.layout.weights)}
    rows: list[tuple[str, ...]] = []
    for entry in networks.layout.parameters:
        values = networks.weights[:, networks.layout.slices[entry.name]].double()
        own = shares.get(entry.name)
        live = entry.size * len(values) if own is None else (own * entry.size).sum().item()
        size = (values.square().sum().item() / live) ** 0.5 if live else 0.0
        share = ("-", "-") if own is None else (f"{own.mean():.3f}", f"{own.min():.3f} to {own.max():.3f}")
        empty = "-" if own is None else str(int((own == 0).sum()))
        shape = " × ".join(map(str, entry.shape)) or "1"
        rows.append((entry.name, shape, entry.role, *share, empty, f"{size:.4g}"))
    header = ("tensor", "shape", "role", "kept", "from, to", "empty in", "RMS")
    legend = (
        ("kept", "mean share of weights that the networks keep, and the share of the sparsest and densest one"),
        ("empty in", "networks in which the layer keeps nothing"),
        ("RMS", "root mean square of what is kept, over all networks"),
    )
    return Table("Layers", [header, *rows], legend)


def _overlap(networks: Collection, overlaps: Float[Tensor, "n n"]) -> Table:
    found = overlap_within(networks)
    rows = [
        ("share", f"{off_diagonal(overlaps):.3f}", f"{found.chance_shared:.3f}"),
        ("IoU", f"{found.iou:.3f}", f"{found.chance_iou:.3f}"),
    ]
    legend = (("by chance", "independent masks with the same densities by layer"),)
    return Table("Overlap of masks", [("between two networks", "mean", "by chance"), *rows], legend)
