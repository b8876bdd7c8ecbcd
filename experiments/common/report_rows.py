"""One row of figures for a collection of networks in a report: what the generator experiments print and write."""

import math
import statistics
from collections.abc import Mapping, Sequence

import weightspace as ws
from weightspace.report.results import GroupResult, Variety

# Columns whose mean over seeds is printed, in this order.
SHOWN = (
    "accuracy", "accuracy std", "distance", "Z_U", "spread", "mask overlap", "max error IoU", "error IoU among",
    "ensemble accuracy", "ensemble nll", "ensemble ece",
)  # fmt: skip


def row(report: ws.Report, name: str) -> dict[str, object]:
    """Figures of one collection; distances and spreads are relative to the training tickets'."""
    group, training = report[name], report[report.reference]
    variety, spread = group.variety, _variety(training).nearest_distance
    same = next((p for p in report.ensembles if p.name == name), None)  # as many networks as samples, if there are
    ensemble = same.metrics if same is not None else group.ensemble
    return {
        "networks": name,
        "n": group.count,
        "accuracy": group.mean("accuracy"),
        "accuracy std": group.std("accuracy"),
        "distance": report.relative_distance(group),
        "Z_U": _or_nan(group.novelty.z_u),
        "spread": _or_nan(variety and variety.nearest_distance) / spread,
        "dispersion": _or_nan(variety and variety.dispersion),
        "mask overlap": _or_nan(variety and variety.mask_overlap),
        "max error IoU": group.median("max_error_iou"),
        "error IoU among": _or_nan(variety and variety.error_iou),
        "ensemble accuracy": ensemble.accuracy,
        "ensemble nll": ensemble.nll,
        "ensemble ece": ensemble.ece,
    }


def rows(report: ws.Report, settings: Mapping[str, object]) -> list[dict[str, object]]:
    """A row for each group of a report, with the settings first and the verdicts last."""
    return [dict(settings) | row(report, group.name) | verdicts(report) for group in report.groups]


def _variety(group: GroupResult) -> Variety:
    assert group.variety is not None, "training networks are several"
    return group.variety


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def verdicts(report: ws.Report) -> dict[str, object]:
    """All verdicts of a report in one column."""
    return {"verdicts": "; ".join(f"{verdict.claim}: {verdict.outcome}" for verdict in report.verdicts)}


def summary(rows: Sequence[Mapping[str, object]], keys: Sequence[str]) -> None:
    """Print mean and standard deviation over seeds for each kind of row."""
    for kind in dict.fromkeys(tuple(row[key] for key in keys) for row in rows):
        group = [row for row in rows if tuple(row[key] for key in keys) == kind]
        parts: list[str] = []
        for name in SHOWN:
            values = [v for v in (row.get(name) for row in group) if isinstance(v, float) and math.isfinite(v)]
            if not values:
                continue
            spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
            parts.append(f"{name} {statistics.fmean(values):.4f}{spread}")
        print(f"{', '.join(map(str, kind))} ({len(group)} seeds): {'; '.join(parts)}")
