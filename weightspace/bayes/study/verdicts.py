"""What a study says: a sentence, and a verdict on each method beside the first one."""

import statistics
from collections.abc import Mapping, Sequence

from weightspace.bayes.study.results import Row, StudyResult
from weightspace.report.intervals import mean_interval
from weightspace.report.results import Outcome, Verdict

_NAMED = 3  # methods in the sentence


def headline(result: StudyResult) -> str:
    """The result in one sentence: the best methods and the first, at the lowest density that the first one reached.

    Args:
        result: Results of a study.
    """
    by_network = _at_the_lowest(result)
    means = {method: statistics.fmean(values.values()) for method, values in by_network.items()}
    main, reference = result.main, next(iter(means))
    best_first = sorted(means, key=lambda method: main.advantage(means[method]), reverse=True)
    named = [*best_first[:_NAMED], *([] if reference in best_first[:_NAMED] else [reference])]
    said = ", ".join(f"{method} {means[method]:.3f}" for method in named)
    outcomes = [verdict.outcome for verdict in verdicts(result)]
    better = f"{outcomes.count('pass')} of {len(outcomes)} methods are better than {reference}"
    seeds = len(next(iter(by_network.values())))
    return (
        f"{main.label.capitalize()} on {result.task} at density {_lowest(result):.3g}, the best first: {said}; "
        f"{better} ({seeds} seed{'s' if seeds > 1 else ''})."
    )


def verdicts(result: StudyResult) -> list[Verdict]:
    """Whether each method is better than the first, at the lowest density of that one.

    Args:
        result: Results of a study.
    """
    main = result.main
    (reference, base), *others = _at_the_lowest(result).items()
    found: list[Verdict] = []
    for method, values in others:
        pairs = [values[network] - base[network] for network in values if network in base]
        if not pairs:
            continue
        gains = [main.advantage(pair) for pair in pairs]
        low, high = mean_interval(pairs)
        words = f"{main.label} {statistics.fmean(pairs):+.4f}"
        words += f" (95 % interval {low:+.4f} to {high:+.4f})" if len(pairs) > 1 else " of a single seed"
        found.append(
            Verdict(
                f"{method} better than {reference}",
                _outcome(gains),
                f"at density {_lowest(result):.3g}, {words}, n = {len(pairs)}",
                "the 95 % interval of the paired difference (Student's t over seeds) lies on one side of 0",
            )
        )
    return found


def _outcome(gains: Sequence[float]) -> Outcome:
    """Pass above 0, fail below, open between and for a single seed."""
    if len(gains) < 2:
        return "open"
    low, high = mean_interval(gains)
    return "pass" if low > 0 else "fail" if high < 0 else "open"


def _lowest(result: StudyResult) -> float:
    """The lowest density of the first method."""
    return min(row.density for row in result.rows if row.method == result.rows[0].method)


def _at_the_lowest(result: StudyResult) -> Mapping[str, Mapping[int, float]]:
    """The main metric of each method and network there, of methods that have it and are no ensembles of all."""
    found: dict[str, dict[int, float]] = {}
    for row in result.rows:
        value = _value(row, result)
        if value is not None:
            found.setdefault(row.method, {})[row.network] = value
    return found


def _value(row: Row, result: StudyResult) -> float | None:
    lowest = _lowest(result)
    there = not row.ensemble and abs(row.density - lowest) <= 1e-3 * lowest
    return row.metric(result.main.name) if there else None
