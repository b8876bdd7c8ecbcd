"""Every operation on files of every verb fails once: `python -m tests.full_disks [VERB ...]`, some minutes a verb.

A table says how many points were tried, how many ended in an error of ours, how many made no difference, and what else
happened, which should be nothing. Doing the work again gives the same bytes as without a fault, at every point.
"""

import contextlib
import errno
import io
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from tests.faults import every_fault
from weightspace.cli.main import main as command
from weightspace.cli.main import parse
from weightspace.errors import StorageError
from weightspace.storage.manifests import verify

TIMES = ("complete.json", "metrics.jsonl", "manifest.json")  # files that hold times
STUDIES = ("rows.csv", "study.json", "report.html", "seconds.png", "seconds.svg")
FAULTS = {
    "disk full": (errno.ENOSPC, "write", True),
    "quota, once": (errno.EDQUOT, "write", False),
    "read-only": (errno.EROFS, "write", True),
    "I/O error on writing": (errno.EIO, "write", False),
    "I/O error on reading": (errno.EIO, "read", False),
    "no permission to read": (errno.EACCES, "read", True),
    "no locks": (errno.ENOLCK, "lock", True),
}
TRAIN = ["--length", "2it"]
FLOW = ["--compress.components", "1", "--flow.steps", "3", "--flow.width", "4", "--flow.blocks", "1"]
FLOW += ["--flow.batch-size", "4", "--flow.solver-steps", "2", "--flow.validation-fraction", "0"]
ZOO = ["collect", "--task", "iris", "--hidden", "4", "--n", "3", "--batch-size", "18", *TRAIN]
PREPARED = [
    [*ZOO, "--out", "zoo"],
    [*ZOO, "--seed", "1", "--out", "more"],
    ["tickets", "gradual", "zoo", "--density", "0.5", "--every", "1", *TRAIN, "--out", "tickets"],
    ["fit", "tickets", *FLOW, "--out", "generator"],
    ["sample", "generator", "--n", "3", "--density", "0.5", "--out", "samples"],
    ["tickets", "imp", "zoo", "--density", "0.5", "--rate", "0.5", "--out", "imp"],
]  # fmt: skip
VERBS: dict[str, list[str]] = {
    "collect": [*PREPARED[0][:-1], "OUT"],
    "merge": ["merge", "zoo", "more", "--out", "OUT"],
    "train": ["train", "zoo", "--length", "2it", "--out", "OUT"],
    "gradual": [*PREPARED[2][:-1], "OUT"],
    "imp": ["tickets", "imp", "zoo", "--density", "0.5", "--rate", "0.5", "--out", "OUT"],
    "control": ["tickets", "control", "imp", "--kind", "shuffled", "--out", "OUT"],
    "align": ["align", "zoo", "--out", "OUT"],
    "adapt": ["adapt", "lota", "zoo", "--density", "0.5", "--calibration", "1it", "--out", "OUT"],
    "align --report": ["align", "zoo", "--report", "2", "--out", "OUT"],
    "fit": [*PREPARED[3][:-1], "OUT"],
    "sample": [*PREPARED[4][:-1], "OUT"],
    "export": ["export", "tickets", "--out", "OUT"],
    "show --csv": ["show", "zoo", "--csv", "OUT"],
    "evaluate": ["evaluate", "samples", "--training", "tickets", "--components", "1", "--dropout", "--out", "OUT"],
    "bayes": ["bayes", "--task", "iris", "--hidden", "4", "--n", "1", "--density", "0.5", "--scores", "magnitude",
              "--draws", "2", *TRAIN, "--out", "OUT"],
}  # fmt: skip
SLOW = {"evaluate": 40, "bayes": 60, "align --report": 20, "imp": 3}
"""Verbs that take seconds a try: one point in so many is tried."""


def run(words: Sequence[str], root: Path) -> None:
    """Run a verb; a folder that was finished before is checked, as most verbs do not write one twice."""
    out = root / "out"
    words = [str(out) if word == "OUT" else word for word in words]
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            parse(words[0], words).run()
        except StorageError as error:
            if "exists and is not empty" not in str(error):
                raise
            verify(out)


def main(wanted: Sequence[str]) -> int:
    """Try all faults of the verbs, and print a table."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    wrong, points = 0, 0
    with tempfile.TemporaryDirectory() as name:
        os.environ["XDG_CACHE_HOME"] = f"{name}/cache"
        os.chdir(name)
        for words in PREPARED:
            assert command(words) == 0, words
        print("\nverb | fault | points | told | no difference | wrong | seconds")
        for verb in wanted or VERBS:
            for fault, (number, kind, lasting) in FAULTS.items():
                start, work = time.perf_counter(), _work(VERBS[verb])
                ignored = (*TIMES, *(STUDIES if verb == "bayes" else ()))
                options = {"ignored": ignored, "every": SLOW.get(verb, 1)}
                place = Path(name) / "p"
                found = every_fault(work, place, number=number, kind=kind, lasting=lasting, **options)
                seconds = time.perf_counter() - start
                cells = [verb, fault, found.points, found.told, found.absorbed, len(found.wrong), f"{seconds:.0f}"]
                print(" | ".join(map(str, cells)), *found.wrong, sep="\n    ", flush=True)
                wrong, points = wrong + len(found.wrong), points + found.points
    print(f"{points} points, {wrong} wrong")
    return int(wrong > 0)


def _work(words: Sequence[str]) -> Callable[[Path], object]:
    return lambda root: run(words, root)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
