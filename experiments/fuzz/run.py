"""How often does the library lose, change or hide something, or leave people without a word?

    python -m experiments.fuzz.run --minutes 10 --seed 1
    python -m experiments.fuzz.run --commands 10000 --mutations 10000 --calls 3000 --types 1000 --kills 1000 --stops 200

Runs the parts in turn, each with its own tries or until its share of the time is over. The counts go to
experiments/results/fuzz; what is to be mended goes to --out, with the seed and number that run it again.
"""

import functools
import itertools
import resource
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.common import tables
from experiments.fuzz import calls, commands, kills, mutations, stops, world
from experiments.fuzz.outcomes import Findings

MEMORY = 8 * 2**30  # bytes of address space beside what is in use
EVERY = 100  # tries between two writes of the tables


@dataclass(frozen=True)
class Part:
    """A part of the fuzzing.

    Args:
        fuzz: Makes tries by number and counts them.
        name: What a try is.
        row: What the rows of its table are.
        outcomes: Columns of its table.
        share: Share of the time.
        prepare: Makes what it alone needs.
    """

    fuzz: Callable[[world.World, int, Iterable[int], Findings], Findings]
    name: str
    row: str
    outcomes: Sequence[str]
    share: float
    prepare: Callable[[world.World], None] = lambda _place: None


PARTS: Mapping[str, Part] = {
    "commands": Part(commands.fuzz, "command lines", "verb", commands.OUTCOMES, 0.35),
    "mutations": Part(mutations.fuzz, "changed files", "kind", mutations.OUTCOMES, 0.25, mutations.prepare),
    "calls": Part(calls.fuzz, "API calls, values of the right types", "of", calls.OUTCOMES, 0.1),
    "types": Part(calls.fuzz_types, "API calls, values of other types", "of", calls.OUTCOMES, 0.05),
    "kills": Part(kills.fuzz, "kills", "verb", kills.OUTCOMES, 0.2),
    "stops": Part(stops.fuzz, "signals", "verb", stops.OUTCOMES, 0.05),
}
SUMMARY = {
    "tracebacks": ["traceback"],
    "hangs": ["hang"],
    "silent differences": ["silent", "other bytes", "wrong"],
    "without remedy": ["no remedy", "no line", "wrong code"],
    "lost or left behind": ["changed", "no resume", "orphans"],
}
"""Columns of the summary, and the outcomes that count there."""


def main(
    minutes: float | None = None,
    seed: int = 0,
    commands: int = 0,
    mutations: int = 0,
    calls: int = 0,
    types: int = 0,
    kills: int = 0,
    stops: int = 0,
    results: Path = tables.RESULTS / "fuzz",
    out: Path = Path("runs/fuzz"),
) -> None:
    """Fuzz, and write the tables.

    Args:
        minutes: Time for all parts together, in place of counts.
        seed: Seed of all tries; each is drawn from it and from its number.
        commands: Number of command lines.
        mutations: Number of changed files.
        calls: Number of API calls with values of the right types.
        types: Number of API calls with values of other types.
        kills: Number of kills.
        stops: Number of commands that are told to stop.
        results: Folder of the tables.
        out: Folder for what is to be mended.
    """
    wanted = {"commands": commands, "mutations": mutations, "calls": calls, "types": types, "kills": kills}
    wanted["stops"] = stops
    out.mkdir(parents=True, exist_ok=True)
    used = 4096 * int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 2**33
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for name, part in PARTS.items():
        if minutes is None and not wanted[name]:
            continue
        found = Findings()
        with tempfile.TemporaryDirectory() as folder:
            place = world.make(Path(folder) / "world")
            part.prepare(place)
            seconds = None if minutes is None else 60 * minutes * part.share
            write = functools.partial(_write, name, part, found, seed, results, out)
            try:
                part.fuzz(place, seed, _numbers(wanted[name], seconds, write), found)
            finally:
                write()  # also what was counted until a Ctrl-C
        print(f"{part.name}: {found.tried} tries, {len(found.wrong)} to be mended")


def _numbers(count: int, seconds: float | None, write: Callable[[], None]) -> Iterator[int]:
    """Numbers of tries, as many as asked for or until the time is over; the tables are written now and then."""
    end = None if seconds is None else time.monotonic() + seconds
    for number in itertools.count():
        if number >= count if end is None else time.monotonic() >= end:
            return
        yield number
        if number % EVERY == EVERY - 1:
            write()


def _write(name: str, part: Part, found: Findings, seed: int, results: Path, out: Path) -> None:
    """Write the table of a part, its row in the summary, and what is to be mended."""
    found.write(results / f"{name}.csv", part.row, part.outcomes)
    counted = {column: sum(map(found.number, outcomes)) for column, outcomes in SUMMARY.items()}
    tables.add(results / "summary.csv", [{"part": part.name, "seed": seed, "tries": found.tried} | counted], ["part"])
    (out / f"{name}.txt").write_text("\n\n".join([*found.wrong, *found.notes]), encoding="utf-8")


if __name__ == "__main__":
    tyro.cli(main)
