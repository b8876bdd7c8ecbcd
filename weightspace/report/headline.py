"""The result of an evaluation in one sentence: what a reader wants to know first."""

from collections.abc import Sequence

from weightspace.report.data import ReportData
from weightspace.report.results import GroupResult, Verdict

_NEW = ("not copies", "errors of their own", "not averages")
_BETTER = "better than their "  # a claim that names what samples were learned from


def headline(report: ReportData) -> str:
    """Samples beside the networks they were learned from: the main metric, whether they are new, and their ensemble.

    Args:
        report: The report.
    """
    samples, training, metric = report[report.samples], report[report.reference], report.metric
    kind = report.reference.removeprefix("training ")  # "tickets", or "networks"
    claims = {verdict.claim: verdict for verdict in report.verdicts}
    asked = {
        "new": [claims[claim] for claim in _NEW if claim in claims],
        "varied": [claims[claim] for claim in ("no collapse",) if claim in claims],
        "better": [verdict for claim, verdict in claims.items() if claim.startswith(_BETTER)],
    }
    count = f"{samples.count} sample{'s' if samples.count > 1 else ''} of {_density(samples)}"
    parts = [f"{count}: {metric.label} {_mean(samples, metric.name)} ({kind} {_mean(training, metric.name)})"]
    parts += [f"{what}: {_answer(verdicts)}" for what, verdicts in asked.items() if verdicts]
    ensembles = [_ensemble(report, group) for group in (samples, training)]
    if samples.count > 1 and all(ensembles):
        parts.append(f"as an ensemble: {ensembles[0]} ({kind} {ensembles[1]})")
    return "; ".join(parts) + "."


def _mean(group: GroupResult, metric: str) -> str:
    """Mean and standard deviation over networks, with as many digits as in the tables."""
    if metric == "accuracy":
        return f"{group.mean(metric):.3f} ± {group.std(metric):.3f}"
    return f"{group.mean(metric):.4g} ± {group.std(metric):.2g}"


def _density(group: GroupResult) -> str:
    low, high = (f"{end(group.per_network.density):.2f}" for end in (min, max))
    return f"density {low}" if low == high else f"density {low} to {high}"


def _answer(verdicts: Sequence[Verdict]) -> str:
    """Yes if all claims pass, no if one fails."""
    outcomes = {verdict.outcome for verdict in verdicts}
    return "no" if "fail" in outcomes else "open" if "open" in outcomes else "yes"


def _ensemble(report: ReportData, group: GroupResult) -> str:
    """Metrics of an ensemble, of equal numbers of networks where they were measured; nothing where there are none."""
    equal = {ensemble.name: ensemble.metrics for ensemble in report.ensembles}
    scores = equal.get(group.name, group.ensemble).scores
    if report.scoring is None:
        return f"accuracy {scores['accuracy']:.3f}, NLL {scores['nll']:.3f}"
    name = report.metric.name
    return f"{report.metric.label} {scores[name]:.4g}" if name in scores else ""
