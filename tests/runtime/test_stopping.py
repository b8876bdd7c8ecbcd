"""A signal ends the command within its time, with one line and its code, whatever it is doing.

The module is loaded by itself: these processes start in a tenth of a second.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import weightspace as ws
from weightspace.runtime import stopping

HEAD = f"""
import hashlib, importlib.util, os, signal, sys, time
spec = importlib.util.spec_from_file_location("stopping", {stopping.__file__!r})
stopping = importlib.util.module_from_spec(spec)
spec.loader.exec_module(stopping)
stopping.GRACE = 0.3
stopping.install()
def ready():
    print("ready", flush=True)
def verb():
    ready()
    time.sleep(60)
    return 0
"""
TAIL = """
sys.exit(stopping.work(lambda: f"stopped by {stopping.cause()}", verb))
"""
SWALLOWS = """
def verb():
    ready()
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
"""
INSIDE_A_LIBRARY = """
def verb():
    ready()
    hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)
"""
OTHER_ERROR = """
def verb():
    try:
        ready()
        time.sleep(60)
    finally:
        raise ValueError("a pool is broken")
"""
NO_PLACE_FOR_IT = """
class Late:
    def __del__(self):
        ready()
        time.sleep(60)
def verb():
    late = Late()
    del late
    time.sleep(60)
"""
AT_THE_END = """
import atexit
atexit.register(time.sleep, 60)
"""
LOADING = HEAD + "ready()\ntime.sleep(60)\n"
POSIX = pytest.mark.skipif(os.name != "posix", reason="sends signals")


def started(script: str, **options) -> subprocess.Popen:
    process = subprocess.Popen(
        # From Python 3.12 on a fork beside threads is warned of; those of `stopping` touch nothing that it copies.
        [sys.executable, "-W", "ignore:This process:DeprecationWarning", "-c", script],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def ended(process: subprocess.Popen) -> tuple[int, str]:
    _, said = process.communicate(timeout=30)
    return process.returncode, said.removeprefix("\n")  # it begins below a progress bar


@POSIX
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
@pytest.mark.parametrize("script", ["", SWALLOWS, INSIDE_A_LIBRARY, OTHER_ERROR, NO_PLACE_FOR_IT, AT_THE_END])
def test_a_signal_ends_a_verb_with_a_line_and_a_code(script: str, name: str) -> None:
    if name == "SIGHUP" and script:
        pytest.skip("one of them is enough")
    process = started(HEAD + script + TAIL)
    process.send_signal(getattr(signal, name))
    assert ended(process) == (128 + getattr(signal, name), f"stopped by {name}\n")


@POSIX
def test_the_line_stands_below_a_progress_bar_that_is_open() -> None:
    bar = """
from tqdm import tqdm
def verb():
    bar = tqdm(total=9, mininterval=0)
    bar.update(3)
    ready()
    time.sleep(60)
"""
    process = started(HEAD + bar + TAIL)
    process.send_signal(signal.SIGINT)
    code, said = ended(process)
    assert code == 130
    assert "33%" in said
    assert said.endswith("\nstopped by SIGINT\n")


@POSIX
def test_before_a_verb_works_it_ends_at_once() -> None:
    process = started(LOADING.replace("GRACE = 0.3", "GRACE = 60"))
    process.send_signal(signal.SIGTERM)
    assert ended(process) == (143, "weightspace: stopped (SIGTERM): nothing was begun, run the same command again\n")


@POSIX
@pytest.mark.parametrize("script", [SWALLOWS, INSIDE_A_LIBRARY])
def test_a_second_signal_does_not_wait(script: str) -> None:
    process = started((HEAD + script + TAIL).replace("GRACE = 0.3", "GRACE = 60"))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    code, said = ended(process)
    assert code in (130, 143)  # whichever the system delivered first
    assert said in ("stopped by SIGINT\n", "stopped by SIGTERM\n")


@POSIX
def test_signals_that_are_ignored_stay_ignored() -> None:
    """As nohup starts a program."""
    script = HEAD.replace("time.sleep(60)", "time.sleep(0.2)") + TAIL
    for ignored, code in ((signal.SIGHUP, 0), (signal.SIGTERM, 129)):  # the control: another one is ignored
        process = started(script, preexec_fn=lambda ignored=ignored: signal.signal(ignored, signal.SIG_IGN))
        process.send_signal(signal.SIGHUP)
        assert ended(process)[0] == code


@POSIX
def test_a_forked_process_ends_alone() -> None:
    script = """
def verb():
    child = os.fork()
    if child == 0:
        time.sleep(60)
    os.kill(child, signal.SIGTERM)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGTERM
    ready()
    time.sleep(0.5)
    return 7
"""
    assert ended(started(HEAD + script + TAIL)) == (7, "")


@POSIX
def test_a_forked_process_can_become_a_command() -> None:
    """It needs a thread of its own, which ends what swallows the exception of a signal."""
    begin = """
child = os.fork()
if child:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
os.setpgid(0, 0)
stopping.install()
def ready():
    print("ready", flush=True)
    os.kill(os.getpid(), signal.SIGINT)
"""
    assert ended(started(HEAD + begin + SWALLOWS + TAIL)) == (130, "stopped by SIGINT\n")


@POSIX
def test_the_line_is_not_waited_for_where_nobody_reads() -> None:
    """Standard error and output are full pipes: the main thread hangs in a write and holds the stream's lock."""
    script = """
def verb():
    ready()
    while True:
        sys.stdout.write("x" * 65536)
"""
    process = started(HEAD + script + TAIL)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=30) == 130
    process.communicate()


def test_a_program_that_uses_the_library_keeps_its_handlers() -> None:
    assert not stopping.is_command()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(
    ("argv", "started_as", "expected"),
    [
        (["-m", "collect"], ["python", "-m", "weightspace", "collect"], True),
        (["/x/bin/weightspace", "collect"], ["python", "/x/bin/weightspace", "collect"], True),
        (["weightspace.exe"], ["weightspace.exe"], True),
        (["-m"], ["python", "-m", "pytest"], False),
        (["-m"], ["python", "-m", "experiments.demo.run", "weightspace"], False),
        (["script.py"], ["python", "script.py", "-m", "weightspace"], False),
        (["/x/bin/weightspace"], ["python", "-c", "spawn_main()", "--multiprocessing-fork"], False),
        ([], ["python"], False),
    ],
)
def test_the_command_is_known_by_how_it_was_started(argv, started_as, expected: bool, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", started_as)
    assert stopping.is_command() is expected


@POSIX
def test_the_command_stops_while_it_loads(tmp_path: Path) -> None:
    """PyTorch is another one here, which takes for ever; the control, a program that is no command, ends otherwise."""
    (tmp_path / "torch.py").write_text('import time\nprint("ready", flush=True)\ntime.sleep(60)\n')
    path = os.pathsep.join([str(tmp_path), str(Path(ws.__file__).parents[1])])
    for words, code, said in (
        (["-m", "weightspace", "show"], 130, "weightspace: stopped (SIGINT): nothing was begun"),
        (["-c", "import weightspace"], -signal.SIGINT, "Traceback"),
    ):
        process = subprocess.Popen(
            [sys.executable, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        found, text = ended(process)
        assert found == code
        assert text.startswith(said)
