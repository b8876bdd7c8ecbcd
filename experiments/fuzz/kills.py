"""Does a killed command leave whole files, and go on to the same bytes?

    python -m experiments.fuzz.kills --tries 100 --seed 0
    python -m experiments.fuzz.kills --seed 0 --only 17

A verb runs in a fork of this process and gets a kill -9 at a random moment, or before one of its file operations. What
it left is shown, the folders that it read must be as they were, no process may stay,
and the same command must end in the
bytes of a run that nobody killed. To add a verb, write its command line into VERBS.
"""

import contextlib
import os
import random
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import tyro

from experiments.fuzz import alone, world
from experiments.fuzz.commands import inside
from experiments.fuzz.outcomes import Findings, run_main
from weightspace.cli import main as main_module
from weightspace.cli.main import main as command_line

OUTCOMES = ["same", "other bytes", "no resume", "traceback", "changed", "orphans", "hang"]

_FLOW = "--flow.width 4 --flow.blocks 1 --flow.validation-fraction 0 --compress.components 1"
VERBS: Mapping[str, str] = {
    "collect": "collect --task iris --hidden 4 --n 6 --length 2ep",
    "collect --grid": "collect --task iris --hidden 4 --n 2 --length 1ep --grid.lr 0.1 0.2",
    "collect --trajectory": "collect --task iris --hidden 4 --n 2 --length 2ep --trajectory 1ep",
    "collect --shared-start": "collect --task iris --hidden 4 --n 4 --length 2ep --shared-start 1ep",
    "train": "train tickets --length 1ep",
    "merge": "merge dense others",
    "import": "import states --model MLP --arguments '{sizes: [4, 4, 3]}'",
    "tickets gradual": "tickets gradual dense --length 1ep --every 1 --density 0.5",
    "tickets imp": "tickets imp dense --density 0.3 --rate 0.4",
    "tickets prune-at-init": "tickets prune-at-init dense --density 0.5",
    "tickets dynamic": "tickets dynamic dense --density 0.5 --every 1",
    "tickets edge-popup": "tickets edge-popup dense",
    "tickets continuous": "tickets continuous dense",
    "tickets control": "tickets control rewound --kind shuffled",
    "align": "align dense",
    "adapt lota": "adapt lota dense --density 0.5 --calibration 1it",
    "fit": "fit tickets --flow.steps 40 " + _FLOW,
    "fit --refine": "fit tickets --refine.steps 4 --flow.steps 4 " + _FLOW,
    "sample": "sample generator --n 8 --density 0.5",
    "export": "export tickets",
    "evaluate": "evaluate samples --training tickets --no-align --dropout",
    "bayes": "bayes --task iris --hidden 4 --n 2 --length 1it --density 0.5 --draws 2 --scores magnitude",
}  # fmt: skip
SLOW = {"evaluate", "bayes"}  # seconds each: drawn a tenth as often
TIMES = {"complete.json", "metrics.jsonl", "manifest.json"}  # these hold the time
UNEQUAL = {"rows.csv", "study.json", "report.html", "curves.svg", "layers.svg"}  # and these of a study hold its seconds
WRITES = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.link", "os.symlink"}
PATIENCE = 60.0


@dataclass(frozen=True)
class Killed:
    """How a forked command ended.

    Args:
        code: Its exit code; None when it was killed.
        operations: File operations that it made, where they were counted.
        seconds: How long it ran.
        orphans: Processes that stayed.
    """

    code: int | None
    operations: int
    seconds: float
    orphans: int


def forked(job: Callable[[], int], folder: Path, *, operation: int | None = None, after: float | None = None) -> Killed:
    """Run something in a fork of this process, in a session of its own, and perhaps kill it.

    Args:
        job: What to run; it returns the exit code.
        folder: Operations on files below it count.
        operation: Kill it before this file operation.
        after: Kill it after so many seconds.
    """
    receive, send = os.pipe()
    start = time.perf_counter()
    child = os.fork()
    if child == 0:
        _child(job, folder, operation, send)
    os.close(send)
    end = start + PATIENCE
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        seconds = time.perf_counter() - start
        if done:
            break
        if seconds > (PATIENCE if after is None else after) or time.perf_counter() > end:
            os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            break
        time.sleep(0.001)
    left = orphans(child)  # before the pipe is read, which they may keep open
    with open(receive, "rb") as file:
        counted = file.read()
    code = os.waitstatus_to_exitcode(status)
    return Killed(None if code < 0 else code, int(counted or b"0"), seconds, left)


def _child(job: Callable[[], int], folder: Path, operation: int | None, send: int) -> None:
    """The forked process; it never returns."""
    os.setsid()
    signal.setitimer(signal.ITIMER_REAL, 0)
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    here = str(folder.resolve())
    count = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count
        if event not in WRITES or (event == "open" and not _for_writing(arguments)):
            return
        with contextlib.suppress(TypeError, ValueError):
            if os.path.abspath(os.fsdecode(arguments[0])).startswith(here):  # type: ignore[arg-type]
                count += 1
                if count == operation:
                    os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    code = 70
    try:
        code = job()
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    finally:
        os.write(send, str(count).encode())
        os._exit(code)


def _for_writing(arguments: tuple[object, ...]) -> bool:
    flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def orphans(session: int, patience: float = 5.0) -> int:
    """How many processes of a session are still there after a while; they are ended.

    Args:
        session: Number of the session, which is that of the process that began it.
        patience: Seconds that they have.
    """
    end = time.monotonic() + patience
    while (left := _of_session(session)) and time.monotonic() < end:
        time.sleep(0.02)
    for process in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    return len(left)


