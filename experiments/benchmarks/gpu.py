"""Does every stage that can use a card give there what it gives on the CPU, and how much faster is it?

    python -m experiments.benchmarks.gpu                      (under 10 minutes with a card; `make bench-gpu`)

Each stage starts from what the stage before made on the CPU, runs once on the CPU and twice on the card, of which the
second run is timed, and is compared with the CPU's result: collect, a ticket finder with its training, further
training, Bayesian training, alignment, compression with flow and refinement, sampling, evaluation and 2:4. Training is
kept short here, as rounding differs and grows with every step. Without a card the same code runs on the CPU both times,
which shows that the script works and nothing else.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import tyro
from torch import Tensor

import weightspace as ws
from experiments.common import tables
from weightspace import bayes, sparse

Stage = Callable[[str], Tensor]


@dataclass(frozen=True)
class Sizes:
    """How large the work is.

    Args:
        networks: Networks that are trained side by side.
        steps: Training steps of each.
        hidden: Units of the hidden layers.
        flow: Training steps of the flow.
        refinement: Steps of refinement.
    """

    networks: int = 256
    steps: int = 100
    hidden: tuple[int, ...] = (128, 128)
    flow: int = 500
    refinement: int = 50


def main(
    sizes: Sizes = Sizes(), device: str = "auto", out: Path = Path("runs/bench-gpu"), results: Path = tables.RESULTS
) -> None:
    """Write benchmarks/gpu.csv, a row for each stage, and fail where the card disagrees.

    Args:
        sizes: How large the work is.
        device: Device to compare with the CPU; "auto" is the card, or the CPU where there is none.
        out: Folder of the 2:4 measurements, and of the table where there is no card.
        results: Folder of the result table; a table without a card goes to `out`.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    card = torch.cuda.get_device_name() if device == "cuda" and torch.cuda.is_available() else device
    rows: list[dict[str, object]] = []
    place = results if device == "cuda" else out
    for name, (stage, limit) in stages(sizes).items():
        rows.append({"stage": name, "device": card, "networks": sizes.networks} | compared(stage, device, limit))
        print(rows[-1], flush=True)
        tables.write(place / "benchmarks/gpu.csv", rows)
    if device == "cuda":
        from weightspace.cli.main import main as command

        command(["bench", "--out", str(out), "--device", "cuda", "--int8"])
    wrong = [str(row["stage"]) for row in rows if not row["agrees"]]
    if wrong:
        raise SystemExit(f"the card and the CPU disagree: {', '.join(wrong)}")


def compared(stage: Stage, device: str, limit: float) -> dict[str, object]:
    """Times of a stage, and how far its result on the device is from that on the CPU, relative to its size."""
    began = time.perf_counter()
    expected = stage("cpu")
    on_cpu = time.perf_counter() - began
    stage(device)  # what is compiled and reserved once is not timed
    began = time.perf_counter()
    found = stage(device)
    if device == "cuda":
        torch.cuda.synchronize()
    on_device = time.perf_counter() - began
    difference = ((found - expected).norm() / expected.norm()).item()
    return {
        "cpu s": on_cpu,
        "device s": on_device,
        "times faster": on_cpu / on_device,
        "difference": difference,
        "limit": limit,
        "agrees": difference <= limit,  # NaN does not agree
    }


def stages(sizes: Sizes) -> Mapping[str, tuple[Stage, float]]:
    """Each stage with the relative difference that rounding may make; what a stage starts from is made on the CPU."""
    task = ws.tasks.digits(hidden=sizes.hidden)
    task = replace(task, recipe=replace(task.recipe, length=ws.Step(iterations=sizes.steps), optimizer=ws.Adam()))
    zoo = ws.collect(task, sizes.networks, device="cpu")
    gradual = ws.tickets.GradualPruning(density=0.2, length=ws.Step(iterations=sizes.steps), ramp=0.5, every=1)
    tickets = gradual.find(zoo, task, device="cpu")
    few = zoo[: max(3, sizes.networks // 16)]
    model = ws.TicketGenerator(
        compress=ws.PCA(min(32, sizes.networks - 1)),
        generate=ws.FlowMatching(steps=sizes.flow, width=64),
        refine=ws.TaskRefinement(steps=sizes.refinement, networks=4),
    )
    generator = model.fit(tickets, task=task, device="cpu")
    samples = generator.sample(sizes.networks, density=0.2, device="cpu")

    def evaluated(device: str) -> Tensor:
        report = ws.evaluate(samples, task, training=tickets, dropout=None, device=device)
        return torch.tensor([[group.mean("accuracy"), group.mean("nll")] for group in report.groups])

    def two_four(device: str) -> Tensor:
        module = ws.Architecture("LeNet300").build_seeded(0)
        networks = ws.from_state_dict(module, ws.Architecture("LeNet300"))
        masks = ws.NM(2, 4).mask(networks.weights.abs(), networks.layout)
        half = device != "cpu"
        x = torch.randn(256, 784, generator=torch.Generator().manual_seed(0)).to(device)
        one = networks.replace(weights=networks.weights * masks, masks=masks).module(0).to(device)
        if not half:
            return one(x).detach()
        fast = sparse.accelerate(one, x, dtype=torch.float16, device=device)
        return fast.module(x.half()).float().cpu().detach()

    return {
        "collect": (lambda device: ws.collect(task, sizes.networks, device=device).weights, 1e-2),
        "gradual pruning": (lambda device: gradual.find(zoo, task, device=device).weights, 5e-2),
        "training on": (lambda device: ws.train(tickets, task, "20it", device=device).weights, 1e-2),
        "Bayesian training": (lambda device: bayes.Variational().fit(few, task, device=device).weights, 1e-2),
        "alignment": (lambda device: aligned(tickets, device), 1e-3),
        "fit": (lambda device: drawn(model.fit(tickets, task=task, device=device)), 1e-1),
        "sampling": (lambda device: generator.sample(sizes.networks, density=0.2, device=device).weights, 1e-2),
        "evaluation": (evaluated, 1e-2),
        "2:4": (two_four, 1e-2),
    }


def aligned(tickets: ws.Collection, device: str) -> Tensor:
    """Tickets in one basin."""
    return ws.WeightMatching().fit(tickets, device=device).transform(tickets, device=device).weights


def drawn(generator: ws.FittedGenerator) -> Tensor:
    """Samples of a generator, drawn on the CPU."""
    return generator.sample(8, density=0.2, device="cpu").weights


if __name__ == "__main__":
    tyro.cli(main)
