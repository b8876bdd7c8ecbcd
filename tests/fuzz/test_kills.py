"""A short part of the kills, and what its checkers see."""

import os
import random
import time
from pathlib import Path

import pytest

from experiments.fuzz import kills, world
from experiments.fuzz.commands import inside
from experiments.fuzz.outcomes import Findings

pytestmark = pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="forks, and looks at processes in /proc")


def test_killed_commands_go_on_to_the_same_bytes(place: world.World) -> None:
    verbs = {name: kills.VERBS[name] for name in ("merge",)}
    found = kills.fuzz(place, 0, range(2), Findings(), verbs)
    assert found.wrong == []
    assert found.number("same") == 2


def test_a_kill_before_a_file_operation_leaves_the_earlier_ones(tmp_path: Path) -> None:
    def write_three() -> int:
        for name in "abc":
            (tmp_path / name).write_text(name)
        return 0

    assert kills.forked(write_three, tmp_path).operations == 3
    for path in tmp_path.iterdir():
        path.unlink()
    killed = kills.forked(write_three, tmp_path, operation=3)
    assert killed.code is None
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}
    killed = kills.forked(lambda: time.sleep(20) or 0, tmp_path, after=0.05)
    assert killed.code is None
    assert killed.seconds < 10


def test_a_planted_orphan_is_seen_and_ended(tmp_path: Path) -> None:
    def with_child() -> int:
        child = os.fork()
        if child == 0:
            (tmp_path / "child").write_text(str(os.getpid()))
            time.sleep(30)
        while not (tmp_path / "child").exists():
            time.sleep(0.005)
        return 0

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kills.orphans, "__defaults__", (0.1,))
        assert kills.forked(with_child, tmp_path).orphans == 1
    assert kills.orphans(int((tmp_path / "child").read_text()), 0.0) == 0


@pytest.mark.parametrize(
    ("planted", "outcome"), [("bytes", "other bytes"), ("refuses", "no resume"), ("input", "changed")]
)
def test_a_command_that_does_not_go_on_as_it_was_is_seen(
    planted: str, outcome: str, place: world.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main(words: list[str]) -> int:
        if words[0] == "show":
            return 0
        folder = Path("killed")
        again = folder.exists()
        folder.mkdir(exist_ok=True)
        if again and planted == "refuses":
            return 1
        if again and planted == "input":
            Path("file").write_text("lost")
        (folder / "result").write_text("other" if again and planted == "bytes" else "right")
        return 0

    monkeypatch.setattr(kills, "command_line", main)
    kept = (place.root / "file").read_text()
    with inside(place.root):
        expected, whole = {"result": b"right"}, kills.Killed(0, 2, 0.1, 0)
        number = next(n for n in range(100) if kills.moments(random.Random(n), whole) == [(2, None)])
        try:
            assert kills.one(["x"], random.Random(number), expected, whole, place)[0] == outcome
        finally:
            (place.root / "file").write_text(kept)
            kills.shutil.rmtree("killed", ignore_errors=True)
