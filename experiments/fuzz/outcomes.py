"""What became of a try: it is run under a watchdog, and its messages are read."""

import contextlib
import io
import re
import signal
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from experiments.common import tables

INTERRUPT = 2.0  # seconds after which a try gets a Ctrl-C
GRACE = 20.0  # seconds that it has to end then

REMEDIES = [
    "add", "allow", "ask", "build", "call", "check", "choose", "collect", "convert", "correct", "cut", "delete",
    "divide",
    "draw", "drop",
    "end", "evaluate", "export", "fetch", "fit",
    "free", "give", "import", "install", "keep", "leave", "list", "load", "lower",
    "make",
    "merge", "move", "name", "pass", "pick", "put", "raise", "reduce", "remove", "rename", "repeat", "replace",
    "restore", "return", "run",
    "save", "say", "set", "shorten", "start", "take", "train", "try", "update", "use", "wait", "write",
]  # fmt: skip
"""Verbs that tell what to do."""

EXPECTED = [
    r"\bin [(\[]", r"\b(?:no fewer than|up to|is above|not negative|positive)\b",
    r"\bmust\b", r"\bexpected\b", r"\bthere (?:is|are)\b", r"\bat (?:least|most)\b", r"\bis written\b", r"\bsuch as\b",
    r"\bbetween\b", r"\bneeds?\b", r"\bgoes? with\b", r"\bbelongs? to\b", r"\bonly\b", r"\bshould\b", r"\binstead\b",
    r"\bis now called\b", r"\breads? version\b", r"\bare for\b", r"\bcannot be more\b",
]  # fmt: skip
"""Words that say what was expected, from which the remedy follows."""

_TELLS = re.compile("|".join([rf"\b(?:{'|'.join(REMEDIES)})\b", *EXPECTED]), re.IGNORECASE)

_VERB = re.compile(r"^weightspace [a-z -]+: ", re.MULTILINE)


def has_remedy(message: str) -> bool:
    """Whether a message says what to do, or what was expected; the name of the verb before it tells nothing."""
    return _TELLS.search(_VERB.sub("", message)) is not None


class Hang(BaseException):
    """A try that did not end, not even after an interrupt; not caught by code that catches errors."""


@contextlib.contextmanager
def watchdog(interrupt: float = INTERRUPT, grace: float = GRACE) -> Iterator[list[float]]:
    """Press Ctrl-C after a while, and again, as Python drops one inside a destructor; raise Hang when nothing helps.

    Yields a list with the seconds at which it was pressed.
    """
    start = time.monotonic()
    pressed: list[float] = []

    def ring(_number: int, _frame: FrameType | None) -> None:
        if time.monotonic() > start + interrupt + grace:
            raise Hang
        signal.setitimer(signal.ITIMER_REAL, grace / 4)
        pressed.append(time.monotonic() - start)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, interrupt)
    try:
        yield pressed
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass(frozen=True)
class Ended:
    """How a command line ended.

    Args:
        how: done, refused (code 1), wrong line (2), interrupted (130), traceback or hang.
        text: What it wrote to standard error, or the traceback.
        output: What it wrote to standard output.
    """

    how: str
    text: str
    output: str = ""


CODES = {0: "done", 1: "refused", 2: "wrong line", 130: "interrupted", 143: "interrupted"}


def run_main(
    main: Callable[[Sequence[str]], int], words: Sequence[str], interrupt: float = INTERRUPT, grace: float = GRACE
) -> Ended:
    """Run a command line in this process.

    Args:
        main: The command line's main function.
        words: The command line.
        interrupt: Seconds after which it is interrupted.
        grace: Seconds after which it hangs then.
    """
    out, err = io.StringIO(), io.StringIO()
    pressed: list[float] = []
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("default")
        try:
            with watchdog(interrupt, grace) as pressed:
                code: object = main(words)
        except Hang:
            return Ended("hang", traceback.format_exc())
        except SystemExit as stop:
            code = 0 if stop.code is None else stop.code
        except BaseException:
            # A Ctrl-C inside a library becomes another error there: the command itself, outside of this process, knows
            # that a signal came (`weightspace.runtime.stopping`), and says its line.
            how = "interrupted" if pressed else "traceback"
            return Ended(how, traceback.format_exc())
    text = err.getvalue()
    how = CODES.get(code, "traceback") if isinstance(code, int) else "traceback"
    shown = "Traceback (most recent call last)" in text + out.getvalue()
    if shown and "Exception ignored in" not in text:  # the interpreter's, of a Ctrl-C inside a destructor
        how = "traceback"
    return Ended(how, text, out.getvalue())


@dataclass(frozen=True)
class Fault:
    """A try that ended as none should.

    Args:
        number: What runs it again, with its seed.
        row: Row of the table that it counts in.
        outcome: How it ended.
        seed: Its seed.
    """

    number: str
    row: str
    outcome: str
    seed: int = 0


@dataclass
class Findings:
    """Counts of a part, by row and outcome, and what is to be mended.

    Args:
        counts: Number of tries of each row and outcome.
        wrong: Descriptions of the tries that ended as none should.
        faults: The same tries, to be run again.
        notes: What else is to be known of the part.
    """

    counts: dict[str, Counter[str]] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, row: str, outcome: str, about: str | None = None, number: int | str = "") -> None:
        """Count a try; with `about` it is one to be mended, which `number` runs again."""
        self.counts.setdefault(row, Counter())[outcome] += 1
        if about is not None:
            self.wrong.append(f"[{outcome}] {row}: {about}")
            self.faults.append(Fault(str(number), row, outcome))

    def number(self, outcome: str) -> int:
        """How many tries ended so."""
        return sum(count[outcome] for count in self.counts.values())

    @property
    def tried(self) -> int:
        """Number of tries."""
        return sum(count.total() for count in self.counts.values())

    def write(self, path: Path, name: str, outcomes: Sequence[str]) -> None:
        """Write the table, with a last row for all.

        Args:
            path: CSV file.
            name: Heading of the first column.
            outcomes: Columns.
        """
        rows: list[dict[str, object]] = []
        for row in sorted(self.counts):
            count = self.counts[row]
            rows.append({name: row, "tried": count.total(), **{outcome: count[outcome] for outcome in outcomes}})
        total = {name: "all", "tried": self.tried} | {outcome: self.number(outcome) for outcome in outcomes}
        tables.write(path, [*rows, total])
