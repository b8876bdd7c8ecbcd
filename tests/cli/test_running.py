"""What a stopped command says, and what becomes of output that nobody reads."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

import weightspace as ws
from weightspace.cli.running import Running

HEAD = """
import importlib.util, os, sys
sys.path.insert(0, LIGHT)
from weightspace.cli.running import with_output
def show():
    for _ in range(LINES):
        print("x" * 99)
    return 0
sys.exit(with_output(show, "weightspace show"))
"""


@dataclass
class Written:
    out: Path

    def run(self) -> None:
        """Nothing."""


@pytest.mark.parametrize(
    ("verb", "said"),
    [
        ("collect", "what is finished is kept in zoo, run the same command again to continue"),
        ("tickets control", "zoo is written at the end, run the same command again"),
    ],
)
def test_the_line_says_what_is_kept(verb: str, said: str) -> None:
    running = Running(verb.split())
    assert running.stopped() == f"weightspace {verb}: stopped (SIGINT): nothing was begun, run the same command again"
    running.command = Written(Path("zoo"))
    assert running.stopped() == f"weightspace {verb}: stopped (SIGINT): {said}"


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A program with the package, but for what its `__init__` imports."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "weightspace").mkdir()
    real = Path(ws.__file__).parent
    (folder / "weightspace" / "__init__.py").write_text(f"__path__ = [{str(real)!r}]\n")
    return HEAD.replace("LIGHT", repr(str(folder)))


@pytest.mark.skipif(os.name != "posix", reason="pipes")
@pytest.mark.parametrize("lines", [1, 100_000])
def test_output_that_nobody_reads_ends_it_without_a_word(script: str, lines: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", script.replace("LINES", str(lines))], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_an_error(script: str) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", script.replace("LINES", "1")], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 1
    assert done.stderr.startswith("weightspace show: standard output cannot be written ([Errno 28]")
    assert len(done.stderr.splitlines()) == 1
    control = subprocess.run(
        [sys.executable, "-c", script.replace("LINES", "1")], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert (control.returncode, control.stderr) == (0, b"")
