"""Does a Ray cluster that loses a worker give the bytes that one process gives, from training to report?

    python -m experiments.benchmarks.cluster --networks 10000     (minutes on two cores; continues where it was stopped)

Digits, an MLP 64-8-10, with a short recipe: networks are trained and pruned in shards, all tickets are aligned, a
generator is fitted to up to 512 of them, samples are judged in a report beside all of them. Once in this process, one
part after another, and once on a local Ray cluster of two workers. One worker is killed while it prunes, and one while
it measures for the report. The digests of every stage are compared.
"""

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import tyro

import weightspace as ws
from experiments.common import tables
from weightspace.runtime.executor import Executor
from weightspace.runtime.threads import use
from weightspace.storage.files import file_hash, make_folder
from weightspace.training import OnRay

MODEL = ws.TicketGenerator(
    align=ws.WeightMatching(),
    compress=ws.PCA(components=32),
    generate=ws.FlowMatching(width=64, blocks=1, steps=300),
)
BASIN, FITTED, SAMPLES = 64, 512, 100  # tickets that make the reference, that the generator learns from, and samples
WORKERS = 2


@dataclass(frozen=True)
class InTurn:
    """An executor of one process: one item after another."""

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        """Apply the function to every item here."""
        return map(function, items)


@dataclass(frozen=True)
class Losing:
    """An executor on a cluster, one of whose workers is killed once while it works on a shard.

    Args:
        cluster: The cluster.
        folder: Folder where workers say who works, and where the killed one is noted.
    """

    cluster: Executor
    folder: Path

    def map(self, function: Callable[[Any], Any], items: Iterable[Any], /) -> Iterator[Any]:
        """Apply the function to every item on the cluster."""
        make_folder(self.folder)
        threading.Thread(target=self._kill, daemon=True).start()
        return self.cluster.map(partial(signed, self.folder, function), items)

    @property
    def killed(self) -> int:
        """Number of workers that were killed."""
        return int((self.folder / "killed").exists())

    def _kill(self) -> None:
        while not self.killed:
            at_work = [int(path.suffix[1:]) for path in self.folder.glob("begun.*")]
            if at_work:
                (self.folder / "killed").touch()
                time.sleep(0.2)  # in the middle of its shard
                os.kill(at_work[0], signal.SIGKILL)
            time.sleep(0.05)


def signed(folder: Path, function: Callable[[Any], Any], item: Any) -> Any:
    """Work on an item, with a file that says so while it lasts.

    Args:
        folder: Folder of the file.
        function: The work.
        item: What it is done on.
    """
    mine = folder / f"begun.{os.getpid()}"
    mine.touch()
    done = function(item)
    mine.unlink()
    return done


def main(
    networks: int = 10_000,
    epochs: int = 2,
    shards: int = 20,
    out: Path = Path("runs/cluster"),
    seed: int = 0,
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each stage to benchmarks/cluster.csv.

    Args:
        networks: Number of networks.
        epochs: Epochs that each is trained for, and again for its pruning.
        shards: Number of parts that networks are trained and pruned in.
        out: Folder of both runs; the same command continues there.
        seed: Seed of everything.
        results: Folder of the result tables.
    """
    use(1)
    torch.set_num_threads(1)
    work = partial(digests, networks=networks, epochs=epochs, shards=shards, seed=seed)
    alone = work(InTurn(), InTurn(), InTurn(), out / "alone")
    import ray  # pyright: ignore[reportMissingImports]

    ray.init(num_cpus=WORKERS, include_dashboard=False, log_to_driver=False)
    cluster = OnRay()
    pruning, measuring = (Losing(cluster, (out / "workers" / stage).absolute()) for stage in ("tickets", "report"))
    together = work(cluster, pruning, measuring, (out / "ray").absolute())
    rows = [
        {
            "networks": networks,
            "stage": stage,
            "workers": WORKERS,
            "shards": shards,
            "killed": pruning.killed + measuring.killed,
            "equal": "yes" if together[stage] == digest else "no",
            "sha256": digest[:16],
        }
        for stage, digest in alone.items()
    ]
    tables.add(results / "benchmarks/cluster.csv", rows, ("networks", "stage"))
    for row in rows:
        print(f"{row['stage']}: equal bytes: {row['equal']}; {row['sha256']}")


def digests(
    plain: Executor,
    pruning: Executor,
    measuring: Executor,
    folder: Path,
    *,
    networks: int,
    epochs: int,
    shards: int,
    seed: int,
) -> dict[str, str]:
    """The digest of what every stage makes.

    Args:
        plain: Executor of the training and the alignment.
        pruning: Executor of the pruning.
        measuring: Executor of the report.
        folder: Folder of the run.
        networks: Number of networks.
        epochs: Epochs of training, and of pruning.
        shards: Number of parts.
        seed: Seed of everything.
    """
    task = ws.tasks.digits((8,))
    task = replace(task, recipe=replace(task.recipe, length=ws.Step(epochs=epochs)))
    finder = ws.tickets.GradualPruning(density=0.3, length=ws.Step(epochs=epochs), every=10)
    zoo = ws.collect_on(plain, task, networks, shards=shards, folder=folder / "networks", seed=seed)
    tickets = ws.find_on(pruning, finder, zoo, task, shards=shards, folder=folder / "tickets")
    matching = ws.WeightMatching().fit(tickets[:BASIN], executor=plain)
    aligned = matching.transform(tickets, executor=plain)
    few = min(FITTED, networks - networks // 5)
    model = MODEL.fit(aligned[:few], task=task, seed=seed, folder=folder / "generator", device="cpu")
    samples = model.sample(min(SAMPLES, networks), density=0.3, seed=seed, device="cpu")
    held_out = aligned[few : 2 * few] if networks > few else None
    ws.evaluate(
        samples,
        task,
        training=aligned[:few],
        held_out=held_out,
        others={"all tickets": aligned},
        dropout=ws.MCDropout((0.1,)),
        seed=seed,
        device="cpu",
        folder=folder / "report",
        executor=measuring,
    )
    found = {"collect": digest(zoo), "tickets": digest(tickets), "align": digest(aligned), "samples": digest(samples)}
    return found | {"report": file_hash(folder / "report/report.json")}


def digest(networks: ws.Collection) -> str:
    """SHA-256 of weights and masks.

    Args:
        networks: The networks.
    """
    found = hashlib.sha256()
    for start in range(0, len(networks), 1000):
        part = networks[start : start + 1000]
        found.update(part.weights.numpy().tobytes())
        found.update(part.masks.numpy().tobytes())
    return found.hexdigest()


if __name__ == "__main__":
    tyro.cli(main)
