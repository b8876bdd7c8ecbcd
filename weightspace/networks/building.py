"""Work on a collection block by block: in memory, or into a run folder that can be resumed."""

from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import fmean
from typing import Any

from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection, writer_for
from weightspace.networks.forward import blocks
from weightspace.runtime import tracking
from weightspace.runtime.progress import progress
from weightspace.storage.files import remove_files
from weightspace.storage.runs import open_run
from weightspace.storage.shards import MANIFEST
from weightspace.storage.system_errors import exists


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
        make: Function that makes the networks of a slice of range(count). It calls its second argument with the steps
            done, and may keep a checkpoint in the file given last.
        architecture: Architecture of the networks.
        count: Number of networks.
        block: Networks made together, and kept in one file.
        ticks: Steps that a block takes.
        what: Text beside the progress bar.
        folder: Folder for the finished blocks, where a later process continues; None keeps everything in memory.
        stage: Verb of the command, such as "collect".
        config: Settings that decide the output (see `weightspace.storage.runs.open_run`).
        inputs: Fingerprint of each input, by name.
    """
    total = -(-count // block) * ticks
    with progress(range(total), what) as bar, tracking.stage(_name(stage, config), total) as told:

        def tick(steps: int) -> None:
            bar.update(steps)
            told.advance(steps)

        if folder is None:
            parts: list[Collection] = []
            for rows in blocks(count, block):
                parts.append(make(rows, tick, None))
                told.tell(_metrics(parts[-1], rows.stop))
            return parts[0] if len(parts) == 1 else Collection.concatenate(parts)
        folder = Path(folder)
        with open_run(folder, stage, config, inputs) as run:
            written_before = run.complete or exists(folder / MANIFEST)
            if not written_before:
                writer = writer_for(folder, architecture.layout(), architecture)
                bar.update(len(writer) // block * ticks)  # done by an earlier process
                told.skip(len(writer) // block * ticks)
                while len(writer) < count:
                    # From where the files end, whatever block size wrote them.
                    rows = slice(len(writer), min(len(writer) + block, count))
                    checkpoint = folder / f"networks-{rows.start}-{rows.stop}.checkpoint.safetensors"
                    made = make(rows, tick, checkpoint)
                    made.write_to(writer)
                    told.tell(_metrics(made, len(writer)))
                    run.log(networks=len(writer), of=count)
                remove_files(folder, "*.checkpoint.safetensors")
                writer.close()
            if not run.complete:
                run.finish(networks=count)
        return Collection.load(folder, factory=architecture.factory, verify=written_before)


def _name(stage: str, config: Mapping[str, Any]) -> str:
    """The stage in front of its numbers: its verb, and the finder and its level if there are any."""
    method = config.get("method")
    name = f"{stage}/{method['name']}" if isinstance(method, Mapping) and "name" in method else stage
    return f"{name}/level-{config['level']:02}" if "level" in config else name


def _metrics(made: Collection, done: int) -> dict[str, float]:
    """How many networks are done, and the mean of each metric over those of the last block."""
    found: dict[str, list[float]] = {}
    for record in made.records:
        for name, value in record.get("metrics", {}).items():
            if isinstance(value, int | float):
                found.setdefault(name, []).append(value)
    return {"networks": float(done), **{name: fmean(values) for name, values in found.items()}}
