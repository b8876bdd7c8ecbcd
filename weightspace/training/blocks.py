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


def in_blocks(
    make: Callable[[slice, Callable[[], object]], Collection],
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
        make: makes the networks of a slice of range(count); calls its second argument once a step.
        ticks: steps a block takes.
        folder: write each finished block there and continue where an earlier process stopped; None
            keeps everything in memory.
        stage, config, inputs: identify the run (see :func:`weightspace.runs.open_run`).
    """
    slices = list(blocks(count, block))
    with progress(range(ticks * len(slices)), what) as bar:
        if folder is None:
            return Collection.concatenate([make(rows, bar.update) for rows in slices])
        folder = Path(folder)
        with open_run(folder, stage, config, inputs) as run:
            written_before = (folder / MANIFEST).exists()
            if not written_before:
                writer = writer_for(folder, architecture.layout(), architecture)
                for rows in slices:
                    if len(writer) >= rows.stop:  # written by an earlier process
                        bar.update(ticks)
                    else:
                        make(rows, bar.update).write_to(writer)
                writer.close()
            else:
                bar.update(ticks * len(slices))
            if not run.complete:
                run.finish(networks=count)
        return Collection.load(folder, factory=architecture.factory, verify=written_before)
