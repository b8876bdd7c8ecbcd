"""Does a command that is told to stop do so soon, say so in a line, leave no process, and go on to the same bytes?

    python -m experiments.fuzz.stops --tries 100 --seed 0
    python -m experiments.fuzz.stops --seed 0 --only 17

A verb runs as the command itself, in a fork of this process, and gets SIGINT, SIGTERM or SIGHUP at a random moment, one
or two, alone or with its group. Some tries start a new interpreter, so that the signal can come while it loads or has
workers, and some of these get a kill -9. The same command must then end in the bytes of a run that nobody stopped.
"""

import atexit
import contextlib
import os
import random
import re
import shlex
import shutil
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import tyro

from experiments.fuzz import alone, kills, world
from experiments.fuzz.commands import inside
from experiments.fuzz.outcomes import Findings
from weightspace.cli.main import main as command_line
from weightspace.runtime import stopping

OUTCOMES = ["same", "outside", "other bytes", "no resume", "traceback", "no line", "wrong code", "orphans", "hang"]
LOADING = "loading"
REAL: Mapping[str, str] = {
    LOADING: "collect --task iris --hidden 4 --n 2 --length 1ep",
    "collect --workers": "collect --task iris --hidden 4 --n 4 --length 30ep --workers 2",
    "align --workers": "align dense --workers 2",
}
"""Command lines that run in new interpreters."""

Begin = Callable[[Callable[[], None]], int]
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP")
PATIENCE = 150.0
SLOW = 10.0  # seconds to the end that are too many
_BAR = re.compile(r"\d+%\||it/s|s/it|\?it")


