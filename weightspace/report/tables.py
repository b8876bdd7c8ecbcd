"""The tables of a report, as text."""

from weightspace.report.page import Table
from weightspace.report.report import Report
from weightspace.report.results import GroupResult


def tables(report: Report) -> list[Table]:
    """Summary, novelty and diversity, calibration, and behaviour under shift."""
    return [_summary(report), _novelty(report), _calibration(report), _shift(report)]


def _summary(report: Report) -> Table:
    header = [
        "networks", "n", "density", "accuracy", "NLL", "ECE", "ensemble acc.", "ensemble NLL", "distance", "error IoU",
        "dispersion", "mask overlap", "by chance",
    ]  # fmt: skip

    def row(group: GroupResult) -> list[str]:
        return [
            group.name,
            str(group.count),
            f"{group.mean('density'):.3f}",
            f"{group.mean('accuracy'):.3f} ± {group.std('accuracy'):.3f}",
            f"{group.mean('nll'):.3f}",
            f"{group.mean('ece'):.3f}",
            f"{group.together['accuracy']:.3f}",
            f"{group.together['nll']:.3f}",
            f"{report.relative_distance(group):.2f}",
            f"{group.median('max error IoU'):.2f}",
            _number(group, "dispersion"),
            _number(group, "mask overlap"),
            _number(group, "mask overlap by chance"),
        ]

    legend = [
        ("accuracy", "mean ± standard deviation over networks"),
        ("distance", "median distance to the nearest training network, after alignment, relative to that among training "
         "networks (1 = as far as another one)"),
        ("error IoU", "median over networks of the largest overlap of test errors with a training network's"),
        ("dispersion", "spread around the own mean relative to the training networks' (below 0.8: drawn together)"),
        ("mask overlap", "shared non-zeros over non-zeros, between networks of the row, as given or aligned, whichever is "
         "more; and by chance at their densities"),
    ]  # fmt: skip
    notes = [(group.name, group.note) for group in report.groups]
    return Table("Samples beside their baselines", [header, *map(row, report.groups)], legend, [report.samples], notes)


def _novelty(report: Report) -> Table:
    taus = [int(k.rpartition(" ")[2]) for k in report[report.samples].together if k.startswith("novel and performing")]
    header = [
        "networks", *(f"good at {tau}x" for tau in taus), "Z_U", "farther", "copies", "from few", "gain", "errors shared",
        "by chance", "masks shared with training",
    ]  # fmt: skip

    def row(group: GroupResult) -> list[str]:
        mask = "mask overlap with training"
        return [
            group.name,
            *(f"{group.together[f'novel and performing at {tau}']:.2f}" for tau in taus),
            f"{group.together['Z_U']:+.1f}" if "Z_U" in group.together else "-",
            _number(group, "farther than held-out"),
            f"{group.together['copies']:.2f}",
            f"{group.median('from few'):.2f}",
            f"{group.mean('gain over nearest'):+.4f}",
            _number(group, "error IoU among"),
            _number(group, "error IoU by chance"),
            f"{group.median(mask):.2f}" if mask in group.per_network else "-",
        ]

    legend = [
        ("good at tau x", f"share of networks with accuracy of at least {report.settings.get('threshold', 0):.4f} and at "
         "least tau times the median distance among training networks"),
        ("Z_U", "far below 0: closer to the training set than held-out networks are"),
        ("farther", "probability to be farther from it than a held-out network (0.5 is ideal)"),
        ("copies", "share of networks a tenth as far from a training network as is usual, or half as far as from the second"
         " nearest"),
        ("from few", "median share of the deviation from the mean network that 16 training networks explain (1: average)"),
        ("gain", "mean accuracy above that of the nearest training network"),
        ("errors shared", "mean overlap of errors between networks of the row, and by chance at these error rates"),
        ("masks shared with training", "median of the largest overlap with a training network's mask; the training row is "
         "the band"),
    ]  # fmt: skip
    return Table("New and different?", [header, *map(row, report.groups)], legend, [report.samples])


def _calibration(report: Report) -> Table:
    header = [
        "ensemble", "n", "accuracy", "NLL", "Brier", "ECE", "adaptive ECE", "MACE", "T", "NLL at T", "ECE at T",
        "mutual inf.", "disagreement", "AUROC", "FPR95", "AUROC (MI)",
    ]  # fmt: skip
    rows: list[list[str]] = []
    for p in report.ensembles:
        m, by_mi = p.metrics, p.detection.get("auroc by mutual information")
        rows.append(
            [
                p.name, str(p.networks), f"{m['accuracy']:.4f}", f"{m['nll']:.4f}", f"{m['brier']:.4f}", f"{m['ece']:.4f}",
                f"{m['adaptive ece']:.4f}", f"{m['mace']:.4f}", f"{p.temperature:.2f}", f"{p.scaled['nll']:.4f}",
                f"{p.scaled['ece']:.4f}", f"{m['mutual information']:.4f}", f"{m['disagreement']:.4f}",
                f"{p.detection['auroc by entropy']:.3f}", f"{p.detection['fpr95 by entropy']:.3f}",
                "-" if by_mi is None else f"{by_mi:.3f}",
            ]
        )  # fmt: skip
    legend = [
        ("T", "temperature fitted on validation data, and the metrics at it"),
        ("MACE", "unweighted mean of the calibration gaps of 15 bins; never read it without accuracy"),
        ("mutual inf.", "how much members' predictions differ, in nats"),
        ("AUROC, FPR95", f"detection of foreign inputs ({report.settings.get('foreign inputs', '')}) by entropy; "
         "FPR95 is the share of one's own inputs flagged when 95 % of the foreign ones are"),
    ]  # fmt: skip
    notes = [(p.name, p.note) for p in report.ensembles]
    heading = f"As predictive distributions: ensembles of {report.settings.get('ensemble')} where there are as many"
    return Table(heading, [header, *rows], legend, [report.samples], notes)


def _shift(report: Report) -> Table:
    names = list(report.ensembles[0].shifted)
    rows = [["ensemble", *(name.removesuffix(" 0") for name in names)]]
    for p in report.ensembles:
        own = [p.shifted[name] for name in names]
        rows.append([p.name, *(f"{m['nll']:.3f} ({m['accuracy']:.3f})" for m in own)])
    legend = [
        ("NLL (accuracy)", "of the ensemble on up to 500 test inputs, as they are and shifted with severity 1 to 3")
    ]
    return Table("Under shift", rows, legend, [report.samples])


def _number(group: GroupResult, key: str) -> str:
    return f"{group.together[key]:.2f}" if key in group.together else "-"
