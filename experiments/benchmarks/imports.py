"""How long does importing take, compared with importing PyTorch?

    python -m experiments.benchmarks.imports                                (two minutes on one core)

Each import in a fresh process, turn by turn, median of several CPU times, and the ratio to `import torch` in the same
turns. "A collection" is `import weightspace` and reading a collection of two small networks from disk; "the command
line" is what `weightspace --help` imports; Pyro waits until `weightspace.bayes` is used.
"""

import os
import statistics
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import tyro

import weightspace as ws
from experiments.common import tables

IMPORTS = {
    "torch": "import torch",
    "weightspace": "import weightspace",
    "a collection": "import weightspace as ws; ws.Collection.load({folder!r}).weights",
    "the command line": "import weightspace.cli.main",
    "weightspace.bayes": "import weightspace.bayes",
}
"""What is imported, by name; the first is what the others are compared with."""


def main(*, turns: int = 5, out: Path = Path("experiments/results/benchmarks")) -> None:
    """Measure imports and write the table.

    Args:
        turns: Fresh processes for each import.
        out: Folder of the table imports.csv.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "networks"
        ws.collect(replace(ws.tasks.iris(), recipe=ws.Recipe("1it", batch_size=8)), n=2, folder=folder)
        seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
        for _ in range(turns):
            for name, code in IMPORTS.items():
                seconds[name].append(cpu_seconds(code.format(folder=str(folder))))
    base = seconds["torch"]
    rows = []
    for name, times in seconds.items():
        ratios = [one / other for one, other in zip(times, base, strict=True)]
        rows.append(
            {
                "import": name,
                "turns": turns,
                "cpu seconds": round(statistics.median(times), 3),
                "ratio to torch": round(statistics.median(ratios), 3),
                "lowest ratio": round(min(ratios), 3),
                "highest ratio": round(max(ratios), 3),
            }
        )
    tables.write(out / "imports.csv", rows)


def cpu_seconds(code: str) -> float:
    """CPU seconds of a fresh process that runs some code.

    Args:
        code: The code.
    """
    before = os.times()
    subprocess.run([sys.executable, "-c", code], check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


if __name__ == "__main__":
    tyro.cli(main)
