"""How fast do sparse networks run here?

    python -m experiments.benchmarks.sparse                     (a minute on one core; the search takes longer)

CPU, one thread: compressed rows of LeNet-300-100 at densities 0.10, 0.05 and 0.01 (five networks, medians), batches
of 1, 60 and 512, held row by row (one input after the other, as usual) and column by column
(`torch.randn(784, n).t()`), for the dense and the sparse network alike; the linear layers alone, and the whole
network. CUDA: 2:4 by `weightspace bench --out runs/bench-sparse`, which this script calls where there is a card.
The search for column orders: CPU seconds and magnitude kept, beside the plain exhaustive search over pairs of groups,
which is the oracle of the tests.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro

import weightspace as ws
from experiments.common import tables
from experiments.common.exhaustive_order import exhaustive_order
from weightspace import sparse
from weightspace.sparse.bench import bench
from weightspace.sparse.measuring import versions


def main(
    turns: int = 5,
    big: bool = True,
    search: bool = True,
    out: Path = Path("runs/bench-sparse"),
    results: Path = tables.RESULTS,
) -> None:
    """Write benchmarks/sparse_cpu.csv and benchmarks/sparse_orders.csv; on a machine with a card also its figures.

    Args:
        turns: Number of repetitions of the CPU measurements; medians are taken.
        big: The exhaustive oracle also orders a 512 x 512 matrix, which takes minutes.
        search: The search for column orders is timed too.
        out: Folder of the CUDA measurements.
        results: Folder of the result tables.
    """
    torch.set_num_threads(1)
    tables.write(results / "benchmarks/sparse_cpu.csv", cpu(turns))
    if search:
        tables.write(results / "benchmarks/sparse_orders.csv", orders(big))
    if torch.cuda.is_available():
        from weightspace.cli.main import main as command

        command(["bench", "--out", str(out), "--device", "cuda", "--int8"])
    else:
        print("no CUDA device: 2:4 was not measured; on a machine with a card this command does it")


def ticket(density: float, seed: int) -> torch.nn.Module:
    """LeNet-300-100 under a random mask."""
    module = ws.Architecture("LeNet300").build_seeded(seed)
    layout = ws.Layout.of(module)
    weights = layout.pack(module.state_dict())
    mask = ws.Unstructured(density, "layer").mask(
        torch.rand(layout.size, generator=torch.Generator().manual_seed(seed)), layout
    )
    module.load_state_dict(layout.unpack(weights * mask))
    return module.eval()


def cpu(turns: int) -> list[dict[str, object]]:
    """Rows of the CPU table."""
    table: list[dict[str, object]] = []
    held: dict[str, Callable[[int], torch.Tensor]] = {
        "rows": lambda n: torch.randn(n, 784),
        "columns": lambda n: torch.randn(784, n).t(),
    }
    for density in (0.10, 0.05, 0.01):
        for batch, order in ((1, "rows"), (60, "rows"), (60, "columns"), (512, "rows"), (512, "columns")):
            ratios: dict[str, list[float]] = {"first layer": [], "linear layers": [], "network": []}
            times: list[float] = []
            for turn in range(turns):
                module = ticket(density, turn)
                rows, (fast,) = bench("LeNet-300-100", module, held[order], (batch,), compiled=False)
                (whole,) = [row for row in rows if row.part == "network" and row.form == "accelerated"]
                dense = sum(choice.seconds[sparse.Form.DENSE] for choice in fast.choices)
                ratios["linear layers"].append(dense / sum(choice.seconds[choice.form] for choice in fast.choices))
                ratios["first layer"].append(fast.choices[0].speedup)
                ratios["network"].append(whole.speedup)
                times.append(whole.milliseconds)
                assert whole.error < 1e-5, "first correct, then fast"
            row: dict[str, object] = {
                "density": density,
                "batch": batch,
                "inputs held by": order,
                "milliseconds": statistics.median(times),
            }
            for name, values in ratios.items():
                row |= {name: statistics.median(values), f"{name} min": min(values), f"{name} max": max(values)}
            table.append(row | versions())
            print({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return table


def orders(big: bool) -> list[dict[str, object]]:
    """Rows of the table of column orders."""
    table: list[dict[str, object]] = []
    for shape in ((128, 64), (96, 384), (256, 256), (512, 512)):
        matrix = torch.rand(*shape, generator=torch.Generator().manual_seed(0))
        row: dict[str, object] = {"rows": shape[0], "columns": shape[1]}
        for restarts in (0, 10, 30):
            began = time.process_time()
            order = sparse.find_order(matrix, restarts=restarts, seconds=600.0)
            row |= {
                f"seconds, {restarts} restarts": time.process_time() - began,
                f"efficacy, {restarts}": order.efficacy,
            }
        if big or shape != (512, 512):
            began = time.process_time()
            oracle = sparse.kept_magnitude(matrix[:, exhaustive_order(matrix)], ws.NM(2, 4))
            row |= {
                "seconds, exhaustive pairs": time.process_time() - began,
                "efficacy, exhaustive pairs": (oracle - order.before) / (order.bound - order.before),
            }
        table.append(row)
        print({k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return table


if __name__ == "__main__":
    tyro.cli(main)
