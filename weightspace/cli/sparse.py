"""The command line's verbs that run and export sparse networks."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from weightspace.cli.inputs import Common, Folder, Shared, open_collection, task_of
from weightspace.errors import InputError
from weightspace.networks.collection import Collection
from weightspace.report.plots.speed import speed
from weightspace.report.plots.style import save
from weightspace.runtime import devices, seeds
from weightspace.runtime.trees import Tree
from weightspace.sparse.bench import Timing, bench, two_four_blocks
from weightspace.sparse.compact import compact
from weightspace.sparse.export import save_ticket, to_onnx
from weightspace.sparse.measuring import versions
from weightspace.storage.csv_text import table_text
from weightspace.storage.files import make_folder, write_text
from weightspace.storage.reading import require_file
from weightspace.storage.runs import open_run
from weightspace.tasks.data import Data
from weightspace.tasks.own_loop import require_samples


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Measure how fast sparse networks run: dense, compiled, and each layer in its fastest form.

    Args:
        networks: Folder of tickets, of which the first is measured; add @START:STOP to take another. Without one, on
            CUDA, single layers and blocks of common sizes under 2:4 are measured.
        out: Folder for speed.csv and speed.png.
        batches: Batch sizes; without values 1, 60 and 512 on the CPU, 64 to 8192 on CUDA.
        dtype: Data type to run in; None is float32 on the CPU and bfloat16 on CUDA.
        compiled: Whether torch.compile of the dense network is timed too.
        int8: Whether products in eight-bit integers, which round, are timed too; on CUDA.
        task: Task whose inputs are timed; None takes random ones of the networks' input shape, where it is known, else
            those of the task that the records name.
        common: Options that mean the same in every verb.
    """

    networks: Folder = ""
    out: Path
    batches: tuple[int, ...] = ()
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    compiled: bool = True
    int8: bool = False
    task: str | None = None
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Measure, write the table and its figure, and print a summary."""
        device = devices.pick(self.common.device)
        cuda = device.startswith("cuda")
        sizes = self.batches or ((64, 512, 2048, 8192) if cuda else (1, 60, 512))
        if min(sizes) < 1:
            raise InputError(f"batch sizes are at least 1, got {min(sizes)}")
        if self.int8 and not cuda:
            raise InputError(f"products in eight-bit integers need CUDA, got {device}: leave --int8 out")
        if self.task is not None and not self.networks:
            raise InputError("--task says what tickets read: it goes with a folder of tickets")
        if not self.networks and not cuda:
            raise InputError("without a CUDA device there is no 2:4 to measure: give a folder of tickets")
        options: dict[str, Any] = {
            "dtype": getattr(torch, self.dtype or ("bfloat16" if cuda else "float32")),
            "device": device,
            "compiled": self.compiled,
            "int8": self.int8,
        }
        rows = self._tickets(sizes, options) if self.networks else _common_blocks(sizes, options)
        _write(rows, self.out)
        _summarise(rows)
        print(f"written to {self.out}")

    def _tickets(self, sizes: tuple[int, ...], options: dict[str, Any]) -> list[Timing]:
        """Time the first ticket."""
        tickets = open_collection(self.networks, self.common, self.task)
        rows, summaries = bench(
            f"{tickets.architecture.name}, density {tickets[0].density:.3g}",
            tickets.module(0),
            self._inputs(tickets),
            sizes,
            **options,
        )
        for size, summary in zip(sizes, summaries, strict=True):
            print(f"\nbatches of {size}\n{summary}")
        return rows

    def _inputs(self, tickets: Collection) -> Callable[[int], Tree]:
        """Makes a batch of a number of inputs."""
        example = None if self.task is not None else tickets.architecture.example(2)
        if example is None:
            data = _data(tickets, self.task, self.common)
            return lambda n: data.batch(torch.arange(n) % len(data)).x
        shape, random = example.shape[1:], seeds.generator(0, "inputs to time")
        return lambda n: torch.randn(n, *shape, generator=random)


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write each network to a file of its own: packed masks and values, or ONNX.

    The folder is new or empty, or an export of the same networks, which is completed.

    Args:
        networks: Folder of networks; add @START:STOP to take a part.
        out: Folder to write, one file for each network.
        onnx: Whether each network is compacted and written as ONNX, checked with onnxruntime (needs the extra `onnx`).
        task: Task whose inputs show ONNX what the networks take; None takes their input shape, where it is known, else
            the task that the records name.
        common: Options that mean the same in every verb.
    """

    networks: Folder
    out: Path
    onnx: bool = False
    task: str | None = None
    common: Shared = field(default_factory=Common)

    def run(self) -> None:
        """Write the files."""
        tickets = open_collection(self.networks, self.common, self.task)
        if self.task is not None and not self.onnx:
            raise InputError("--task gives ONNX its example: it goes with --onnx")
        example: Tree | None = None
        if self.onnx:
            example = None if self.task is not None else tickets.architecture.example(4)
            example = _data(tickets, self.task, self.common).head(4).x if example is None else example
        names = [f"network-{i:05d}.{'onnx' if self.onnx else 'safetensors'}" for i in range(len(tickets))]
        with open_run(self.out, "export", {"onnx": self.onnx}, {"networks": tickets.fingerprint()}) as run:
            for i, name in enumerate([] if run.complete else names):
                if example is not None:
                    to_onnx(compact(tickets.module(i), example), example, self.out / name)
                else:
                    save_ticket(tickets[i], self.out / name)
            if not run.complete:
                run.finish(networks=len(tickets))
        total = sum(require_file(self.out / name).st_size for name in names)
        dense = tickets.layout.size * 4 / 1e3
        print(f"{len(tickets)} files of {total / len(tickets) / 1e3:.1f} kB each (dense: {dense:.1f} kB)")
        print(f"written to {self.out}")


