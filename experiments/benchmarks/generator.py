"""How fast are compression and sampling?

    python -m experiments.benchmarks.generator          (about five minutes on two cores)

PCA of 100 networks of 270,000 parameters against scikit-learn's solvers (float64 and float32), and 1,000 sparse
LeNet-300-100 networks from a generator against the bare matrix product that decodes them. These networks are random:
time does not depend on what they compute.

Fitting and sampling against DeepWeightFlow's published recipe, on 100 dense digits networks (64-128-64-10) with 99
components: 30,000 steps with batches of 8 and 99 solver steps there; 2,000 steps with batches of 64 and 10 solver
steps here. The accuracy of 100 samples of each is beside the times. The recipe on raw weights (width 512) is timed
over 100 steps, and multiplied. Freed memory stays with the process (`weightspace.runtime.allocator.keep`), for both.
"""

import time
from collections.abc import Callable
from pathlib import Path

import torch
import tyro
from sklearn.decomposition import PCA as Oracle

import weightspace as ws
from experiments.common import tables
from weightspace.runtime import allocator


def median(action: Callable[[], object], repeats: int) -> float:
    """Median wall time in seconds, after one call to warm up."""
    action()
    seconds: list[float] = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return sorted(seconds)[len(seconds) // 2]


def main(repeats: int = 5, results: Path = tables.RESULTS) -> None:
    """Write one row for each measurement to benchmarks/generator.csv.

    Args:
        repeats: Number of repetitions of each measurement; the median counts.
        results: Folder of the result tables.
    """
    allocator.keep()
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(100, 270_000, generator=random)
    rows: list[dict[str, object]] = []
    ours = median(lambda: ws.PCA(99).fit(vectors), repeats)
    for solver in ("full", "randomized", "arpack"):  # covariance_eigh would need a D x D matrix
        components = 98 if solver == "arpack" else 99
        for kind in (torch.float32, torch.float64):
            data = vectors.to(kind).numpy()
            peer = median(
                lambda solver=solver, data=data, components=components: Oracle(components, svd_solver=solver).fit(data),
                max(1, repeats // 2),
            )
            name = f"PCA 100 x 270,000 against scikit-learn {solver} {str(kind).removeprefix('torch.')}"
            rows.append({"what": name, "weightspace": ours, "peer": peer, "ratio": peer / ours})
    architecture = ws.Architecture("LeNet300")
    layout = architecture.layout()
    weights = torch.randn(140, layout.size, generator=random) * 0.05
    masks = ws.Unstructured(0.1).mask(weights.abs(), layout)
    tickets = ws.Collection(layout, weights * masks, architecture=architecture, masks=masks)
    flow = ws.FlowMatching(steps=20)
    generator = ws.TicketGenerator(align=None, compress=ws.PCA(128), generate=flow).fit(tickets)
    codes = torch.randn(1000, 128, generator=random)
    sample = median(lambda: generator.sample(1000, density=0.1), repeats)
    decoder = generator.compress
    assert decoder is not None
    bare = median(lambda: torch.addmm(decoder.mean, codes, decoder.components), repeats)
    rows.append(
        {
            "what": "1,000 LeNet-300-100 against the bare decoding product",
            "weightspace": sample,
            "peer": bare,
            "ratio": bare / sample,
        }
    )
    rows += published()
    for row in rows:
        print(f"{row['what']}: {row['weightspace']:.3f} against {row['peer']:.3f}, ratio {row['ratio']:.2f}")
    tables.write(results / "benchmarks/generator.csv", rows)
    print(f"{torch.get_num_threads()} threads")


def published() -> list[dict[str, object]]:
    """Fitting and sampling against the published recipe."""
    task = ws.tasks.digits()
    networks = ws.collect(task, 100, seed=0)
    aligned = ws.WeightMatching().fit(networks).transform(networks)
    compress = ws.PCA(99).fit(aligned.weights)
    codes = compress.transform(aligned.weights)

    def timed(flow: ws.FlowMatching) -> tuple[float, float, float]:
        began = time.perf_counter()
        fitted = flow.fit(codes)
        fit = time.perf_counter() - began
        sample = median(lambda: fitted.sample(100, seed=1), 3)
        drawn = networks.replace(weights=compress.inverse_transform(fitted.sample(100, seed=1)))
        right = drawn.ensemble().logits(task.test.x).argmax(-1) == task.test.y
        return fit, sample, right.double().mean().item()

    own_fit, own_sample, own_right = timed(ws.FlowMatching(steps=2000, batch_size=64))
    fit, sample, right = timed(ws.DeepWeightFlow())
    began = time.perf_counter()
    ws.DeepWeightFlow(steps=20).fit(aligned.weights)
    first = time.perf_counter() - began
    raw = ws.DeepWeightFlow(steps=120).fit(aligned.weights)
    raw_fit = (time.perf_counter() - began - 2 * first) * 30_000 / 100  # without what it costs to begin
    raw_sample = median(lambda: raw.sample(100, seed=1), 1)
    return [
        {"what": f"{what} against {peer}", "weightspace": ours, "peer": other, "ratio": other / ours}
        for what, peer, ours, other in (
            ("fitting a flow to 100 networks", "DeepWeightFlow PCA-99", own_fit, fit),
            ("100 samples", "DeepWeightFlow PCA-99", own_sample, sample),
            ("fitting a flow to 100 networks", "DeepWeightFlow raw (extrapolated)", own_fit, raw_fit),
            ("100 samples", "DeepWeightFlow raw", own_sample, raw_sample),
            ("accuracy of samples", "DeepWeightFlow PCA-99", own_right, right),
        )
    ]


if __name__ == "__main__":
    tyro.cli(main)
