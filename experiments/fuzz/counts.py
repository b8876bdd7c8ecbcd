"""Counts of many runs, each of its own seed, and the faults that they found: what was mended is run again.

counts.csv has the outcomes of each part and seed; faults.csv each try that fell, and how it ends now. The tables of the
parts and the summary are made of these two.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.common import tables
from experiments.fuzz.outcomes import Fault, Findings

SUMMARY = {
    "tracebacks": ["traceback"],
    "hangs": ["hang"],
    "silent differences": ["silent", "other bytes", "wrong"],
    "without remedy": ["no remedy", "no line", "wrong code"],
    "lost or left behind": ["changed", "no resume", "orphans", "left behind"],
}
"""Columns of the summary, and the outcomes that count there."""
BAD = {outcome for outcomes in SUMMARY.values() for outcome in outcomes}
"""Outcomes that are faults."""
_COUNTS, _FAULTS = "counts.csv", "faults.csv"


def record(results: Path, part: str, seed: int, found: Findings) -> None:
    """Put the counts and faults of a part and seed in place of those that were there.

    Args:
        results: Folder of the tables.
        part: Name of the part.
        seed: Seed of the tries.
        found: What was found.
    """
    key = {"part": part, "seed": str(seed)}
    rows = [
        {**key, "row": row, "outcome": outcome, "count": number}
        for row, count in sorted(found.counts.items())
        for outcome, number in sorted(count.items())
    ]
    _replace(results / _COUNTS, key, rows)
    faults = [{**key, "try": f.number, "row": f.row, "outcome": f.outcome, "now": ""} for f in found.faults]
    _replace(results / _FAULTS, key, faults)


def open_faults(results: Path, part: str) -> list[Fault]:
    """Faults of a part that were not run again, or fell again.

    Args:
        results: Folder of the tables.
        part: Name of the part.
    """
    return [
        Fault(row["try"], row["row"], row["outcome"], int(row["seed"]))
        for row in _read(results / _FAULTS)
        if row["part"] == part and (not row["now"] or row["now"] in BAD)
    ]


def ended(results: Path, part: str, fault: Fault, outcome: str) -> None:
    """Note how a fault ends when it is run again.

    Args:
        results: Folder of the tables.
        part: Name of the part.
        fault: The fault.
        outcome: How it ended this time.
    """
    rows = _read(results / _FAULTS)
    for row in rows:
        if (row["part"], row["seed"], row["try"]) == (part, str(fault.seed), fault.number):
            row["now"] = outcome
    tables.write(results / _FAULTS, rows)


def write_tables(results: Path, parts: Mapping[str, tuple[str, str, Sequence[str]]]) -> None:
    """Write the table of each part, and the summary.

    Args:
        results: Folder of the tables.
        parts: For each part what a try is, what its rows are, and its columns.
    """
    counts, faults = _read(results / _COUNTS), _read(results / _FAULTS)
    summary: list[dict[str, object]] = []
    for part, (name, row_name, outcomes) in parts.items():
        own = [row for row in counts if row["part"] == part]
        if not own:
            continue
        found = Findings()
        for row in own:
            found.counts.setdefault(row["row"], Counter())[row["outcome"]] += int(row["count"])
        found.write(results / f"{part}.csv", row_name, outcomes)
        fell = [row for row in faults if row["part"] == part]
        mended = sum(bool(row["now"]) and row["now"] not in BAD for row in fell)
        columns = {column: sum(map(found.number, which)) for column, which in SUMMARY.items()}
        seeds = _ranges(sorted({int(row["seed"]) for row in own}))
        line: dict[str, object] = {"part": name, "seeds": seeds, "tries": found.tried, **columns}
        summary.append({**line, "mended": mended, "open": sum(columns.values()) - mended})
    tables.write(results / "summary.csv", summary)


def _ranges(numbers: Sequence[int]) -> str:
    """Numbers in a few words: "3, 201 to 210"."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]} to {run[-1]}" for run in runs)


def _read(path: Path) -> list[dict[str, str]]:
    return tables.read(path) if path.exists() else []


def _replace(path: Path, key: Mapping[str, str], rows: Sequence[tables.Row]) -> None:
    others = [row for row in _read(path) if any(row[name] != value for name, value in key.items())]
    tables.write(path, sorted([*others, *rows], key=_order))


def _order(row: tables.Row) -> tuple[str, int]:
    return str(row["part"]), int(str(row["seed"]))
