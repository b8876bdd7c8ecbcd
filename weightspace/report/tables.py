"""The tables of a report, as text."""

from weightspace.report import other_metrics
from weightspace.report.cells import ANGLE, DISTANCE, SPREAD, number, shift_name
from weightspace.report.data import ReportData
from weightspace.report.page import Table
from weightspace.report.results import Detection, GroupResult, PredictiveResult

# fmt: off
_SUMMARY = [
    "networks", "n", "density", "accuracy", "NLL", "ECE", "ensemble acc.", "ensemble NLL", "distance", "angle",
    "error IoU", "dispersion", "mask overlap", "by chance",
]
_FIRST = ["n", "accuracy", "ensemble acc.", "distance", "angle", "mask overlap", "density", "NLL", "ECE", "dispersion"]
_NOVELTY = [
    "Z_U", "farther", "copies", "from few", "gain", "errors shared", "by chance", "masks shared with training",
]
_CALIBRATION = [
    "ensemble", "n", "accuracy", "NLL", "Brier", "ECE", "adaptive ECE", "MACE", "T", "NLL at T", "ECE at T",
    "mutual inf.", "disagreement", "AUROC", "FPR95", "AUROC (MI)",
]
# fmt: on


def tables(report: ReportData) -> list[Table]:
    """Summary, novelty and diversity, calibration (or ensembles' metrics), behaviour under shift, and the flow."""
    known = [] if report.knowledge is None else [report.knowledge.table]
    return [*_of_networks(report), *known]


def _of_networks(report: ReportData) -> list[Table]:
    if report.scoring is None:
        return [_summary(report), _novelty(report), _calibration(report), _shift(report)]
    parts = [other_metrics.summary(report, report.scoring), _novelty(report)]
    if report.ensembles:
        parts.append(other_metrics.ensembles(report))
        if len(report.ensembles[0].shifts) > 1:
            parts.append(other_metrics.shift(report, report.scoring))
    return parts


def _summary(report: ReportData) -> Table:
    header = _SUMMARY

    def row(group: GroupResult) -> list[str]:
        variety = group.variety
        return [
            group.name,
            str(group.count),
            f"{group.mean('density'):.3f}",
            f"{group.mean('accuracy'):.3f} ± {group.std('accuracy'):.3f}",
            f"{group.mean('nll'):.3f}",
            f"{group.mean('ece'):.3f}",
            f"{group.ensemble.accuracy:.3f}",
            f"{group.ensemble.nll:.3f}",
            f"{report.relative_distance(group):.2f}",
            number(report.relative_angle(group)),
            f"{group.median('max_error_iou'):.2f}",
            number(variety and variety.dispersion),
            number(variety and variety.mask_overlap),
            number(variety and variety.mask_overlap_by_chance),
        ]

    legend = [
        ("accuracy", "mean ± standard deviation over networks"),
        DISTANCE,
        ANGLE,
        ("error IoU", "median over networks of the largest overlap of test errors with a training network's"),
        *SPREAD,
    ]
    notes = [(group.name, group.note) for group in report.groups]
    rows = [header, *map(row, report.groups)]
    return Table("Samples beside their baselines", rows, legend, [report.samples], notes, _FIRST)


