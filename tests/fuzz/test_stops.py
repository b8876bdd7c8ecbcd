"""A short part of the stops, and what their checkers see."""

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.fuzz import kills, stops, world
from experiments.fuzz.commands import inside
from experiments.fuzz.outcomes import Findings

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="forks, and looks at processes in /proc")
STOP = stops.Stop(["SIGTERM"], False, 0.0, 0.0)


def test_stopped_commands_go_on_to_the_same_bytes(place: world.World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kills, "VERBS", {"merge": kills.VERBS["merge"]})
    monkeypatch.setattr(stops, "REAL", {})
    found = stops.fuzz(place, 0, range(2), Findings())
    assert found.wrong == []
    assert found.number("same") == 2


def says_nothing(_number: int, _frame: object) -> None:
    os._exit(143)


def shows_a_traceback(_number: int, _frame: object) -> None:
    sys.stderr.write("Traceback (most recent call last):\n")
    sys.stderr.flush()
    os._exit(143)


def goes_on(_number: int, _frame: object) -> None:
    pass


def leaves_a_process(_number: int, _frame: object) -> None:
    if os.fork():
        os._exit(143)
    time.sleep(60)


def ends_with_another_code(_number: int, _frame: object) -> None:
    os._exit(1)


def is_right(_number: int, _frame: object) -> None:
    sys.stderr.write("\r 10%|x 5.0it/s\nweightspace: stopped (SIGTERM): run it again\n")
    sys.stderr.flush()
    os._exit(143)


@pytest.mark.parametrize(
    ("handler", "outcome"),
    [
        (says_nothing, "no line"),
        (shows_a_traceback, "traceback"),
        (goes_on, "hang"),
        (leaves_a_process, "orphans"),
        (ends_with_another_code, "wrong code"),
        (is_right, "same"),
    ],
)
def test_a_command_that_does_not_stop_as_it_should_is_seen(
    handler: Callable[[int, object], None], outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begin(tell: Callable[[], None]) -> int:
        signal.signal(signal.SIGTERM, handler)
        tell()
        while True:
            time.sleep(60)

    monkeypatch.setattr(stops, "PATIENCE", 0.5 if outcome == "hang" else 30.0)
    monkeypatch.setattr(kills.orphans, "__defaults__", (0.2,))
    assert stops.judge(stops.run(begin, STOP), STOP)[0] == outcome


def test_a_command_that_does_not_go_on_is_seen(tmp_path: Path) -> None:
    def how(_words: object) -> stops.Begin:
        def begin(tell: Callable[[], None]) -> int:
            tell()
            Path("stopped").mkdir(exist_ok=True)
            Path("stopped/file").write_text("other")
            return 0

        return begin

    late = stops.Stop(["SIGKILL"], False, 30.0, 0.0)
    with inside(tmp_path):
        assert stops.one(["x"], how, late, {"file": b"right"}, [])[0] == "other bytes"
        assert stops.one(["x"], how, late, {"file": b"other"}, [])[0] == "same"
