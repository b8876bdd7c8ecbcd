"""The demo script on tiny networks: it writes everything, can be interrupted, and runs again at once."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def start(root: Path, out: Path, environment: dict[str, str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "experiments.demo.run", "--small", "--out", str(out)]
    return subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_the_demo_survives_a_kill_and_writes_every_stage(
    root: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    out = tmp_path / "demo"
    process = start(root, out, environment)
    deadline = time.monotonic() + 120
    while process.poll() is None and not (out / "tickets").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert process.poll() is None
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()

    process = start(root, out, environment)
    table, bars = process.communicate(timeout=300)
    assert process.returncode == 0, bars
    assert "Traceback" not in bars
    for row in ("training tickets", "held-out tickets", "samples", "mean network", "IMP tickets", "dense"):
        assert f"\n{row} " in table
    for stage in ("dense", "tickets", "imp", "samples"):
        assert json.loads((out / stage / "collection.json").read_text())["format"] == "weightspace.collection"
    assert (out / "generator" / "generator.json").exists()
    assert (out / "report" / "report.html").stat().st_size > 50_000
    assert len(list((out / "report").glob("*.png"))) == len(list((out / "report").glob("*.svg"))) == 11

    again, _ = start(root, out, environment).communicate(timeout=300)
    assert again.splitlines()[:-3] == table.splitlines()[:-3]  # all but the times