def _novelty(report: ReportData) -> Table:
    taus = [one.tau for one in report[report.samples].novelty.novel_and_performing]
    header = ["networks", *(f"good at {tau}x" for tau in taus), *_NOVELTY]

    def row(group: GroupResult) -> list[str]:
        novelty, variety = group.novelty, group.variety
        masks = group.per_network.mask_overlap_with_training
        return [
            group.name,
            *(f"{novelty.performing_at(tau):.2f}" for tau in taus),
            number(novelty.z_u, "+.1f"),
            number(novelty.farther_than_held_out),
            f"{novelty.copies:.2f}",
            f"{group.median('from_few'):.2f}",
            f"{group.mean('gain_over_nearest'):+.4f}",
            number(variety and variety.error_iou),
            number(variety and variety.error_iou_by_chance),
            number(None if masks is None else group.median("mask_overlap_with_training")),
        ]

    above = "above" if report.metric.higher_is_better else "below"
    overlap = report.errors == "error IoU"
    alike, chance = ("overlap", " at these error rates") if overlap else ("correlation", "")
    legend = [
        (
            "good at tau x",
            f"share of networks with {report.metric.phrase} of {report.metric.at_least} "
            f"{report.settings.threshold:.4f} that are at least tau times as far from every training network as these "
            "typically are from each other",
        ),
        ("Z_U", "far below 0: closer to the training set than held-out networks are"),
        ("farther", "probability to be farther from it than a held-out network (0.5 is ideal)"),
        (
            "copies",
            "share of networks that are at most a tenth as far from a training network as training networks are from "
            "each other, or half as far as from the second nearest",
        ),
        (
            "from few",
            "median share of the deviation from the mean network that 16 training networks explain (1: an average)",
        ),
        ("gain", f"mean {report.metric.label} {above} that of the nearest training network"),
        ("errors shared", f"mean {alike} of errors between networks of the row, and by chance{chance}"),
        (
            "masks shared with training",
            "median of the largest overlap with a training network's mask; the training row says what is normal",
        ),
    ]
    return Table("New and different?", [header, *map(row, report.groups)], legend, [report.samples])


def _calibration(report: ReportData) -> Table:
    def row(ensemble: PredictiveResult) -> list[str]:
        metrics, scaled = ensemble.metrics, ensemble.scaled
        by_entropy: Detection | None = ensemble.by_entropy
        by_information: Detection | None = ensemble.by_mutual_information
        return [
            ensemble.name,
            str(ensemble.networks),
            f"{metrics.accuracy:.4f}",
            f"{metrics.nll:.4f}",
            f"{metrics.brier:.4f}",
            f"{metrics.ece:.4f}",
            f"{metrics.adaptive_ece:.4f}",
            f"{metrics.mace:.4f}",
            number(ensemble.temperature),
            number(scaled and scaled.nll, ".4f"),
            number(scaled and scaled.ece, ".4f"),
            f"{metrics.mutual_information:.4f}",
            f"{metrics.disagreement:.4f}",
            number(by_entropy and by_entropy.auroc, ".3f"),
            number(by_entropy and by_entropy.fpr95, ".3f"),
            number(by_information and by_information.auroc, ".3f"),
        ]

    legend = [
        ("T", "temperature fitted on validation data, and the metrics at it"),
        ("MACE", "unweighted mean of the calibration gaps of 15 bins; never read it without accuracy"),
        ("mutual inf.", "how much members' predictions differ, in nats"),
        (
            "AUROC, FPR95",
            f"detection of OOD inputs ({report.settings.ood_inputs}) by entropy, and by mutual information (MI); "
            f"FPR95 is "
            "the share of test inputs that are flagged when 95 % of the OOD inputs are",
        ),
    ]
    notes = [(ensemble.name, ensemble.note) for ensemble in report.ensembles]
    heading = f"As predictive distributions: ensembles of {report.settings.ensemble} where there are as many"
    rows = [_CALIBRATION, *map(row, report.ensembles)]
    return Table(heading, rows, legend, [report.samples], notes)


def _shift(report: ReportData) -> Table:
    rows = [["ensemble", *map(shift_name, report.ensembles[0].shifts)]]
    for ensemble in report.ensembles:
        rows.append(
            [
                ensemble.name,
                *(f"{shift.scores['nll']:.3f} ({shift.scores['accuracy']:.3f})" for shift in ensemble.shifts),
            ]
        )
    legend = [
        ("NLL (accuracy)", "of the ensemble on up to 500 test inputs, as they are and shifted with severity 1 to 3")
    ]
    return Table("Under shift", rows, legend, [report.samples])