@dataclass(frozen=True)
class Stop:
    """What a command gets.

    Args:
        signals: Names of the signals.
        group: Whether its whole group gets them.
        after: Seconds until the first.
        pause: Seconds between two.
    """

    signals: Sequence[str]
    group: bool
    after: float
    pause: float

    def __str__(self) -> str:
        return f"{' and '.join(self.signals)} to {'the group' if self.group else 'it'} after {self.after:.3f} s"


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Args:
        code: Its exit code, negative for a signal; None if it had to be killed.
        seconds: How long it took from the first signal, or from its start if it got none.
        said: What it wrote to standard error, but for progress bars.
        orphans: Processes that stayed.
        late: Whether it had ended before it was told to.
    """

    code: int | None
    seconds: float
    said: str
    orphans: int
    late: bool = False


def run(begin: Begin, stop: Stop | None = None) -> Ended:
    """Run something in a fork, in a session of its own, and perhaps stop it.

    Args:
        begin: What to run there: it calls its argument when it has begun, and returns an exit code, or becomes
            another program.
        stop: What it gets.
    """
    with tempfile.TemporaryFile() as errors:
        begun, begins = os.pipe()
        child = os.fork()
        if child == 0:
            _child(begin, errors.fileno(), begins)
        os.close(begins)
        os.read(begun, 1)  # until it has begun, or become another program
        os.close(begun)
        start = time.monotonic()
        late = _ended(child, 0 if stop is None else stop.after)
        if stop is not None and late is None:
            start = time.monotonic()
            for i, name in enumerate(stop.signals):
                if i == 0 or _ended(child, stop.pause) is None:
                    with contextlib.suppress(ProcessLookupError):
                        (os.killpg if stop.group else os.kill)(child, getattr(signal, name))
        code = late if late is not None else _ended(child, PATIENCE)
        seconds = time.monotonic() - start
        if code is None:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
        _codes.pop(child, None)
        left = kills.orphans(child)
        errors.seek(0)
        text = errors.read().decode(errors="replace")
    lines = [line for line in re.split(r"[\r\n]+", text) if line.strip() and not _BAR.search(line)]
    return Ended(code, seconds, "\n".join(lines), left, stop is not None and late is not None)


_codes: dict[int, int] = {}


def _ended(child: int, seconds: float) -> int | None:
    """The exit code of a process that ends within so many seconds."""
    end = time.monotonic() + seconds
    while child not in _codes:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            _codes[child] = os.waitstatus_to_exitcode(status)
        elif time.monotonic() >= end:
            return None
        else:
            time.sleep(0.001)
    return _codes[child]


def _child(begin: Begin, errors: int, begins: int) -> NoReturn:
    """The forked process."""
    code = 70
    try:
        os.setsid()
        for name in SIGNALS:  # those that this process was started to ignore are what is tried here
            number = getattr(signal, name)
            signal.signal(number, signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL)
        atexit._clear()  # what this process does at its end, such as to delete the world
        null = os.open(os.devnull, os.O_RDWR)
        for stream, where in ((0, null), (1, null), (2, errors)):
            os.dup2(where, stream)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(i, mode, 1, closefd=False)  # with lines written at their end, as they are in a new process
            for i, mode in enumerate("rww")
        )
        os.set_inheritable(begins, False)
        code = begin(lambda: os.close(begins))
    except BaseException as error:
        os.write(2, f"Traceback (most recent call last): {error!r}\n".encode())
    finally:
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def forked(words: Sequence[str]) -> Begin:
    """The command, in this interpreter."""

    def begin(tell: Callable[[], None]) -> int:
        sys.argv = ["weightspace", *words]
        stopping.install()  # before it is told to stop
        tell()
        return command_line()

    return begin


def real(words: Sequence[str]) -> Begin:
    """The command, in a new interpreter, which may be told to stop before it has loaded anything."""
    return lambda _tell: os.execv(sys.executable, [sys.executable, "-m", "weightspace", *words])


def drawn(random_: random.Random, whole: float, *, kill: bool) -> Stop:
    """What a command gets.

    Args:
        random_: Where it is drawn from.
        whole: Seconds that it takes.
        kill: Whether it may be a kill -9.
    """
    if kill and random_.random() < 0.3:
        return Stop(["SIGKILL"], False, random_.uniform(0, whole), 0.0)
    signals = [random_.choice(SIGNALS) for _ in range(2 if random_.random() < 0.25 else 1)]
    return Stop(signals, random_.random() < 0.5, random_.uniform(0, whole), random_.uniform(0, 0.3))


def judge(ended: Ended, stop: Stop) -> tuple[str, str | None]:
    """The outcome of a stop, and what is wrong with it."""
    about = f"{stop}: code {ended.code} in {ended.seconds:.2f} s: {ended.said[-600:]}"
    if ended.orphans:
        return "orphans", about
    if ended.code is None or ended.seconds > SLOW:
        return "hang", about
    if "Traceback" in ended.said or "Exception ignored" in ended.said:
        return "traceback", about
    if ended.late or stop.signals == ["SIGKILL"]:
        return "same", None
    if ended.code in [-getattr(signal, name) for name in stop.signals] and not ended.said:
        return "outside", None  # of the command: where Python itself begins or ends, a signal ends it without a word
    lines = [line for line in ended.said.splitlines() if "stopped (" in line]
    if ended.code not in (0, *(128 + getattr(signal, name) for name in stop.signals)):
        return "wrong code", about
    if ended.code != 0 and (len(lines) != 1 or not ended.said.endswith(lines[0])):
        return "no line", about
    return "same", None


def one(
    words: Sequence[str],
    how: Callable[[Sequence[str]], Begin],
    stop: Stop,
    expected: Mapping[str, bytes],
    seconds: list[float],
) -> tuple[str, str | None]:
    """Stop a command, let it go on, and compare.

    Args:
        words: The command line without --out.
        how: How it is begun.
        stop: What it gets.
        expected: Files of a run that nobody stopped.
        seconds: Where the time to its end is noted.
    """
    begin = how([*words, "--out", "stopped"])
    ended = run(begin, stop)
    if not ended.late:
        seconds.append(ended.seconds)
    outcome, wrong = judge(ended, stop)
    if wrong is not None:
        return outcome, f"{words}: {wrong}"
    done = Path("stopped").exists() and kills.contents(Path("stopped")) == expected
    again = run(begin)
    if again.code != 0 and not done:  # verbs that write in one step refuse what is finished
        return "no resume", f"{words}, {stop}: code {again.code}: {again.said[-600:]}"
    found = kills.contents(Path("stopped"))
    different = sorted(name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name))
    return ("other bytes", f"{words}, {stop}: {', '.join(different)}") if different else (outcome, None)


def fuzz(place: world.World, seed: int, numbers: Iterable[int], findings: Findings) -> Findings:
    """Stop commands by number, each its own random stream.

    Args:
        place: The folders that they read.
        seed: Seed of all.
        numbers: Which tries to make.
        findings: Where they are counted; seconds to the end are among its notes.
    """
    verbs = {**kills.VERBS, **REAL}
    shares = [0.5 if verb in REAL else 0.3 if verb in kills.SLOW else 1.0 for verb in verbs]
    wholes: dict[str, tuple[dict[str, bytes], float]] = {}
    seconds: list[float] = []
    with inside(place.root), world.cheap():
        for number in numbers:
            random_ = random.Random(f"stops {seed} {number}")
            verb = random_.choices(list(verbs), shares)[0]
            words, how = shlex.split(verbs[verb]), real if verb in REAL else forked
            if verb not in wholes:
                ended = run(how([*words, "--out", "stopped"]))
                if ended.code != 0:
                    raise RuntimeError(f"{words}: code {ended.code}: {ended.said}")
                wholes[verb] = kills.contents(Path("stopped")), ended.seconds
                _tidy()
            expected, whole = wholes[verb]
            stop = drawn(random_, whole, kill=verb in REAL)
            outcome, wrong = one(words, how, stop, expected, seconds)
            findings.add(verb, outcome, None if wrong is None else f"{seed} {number}: {wrong}", number)
            _tidy()
    if seconds:
        findings.notes.append(
            f"{len(seconds)} ended in {statistics.median(seconds):.2f} s (median), {max(seconds):.2f} s (longest)"
        )
    return findings


def _tidy() -> None:
    for left in [Path("stopped"), *Path().glob(".stopped*")]:
        shutil.rmtree(left, ignore_errors=True)


def main(tries: int = 100, seed: int = 0, only: int | None = None) -> None:
    """Stop commands, and print what is to be mended.

    Args:
        tries: Number of tries.
        seed: Seed.
        only: Make this one alone.
    """
    alone.run(fuzz, OUTCOMES, seed, range(tries) if only is None else [only])


if __name__ == "__main__":
    tyro.cli(main)
