"""How much faster than the published recipe can a flow be fitted, at equal accuracy?

    python -m experiments.benchmarks.published_flow        (two and a half minutes a seed on one core; resumable)

100 dense digits networks (64-128-64-10), aligned, as 99 numbers each. Each recipe is fitted to them with equal seeds,
and 100 samples are measured on the test images. DeepWeightFlow's recipe: 30,000 steps with batches of 8, little noise,
and 99 solver steps. Ours for copying: as little noise, fewer and larger batches at a higher learning rate, and a short
memory of the weights. The flow of the other pages has noise of the codes' own size. Times are of one thread.
"""

import json
import statistics
import time
from pathlib import Path

import torch
import tyro

import weightspace as ws
from experiments.common import tables
from weightspace.runtime import allocator, threads
from weightspace.storage.files import make_folder, write_text

RECIPES: dict[str, ws.FlowMatching] = {
    "published": ws.DeepWeightFlow(),
    "little noise": ws.FlowMatching(
        width=192, steps=2500, batch_size=64, lr=3e-3, ema=0.99, source_std=0.03, solver_steps=32
    ),
    "unit noise": ws.FlowMatching(steps=2000, batch_size=64),
}
SAMPLES = 100


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    steps: int | None = None,
    out: Path = Path("runs/published_flow"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each recipe and measure to benchmarks/published_flow.csv.

    Args:
        seeds: Seeds of the flows and of their samples, on the same networks; one has no spread.
        steps: Steps of every recipe instead of its own, to try the script.
        out: Folder of the networks and of what was measured; the same command continues there.
        results: Folder of the result tables.
    """
    allocator.keep()
    threads.use(1)
    task = ws.tasks.digits()
    networks = ws.collect(task, 100, seed=0, folder=out / "networks")
    aligned = ws.WeightMatching().fit(networks).transform(networks)
    compress = ws.PCA(99).fit(aligned.weights)
    codes = compress.transform(aligned.weights)
    usual = nearest(codes, codes, but_itself=True)
    own = accuracy(aligned, task)
    measured: dict[str, list[dict[str, float]]] = {name: [] for name in RECIPES}
    for seed in seeds:
        for name, recipe in RECIPES.items():
            file = out / f"{name}-{seed}-{steps or recipe.steps}.json"
            if not file.exists():
                changed = recipe if steps is None else type(recipe)(**{**vars(recipe), "steps": steps})
                began = time.process_time()
                flow = changed.fit(codes, seed=seed)
                fitted = time.process_time()
                drawn = flow.sample(SAMPLES, seed=seed + 1)
                sampled = time.process_time()
                samples = aligned.replace(weights=compress.inverse_transform(drawn))
                found = {
                    "seconds to fit": fitted - began,
                    "seconds to sample": sampled - fitted,
                    "accuracy": accuracy(samples, task),
                    "accuracy less networks'": accuracy(samples, task) - own,
                    "distance": nearest(drawn, codes) / usual,
                    "dispersion": spread(drawn) / spread(codes),
                }
                make_folder(out)
                write_text(file, json.dumps(found))
            measured[name].append(json.loads(file.read_text()))
            print(seed, name, measured[name][-1], flush=True)
    published = measured["published"]
    rows: list[dict[str, object]] = []
    for name, each in measured.items():
        for one, other in zip(each, published, strict=True):
            one["times faster to fit"] = other["seconds to fit"] / one["seconds to fit"]
            one["accuracy less published"] = one["accuracy"] - other["accuracy"]
        for measure in each[0]:
            values = [one[measure] for one in each]
            half = interval(values)
            rows.append({"recipe": name, "measure": measure, "n": len(seeds), "mean": statistics.fmean(values)} | half)
    tables.write(results / "benchmarks/published_flow.csv", rows)


def accuracy(networks: ws.Collection, task: ws.Task) -> float:
    """Mean test accuracy of networks."""
    right = networks.ensemble().logits(task.test.x).argmax(-1) == task.test.y
    return right.double().mean().item()


def nearest(points: torch.Tensor, codes: torch.Tensor, *, but_itself: bool = False) -> float:
    """Median distance of points to the nearest code."""
    apart = torch.cdist(points, codes)
    if but_itself:
        apart.fill_diagonal_(torch.inf)
    return apart.amin(1).median().item()


def spread(points: torch.Tensor) -> float:
    """Root mean square distance from the mean."""
    return (points - points.mean(0)).square().sum(1).mean().sqrt().item()


def interval(values: list[float]) -> dict[str, object]:
    """Half-width of the 95 % interval of the mean, by Student's t."""
    from scipy.stats import t

    if len(values) == 1:
        return {"half-width of 95 %": None}
    half = t.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5
    return {"half-width of 95 %": float(half)}


if __name__ == "__main__":
    tyro.cli(main)
