"""How often does the library lose, change or hide something, or leave people without a word?

    python -m experiments.fuzz.run --minutes 10 --seed 1
    python -m experiments.fuzz.run --seed 2 --commands 1000 --mutations 1000 --calls 300 --types 100 --kills 100
    python -m experiments.fuzz.run --again

Runs the parts in turn, each with its own tries or until its share of the time is over. The counts go to
experiments/results/fuzz, beside those of other seeds; what is to be mended goes to --out, with the seed and number that
run it again. --again runs all faults of the tables again, and notes how they end now.
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
from experiments.fuzz import calls, commands, counts, disks, kills, mutations, stops, world
from experiments.fuzz.outcomes import Findings

Fuzz = Callable[[world.World, int, Iterable[int], Findings], Findings]
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
        again: Makes a try again that fell; None for one that its number makes.
    """

    fuzz: Fuzz
    name: str
    row: str
    outcomes: Sequence[str]
    share: float
    prepare: Callable[[world.World], None] = lambda _place: None
    again: Callable[[world.World, int, str, Findings], Findings] | None = None


PARTS: Mapping[str, Part] = {
    "commands": Part(commands.fuzz, "command lines", "verb", commands.OUTCOMES, 0.35),
    "mutations": Part(mutations.fuzz, "changed files", "kind", mutations.OUTCOMES, 0.25, mutations.prepare),
    "calls": Part(calls.fuzz, "API calls, values of the right types", "of", calls.OUTCOMES, 0.1, again=calls.again),
    "types": Part(calls.fuzz_types, "API calls, values of other types", "of", calls.OUTCOMES, 0.05, again=calls.again),
    "kills": Part(kills.fuzz, "kills", "verb", kills.OUTCOMES, 0.15),
    "disks": Part(disks.fuzz, "failing disks", "verb", disks.OUTCOMES, 0.05),
    "stops": Part(stops.fuzz, "signals", "verb", stops.OUTCOMES, 0.05),
}


def main(
    minutes: float | None = None,
    seed: int = 0,
    commands: int = 0,
    mutations: int = 0,
    calls: int = 0,
    types: int = 0,
    kills: int = 0,
    stops: int = 0,
    disks: int = 0,
    again: bool = False,
    results: Path = tables.RESULTS / "fuzz",
    out: Path = Path("runs/fuzz"),
) -> None:
    """Fuzz, and write the tables: the counts of a seed are added to those of other seeds.

    Args:
        minutes: Time for all parts together, in place of counts.
        seed: Seed of all tries; each is drawn from it and from its number.
        commands: Number of command lines.
        mutations: Number of changed files.
        calls: Number of API calls with values of the right types.
        types: Number of API calls with values of other types.
        kills: Number of kills.
        stops: Number of commands that are told to stop.
        disks: Number of commands on a disk that fails.
        again: Run the faults that are in the tables again instead, after they were mended.
        results: Folder of the tables.
        out: Folder for what is to be mended.
    """
    wanted = {"commands": commands, "mutations": mutations, "calls": calls, "types": types, "kills": kills}
    wanted |= {"stops": stops, "disks": disks}
    out.mkdir(parents=True, exist_ok=True)
    used = 4096 * int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 2**33
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    for name, part in PARTS.items():
        if again:
            _run_again(name, part, results, out)
        if again or (minutes is None and not wanted[name]):
            continue
        found = Findings()
        with tempfile.TemporaryDirectory() as folder:
            place = world.make(Path(folder) / "world")
            part.prepare(place)
            seconds = None if minutes is None else 60 * minutes * part.share
            write = functools.partial(_write, name, found, seed, results, out)
            try:
                part.fuzz(place, seed, _numbers(wanted[name], seconds, write), found)
            finally:
                write()  # also what was counted until a Ctrl-C
        print(f"{part.name}: {found.tried} tries, {len(found.wrong)} to be mended")


def _run_again(name: str, part: Part, results: Path, out: Path) -> None:
    """Run the faults of a part again, and note how they end."""
    faults = counts.open_faults(results, name)
    if not faults:
        return
    still: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        place = world.make(Path(folder) / "world")
        part.prepare(place)
        for fault in faults:
            found = Findings()
            if part.again is None:
                part.fuzz(place, fault.seed, [int(fault.number)], found)
            else:
                part.again(place, fault.seed, fault.number, found)
            outcome = next((outcome for count in found.counts.values() for outcome in count), "not there any more")
            counts.ended(results, name, fault, outcome)
            still += found.wrong
    _tables(results)
    (out / f"{name} again.txt").write_text("\n\n".join(still), encoding="utf-8", errors="backslashreplace")
    print(f"{part.name}: {len(faults)} faults run again, {len(still)} fell again")


def _numbers(count: int, seconds: float | None, write: Callable[[], None]) -> Iterator[int]:
    """Numbers of tries, as many as asked for or until the time is over; the tables are written now and then."""
    end = None if seconds is None else time.monotonic() + seconds
    for number in itertools.count():
        if number >= count if end is None else time.monotonic() >= end:
            return
        yield number
        if number % EVERY == EVERY - 1:
            write()


def _write(name: str, found: Findings, seed: int, results: Path, out: Path) -> None:
    """Write the counts of a part and seed, all tables, and what is to be mended."""
    counts.record(results, name, seed, found)
    _tables(results)
    (out / f"{name}.txt").write_text(
        "\n\n".join([*found.wrong, *found.notes]), encoding="utf-8", errors="backslashreplace"
    )


def _tables(results: Path) -> None:
    counts.write_tables(results, {name: (part.name, part.row, part.outcomes) for name, part in PARTS.items()})


if __name__ == "__main__":
    tyro.cli(main)
