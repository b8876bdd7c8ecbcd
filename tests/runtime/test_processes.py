"""Workers of our own: results in order, errors with their place, and none that outlives its work.

The scripts see a package of the same modules that loads nothing: their workers start in a tenth of a second.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import weightspace as ws

HEAD = """
import operator, os, signal, sys, time
from weightspace.errors import InputError, StorageError
from weightspace.runtime.processes import processes
def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
def pids(pool):
    return [worker.process.pid for worker in pool.workers]
def raised(kind, call):
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind} was not raised")
def fails(x):
    raise OwnError("mine", x)
class OwnError(Exception):
    def __init__(self, what, x):  # cannot be unpickled
        super().__init__(f"{what} {x}")
"""


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, without what its `__init__` imports."""
    folder = tmp_path_factory.mktemp("light")
    (folder / "weightspace").mkdir()
    real = Path(ws.__file__).parent
    (folder / "weightspace" / "__init__.py").write_text(f"__path__ = [{str(real)!r}]\n")
    return folder


def start(light: Path, script: str) -> subprocess.Popen:
    path = light / "script.py"
    lines = "".join(f"    {line}\n" for line in script.strip().splitlines())
    path.write_text(f'{HEAD}\nif __name__ == "__main__":\n{lines}')
    environment = {**os.environ, "PYTHONPATH": str(light)}
    return subprocess.Popen(
        [sys.executable, str(path)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(light: Path, script: str) -> None:
    process = start(light, script)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    assert said == ""


def test_results_come_in_the_order_of_the_items(light: Path) -> None:
    script = """
with processes(2) as pool:
    assert list(pool.map(operator.neg, range(9))) == [-i for i in range(9)]
    assert list(pool.map(time.sleep, [0.1, 0.0, 0.0])) == [None] * 3
    assert list(pool.map(str, [])) == []
    started = pids(pool)
assert len(started) == 2
assert not any(map(is_alive, started))
with processes(2) as pool:
    assert list(pool.map(str, [1])) == ["1"]
    assert len(pids(pool)) == 1  # the second was not needed
"""
    run(light, script)


def test_errors_are_raised_here_and_the_workers_go_on(light: Path) -> None:
    script = """
with processes(1) as pool:
    assert "in _work" in raised(ValueError, lambda: list(pool.map(int, ["1", "x"]))).__notes__[0]
    before = pids(pool)
    error = raised(RuntimeError, lambda: list(pool.map(fails, [7])))
    assert str(error) == "OwnError: mine 7", error
    assert "script.py" in error._weightspace_place and "in fails" in error._weightspace_place
    error = raised(InputError, lambda: list(pool.map(lambda x: x, [1])))
    assert "defined at the top of a module" in str(error), error
    assert list(pool.map(int, ["1"])) == [1]
    assert pids(pool) == before
assert "at least one process, got 0" in str(raised(InputError, lambda: processes(0).__enter__()))
"""
    run(light, script)


def test_a_worker_that_is_gone_is_said_and_replaced(light: Path) -> None:
    script = """
with processes(1) as pool:
    error = raised(StorageError, lambda: list(pool.map(os._exit, [3])))
    assert "ended with code 3: run the same again" in str(error), error
    assert "needs `if __name__" in str(raised(StorageError, lambda: list(pool.map(os._exit, [1]))))
    (pid,) = pool.map(eval, ["__import__('os').getpid()"])
    results = pool.map(eval, ["__import__('os').kill(__import__('os').getpid(), 9)"])
    assert "by signal 9; it may have run out of memory" in str(raised(StorageError, lambda: next(results)))
    assert list(pool.map(int, ["1"])) == [1]
"""
    run(light, script)


def test_what_is_begun_goes_on_beside_maps_and_this_process(light: Path) -> None:
    script = """
with processes(2) as pool:
    began = time.monotonic()
    slow = pool.begin(time.sleep, 1000)
    assert list(pool.map(operator.neg, range(3))) == [0, -1, -2]
    assert len(pids(pool)) == 1  # the other is not for maps
    quick = pool.begin(operator.neg, 7)
    assert list(pool.map(str, [1])) == ["1"]  # even so there is one
    assert quick() == -7
    assert "once" in str(raised(InputError, quick))
    assert "invalid literal" in str(raised(ValueError, pool.begin(int, "x")))
    assert "code 3" in str(raised(StorageError, pool.begin(os._exit, 3)))
    begun = [worker.process.pid for worker in pool.apart]
    assert len(begun) == 1 and is_alive(begun[0])
    assert time.monotonic() - began < 100
assert not is_alive(begun[0])
with processes(1) as pool:
    results = pool.map(str, [1, 2])
    next(results)
    assert "busy" in str(raised(InputError, lambda: pool.begin(str, 1)))
    assert list(results) == ["2"]
"""
    run(light, script)


def test_a_map_that_is_left_ends_what_works_for_it(light: Path) -> None:
    """The control: the worker that waits stays."""
    script = """
with processes(2) as pool:
    list(pool.map(time.sleep, [0.2, 0.2]))
    before = pids(pool)
    results = pool.map(time.sleep, [0, 1000])
    next(results)
    assert "busy" in str(raised(InputError, lambda: next(pool.map(str, [1]))))
    results.close()
    assert len(pids(pool)) == 1 and pids(pool)[0] in before
    assert sum(map(is_alive, before)) == 1
"""
    run(light, script)


def test_no_worker_outlives_an_exception(light: Path) -> None:
    script = """
try:
    with processes(2) as pool:
        results = pool.map(time.sleep, [0, 1000])
        next(results)
        started = pids(pool)
        assert len(started) == 2 and all(map(is_alive, started))
        raise KeyboardInterrupt
except KeyboardInterrupt:
    pass
assert not any(map(is_alive, started))
"""
    run(light, script)


WORKS = """
with processes(2) as pool:
    results = pool.map(time.sleep, [0, 0, 1000, 1000])
    next(results), next(results)
    print(*pids(pool), flush=True)
    next(results)
"""
UNWATCHED = """
import multiprocessing
worker = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(1000,))
worker.start()
print(worker.pid, flush=True)
worker.join()
"""


def is_alive(pid: int) -> bool:
    """False for a process that has ended, although nobody may have asked for its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def all_end(pids: list[int], seconds: float) -> bool:
    until = time.monotonic() + seconds
    while any(map(is_alive, pids)) and time.monotonic() < until:
        time.sleep(0.01)
    return not any(map(is_alive, pids))


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize("how", ["kill the parent", "interrupt the group"])
def test_workers_end_with_their_parent(light: Path, how: str) -> None:
    process = start(light, WORKS)
    assert process.stdout is not None
    workers = list(map(int, process.stdout.readline().split()))
    assert len(workers) == 2
    assert all(map(is_alive, workers))
    number = signal.SIGKILL if "kill" in how else signal.SIGINT
    (os.killpg if "group" in how else os.kill)(process.pid, number)
    assert all_end(workers, 20)
    _, said = process.communicate(timeout=20)
    assert said.count("Traceback") == said.count("KeyboardInterrupt") == (number == signal.SIGINT)  # of the script


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
def test_a_worker_that_stays_would_be_seen(light: Path) -> None:
    """The control: a worker that does not watch its parent."""
    process = start(light, UNWATCHED)
    assert process.stdout is not None
    workers = list(map(int, process.stdout.readline().split()))
    process.kill()
    process.wait()
    try:
        assert not all_end(workers, 0.5)
    finally:
        os.kill(workers[0], signal.SIGKILL)
    assert all_end(workers, 20)
    process.communicate()
