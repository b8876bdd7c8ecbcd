"""How fast is weight matching, compared with the textbook loop?

    python -m experiments.benchmarks.alignment          (about 10 minutes on two cores)

Same objective, same visiting order, same process, in turn. The textbook (Git Re-Basin's algorithm 1, as its ports
write it) solves every group again in each sweep, with gain matrices from scratch and SciPy's assignment, until a
sweep gains nothing. The MLPs are trained on MNIST by rebasin_mnist.py; the ResNets are random, independent or with a
planted permutation and noise. Medians of 5.
"""

import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from scipy.optimize import linear_sum_assignment
from torch import Tensor

import weightspace as ws
from experiments.common import tables
from weightspace.align import WeightMatching
from weightspace.align.matcher import Matcher
from weightspace.symmetry import Symmetry, trace

REPEATS = 5


@dataclass
class Found:
    """An alignment of one network."""

    value: float
    seconds: float
    sweeps: int


def textbook(symmetry: Symmetry, reference: Tensor, network: Tensor) -> Found:
    """Every group in turn, all gain matrices anew, SciPy; float32, identity start, fixed order."""
    began = time.perf_counter()
    a, b = symmetry.layout.tensors(reference), symmetry.layout.tensors(network)
    current = dict(b)
    sweeps = 0
    for _ in range(100):
        sweeps += 1
        progress = False
        for group in symmetry.groups:
            gain = torch.zeros(group.size, group.size)
            for axis in group.axes:
                if axis.tensor in a:
                    x, y = (rows(t[axis.tensor], axis.axis, symmetry.places[group.name, axis]) for t in (a, current))
                    gain += x @ y.T
            _, best = linear_sum_assignment(gain.numpy(), maximize=True)
            order = torch.from_numpy(best)
            old, new = gain.diagonal().sum(), gain[torch.arange(group.size), order].sum()
            progress = progress or bool(new > old * (1 + 1e-6) + 1e-12)
            for axis in group.axes:
                if axis.tensor in a:
                    place = symmetry.places[group.name, axis]
                    whole = torch.arange(current[axis.tensor].shape[axis.axis])
                    whole[place.flatten()] = place[order].flatten()
                    current[axis.tensor] = current[axis.tensor].index_select(axis.axis, whole)
        if not progress:
            break
    value = sum(float((a[n] * t).sum(dtype=torch.float64)) for n, t in current.items())
    return Found(value, time.perf_counter() - began, sweeps)


def rows(tensor: Tensor, axis: int, place: Tensor) -> Tensor:
    """The units of an axis as rows, in the order of `place`."""
    return tensor.movedim(axis, 0)[place.flatten()].reshape(len(place), -1)


def ours(symmetry: Symmetry, reference: Tensor, network: Tensor) -> Found:
    """An alignment by the library."""
    began = time.perf_counter()
    matched = Matcher(symmetry, reference[None]).match(network[None])
    return Found(matched.value, time.perf_counter() - began, matched.steps)


def compare(name: str, symmetry: Symmetry, weights: Tensor) -> dict[str, object]:
    """Pairs (0, i), both ways in turn."""
    ratios: list[float] = []
    values: list[float] = []
    slow: list[float] = []
    fast: list[float] = []
    for repeat in range(REPEATS):
        for i in range(1, min(len(weights), 5)):
            one, two = textbook(symmetry, weights[0], weights[i]), ours(symmetry, weights[0], weights[i])
            slow.append(one.seconds)
            fast.append(two.seconds)
            ratios.append(one.seconds / two.seconds)
            if repeat == 0:
                values.append(two.value / one.value)
    return {
        "networks": name,
        "textbook s": f"{statistics.median(slow):.3f}",
        "weightspace s": f"{statistics.median(fast):.3f}",
        "ratio": f"{statistics.median(ratios):.2f}",
        "objective / textbook, worst": f"{min(values):.6f}",
        "objective / textbook, mean": f"{statistics.mean(values):.6f}",
    }


