"""The page of a study: tables over densities, paired differences, mask overlaps, curves."""

import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from scipy import stats

from weightspace.bayes.study.evaluation import Row
from weightspace.bayes.study.study import StudyResult
from weightspace.report.page import Picture, Table, render
from weightspace.report.plots.style import colours, tidy
from weightspace.storage.files import write_text

_METRICS = ("accuracy", "nll", "nll, scaled", "brier", "ece", "mace", "auroc by entropy", "seconds")
_CURVES = {"accuracy": "test error", "nll": "NLL", "ece": "ECE", "auroc by entropy": "AUROC of foreign inputs"}


def write_report(result: StudyResult, folder: str | Path) -> None:
    """Write report.html and each figure as PNG and SVG into a folder."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    pictures = [curves(result), layers(result)]
    for picture in pictures:
        for kind in ("png", "svg"):
            picture.figure.savefig(folder / f"{picture.name.replace(' ', '_')}.{kind}")
    write_text(folder / "report.html", page(result, pictures))


def page(result: StudyResult, pictures: Sequence[Picture]) -> str:
    return render(
        f"Bayesian tickets: {result.task}",
        f"{result.test_samples} test samples. Mean and standard deviation over seeds; all methods have the same seeds, data "
        "orders and numbers of weights. Nothing was trained, chosen or calibrated on the test split; temperatures come "
        "from the validation split.",
        tables=tables(result), pictures=pictures,
    )  # fmt: skip


def tables(result: StudyResult) -> list[Table]:
    return [over_densities(result, "accuracy"), over_densities(result, "nll"), at_the_end(result), differences(result),
            overlap_table(result)]  # fmt: skip


def over_densities(result: StudyResult, metric: str) -> Table:
    """One metric, a row for each method and a column for each density."""
    densities = _densities(result.rows)
    rows = [["method", *(f"{density:.3g}" for density in densities)]]
    for method in _methods(result.rows):
        cells = [_spread([r[metric] for r in _at(result.rows, method, density)]) for density in densities]
        rows.append([method, *cells])
    return Table(f"{_name(metric)} over density", rows, legend=[("density", "fraction of the weights that is kept")])


def at_the_end(result: StudyResult) -> Table:
    """All metrics at the lowest density of each method."""
    rows = [["method", "density", *map(_name, _METRICS)]]
    for method in _methods(result.rows):
        last = min(_density(row) for row in result.rows if row["method"] == method)
        some = _at(result.rows, method, last)
        rows.append([method, f"{last:.3g}", *(_spread([r.get(metric, math.nan) for r in some]) for metric in _METRICS)])
    legend = [
        ("NLL, scaled", "with a temperature fitted on validation data"),
        ("MACE", "absolute calibration error, bins unweighted (arXiv 2602.18825)"),
        ("AUROC", "of foreign inputs against test inputs, by the entropy of the prediction"),
        ("seconds", "training of this level, all seeds together"),
    ]
    return Table("At the lowest density", rows, legend=legend)


def differences(result: StudyResult) -> Table:
    """Accuracy minus that of the first method, paired by seed, with a 95 % interval of the mean."""
    first = _methods(result.rows)[0]
    densities = _densities(_of(result.rows, first))[1:]
    rows = [["method", *(f"{density:.3g}" for density in densities)]]
    for method in _methods(result.rows)[1:]:
        cells: list[str] = []
        for density in densities:
            own, base = (
                {row["network"]: row["accuracy"] for row in _at(result.rows, name, density)} for name in (method, first)
            )
            cells.append(paired([_float(own[i]) - _float(base[i]) for i in own if i in base] if len(own) > 1 else []))
        if any(cell != "–" for cell in cells):
            rows.append([method, *cells])
    explained = [("interval", "Student's t over seeds; it says nothing about the choice of test samples")]
    return Table(f"Accuracy in points above {first}, paired by seed", rows, legend=explained)


def paired(values: Sequence[float]) -> str:
    """Mean of differences in percentage points, with its 95 % interval."""
    if len(values) < 2:
        return "–"
    half = stats.t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return f"{100 * statistics.fmean(values):+.2f} ± {100 * half:.2f}"


def overlap_table(result: StudyResult) -> Table:
    names = list(dict.fromkeys(a for a, _ in result.overlaps))
    rows = [["masks of", *names], *([a, *(f"{result.overlaps[a, b]:.2f}" for b in names)] for a in names)]
    legend = [
        ("overlap", "shared weights over weights at the lowest density, same seed; on the diagonal between seeds")
    ]
    return Table("Overlap of masks", rows, legend=legend)


def curves(result: StudyResult) -> Picture:
    """Four metrics over density."""
    figure = Figure(figsize=(12.5, 8.0), layout="constrained", dpi=130)
    methods = _methods(result.rows)
    palette = colours(methods, methods[0], "deterministic")
    for i, (metric, label) in enumerate(_CURVES.items()):
        axes = figure.add_subplot(2, 2, i + 1)
        tidy(axes)
        for method in methods:
            densities = _densities(_of(result.rows, method))
            values = [[_shown(r, metric) for r in _at(result.rows, method, density)] for density in densities]
            means = [statistics.fmean(v) for v in values]
            style = {"marker": "o", "markersize": 3.5, "linewidth": 1.4, "color": palette[method]}
            axes.plot(densities, means, label=method if i == 0 else None, **style)
            low, high = (
                [m + sign * (statistics.stdev(v) if len(v) > 1 else 0.0) for m, v in zip(means, values, strict=True)]
                for sign in (-1, 1)
            )
            axes.fill_between(densities, low, high, color=palette[method], alpha=0.12, linewidth=0)
        if metric in ("accuracy", "nll"):
            axes.set_yscale("log")
        axes.set_xscale("log")
        axes.invert_xaxis()
        axes.set_xlabel("density (sparser to the right)")
        axes.set_ylabel(label)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return Picture(
        "curves",
        "Mean and standard deviation over seeds. A score is good where error, NLL and ECE stay low and AUROC high far to "
        "the right; calibration means nothing where accuracy has fallen.",
        figure,
    )


def layers(result: StudyResult) -> Picture:
    """Density of each layer at the lowest density of every score."""
    figure = Figure(figsize=(9.0, 4.2), layout="constrained", dpi=130)
    axes = figure.add_subplot()
    tidy(axes)
    methods = [m for m in _methods(result.rows) if "layers" in _of(result.rows, m)[0] and "ensemble" not in m]
    palette = colours(methods, methods[0], "deterministic")
    names: list[str] = []
    for i, method in enumerate(methods):
        last = min(_density(row) for row in _of(result.rows, method))
        parts = [dict(_split(str(row["layers"]))) for row in _at(result.rows, method, last)]
        names = list(parts[0])
        x = [j + (i - (len(methods) - 1) / 2) * 0.8 / len(methods) for j in range(len(names))]
        heights = [statistics.fmean(part[name] for part in parts) for name in names]
        axes.bar(x, heights, 0.75 / len(methods), label=method, color=palette[method])
    axes.set_xticks(range(len(names)), names)
    axes.set_yscale("log")
    axes.set_ylabel("density of the layer")
    figure.legend(loc="outside right upper", fontsize=8, frameon=False)
    return Picture("layers", "Where each score spends its weights, at its lowest density.", figure)


def _shown(row: Row, metric: str) -> float:
    return 1 - _float(row[metric]) if metric == "accuracy" else _float(row[metric])


def _split(text: str) -> list[tuple[str, float]]:
    return [(part.rpartition(" ")[0], float(part.rpartition(" ")[2])) for part in text.split("; ")]


def _methods(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(str(row["method"]) for row in rows))


def _of(rows: Sequence[Row], method: str) -> list[Row]:
    return [row for row in rows if row["method"] == method]


def _densities(rows: Sequence[Row]) -> list[float]:
    return sorted({round(_density(row), 6) for row in rows}, reverse=True)


def _at(rows: Sequence[Row], method: str, density: float) -> list[Row]:
    return [row for row in _of(rows, method) if math.isclose(_density(row), density, rel_tol=1e-3)]


def _density(row: Row) -> float:
    return _float(row["density"])


def _float(value: object) -> float:
    assert isinstance(value, int | float), value
    return float(value)


def _spread(values: Sequence[object]) -> str:
    numbers = [v for v in map(_float, values) if not math.isnan(v)]
    if not numbers:
        return "–"
    mean = statistics.fmean(numbers)
    shown = f"{mean:.3f}" if mean < 10 else f"{mean:.0f}"
    return shown + (f" ± {statistics.stdev(numbers):.3f}" if len(numbers) > 1 and mean < 10 else "")


def _name(metric: str) -> str:
    first = metric.split(" ")[0].rstrip(",")
    return metric.replace(first, first.upper()) if first in ("nll", "ece", "mace", "auroc") else metric
