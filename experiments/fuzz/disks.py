"""Does a disk that fails at any moment end in an error that says so, and lose nothing?

    python -m experiments.fuzz.disks --tries 100 --seed 0
    python -m experiments.fuzz.disks --seed 0 --only 17

A verb runs, and one of its operations on files fails, or all from there on, as on a disk that is full, read-only, or
has a fault. It must say what failed, where and what to do; files that were there stay, and the same command must then
end in the bytes of a run on a whole disk. `python -m tests.full_disks` tries every operation, hours of them.
"""

import contextlib
import io
import os
import random
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import tyro

from experiments.fuzz import alone, kills, world
from experiments.fuzz.commands import inside
from experiments.fuzz.outcomes import Findings, Hang, run_main, watchdog
from tests.faults import Faults, contents, problem
from tests.full_disks import FAULTS, STUDIES, TIMES
from weightspace.cli import main as main_module
from weightspace.cli.main import main as command_line

OUTCOMES = [
    "told",
    "no difference",
    "other bytes",
    "no resume",
    "traceback",
    "changed",
    "left behind",
    "no remedy",
    "hang",
]
_KINDS = {"is another file now": "changed", "stays": "left behind", "the message": "no remedy"}


@dataclass(frozen=True)
class Whole:
    """A run on a whole disk.

    Args:
        files: Checksums of what it wrote.
        operations: Number of its operations of each kind.
    """

    files: dict[str, str]
    operations: dict[str, int]


def fuzz(place: world.World, seed: int, numbers: Iterable[int], findings: Findings) -> Findings:
    """Let operations fail by number, each try its own random stream.

    Args:
        place: The folders that verbs read.
        seed: Seed of all.
        numbers: Which tries to make.
        findings: Where they are counted.
    """
    wholes: dict[str, Whole] = {}
    verbs = {**kills.VERBS, "align --report": "align dense --report 2"}
    out = place.root / "disk"
    with inside(place.root), world.cheap(), world.parsed_once():
        for number in numbers:
            random_ = random.Random(f"disks {seed} {number}")
            verb = random_.choice(list(verbs))
            words = [*shlex.split(verbs[verb]), "--out", str(out / "out")]
            if verb not in wholes:
                wholes[verb] = _whole(words, out)
            name = random_.choice(list(FAULTS))
            error, kind, lasting = FAULTS[name]
            at = random_.randint(1, max(1, wholes[verb].operations[kind]))
            outcome, wrong = one(words, out, Faults(out, at, error, lasting, kind), wholes[verb])
            about = None if wrong is None else f"{seed} {number}: {name}, operation {at}: {wrong}"
            findings.add(verb, outcome, about, number)
            shutil.rmtree(out, ignore_errors=True)
    return findings


def one(words: list[str], out: Path, faults: Faults, whole: Whole) -> tuple[str, str | None]:
    """Run a verb on a failing disk, and again on a whole one.

    Args:
        words: The command line.
        out: Folder on the disk.
        faults: What fails.
        whole: The same on a whole disk.
    """
    before, error = _begin(out), None
    try:
        with faults, watchdog(60.0):
            _run(words)
    except (Hang, KeyboardInterrupt) as hang:
        return "hang", repr(hang)
    except Exception as found:
        error = found
    said = problem(error, faults, before, out)
    if said is not None:
        return next((kind for part, kind in _KINDS.items() if part in said), "traceback"), said
    with patch.object(os, "fsync"):
        again = run_main(command_line, words, interrupt=60.0)
    if again.how != "done":
        return "no resume", f"{faults.failed[:1]}: {again.how}: {again.text}"
    stuck = any(failed.startswith("unlink") for failed in faults.failed)  # then nothing could be removed
    files = {name: value for name, value in _written(out).items() if not (stuck and "/." in f"/{name}")}
    different = sorted(name for name in {*files, *whole.files} if files.get(name) != whole.files.get(name))
    if different:
        return "other bytes", f"{faults.failed[:1]}: {', '.join(different)}"
    return "told" if error is not None else "no difference", None


def _whole(words: list[str], out: Path) -> Whole:
    operations: dict[str, int] = {}
    files: dict[str, str] = {}
    for kind in ("write", "read", "lock"):
        _begin(out)
        with Faults(out, kind=kind, number=0) as faults:
            _run(words)
        operations[kind], files = len(faults.seen), _written(out)
        shutil.rmtree(out)
    return Whole(files, operations)


def _run(words: Sequence[str]) -> None:
    """Run a verb, whose errors are raised."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        main_module.parse(words[0], main_module._with_refinement(words[0], list(words))).run()


def _begin(out: Path) -> dict[str, str]:
    out.mkdir()
    (out / "earlier.txt").write_text("years of work")
    return contents(out)


def _written(out: Path) -> dict[str, str]:
    return contents(out, (*TIMES, *({*STUDIES, *kills.UNEQUAL} if (out / "out" / "study.json").exists() else ())))


def main(tries: int = 100, seed: int = 0, only: int | None = None) -> None:
    """Let disks fail, and print what is to be mended.

    Args:
        tries: Number of tries.
        seed: Seed.
        only: Make this one alone.
    """
    alone.run(fuzz, OUTCOMES, seed, range(tries) if only is None else [only])


if __name__ == "__main__":
    tyro.cli(main)
