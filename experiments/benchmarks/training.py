"""How fast is training many networks at once, compared with one plain PyTorch network after another?

    python -m experiments.benchmarks.training --data-root data          (about 5 minutes on two cores)

Both sides run in the same process on the same batches, in turn, and the median of 5 is taken. A figure is seconds
per network-step (one optimiser step of one network). Fashion-MNIST and the convolutional networks need the data
root; without it only the digits rows are run. With --device cuda the same script measures the card.
"""

import multiprocessing
import statistics
import time
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch.nn import functional as F

import weightspace as ws
from experiments.common import tables
from weightspace.networks.forward import activation_bytes
from weightspace.networks.layout import Layout
from weightspace.training.conversion import initial, trainer_for
from weightspace.training.engine import Execution, choose_execution
from weightspace.training.plans import Independent

REPEATS = 5


@dataclass
class Timed:
    """Seconds per network-step."""

    wall: float
    cpu: float


def main(
    data_root: Path | None = None,
    device: str = "cpu",
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each network to benchmarks/training.csv.

    Args:
        data_root: Folder with FashionMNIST/raw; None leaves the image rows out.
        device: Device to train on, "cpu" or "cuda".
        results: Folder of the result tables.
    """
    adam = ws.Recipe(batch_size=64, optimizer=ws.Adam())
    digits = ws.tasks.digits(recipe=adam)
    cases = [
        (
            "digits MLP 64-16-10",
            replace(digits, architecture=ws.Architecture("MLP", {"sizes": [64, 16, 10]})),
            100,
            200,
            8,
        ),
        (
            "digits MLP 64-32-10",
            replace(digits, architecture=ws.Architecture("MLP", {"sizes": [64, 32, 10]})),
            100,
            200,
            8,
        ),
        ("digits MLP 64-128-64-10", digits, 100, 200, 8),
    ]
    if data_root is not None:
        images = ws.tasks.fashion_mnist(data_root=data_root, recipe=replace(adam, batch_size=128))
        coloured = replace(images, train=ws.Split(images.train.x[:4096].repeat(1, 3, 1, 1), images.train.y[:4096]))
        many = 256 if device != "cpu" else 100
        cases += [
            ("LeNet-300-100, Fashion-MNIST", images, many, 60, 25),
            ("conv 8-6-4 (2,464)", replace(images, architecture=ws.Architecture("SmallConv")), 20, 100, 5),
            (
                "ResNet-20",
                replace(coloured, architecture=ws.Architecture("ResNet20")),
                64 if device != "cpu" else 4,
                8,
                1,
            ),
        ]
    rows: list[dict[str, object]] = []
    for name, task, n, steps, looped in cases:
        rows.append(compare(name, task, n, steps, looped, device))
        print("  ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    tables.write(results / "benchmarks/training.csv", rows)
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")


def compare(name: str, task: ws.Task, n: int, steps: int, looped: int, device: str) -> dict[str, object]:
    """One row: `looped` plain networks against n of ours, `steps` steps each on both sides, in turn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        execution = choose_execution(task, n, device=device)
    ours, plain = [], []
    for _ in range(REPEATS):
        plain.append(loop(task, looped, steps, device))
        ours.append(together(task, n, steps, execution, device))
    wall = statistics.median(p.wall / o.wall for p, o in zip(plain, ours, strict=True))
    cpu = statistics.median(p.cpu / o.cpu for p, o in zip(plain, ours, strict=True))
    return {
        "network": name,
        "n": n,
        "batch": task.recipe.batch_size,
        "side by side": execution.group_size,
        "threads": execution.threads or torch.get_num_threads(),
        "loop ms": f"{1e3 * statistics.median(p.wall for p in plain):.3f}",
        "ours ms": f"{1e3 * statistics.median(o.wall for o in ours):.3f}",
        "wall ratio": f"{wall:.2f}",
        "cpu ratio": f"{cpu:.2f}",
        "peak / stacked weights": peak_in_new_process(task, n, execution, device),
        "of it activations": activations(task, n, execution),
    }


def activations(task: ws.Task, n: int, execution: Execution) -> str:
    """Inputs and layer outputs of one group's batch, in multiples of the stacked weights; the backward pass adds."""
    module = task.architecture.build_seeded(0)
    one = activation_bytes(module, task.train.x[:1]) * task.recipe.batch_size
    return f"{execution.group_size * one / (n * Layout.of(module).size * 4):.2f}"


def peak_in_new_process(task: ws.Task, n: int, execution: Execution, device: str) -> str:
    """Peak memory of training n networks, in multiples of their stacked weights (activations included).

    Less than 30 MB of weights are too little to see in a process's size.
    """
    layout = task.architecture.layout()
    if n * layout.size * layout.dtype.itemsize < 30e6:
        return "-"
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return f"{pool.apply(peak, (task, n, execution, device)):.1f}"


def peak(task: ws.Task, n: int, execution: Execution, device: str) -> float:
    """Peak memory of training n networks, in multiples of their stacked weights; runs in a process of its own."""
    small = replace(execution, group_size=1)
    trainer_for(initial(task.architecture, Independent().runs(1, 0)), task, execution=small, device=device).run(2)
    task.train.x.sum()  # data sent to this process count once they are touched
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # forget the peak so far (Linux)
    before = status("VmRSS")
    trainer = trainer_for(
        initial(task.architecture, Independent().runs(n, 0)), task, execution=execution, device=device
    )
    trainer.run(3)
    return (status("VmHWM") - before) / (trainer.weights.numel() * trainer.weights.element_size())


def status(entry: str) -> int:
    """Bytes of this process, from the kernel."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(entry)).split()[1])


def clock(device: str) -> Timed:
    """The time now; building networks happens outside of what is timed, on both sides."""
    if device != "cpu":
        torch.cuda.synchronize()
    return Timed(time.perf_counter(), time.process_time())


def together(task: ws.Task, n: int, steps: int, execution: Execution, device: str) -> Timed:
    """Train n networks for some steps with weightspace."""
    trainer = trainer_for(
        initial(task.architecture, Independent().runs(n, 0)), task, execution=execution, device=device
    )
    before = clock(device)
    trainer.run(steps)
    after = clock(device)
    return Timed((after.wall - before.wall) / (n * steps), (after.cpu - before.cpu) / (n * steps))


def loop(task: ws.Task, n: int, steps: int, device: str) -> Timed:
    """The simple loop: a module, torch.optim, indexed batches; one network after another."""
    x, y = task.train.x.to(device), task.train.y.to(device)
    size = task.recipe.batch_size
    total = Timed(0.0, 0.0)
    for i in range(n):
        module = task.architecture.build_seeded(i).to(device).train()
        optimizer = torch.optim.Adam(module.parameters(), task.recipe.optimizer.lr)
        before = clock(device)
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(i)).to(device)
        for step in range(steps):
            at = step * size % (len(x) - size)
            batch = order[at : at + size]
            optimizer.zero_grad()
            F.cross_entropy(module(x[batch]), y[batch]).backward()
            optimizer.step()
        after = clock(device)
        total.wall += (after.wall - before.wall) / (n * steps)
        total.cpu += (after.cpu - before.cpu) / (n * steps)
    return total


if __name__ == "__main__":
    tyro.cli(main)
