"""Each checker of the fuzzing sees what was planted: a traceback, a hang, a message without a remedy."""

import sys
import time
from pathlib import Path

import pytest

from experiments.common import tables
from experiments.fuzz.outcomes import Findings, has_remedy, run_main


def stubborn(words: object) -> int:
    """Nothing ends it in time."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            time.sleep(0.01)
        except KeyboardInterrupt:
            continue
    return 0


def patient(words: object) -> int:
    """It works for long, and ends when it is interrupted."""
    try:
        time.sleep(20)
    except KeyboardInterrupt:
        return 130
    return 0


def raising(words: object) -> int:
    raise KeyError("planted")


def writing(words: object) -> int:
    print("Traceback (most recent call last):", file=sys.stderr)
    return 1


@pytest.mark.parametrize(
    ("main", "how"),
    [
        (stubborn, "hang"),
        (patient, "interrupted"),
        (raising, "traceback"),
        (writing, "traceback"),
        (lambda _: 0, "done"),
        (lambda _: 1, "refused"),
        (lambda _: sys.exit(2), "wrong line"),
        (lambda _: 7, "traceback"),
    ],
)
def test_how_a_command_line_ended(main, how: str) -> None:
    assert run_main(main, [], interrupt=0.05, grace=0.05).how == how


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        ("out exists: choose another folder", True),
        ("--n must be at least 1, got 0", True),
        ("no task is called 'x': there are digits, iris", True),
        ("[Errno 17] File exists: 'pipe'", False),
        ("invalid literal for int() with base 10: 'x'", False),
        ("1it is too short, got 3", False),
        ("weightspace import: MLP cannot be built", False),
        ("weightspace tickets imp: it cannot be: name a file", True),
    ],
)
def test_a_message_without_a_remedy_is_seen(message: str, remedy: bool) -> None:
    assert has_remedy(message) == remedy


def test_counts_go_into_a_table_with_a_row_for_all(tmp_path: Path) -> None:
    findings = Findings()
    for outcome in ("done", "done", "hang"):
        findings.add("show", outcome, "it hung" if outcome == "hang" else None)
    findings.add("align", "done")
    findings.write(tmp_path / "t.csv", "verb", ["done", "hang"])
    assert [tuple(row.values()) for row in tables.read(tmp_path / "t.csv")] == [
        ("align", "1", "1", "0"),
        ("show", "3", "2", "1"),
        ("all", "4", "3", "1"),
    ]
    assert findings.wrong == ["[hang] show: it hung"]
