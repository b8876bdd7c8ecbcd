"""Collections made by several processes."""

import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.cli.main import main
from weightspace.errors import InputError


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


def test_shards_from_the_command_line_merge(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    common = ["collect", "--hidden", "4", "--n", "5", "--length", "1ep", "--out"]
    for i in range(2):
        assert main([*common, str(tmp_path / f"part{i}"), "--shard", f"{i}/2"]) == 0
    assert main(["merge", str(tmp_path / "part0"), str(tmp_path / "part1"), "--out", str(tmp_path / "all")]) == 0
    assert [r["index"] for r in ws.Collection.load(tmp_path / "all").records] == list(range(5))
    assert main([*common, str(tmp_path / "x"), "--shard", "2"]) == 1
    assert "a shard is written I/K" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_finishes_although_a_worker_is_killed(task: ws.Task, tmp_path: Path) -> None:
    ray = pytest.importorskip("ray", reason="the extra `ray` is not installed")
    slower = replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=50)))
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
            lock = folder / "parts" / "00000" / ".lock"
            deadline = time.monotonic() + 300
            while time.monotonic() < deadline:
                if lock.exists() and (text := lock.read_text().strip()):
                    os.kill(int(text), signal.SIGKILL)
                    killed.append(int(text))
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
    import sys

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"weightspace\[ray\]"):
        ws.OnRay()