def _of_session(session: int) -> list[int]:
    found: list[int] = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _parent, _group, owner = path.read_text().rpartition(")")[2].split()[:4]
            if int(owner) == session and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def contents(folder: Path) -> dict[str, bytes]:
    """The bytes of every file of a folder, but for locks and what holds the time."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".lock"))
    skipped = TIMES | (UNEQUAL if (folder / "study.json").exists() else set())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files if path.name not in skipped}


def job(words: Sequence[str], out: str) -> Callable[[], int]:
    """A command line that writes to a folder."""
    return lambda: command_line([*words, "--out", out])


def moments(random_: random.Random, whole: Killed) -> list[tuple[int | None, float | None]]:
    """When a command is killed, once or more: before a file operation, or after so many seconds."""
    found: list[tuple[int | None, float | None]] = []
    for _ in range(random_.choice([1, 1, 1, 2, 3])):
        at_operation = whole.operations > 0 and random_.random() < 0.6
        operation = random_.randint(1, whole.operations) if at_operation else None
        found.append((operation, None if at_operation else random_.uniform(0, whole.seconds)))
    return found


def one(
    words: Sequence[str], random_: random.Random, expected: Mapping[str, bytes], whole: Killed, place: world.World
) -> tuple[str, str | None]:
    """Kill a command once or more, let it go on, and compare.

    Args:
        words: The command line without --out.
        random_: Where it is killed.
        expected: Files of a run that nobody killed.
        whole: How long that took.
        place: The folders that it reads.
    """
    out = Path("killed")
    before = {name: value for name, value in place.files().items() if not name.startswith(("killed", ".killed"))}
    drawn = moments(random_, whole)
    killed_at = ", ".join(f"operation {operation}" if operation else f"{after:.3f} s" for operation, after in drawn)
    left = 0
    for operation, after in drawn:
        left += forked(job(words, "killed"), Path(), operation=operation, after=after).orphans
        for check in (["show", "killed"], ["show", "killed", "--verify"]):
            shown = run_main(command_line, check)
            if shown.how in ("traceback", "hang"):
                return shown.how, f"{words}, killed at {killed_at}: {check}: {shown.text}"
    ended = forked(job(words, "killed"), Path())
    about = f"{words}, killed at {killed_at} of {whole.operations} operations, {whole.seconds:.2f} s"
    if left + ended.orphans:
        return "orphans", about
    if ended.code != 0 and contents(out) != expected:  # verbs that write in one step refuse what is finished
        again = run_main(command_line, [*words, "--out", "killed"])
        return "hang" if ended.code is None else "no resume", f"{about}: {again.text}"
    found = contents(out)
    different = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    if different:
        return "other bytes", f"{about}: {', '.join(sorted(different))}"
    verified = run_main(command_line, ["show", "killed", "--verify"])
    if (out / "manifest.json").exists() and verified.how != "done":
        return "other bytes", f"{about}: {verified.text}"
    after_all = {name: value for name, value in place.files().items() if not name.startswith(("killed", ".killed"))}
    return ("same", None) if before == after_all else ("changed", about)


def fuzz(
    place: world.World, seed: int, numbers: Iterable[int], findings: Findings, verbs: Mapping[str, str] = VERBS
) -> Findings:
    """Kill commands by number, each its own random stream.

    Args:
        place: The folders that they read.
        seed: Seed of all.
        numbers: Which tries to make.
        findings: Where they are counted.
        verbs: Command lines by name.
    """
    wholes: dict[str, tuple[dict[str, bytes], Killed]] = {}
    with inside(place.root), world.cheap(), world.parsed_once():
        for number in numbers:
            random_ = random.Random(f"{seed} {number}")
            verb = random_.choices(list(verbs), [0.1 if verb in SLOW else 1.0 for verb in verbs])[0]
            words = shlex.split(verbs[verb])
            if verb not in wholes:
                wholes[verb] = whole(words)
            outcome, wrong = one(words, random_, *wholes[verb], place)
            findings.add(verb, outcome, None if wrong is None else f"{seed} {number}: {wrong}", number)
            for left in [Path("killed"), *Path().glob(".killed*")]:
                shutil.rmtree(left, ignore_errors=True)
    return findings


def whole(words: Sequence[str]) -> tuple[dict[str, bytes], Killed]:
    """The files of a command that nobody kills, the same twice, and how it ran."""
    found: list[dict[str, bytes]] = []
    with contextlib.suppress(SystemExit):
        main_module.parse(words[0], [*words, "--out", "killed"])  # which the forks find done
    ended = Killed(0, 0, 0.0, 0)
    for _ in range(2):
        ended = forked(job(words, "killed"), Path())
        if ended.code != 0:
            raise RuntimeError(f"{words}: {run_main(command_line, [*words, '--out', 'killed']).text}")
        found.append(contents(Path("killed")))
        shutil.rmtree("killed")
    if found[0] != found[1]:
        different = [name for name in found[0] if found[0][name] != found[1].get(name)]
        raise RuntimeError(f"{words}: two whole runs differ in {different}")
    return found[1], ended


def main(tries: int = 100, seed: int = 0, only: int | None = None) -> None:
    """Kill commands and print what is to be mended.

    Args:
        tries: Number of tries.
        seed: Seed.
        only: Make this one alone.
    """
    alone.run(fuzz, OUTCOMES, seed, range(tries) if only is None else [only])


if __name__ == "__main__":
    tyro.cli(main)
