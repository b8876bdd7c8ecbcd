"""Comparison: several reports side by side."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from weightspace.errors import InputError
from weightspace.report import plots
from weightspace.report.cells import ANGLE, number
from weightspace.report.page import Picture, Table, render, wrapped
from weightspace.report.report import Report
from weightspace.report.results import GroupResult
from weightspace.runtime import checks
from weightspace.storage.files import write_text

# fmt: off
_HEADER = [
    "run", "n", "density", "accuracy", "NLL", "ECE", "ensemble acc.", "ensemble NLL", "distance", "angle",
    "error IoU", "dispersion", "mask overlap", "Z_U",
]
# fmt: on


_SAID = {"pass": "passes in", "fail": "fails in", "open": "open in", "-": "not judged in"}


@dataclass(frozen=True)
class Comparison:
    """Reports of several runs, by name.

    Args:
        reports: At least two reports, by name of the run.

    Raises:
        InputError: There are fewer than two reports, or they are of different tasks or test splits.
    """

    reports: Mapping[str, Report]

    def __post_init__(self) -> None:
        checks.mapping(self.reports, "reports", "of names to reports")
        for name, report in self.reports.items():
            checks.instance(report, f"reports[{name!r}]", Report, "a Report, such as Report.load(path)")
        if len(self.reports) < 2:
            raise InputError("a comparison needs at least two reports")
        tasks = {name: (r.task, r.test_samples) for name, r in self.reports.items()}
        metrics = {name: r.metric for name, r in self.reports.items()}
        if len(set(metrics.values())) > 1:
            kinds = ", ".join(f"{name}: {metric.label}" for name, metric in metrics.items())
            raise InputError(f"reports can be compared if they judge by one metric, got {kinds}")
        if len(set(tasks.values())) > 1:
            kinds = ", ".join(f"{name}: {task} ({n} test samples)" for name, (task, n) in tasks.items())
            raise InputError(f"reports can be compared if they are of one task and test split, got {kinds}")

    def tables(self) -> list[Table]:
        """Samples and training networks of each run; the verdicts of each run."""
        one_label = next(iter(self.reports.values())).scoring is None
        rows = [_HEADER if one_label else _other_header(next(iter(self.reports.values())))]
        for name, report in self.reports.items():
            rows.append(_row(name, report, report[report.samples]))
            rows.append(_row(f"{name}: {report.reference}", report, report[report.reference]))
        legend = [
            ("distance", "to the nearest training network of the same run, relative to that among these"),
            ANGLE,
            ("the rows", "samples of each run, then the networks they were learned from"),
        ]
        statistics = {name: report.statistics or "estimated anew in all rows" for name, report in self.reports.items()}
        if len(set(statistics.values())) > 1:
            said = ". ".join(f"{name}: {one}" for name, one in statistics.items())
            legend.append(("BatchNorm statistics", f"not alike in all runs. {said}"))
        runs = [["claim", *self.reports]]
        runs += [[claim, *outcomes.values()] for claim, outcomes in self._outcomes().items()]
        first = ["n", rows[0][3], "distance", "ensemble acc.", f"ensemble {rows[0][3]}", "angle", "density"]
        return [
            Table("Runs side by side", rows, legend, list(self.reports), first=first),
            Table("Verdicts", runs),
        ]

    def headline(self) -> str:
        """The result in one sentence: the samples of each run, the best first, and how many claims pass."""
        some = next(iter(self.reports.values()))
        metric = some.metric
        score = {name: report[report.samples].mean(metric.name) for name, report in self.reports.items()}
        best_first = sorted(score, key=lambda name: metric.advantage(score[name]), reverse=True)
        passed = {
            name: sum(verdict.outcome == "pass" for verdict in report.verdicts) for name, report in self.reports.items()
        }
        said = [
            f"{name} {score[name]:.4f} ({passed[name]} of {len(self.reports[name].verdicts)} claims pass)"
            for name in best_first
        ]
        label = metric.label[:1].upper() + metric.label[1:]
        return f"{label} of samples on {some.task}, the best first: {', '.join(said)}."

    def findings(self) -> list[str]:
        """For each claim, the runs in which it passes, fails and is open."""
        lines = []
        for claim, outcomes in self._outcomes().items():
            runs = {kind: [run for run, outcome in outcomes.items() if outcome == kind] for kind in _SAID}
            lines.append(f"{claim}: " + "; ".join(f"{_SAID[kind]} {', '.join(of)}" for kind, of in runs.items() if of))
        return lines

    def _outcomes(self) -> dict[str, dict[str, str]]:
        """The outcome of each claim in each run; a dash where it was not judged."""
        claims = list(dict.fromkeys(v.claim for report in self.reports.values() for v in report.verdicts))
        by_run = {name: {v.claim: v.outcome for v in report.verdicts} for name, report in self.reports.items()}
        return {claim: {name: known.get(claim, "-") for name, known in by_run.items()} for claim in claims}

    def __str__(self) -> str:
        return "\n\n".join([wrapped(self.headline()), *(table.text() for table in self.tables())])

    def html(self, path: str | Path) -> None:
        """Write a page that needs no other file and no network.

        Args:
            path: The file to write, such as "comparison.html".
        """
        task = next(iter(self.reports.values()))
        metric = task.metric
        points = {
            name: (
                report.relative_distance(report[report.samples]),
                report[report.samples].mean(metric.name),
                report[report.samples].std(metric.name),
                report[report.samples].ensemble.scores.get(metric.name),
            )
            for name, report in self.reports.items()
        }
        good = "upper" if metric.higher_is_better else "lower"
        picture = Picture(
            f"{metric.label} and distance of each run",
            f"Circles are mean and standard deviation over samples, triangles their ensemble. Good and new is the "
            f"{good} right; left of 1 samples are closer to the training networks than these are to each other.",
            plots.comparison(
                points, "distance to the nearest training network / median among training networks", metric.label
            ),
        )
        page = render(
            f"weightspace comparison: {task.task}",
            f"{len(self.reports)} runs, measured on the same {task.test_samples} test samples.",
            tables=self.tables(),
            pictures=[picture],
            findings=self.findings(),
            lead=self.headline(),
        )
        write_text(Path(path), page)


def _other_header(report: Report) -> list[str]:
    """The header for networks that are no classifiers of one label."""
    main = report.metric.label
    metrics = [main, *([] if main == "loss" else ["loss"]), f"ensemble {main}"]
    return [*_HEADER[:3], *metrics, "distance", "angle", report.errors, *_HEADER[-3:]]


def _row(name: str, report: Report, group: GroupResult) -> list[str]:
    variety = group.variety
    if report.scoring is None:
        metrics = [
            f"{group.mean('accuracy'):.4f} ± {group.std('accuracy'):.4f}",
            f"{group.mean('nll'):.3f}",
            f"{group.mean('ece'):.3f}",
            f"{group.ensemble.accuracy:.4f}",
            f"{group.ensemble.nll:.4f}",
        ]
    else:
        main = report.metric.name
        metrics = [
            f"{group.mean(main):.4g} ± {group.std(main):.2g}",
            *([] if main == "loss" else [f"{group.mean('loss'):.4g}"]),
            number(group.ensemble.scores.get(main), ".4g"),
        ]
    return [
        name,
        str(group.count),
        f"{group.mean('density'):.3f}",
        *metrics,
        f"{report.relative_distance(group):.2f}",
        number(report.relative_angle(group)),
        f"{group.median('max_error_iou'):.2f}",
        number(variety and variety.dispersion),
        number(variety and variety.mask_overlap),
        number(group.novelty.z_u, "+.1f"),
    ]
