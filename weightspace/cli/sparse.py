"""The command line's verbs that run and export sparse networks."""

import csv
from pathlib import Path
from typing import Literal

import torch

from weightspace.cli.inputs import Common, Folder, Shared, open_collection
from weightspace.errors import InputError
from weightspace.report.plots.speed import speed
from weightspace.runtime import devices, seeds
from weightspace.sparse.bench import Timing, bench, two_four_blocks
from weightspace.sparse.compact import compact
from weightspace.sparse.export import save_ticket, to_onnx
from weightspace.sparse.measuring import versions


def bench_speed(
    networks: Folder = "",
    *,
    out: Path,
    batches: tuple[int, ...] = (),
    dtype: Literal["float32", "bfloat16", "float16"] | None = None,
    compiled: bool = True,
    int8: bool = False,
    common: Shared = Common(),
) -> None:
    """Measure how fast sparse networks run: dense, compiled, and each layer in its fastest form.

    Args:
        networks: folder of tickets, of which the first is measured; add @START:STOP to take another. By default, on CUDA,
            single layers and blocks of common sizes under 2:4.
        out: folder for speed.csv and speed.png.
        batches: batch sizes; by default 1, 60 and 512 on the CPU, 64 to 8192 on CUDA.
        dtype: to run in; by default float32 on the CPU and bfloat16 on CUDA.
        compiled: time torch.compile of the dense network too.
        int8: time products in eight-bit integers too, which round; on CUDA.
    """
    device = devices.pick(common.device)
    cuda = device.startswith("cuda")
    kind = getattr(torch, dtype or ("bfloat16" if cuda else "float32"))
    sizes = batches or ((64, 512, 2048, 8192) if cuda else (1, 60, 512))
    if min(sizes) < 1:
        raise InputError(f"batch sizes are at least 1, got {min(sizes)}")
    if int8 and not cuda:
        raise InputError(f"products in eight-bit integers need CUDA, got {device}: leave --int8 out")
    random = seeds.generator(0, "inputs to time")
    rows: list[Timing] = []
    if not networks:
        if not cuda:
            raise InputError("without a CUDA device there is no 2:4 to measure: give a folder of tickets")
        for name, (module, length) in two_four_blocks(kind).items():
            found, made = bench(
                name, module, lambda n, length=length: torch.randn(n, length, generator=random), sizes, dtype=kind,
                device=device, compiled=compiled, int8=int8,
            )  # fmt: skip
            rows += found
            print(f"\n{name}, batches of {sizes[-1]}\n{made[-1]}")
    else:
        tickets = open_collection(networks, common)
        example = tickets.architecture.example(2)
        if example is None:
            raise InputError(f"the inputs of {tickets.architecture.name} are not known: give its module an input_shape")
        shape = example.shape[1:]
        rows, made = bench(
            f"{tickets.architecture.name}, density {tickets[0].density:.3g}", tickets.module(0),
            lambda n: torch.randn(n, *shape, generator=random), sizes, dtype=kind, device=device, compiled=compiled, int8=int8,
        )  # fmt: skip
        for size, one in zip(sizes, made, strict=True):
            print(f"\nbatches of {size}\n{one}")
    out.mkdir(parents=True, exist_ok=True)
    table = [row.to_json() | versions() for row in rows]
    with open(out / "speed.csv", "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(table[0]))
        writer.writeheader()
        writer.writerows({k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()} for row in table)
    speed(table).savefig(out / "speed.png")
    print(f"\n{', '.join(f'{name} {value}' for name, value in versions().items())}")
    whole = {
        f"{row.network}{row.form.removeprefix('accelerated')}, batch {row.batch}": row for row in rows
        if row.part == "network" and row.form.startswith("accelerated")
    }  # fmt: skip
    for name, row in whole.items():
        print(
            f"{name:<44} {row.milliseconds:.4g} ms (quartiles {row.lower:.4g} to {row.upper:.4g}), {row.speedup:.2f} times as "
            f"fast as dense ({row.speedup / row.limit:.0%} of the limit), error {row.error:.1e}"
        )
    slower = [name for name, row in whole.items() if row.speedup < 0.97]
    print(f"slower than dense: {'; '.join(slower) or 'nowhere'}")
    print(f"written to {out}")


def export(
    networks: Folder, *, out: Path, onnx: bool = False, common: Shared = Common(),
) -> None:  # fmt: skip
    """Write each network to a file of its own: packed masks and values, or ONNX.

    Args:
        networks: folder of networks; add @START:STOP to take a part.
        out: folder to write, one file for each network.
        onnx: compact each network and write ONNX, checked with onnxruntime (needs the extra `onnx`).
    """
    tickets = open_collection(networks, common)
    example = tickets.architecture.example(4) if onnx else None
    if onnx and example is None:
        raise InputError(f"the inputs of {tickets.architecture.name} are not known: give its module an input_shape")
    out.mkdir(parents=True, exist_ok=True)
    total = 0
    for i in range(len(tickets)):
        path = out / f"network-{i:05d}.{'onnx' if onnx else 'safetensors'}"
        if example is not None:
            to_onnx(compact(tickets.module(i), example), example, path)
        else:
            save_ticket(tickets[i], path)
        total += path.stat().st_size
    print(
        f"{len(tickets)} files of {total / len(tickets) / 1e3:.1f} kB each (dense: {tickets.layout.size * 4 / 1e3:.1f} kB)"
    )
    print(f"written to {out}")
