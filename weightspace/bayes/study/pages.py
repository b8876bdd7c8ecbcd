"""The page of a study: tables over densities, paired differences, mask overlaps, curves."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from weightspace.bayes.study.results import MetricName, Row, StudyResult
from weightspace.bayes.study.study import DETERMINISTIC
from weightspace.bayes.study.verdicts import headline, verdicts
from weightspace.report.intervals import half_width
from weightspace.report.page import Picture, Table, render
from weightspace.report.plots.style import colours, tidy
from weightspace.storage.files import make_folder, write_text
from weightspace.storage.manifests import add_to_manifest

_LABELS: Mapping[str, str] = {
    "accuracy": "accuracy",
    "nll": "NLL",
    "brier": "brier",
    "ece": "ECE",
    "adaptive_ece": "adaptive ECE",
    "mace": "MACE",
    "temperature": "temperature",
    "scaled_nll": "NLL, scaled",
    "scaled_brier": "brier, scaled",
    "scaled_ece": "ECE, scaled",
    "scaled_mace": "MACE, scaled",
    "entropy_auroc": "AUROC by entropy",
    "entropy_fpr95": "FPR95 by entropy",
    "mutual_information_auroc": "AUROC by mutual information",
    "mutual_information_fpr95": "FPR95 by mutual information",
    "seconds": "seconds",
}
_AT_THE_END: Sequence[MetricName] = (
    "accuracy",
    "nll",
    "scaled_nll",
    "brier",
    "ece",
    "mace",
    "entropy_auroc",
    "seconds",
)
_CURVES: Mapping[str, str] = {
    "accuracy": "test error",
    "nll": "NLL",
    "ece": "ECE",
    "entropy_auroc": "AUROC of OOD inputs",
}


def write_report(result: StudyResult, folder: str | Path) -> None:
    """Write report.html and each figure as PNG and SVG into a folder.

    Args:
        result: Results of a study.
        folder: Folder to write to; it is made if it is missing.
    """
    folder = Path(folder)
    make_folder(folder)
    pictures = [curves(result), layers(result)]
    names = [picture.write(folder, kind) for picture in pictures for kind in ("png", "svg")]
    write_text(folder / "report.html", page(result, pictures))
    add_to_manifest(folder, ["report.html", *names])


def page(result: StudyResult, pictures: Sequence[Picture]) -> str:
    """The report as one HTML page.

    Args:
        result: Results of a study.
        pictures: Figures to embed.
    """
    introduction = (
        f"{result.test_samples} test samples. Mean and standard deviation over seeds; all methods have the same seeds, "
        "data orders and numbers of weights. Nothing was trained, chosen or calibrated on the test split; temperatures "
        "come from the validation split."
    )
    return render(
        f"Bayesian tickets: {result.task}",
        introduction,
        tables=tables(result),
        pictures=pictures,
        verdicts=verdicts(result),
        lead=headline(result),
    )


def tables(result: StudyResult) -> list[Table]:
    """All tables of the page, in order."""
    return [
        over_densities(result, result.main.name),
        over_densities(result, "nll" if result.metrics is None else "loss"),
        at_the_end(result),
        differences(result),
        overlap_table(result),
    ]


def over_densities(result: StudyResult, metric: str) -> Table:
    """One metric, with a row for each method and a column for each density.

    Args:
        result: Results of a study.
        metric: Metric to show.
    """
    densities = _densities(result.rows)
    cells = [["method", *(f"{density:.3g}" for density in densities)]]
    for method, rows in _by_method(result.rows).items():
        cells.append([method, *(_mean_and_std(_values(_at(rows, density), metric)) for density in densities)])
    legend = [("density", "fraction of the weights that is kept")]
    first = [cells[0][1], *reversed(cells[0][2:])]  # the whole network, then the sparsest
    return Table(f"{_label(metric)} over density", cells, legend=legend, first=first)


def at_the_end(result: StudyResult) -> Table:
    """Metrics at the lowest density of each method."""
    names = _AT_THE_END if result.metrics is None else [*(one.name for one in result.metrics), "seconds"]
    cells = [["method", "density", *map(_label, names)]]
    for method, rows in _by_method(result.rows).items():
        lowest = min(row.density for row in rows)
        last = _at(rows, lowest)
        cells.append([method, f"{lowest:.3g}", *(_mean_and_std(_values(last, metric)) for metric in names)])
    legend = [
        ("NLL, scaled", "with a temperature fitted on validation data"),
        ("MACE", "absolute calibration error, bins unweighted (arXiv 2602.18825)"),
        ("AUROC", "of OOD inputs against test inputs, by the entropy of the prediction"),
    ]
    if result.metrics is not None:
        meanings = {
            "loss": "the task's own, of the mean prediction",
            "coverage": "share of targets in the predictive intervals of 95 %, noise included",
        }
        legend = [(_label(name), meanings[name]) for name in names if name in meanings]
    legend.append(("seconds", "training of this level, all seeds together"))
    return Table("At the lowest density", cells, legend=legend)


def differences(result: StudyResult) -> Table:
    """Main metric minus that of the first method, paired by seed, with a 95 % interval of the mean."""
    by_method = _by_method(result.rows)
    reference, *others = by_method
    densities = _densities(by_method[reference])[1:]
    main = result.main
    cells = [["method", *(f"{density:.3g}" for density in densities)]]
    for method in others:
        row = [_paired_cell(_at(by_method[method], d), _at(by_method[reference], d), main.name) for d in densities]
        if any(cell != "–" for cell in row):
            cells.append([method, *row])
    legend = [("interval", "Student's t over seeds; it says nothing about the choice of test samples")]
    unit = " in points" if main.name == "accuracy" else "" if main.higher_is_better else " (less is better)"
    return Table(f"{main.label.capitalize()}{unit} above {reference}, paired by seed", cells, legend=legend)


def _paired_cell(rows: Sequence[Row], reference: Sequence[Row], metric: str) -> str:
    base = {row.network: row.metric(metric) for row in reference}
    pairs = [(row.metric(metric), base[row.network]) for row in rows if row.network in base]
    known = [one - other for one, other in pairs if one is not None and other is not None]
    return paired(known) if metric == "accuracy" else paired(known, factor=1)


def paired(values: Sequence[float], factor: float = 100) -> str:
    """Mean of differences with its 95 % interval; a dash for fewer than two.

    Args:
        values: Differences.
        factor: What they are multiplied with, by default to percentage points from fractions.
    """
    if len(values) < 2:
        return "–"
    return f"{factor * statistics.fmean(values):+.2f} ± {factor * half_width(values):.2f}"


def overlap_table(result: StudyResult) -> Table:
    """Mask overlap of every two methods at the lowest density."""
    names = list(dict.fromkeys(one.first for one in result.overlaps))
    cells = [["masks of", *names]]
    for first in names:
        overlaps = (result.overlap(first, second) for second in names)
        cells.append([first, *("–" if overlap is None else f"{overlap:.2f}" for overlap in overlaps)])
    legend = [
        ("overlap", "shared weights over weights at the lowest density, same seed; on the diagonal between seeds")
    ]
    return Table("Overlap of masks", cells, legend=legend)


def curves(result: StudyResult) -> Picture:
    """Up to four metrics over density."""
    figure = Figure(figsize=(12.5, 8.0), layout="constrained", dpi=130)
    by_method = _by_method(result.rows)
    palette = colours(list(by_method), next(iter(by_method)), DETERMINISTIC)
    shown = _CURVES if result.metrics is None else {one.name: one.label for one in result.metrics[:4]}
    for i, (metric, label) in enumerate(shown.items()):
        axes = figure.add_subplot(2, 2, i + 1)
        tidy(axes)
        for method, rows in by_method.items():
            _curve(axes, rows, metric, palette[method], method if i == 0 else None, error=result.metrics is None)
        if result.metrics is None and metric in ("accuracy", "nll"):
            axes.set_yscale("log")
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xlabel("density (sparser to the right)")
        axes.set_ylabel(label)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    caption = (
        "Mean and standard deviation over seeds. A score is good where error, NLL and ECE stay low and AUROC high far "
        "to the right; calibration means nothing where accuracy has fallen."
    )
    if result.metrics is not None:
        caption = "Mean and standard deviation over seeds. A score is good where it stays level far to the right."
    return Picture("curves", caption, figure)


def _curve(axes: Axes, rows: Sequence[Row], metric: str, colour: str, label: str | None, *, error: bool) -> None:
    """The mean over seeds with a band of one standard deviation; the error in place of the accuracy, if asked."""
    densities = [density for density in _densities(rows) if _values(_at(rows, density), metric)]
    values = [_values(_at(rows, density), metric) for density in densities]
    if metric == "accuracy" and error:
        values = [[1 - value for value in at_density] for at_density in values]
    means = [statistics.fmean(v) for v in values]
    stds = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in values]
    axes.plot(densities, means, label=label, marker="o", markersize=3.5, linewidth=1.4, color=colour)
    low, high = ([m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1))
    axes.fill_between(densities, low, high, color=colour, alpha=0.12, linewidth=0)


def layers(result: StudyResult) -> Picture:
    """Density of each layer at the lowest density of every method."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    tidy(axes)
    by_method = {
        method: rows
        for method, rows in _by_method(result.rows).items()
        if rows[0].layer_densities and not rows[0].ensemble
    }
    palette = colours(list(by_method), next(iter(by_method)), DETERMINISTIC)
    names: list[str] = []
    for i, (method, rows) in enumerate(by_method.items()):
        last = _at(rows, min(row.density for row in rows))
        names = list(last[0].layer_densities)
        x = [j + (i - (len(by_method) - 1) / 2) * 0.8 / len(by_method) for j in range(len(names))]
        heights = [statistics.fmean(row.layer_densities[name] for row in last) for name in names]
        axes.bar(x, heights, 0.75 / len(by_method), label=method, color=palette[method])
    axes.set_xticks(range(len(names)), names)
    axes.set_yscale("log")
    axes.set_ylabel("density of the layer")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return Picture("layers", "Where each score spends its weights, at its lowest density.", figure)


def _label(metric: str) -> str:
    return _LABELS.get(metric, metric.replace("_", " "))


def _by_method(rows: Sequence[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.method, []).append(row)
    return groups


def _densities(rows: Sequence[Row]) -> list[float]:
    return sorted({round(row.density, 6) for row in rows}, reverse=True)


def _at(rows: Sequence[Row], density: float) -> list[Row]:
    return [row for row in rows if math.isclose(row.density, density, rel_tol=1e-3)]


def _values(rows: Sequence[Row], metric: str) -> list[float]:
    """The values of a metric that are defined."""
    return [value for value in (row.metric(metric) for row in rows) if value is not None and not math.isnan(value)]


def _mean_and_std(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = statistics.fmean(values)
    shown = f"{mean:.3f}" if mean < 10 else f"{mean:.0f}"
    return shown + (f" ± {statistics.stdev(values):.3f}" if len(values) > 1 and mean < 10 else "")
