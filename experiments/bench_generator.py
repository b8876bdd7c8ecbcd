"""How fast are compression and sampling?

    python experiments/bench_generator.py

PCA of 100 networks of 270,000 parameters against scikit-learn's solvers (float64 and float32), and 1,000
sparse LeNet-300-100 networks from a generator against the bare matrix product that decodes them. The networks
are random: time does not depend on what they compute.
"""

import time
from collections.abc import Callable
from pathlib import Path

import tables
import torch
import tyro
from sklearn.decomposition import PCA as Oracle

import weightspace as ws


def median(action: Callable[[], object], repeats: int) -> float:
    """Median wall time in seconds, after one call to warm up."""
    action()
    seconds: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2]


def main(out: Path = Path("docs/results/bench_generator.csv"), repeats: int = 5) -> None:
    """Measure and write a CSV.

    Args:
        out: CSV to write.
        repeats: of each measurement; the median counts.
    """
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(100, 270_000, generator=random)
    rows: list[dict[str, object]] = []
    own = median(lambda: ws.PCA(99).fit(vectors), repeats)
    for solver in ("full", "randomized", "arpack"):  # covariance_eigh would need a D x D matrix
        components = 98 if solver == "arpack" else 99
        for kind in (torch.float32, torch.float64):
            data = vectors.to(kind).numpy()
            peer = median(
                lambda solver=solver, data=data, components=components: Oracle(components, svd_solver=solver).fit(data),
                max(1, repeats // 2),
            )
            name = f"PCA 100 x 270,000 against scikit-learn {solver} {str(kind).removeprefix('torch.')}"
            rows.append({"what": name, "weightspace, s": own, "peer, s": peer, "ratio": peer / own})
    architecture = ws.Architecture("LeNet300")
    layout = architecture.layout()
    weights = torch.randn(140, layout.size, generator=random) * 0.05
    masks = ws.Unstructured(0.1).mask(weights.abs(), layout)
    tickets = ws.Collection(layout, weights * masks, architecture=architecture, masks=masks)
    flow = ws.FlowMatching(steps=20)
    generator = ws.TicketGenerator(align=None, compress=ws.PCA(128), generate=flow).fit(tickets)
    codes = torch.randn(1000, 128, generator=random)
    sample = median(lambda: generator.sample(1000, density=0.1), repeats)
    bare = median(lambda: generator.compress.inverse_transform(codes), repeats)
    rows.append({"what": "1,000 LeNet-300-100 against the bare decoding product", "weightspace, s": sample, "peer, s": bare,
                 "ratio": bare / sample})  # fmt: skip
    for row in rows:
        print(f"{row['what']}: {row['weightspace, s']:.3f} s against {row['peer, s']:.3f} s, ratio {row['ratio']:.2f}")
    tables.write(out, rows)
    print(f"written to {out}; {torch.get_num_threads()} threads")


if __name__ == "__main__":
    tyro.cli(main)
