"""How long does a search for an order of columns take, and how fast is 2:4 on a card?

    python -m experiments.benchmarks.sparse                     (two minutes on one core, most of it the oracle's)

The search for column orders: CPU seconds and magnitude kept, beside the plain exhaustive search over pairs of groups,
which is the oracle of the tests. CUDA: 2:4 by `weightspace bench --out runs/bench-sparse`, which this script calls
where there is a card. Products on the CPU: `experiments.benchmarks.sparse_rows`.
"""

import time
from pathlib import Path

import torch
import tyro

import weightspace as ws
from experiments.common import tables
from experiments.common.exhaustive_order import exhaustive_order
from weightspace import sparse


def main(big: bool = True, out: Path = Path("runs/bench-sparse"), results: Path = tables.RESULTS) -> None:
    """Write benchmarks/sparse_orders.csv; on a machine with a card also its figures.

    Args:
        big: The exhaustive oracle also orders a 512 x 512 matrix, which takes minutes.
        out: Folder of the CUDA measurements.
        results: Folder of the result tables.
    """
    torch.set_num_threads(1)
    tables.write(results / "benchmarks/sparse_orders.csv", orders(big))
    if torch.cuda.is_available():
        from weightspace.cli.main import main as command

        command(["bench", "--out", str(out), "--device", "cuda", "--int8"])
    else:
        print("no CUDA device: 2:4 was not measured; on a machine with a card this command does it")


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
