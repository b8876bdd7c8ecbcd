"""Tables of networks that are no classifiers of one label: the metrics of their task, by name."""

from weightspace.report.cells import ANGLE, DISTANCE, SPREAD, number, shift_name
from weightspace.report.data import ReportData
from weightspace.report.metrics import Scoring
from weightspace.report.page import Table
from weightspace.report.results import GroupResult

_MEANINGS = {
    "loss": "the task's own loss; lower is better",
    "ece": "expected calibration error over 15 bins of all positions or labels; lower is better",
    "disagreement": "share of targets on which two members predict differently, as the mean over pairs",
    "spread": "root mean square deviation of members from their mean, in the targets' units",
    "coverage": "share of targets within 1.96 standard deviations of the members around their mean; 0.95 is ideal",
}


def summary(report: ReportData, scoring: Scoring) -> Table:
    """Every group of networks: metrics, distances and errors in common.

    Args:
        report: The report.
        scoring: How networks were scored.
    """
    metrics = scoring.metrics
    joint = [metric for metric in metrics if metric.name in report[report.samples].ensemble.scores]
    header = ["networks", "n", "density", *(metric.label for metric in metrics)]
    header += [f"ensemble {metric.label}" for metric in joint]
    header += ["distance", "angle", scoring.errors, "dispersion", "mask overlap", "by chance"]

    def row(group: GroupResult) -> list[str]:
        variety, main = group.variety, scoring.main.name
        return [
            group.name,
            str(group.count),
            f"{group.mean('density'):.3f}",
            f"{group.mean(main):.4g} ± {group.std(main):.2g}",
            *(f"{group.mean(metric.name):.4g}" for metric in metrics[1:]),
            *(f"{group.ensemble[metric.name]:.4g}" for metric in joint),
            f"{report.relative_distance(group):.2f}",
            number(report.relative_angle(group)),
            f"{group.median('max_error_iou'):.2f}",
            number(variety and variety.dispersion),
            number(variety and variety.mask_overlap),
            number(variety and variety.mask_overlap_by_chance),
        ]

    legend = [
        *((metric.label, _meaning(metric.name, metric.higher_is_better)) for metric in metrics),
        (scoring.main.label, "the metric that networks are judged by, mean ± standard deviation over networks"),
        DISTANCE,
        ANGLE,
        (scoring.errors, "median over networks of the largest likeness of test errors to a training network's"),
        *SPREAD,
    ]
    notes = [(group.name, group.note) for group in report.groups]
    rows = [header, *map(row, report.groups)]
    first = ["n", scoring.main.label, f"ensemble {scoring.main.label}", "distance", "angle", "mask overlap", "density"]
    return Table("Samples beside their baselines", rows, legend, [report.samples], notes, first)


def ensembles(report: ReportData) -> Table:
    """Metrics of ensembles of equal numbers.

    Args:
        report: The report.
    """
    names = list(dict.fromkeys(name for ensemble in report.ensembles for name in ensemble.metrics.scores))
    rows = [["ensemble", "n", *(name.replace("_", " ") for name in names)]]
    for ensemble in report.ensembles:
        scores = ensemble.metrics.scores
        rows.append([ensemble.name, str(ensemble.networks), *(number(scores.get(name), ".4g") for name in names)])
    legend = [(name, _MEANINGS[name]) for name in names if name in _MEANINGS]
    notes = [(ensemble.name, ensemble.note) for ensemble in report.ensembles]
    heading = f"As one predictor: ensembles of {report.settings.ensemble} where there are as many"
    return Table(heading, rows, legend, [report.samples], notes)


def shift(report: ReportData, scoring: Scoring) -> Table:
    """Main metric of ensembles under each shift.

    Args:
        report: The report.
        scoring: How networks were scored.
    """
    main = scoring.main
    rows = [["ensemble", *map(shift_name, report.ensembles[0].shifts)]]
    for ensemble in report.ensembles:
        rows.append([ensemble.name, *(f"{one.scores[main.name]:.4g}" for one in ensemble.shifts)])
    legend = [(main.label, "of the ensemble on up to 500 test inputs, as they are and shifted with severity 1 to 3")]
    return Table("Under shift", rows, legend, [report.samples])


def _meaning(name: str, higher_is_better: bool) -> str:
    own = f"a metric of the task; {'higher' if higher_is_better else 'lower'} is better"
    return _MEANINGS.get(name, own) if not higher_is_better else own
