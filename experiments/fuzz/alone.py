"""One part of the fuzzing by itself: its tries in a world of its own, and what is to be mended in print."""

import os
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from experiments.fuzz import world
from experiments.fuzz.outcomes import Findings


def run(
    fuzz: Callable[[world.World, int, Iterable[int], Findings], Findings],
    outcomes: Sequence[str],
    seed: int,
    numbers: Iterable[int],
    prepare: Callable[[world.World], object] = lambda _place: None,
) -> None:
    """Make tries, and print faults, notes and counts.

    Args:
        fuzz: Makes tries by number and counts them.
        outcomes: What is counted.
        seed: Seed.
        numbers: Numbers of the tries.
        prepare: Makes what this part needs besides.
    """
    findings = Findings()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        place = world.make(Path(folder) / "world")
        prepare(place)
        fuzz(place, seed, numbers, findings)
    print(*findings.wrong, *findings.notes, sep="\n\n")
    print({outcome: findings.number(outcome) for outcome in outcomes})