def _data(networks: Collection, task: str | None, common: Common) -> Data:
    """Training data of the networks' task."""
    if task is None and networks.records[0].get("task") is None:
        raise InputError(
            f"the inputs of {networks.architecture.name} are not known: give --task, or its module an input_shape"
        )
    found = task_of(networks, task, common)
    require_samples(found, "a run on example inputs")
    return found.train


def _common_blocks(sizes: tuple[int, ...], options: dict[str, Any]) -> list[Timing]:
    """Time layers and blocks of common sizes under 2:4."""
    random = seeds.generator(0, "inputs to time")
    rows: list[Timing] = []
    for name, (module, length) in two_four_blocks(options["dtype"]).items():
        timings, summaries = bench(
            name, module, lambda n, length=length: torch.randn(n, length, generator=random), sizes, **options
        )
        rows += timings
        print(f"\n{name}, batches of {sizes[-1]}\n{summaries[-1]}")
    return rows


def _write(rows: list[Timing], out: Path) -> None:
    make_folder(out)
    table = [row.to_json() | versions() for row in rows]
    write_text(out / "speed.csv", table_text(list(table[0]), table, "{:.5g}"))
    save(speed(table), out / "speed.png")


def _summarise(rows: list[Timing]) -> None:
    print(f"\n{', '.join(f'{name} {value}' for name, value in versions().items())}")
    whole = {
        f"{row.network}{row.form.removeprefix('accelerated')}, batch {row.batch}": row
        for row in rows
        if row.part == "network" and row.form.startswith("accelerated")
    }
    for name, row in whole.items():
        print(
            f"{name:<44} {row.milliseconds:.4g} ms (quartiles {row.lower:.4g} to {row.upper:.4g}), {row.speedup:.2f} "
            f"times as fast as dense ({row.speedup / row.limit:.0%} of the limit), error {row.error:.1e}"
        )
    slower = [name for name, row in whole.items() if row.speedup < 0.97]
    print(f"slower than dense: {'; '.join(slower) or 'nowhere'}")
