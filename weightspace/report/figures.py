"""The figures of a report, each with a caption that says what is good and what is bad."""

import matplotlib
import numpy as np

from weightspace.report import plots
from weightspace.report.page import Picture
from weightspace.report.report import Report


def pictures(report: Report) -> list[Picture]:
    """All figures that the report has data for."""
    with matplotlib.rc_context({"text.parse_math": False}):  # names are a user's, and may hold dollar signs
        return _pictures(report)


def _pictures(report: Report) -> list[Picture]:
    names = report.samples, report.reference
    drawn = report.pictures
    shown = [
        Picture(
            "accuracy and novelty",
            "Dots are networks, circles their row's median distance and mean accuracy, lines the baselines from close to "
            "far, the band 90 % of the training networks. Good and new is the upper right: accurate (above the dotted "
            "line), far from every training network, with errors of its own. Far left are copies, far below broken "
            "networks; on a line, samples are no better than that baseline.",
            plots.plane(
                report.groups, report.points, *names, report.settings.get("threshold", 0.0), report.test_samples
            ),
        ),
        Picture(
            "accuracy",
            "Test accuracy of every network. Good: samples lie where the training networks lie. Bad: they lie where "
            "averages lie, or spread far to the left.",
            plots.accuracy(report.groups, *names),
        ),
        Picture(
            "reliability",
            "Accuracy against confidence of the ensembles of all networks of a row; the larger a dot, the more samples. "
            "Good: on the diagonal. "
            "Above it an ensemble is too modest, below it too sure.",
            plots.reliability([a for a in report.groups if a.count > 1 and a.name in _main(report)], *names),
        ),
        Picture(
            "codes",
            "The two leading principal components. Good: samples cover the cloud of training networks. Bad: they huddle "
            "in its middle, or sit on single networks.",
            plots.codes(drawn.codes, *names),
        ),
        Picture(
            "spectrum",
            "Share of the training networks' total variance (the trace) that the leading components keep. A slow rise "
            "means that networks differ in nearly every direction, so that few components cannot describe them.",
            plots.spectrum(drawn.spectrum),
        ),
        Picture(
            "lines between networks",
            "Test accuracy along straight lines; thin lines are pairs. Good: flat between aligned networks and to "
            "samples, which share a basin. A dip is a barrier.",
            plots.lines(
                {n: [(line.positions, a) for a in line.accuracies] for n, line in drawn.lines.items()}, "test accuracy"
            ),
        ),
        Picture(
            "confusion",
            "Samples of each class (rows) by predicted class; the diagonal is right. Good: sampled and training networks "
            "confuse the same few classes. Bad: a class that samples have forgotten.",
            plots.confusion(drawn.confusion),
        ),
    ]
    if len(report.ensembles[0].shifted) > 1:
        shown.append(
            Picture(
                "shift",
                "NLL of the ensembles as inputs drift away from the training data. Good: low and slowly rising.",
                plots.shift(report.ensembles, *names),
            )
        )
    if any(min(group.layer_density.values()) < 1 for group in report.groups):
        shown.append(
            Picture(
                "density per layer",
                "How much of each layer is kept. Good: samples spend their weights as training networks do.",
                plots.layer_density([a for a in report.groups if a.name in _main(report)], *names),
            )
        )
    if drawn.overlaps:
        matrices = {n: np.array(m, dtype=float) for n, m in drawn.overlaps.items()}
        shown.append(
            Picture(
                "mask overlap",
                f"Shared non-zeros over non-zeros of the first {drawn.overlap_training} training networks, then of "
                "samples (behind the white cross). Good: the block of samples is as light as that of training networks. "
                "Bad: a dark block, where all samples have one mask.",
                plots.matrices(matrices, "mask overlap", divide=drawn.overlap_training),
            )
        )
    if drawn.filters is not None:
        shown.append(
            Picture(
                "filters",
                "Incoming weights of the busiest first-layer units, white is pruned. Good: sampled units have a shape, "
                "like learned ones, and differ between samples. Bad: noise, or the same picture in every row.",
                plots.filters(np.array(drawn.filters.images), drawn.filters.labels),
            )
        )
    return shown


def _main(report: Report) -> set[str]:
    """The rows that are networks of their own, not baselines made of training networks."""
    return {ensemble.name for ensemble in report.ensembles}
