"""Collections made by several processes."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from threading import Barrier

import pytest
import torch

import weightspace as ws
from weightspace.cli.main import main
from weightspace.errors import InputError
from weightspace.training import engine
from weightspace.training.engine import Execution


class InOrder:
    """The simplest executor."""

    def map(self, function, items, /):
        return map(function, items)


def test_an_executors_shards_make_the_same_collection(task: ws.Task, tmp_path: Path) -> None:
    made = ws.collect_on(InOrder(), task, 7, shards=3, folder=tmp_path / "zoo", seed=4)
    assert [r["index"] for r in made.records] == list(range(7))
    torch.testing.assert_close(made.weights, ws.collect(task, 7, seed=4).weights, rtol=1e-3, atol=1e-4)
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "zoo").glob("*.safetensors")}
    again = ws.collect_on(InOrder(), task, 7, shards=3, folder=tmp_path / "zoo", seed=4)
    assert torch.equal(again.weights, made.weights)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "zoo").glob("*.safetensors")} == stamps


def test_processes_on_this_machine_from_the_command_line(tmp_path: Path) -> None:
    words = [
        "collect",
        "--hidden",
        "4",
        "--n",
        "5",
        "--length",
        "1ep",
        "--out",
        str(tmp_path / "zoo"),
        "--workers",
        "2",
    ]
    assert main(words) == 0
    alone = ws.tasks.digits(hidden=(4,))
    alone = replace(alone, recipe=replace(alone.recipe, length=ws.Step(epochs=1)))
    expected = ws.collect(alone, 5).weights
    torch.testing.assert_close(ws.Collection.load(tmp_path / "zoo").weights, expected, rtol=1e-3, atol=1e-4)


class Disagreeing:
    """Measures of the group size that never find the same twice.

    Args:
        together: How many wait for each other.
    """

    def __init__(self, together: int = 1) -> None:
        self.found = itertools.count(1)
        self.barrier = Barrier(together, timeout=60)

    def __call__(self, *_rest: object) -> Execution:
        self.barrier.wait()
        return Execution(next(self.found), 1, 0.0)


def sizes(folder: Path) -> set[int]:
    return {json.loads(path.read_text())["group"] for path in folder.glob("**/engine.json")}


def test_all_parts_are_trained_in_groups_of_one_size(task: ws.Task, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    monkeypatch.setattr(engine, "_choose", Disagreeing())
    short = replace(task, recipe=replace(task.recipe, length=ws.Step(iterations=1)))
    where = {"shards": 3, "folder": tmp_path / "zoo"}
    ws.collect_on(InOrder(), short, 7, **where)
    assert sizes(tmp_path / "zoo") == {1}
    # A run that was interrupted goes on as it began, also where the cache is gone.
    shutil.rmtree(tmp_path / "empty")
    shutil.rmtree(tmp_path / "zoo" / "parts" / "00002")
    for name in ("collection.json", "complete.json", "manifest.json"):
        (tmp_path / "zoo" / name).unlink()
    ws.collect_on(InOrder(), short, 7, **where)
    assert sizes(tmp_path / "zoo") == {1}
    # The control: parts that measure by themselves are seen to disagree.
    for i in range(3):
        ws.collect(short, 7, shard=(i, 3), folder=tmp_path / "alone" / str(i))
        shutil.rmtree(tmp_path / "empty")
    assert len(sizes(tmp_path / "alone")) == 3


@pytest.mark.parametrize("locked", [True, False])
def test_two_at_once_measure_once(task: ws.Task, tmp_path: Path, monkeypatch, locked: bool) -> None:
    """The control is without the lock."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(engine, "_choose", Disagreeing(together=1 if locked else 2))
    if not locked:
        monkeypatch.setattr(engine, "FileLock", lambda *_rest, **_options: nullcontext())
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda _: engine.choose_execution(task, 6).group_size, range(2)))
    assert (len(set(found)) == 1) is locked


def test_shards_from_the_command_line_merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["collect", "--hidden", "4", "--n", "5", "--length", "1ep", "--out"]
    for i in range(2):
        assert main([*common, str(tmp_path / f"part{i}"), "--shard", f"{i}/2"]) == 0
    assert main(["merge", str(tmp_path / "part0"), str(tmp_path / "part1"), "--out", str(tmp_path / "all")]) == 0
    assert [r["index"] for r in ws.Collection.load(tmp_path / "all").records] == list(range(5))
    assert main([*common, str(tmp_path / "x"), "--shard", "2"]) == 1
    assert "--shard is written I/K" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_finishes_although_a_worker_is_killed(task: ws.Task, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    slower = replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=15)))
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    try:

        @ray.remote(max_retries=0)
        def pid() -> int:
            return os.getpid()

        ray.get(pid.remote())
        folder = tmp_path / "zoo"
        killed: list[int] = []

        def kill_one_worker() -> None:
            """Kill the process that works on the first shard, once it has begun."""
            lock = folder / "parts" / "00000" / ".lock.holder"
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline:
                if lock.exists() and (text := lock.read_text().strip()):
                    killed.append(int(text.split()[0]))
                    os.kill(killed[0], signal.SIGKILL)
                    return
                time.sleep(0.01)

        with ThreadPoolExecutor(1) as pool:
            watcher = pool.submit(kill_one_worker)
            made = ws.collect_on(ws.OnRay(), slower, 4, shards=2, folder=folder, seed=2)
            watcher.result()
        assert len(killed) == 1
        assert [r["seed"] for r in made.records] == [r["seed"] for r in ws.Independent().runs(4, 2)]
        assert min(r["metrics"]["validation_accuracy"] for r in made.records) > 0.7
    finally:
        ray.shutdown()


def test_ray_is_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"weightspace\[ray\]"):
        ws.OnRay()


_SCRIPT = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
import weightspace as ws

if __name__ == "__main__":
    task = ws.tasks.iris(hidden=(4,))
    task = replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=1_000_000)))
    with ProcessPoolExecutor(2, multiprocessing.get_context("spawn")) as pool:
        ws.collect_on(pool, task, 2, shards=2, folder=sys.argv[1])
"""


def is_alive(pid: int) -> bool:
    """False for a process that has ended, although nobody may have asked for its exit status."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False


def wait_for(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    script, folder = tmp_path / "script.py", tmp_path / "zoo"
    script.write_text(_SCRIPT)
    environment = {**os.environ, "PYTHONPATH": str(Path(ws.__file__).parents[1])}
    parent = subprocess.Popen([sys.executable, str(script), str(folder)], env=environment)
    holders = [folder / "parts" / f"{i:05d}" / ".lock.holder" for i in range(2)]
    try:
        assert wait_for(lambda: all(h.exists() and h.read_text().endswith("\n") for h in holders), 120)
        workers = [int(holder.read_text().split()[0]) for holder in holders]
        assert len({parent.pid, *workers}) == 3
        assert all(map(is_alive, workers))
    finally:
        parent.kill()
        parent.wait()
    assert wait_for(lambda: not any(map(is_alive, workers)), 10)
