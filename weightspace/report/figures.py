"""The figures of a report, each with a caption that says what is good and what is bad."""

import numpy as np

from weightspace.report import plots
from weightspace.report.data import ReportData
from weightspace.report.page import Picture


def pictures(report: ReportData) -> list[Picture]:
    """All figures that the report has data for."""
    import matplotlib

    with matplotlib.rc_context({"text.parse_math": False}):  # names are a user's, and may hold dollar signs
        parts = (_of_groups, _of_weight_space, _of_predictions, _of_masks, _of_filters)
        return [picture for part in parts for picture in part(report)]


def _of_groups(report: ReportData) -> list[Picture]:
    names = report.samples, report.reference
    if report.scoring is not None:
        return _of_other_groups(report)
    return [
        Picture(
            "accuracy and novelty",
            "Dots are networks, circles their row's median distance and mean accuracy (hollow: by angle, which larger "
            "weights alone do not change), lines the baselines from close to far, the band 90 % of the training "
            "networks. Good and new is the upper right: accurate (above the dotted "
            "line), far from every training network, with errors of its own. Far left are copies, far below broken "
            "networks; on a line, samples are no better than that baseline.",
            plots.plane(report.groups, report.points, *names, report.settings.threshold, report.test_samples),
        ),
        Picture(
            "accuracy",
            "Test accuracy of every network. Good: samples lie where the training networks lie. Bad: they lie where "
            "averages lie, or spread far to the left.",
            plots.accuracy(report.groups, *names),
        ),
        Picture(
            "reliability",
            "Accuracy against confidence of the ensembles of all networks of a row; the larger a dot, the more "
            "samples. "
            "Good: on the diagonal. "
            "Above it an ensemble is too modest, below it too sure.",
            plots.reliability([g for g in report.groups if g.count > 1 and g.name in _main(report)], *names),
        ),
    ]


def _of_other_groups(report: ReportData) -> list[Picture]:
    """Groups of networks that are no classifiers of one label, by the main metric; better is up or to the right."""
    metric, names = report.metric, (report.samples, report.reference)
    edge = "Values far below the threshold are drawn at the edge."
    shown = [
        Picture(
            f"{metric.label} and novelty",
            "Dots are networks, circles their row's median distance and mean (hollow: by angle), lines the baselines "
            "from close to far, the band 90 % of the training networks. Good and new is the upper right: "
            "better than the dotted line, far "
            f"from every training network, with errors of its own. {edge}",
            plots.plane_of(report.groups, report.points, *names, report.settings.threshold, metric, report.errors),
        ),
        Picture(
            metric.label,
            f"Test {metric.label} of every network. Good: samples lie where the training networks lie. Bad: they lie "
            f"where averages lie, or spread far to the left. {edge}",
            plots.scores(report.groups, *names, report.settings.threshold, metric),
        ),
    ]
    calibrated = [group for group in report.groups if group.count > 1 and group.name in _main(report)]
    if any(group.reliability for group in calibrated):
        binary = report.scoring is not None and report.scoring.outputs == "Binary"
        what = ("how often yes is right", "probability of yes") if binary else ("accuracy", "confidence")
        shown.append(
            Picture(
                "reliability",
                f"{what[0].capitalize()} against {what[1]} of the ensembles of all networks of a row. Good: on the "
                "diagonal.",
                plots.reliability(calibrated, *names, *what),
            )
        )
    return shown


def _of_weight_space(report: ReportData) -> list[Picture]:
    data = report.figures
    lines = {n: [(line.positions, a) for a in line.scores] for n, line in data.lines.items()}
    metric = report.metric
    return [
        Picture(
            "codes",
            "The two leading principal components. Good: samples cover the cloud of training networks. Bad: they "
            "huddle "
            "in its middle, or sit on single networks.",
            plots.codes(data.codes, report.samples, report.reference),
        ),
        Picture(
            "spectrum",
            "Share of the training networks' total variance (the trace) that the leading components keep. A slow rise "
            "means that networks differ in nearly every direction, so that few components cannot describe them.",
            plots.spectrum(data.spectrum),
        ),
        Picture(
            "lines between networks",
            f"Test {metric.label} along straight lines; thin lines are pairs. Good: flat between aligned networks and "
            f"to samples, which share a basin. A {'dip' if metric.higher_is_better else 'hump'} is a barrier.",
            plots.lines(lines, f"test {metric.label}"),
        ),
    ]


def _of_predictions(report: ReportData) -> list[Picture]:
    if report.scoring is not None:
        return _of_other_predictions(report)
    confusion = Picture(
        "confusion",
        "Samples of each class (rows) by predicted class; the diagonal is right. Good: sampled and training networks "
        "confuse the same few classes. Bad: a class that samples have forgotten.",
        plots.confusion(report.figures.confusion),
    )
    if len(report.ensembles[0].shifts) < 2:
        return [confusion]
    shift = Picture(
        "shift",
        "NLL of the ensembles as inputs drift away from the training data. Good: low and slowly rising.",
        plots.shift(report.ensembles, report.samples, report.reference),
    )
    return [confusion, shift]


def _of_other_predictions(report: ReportData) -> list[Picture]:
    if not report.ensembles or len(report.ensembles[0].shifts) < 2:
        return []
    caption = "Loss of the ensembles as inputs drift away from the training data. Good: low and slowly rising."
    return [Picture("shift", caption, plots.shift(report.ensembles, report.samples, report.reference, "loss"))]


def _of_masks(report: ReportData) -> list[Picture]:
    data, shown = report.figures, list[Picture]()
    if any(group.sparse for group in report.groups):
        groups = [group for group in report.groups if group.name in _main(report)]
        shown.append(
            Picture(
                "density per layer",
                "How much of each layer is kept. Good: samples spend their weights as training networks do.",
                plots.layer_density(groups, report.samples, report.reference),
            )
        )
    if data.overlaps:
        matrices = {name: np.array(matrix, dtype=float) for name, matrix in data.overlaps.items()}
        shown.append(
            Picture(
                "mask overlap",
                f"Shared non-zeros over non-zeros of the first {data.overlap_training} training networks, then of "
                "samples (behind the white cross). Good: the block of samples is as light as that of training "
                "networks. "
                "Bad: a dark block, where all samples have one mask.",
                plots.matrices(matrices, "mask overlap", divide=data.overlap_training),
            )
        )
    return shown


def _of_filters(report: ReportData) -> list[Picture]:
    filters = report.figures.filters
    if filters is None:
        return []
    return [
        Picture(
            "filters",
            "Incoming weights of the busiest first-layer units, white is pruned. Good: sampled units have a shape, "
            "like learned ones, and differ between samples. Bad: noise, or the same picture in every row.",
            plots.filters(np.array(filters.images), filters.labels),
        )
    ]


def _main(report: ReportData) -> set[str]:
    """The rows that are networks of their own, not baselines made of training networks."""
    return {ensemble.name for ensemble in report.ensembles} or {report.samples, report.reference}
