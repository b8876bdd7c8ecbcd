"""Work on a collection block by block: in memory, or into a run folder that can be resumed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from weightspace.architecture import Architecture
from weightspace.collection import Collection, writer_for
from weightspace.functional import blocks
from weightspace.progress import progress
from weightspace.runs import open_run
from weightspace.storage import MANIFEST
from weightspace.task import Task
from weightspace.training.probe import machine_memory, network_bytes

_BLOCK = 64


def block_size(task: Task, memory: int | None = None) -> int:
    """Networks in memory at once, and in one file on disk: 64, or as many as the budget allows.

    Args:
        memory: bytes; by default a quarter of the machine's.
    """
    fits = (memory or machine_memory() // 4) // network_bytes(task)
    return max(1, min(_BLOCK, fits))


def in_blocks(
    make: Callable[[slice, Callable[[int], object], Path | None], Collection],
    *,
    architecture: Architecture,
    count: int,
    block: int,
    ticks: int,
    what: str,
    folder: str | Path | None,
    stage: str,
    config: Mapping[str, Any],
    inputs: Mapping[str, str] | None = None,
) -> Collection:
    """Make `count` networks in blocks, with one progress bar.

    Args:
        make: makes the networks of a slice of range(count); calls its second argument with the steps
            done, and may keep a checkpoint in the file given last.
        ticks: steps a block takes.
        folder: write each finished block there and continue where an earlier process stopped; None
            keeps everything in memory.
        stage, config, inputs: identify the run (see :func:`weightspace.runs.open_run`).
    """
    slices = list(blocks(count, block))
    with progress(range(ticks * len(slices)), what) as bar:
        if folder is None:
            return Collection.concatenate([make(rows, bar.update, None) for rows in slices])
        folder = Path(folder)
        with open_run(folder, stage, config, inputs) as run:
            written_before = (folder / MANIFEST).exists()
            if not written_before:
                writer = writer_for(folder, architecture.layout(), architecture)
                for rows in slices:
                    if len(writer) >= rows.stop:  # written by an earlier process
                        bar.update(ticks)
                    else:
                        checkpoint = folder / f"block-{rows.start:07d}.checkpoint.safetensors"
                        make(rows, bar.update, checkpoint).write_to(writer)
                        checkpoint.unlink(missing_ok=True)
                writer.close()
            else:
                bar.update(ticks * len(slices))
            if not run.complete:
                run.finish(networks=count)
        return Collection.load(folder, factory=architecture.factory, verify=written_before)
