"""Counts of several seeds, and faults that were mended."""

from pathlib import Path

from experiments.common import tables
from experiments.fuzz import counts
from experiments.fuzz.outcomes import Findings

PARTS = {"kills": ("kills", "verb", ["same", "other bytes"])}


def found(same: int, *fell: int) -> Findings:
    findings = Findings()
    for _ in range(same):
        findings.add("merge", "same")
    for number in fell:
        findings.add("merge", "other bytes", "about it", number)
    return findings


def line(results: Path) -> dict[str, str]:
    counts.write_tables(results, PARTS)
    (row,) = tables.read(results / "summary.csv")
    return row


def test_seeds_add_up_and_a_seed_that_is_run_again_is_counted_once(tmp_path: Path) -> None:
    counts.record(tmp_path, "kills", 3, found(2, 7))
    counts.record(tmp_path, "kills", 201, found(4))
    counts.record(tmp_path, "kills", 202, found(1))
    counts.record(tmp_path, "kills", 202, found(5))
    assert line(tmp_path) == {
        "part": "kills",
        "seeds": "3, 201 to 202",
        "tries": "12",
        "tracebacks": "0",
        "hangs": "0",
        "silent differences": "1",
        "without remedy": "0",
        "lost or left behind": "0",
        "mended": "0",
        "open": "1",
    }
    (row, total) = tables.read(tmp_path / "kills.csv")
    assert row == {"verb": "merge", "tried": "12", "same": "11", "other bytes": "1"}
    assert total["verb"] == "all"


def test_only_what_ends_well_when_run_again_counts_as_mended(tmp_path: Path) -> None:
    counts.record(tmp_path, "kills", 3, found(1, 7, 8))
    first, second = counts.open_faults(tmp_path, "kills")
    assert (first.number, first.seed) == ("7", 3)
    counts.ended(tmp_path, "kills", first, "same")
    counts.ended(tmp_path, "kills", second, "other bytes")
    row = line(tmp_path)
    assert (row["silent differences"], row["mended"], row["open"]) == ("2", "1", "1")
    assert [fault.number for fault in counts.open_faults(tmp_path, "kills")] == ["8"]