def populated(networks: ws.Collection, count: int, workers: int) -> float:
    """Seconds to fit and transform `count` networks: trained ones, permuted at random, with noise of half their
    size.
    """
    symmetry = WeightMatching().symmetry_of(networks)
    random = torch.Generator().manual_seed(0)
    copies = [
        symmetry.permute(w + 0.5 * w.std() * torch.randn(w.shape, generator=random), symmetry.random(random))
        for w in networks.weights[torch.arange(count) % len(networks)]
    ]
    many = networks[torch.arange(count) % len(networks)].replace(weights=torch.stack(copies), records=[{}] * count)
    del copies
    matching = WeightMatching()
    with ws.processes(workers) as pool:
        list(pool.map(len, [[], []]))  # start the workers
        began = time.perf_counter()
        matching.fit(many, executor=pool).transform(many, executor=pool)
        return time.perf_counter() - began


def main(
    networks: tuple[Path, ...] = (),
    data_root: Path | None = None,
    count: int = 1000,
    workers: int = 2,
    out: Path = Path("runs/bench_alignment"),
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each kind of network to benchmarks/alignment.csv, and benchmarks/alignment_population.csv.

    Args:
        networks: Folders of trained networks 784-512-512-512-10, the populations of rebasin_mnist.py.
        data_root: Folder with FashionMNIST/raw, for three ResNet-20 of width 4 that train for 300 steps; None leaves
            them out.
        count: Number of networks in the population that is aligned as a whole; 0 leaves it out.
        workers: Number of processes for the population.
        out: Folder where the ResNets are kept.
        results: Folder of the result tables.
    """
    torch.set_num_threads(1)
    table: list[dict[str, object]] = []
    trained: ws.Collection | None = None
    if networks:
        from experiments.alignment.rebasin_mnist import network

        trained = ws.Collection.concatenate([ws.Collection.load(folder, factory=network) for folder in networks])
        symmetry = WeightMatching().symmetry_of(trained)
        table.append(compare("MLP 784-512-512-512-10, trained", symmetry, trained.weights))
        print(table[-1], flush=True)
    if data_root is not None:
        recipe = ws.Recipe(ws.Step(iterations=300), batch_size=32, optimizer=ws.Adam(lr=2e-3), schedule="cosine")
        task = ws.tasks.fashion_mnist(data_root=data_root, recipe=recipe)
        task = replace(task, architecture=ws.Architecture("ResNet20", {"width": 4, "inputs": 1}))
        residual = ws.collect(task, 3, seed=0, folder=out / "resnet20-4")
        symmetry = WeightMatching().symmetry_of(residual)
        table.append(compare("ResNet20 width 4, trained for 300 steps", symmetry, residual.weights))
        print(table[-1], flush=True)
    for name, arguments in (("ResNet20", {"width": 1}), ("ResNet20", {"width": 4})):
        architecture = ws.Architecture(name, arguments)
        symmetry = trace(architecture.build_seeded(0), torch.randn(4, 3, 32, 32))
        base = symmetry.layout.pack(architecture.build_seeded(0).state_dict())
        random = torch.Generator().manual_seed(0)
        scale = base.std()
        noisy = [
            symmetry.permute(base + s * scale * torch.randn(base.shape, generator=random), symmetry.random(random))
            for s in (0.0, 0.5, 1.0, 2.0, 3.0)
        ]
        fresh = torch.stack([symmetry.layout.pack(architecture.build_seeded(i).state_dict()) for i in range(5)])
        label = f"{name} width {arguments['width']}"
        table.append(
            compare(f"{label}, planted permutation, noise of 0.5 to 3 sd", symmetry, torch.stack([base, *noisy[1:]]))
        )
        print(table[-1], flush=True)
        table.append(compare(f"{label}, independent", symmetry, fresh))
        print(table[-1], flush=True)
    tables.add(results / "benchmarks/alignment.csv", table, ("networks",))
    if trained is not None and count:
        seconds = populated(trained, count, workers)
        print(f"{count} networks aligned (fit and transform, {workers} workers): {seconds:.0f} s")
        row = {"networks": count, "workers": workers, "seconds": f"{seconds:.1f}"}
        tables.add(results / "benchmarks/alignment_population.csv", [row], ("networks", "workers"))
    print(f"torch {torch.__version__}")


if __name__ == "__main__":
    tyro.cli(main)
