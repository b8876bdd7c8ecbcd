"""Win back what pruning lost without training, in the way that validation data choose."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.runtime import checks, devices, seeds
from weightspace.sparse.refit import refit
from weightspace.tasks.task import Task
from weightspace.training.augment import as_in_training
from weightspace.training.batchnorm import has_statistics, recalibrated
from weightspace.training.measured import measured, standing

_KEPT = ("refitted", "as pruned")  # ways that keep the statistics
_ROWS = 512  # samples in a batch of BatchNorm statistics


@dataclass(frozen=True)
class Recovered:
    """Pruned networks, each in the way that is best on validation data.

    Args:
        networks: The networks, with validation metrics in their records.
        chosen: The way of each.
        ways: All networks in each way.
        scores: For each way the validation scores of all networks.
        metric: What the scores are: the task's main metric, or "loss" where only that is known.
    """

    networks: Collection
    chosen: Sequence[str]
    ways: Mapping[str, Collection]
    scores: Mapping[str, Sequence[float]]
    metric: str

    def __str__(self) -> str:
        width = max(32, *(len(way) + 2 for way in self.scores))
        lines = [f"{'validation ' + self.metric:<{width}}{'mean':>10}{'chosen':>10}"]
        for way, scores in self.scores.items():
            lines.append(
                f"{way:<{width}}{sum(scores) / len(scores):>10.4f}{self.chosen.count(way):>7} of {len(scores)}"
            )
        return "\n".join(lines)


def recover(
    pruned: Collection,
    dense: Collection,
    task: Task,
    *,
    samples: int = 1000,
    validation: int | None = None,
    ridge: float = 0.01,
    memory_gb: float = 1.0,
    seed: int = 0,
    device: str = "auto",
) -> Recovered:
    """Refit pruned networks, estimate their BatchNorm statistics anew, both or neither: what validation data choose.

    Statistics anew repair much of what pruning alone breaks. `refit` repairs more, to the statistics it finds, and
    new ones do harm of their own: few images make them noisy, and images unlike those of training move them, which
    costs the dense network accuracy too. They are estimated on images augmented as the task's recipe says, and on the
    same images as they are.

    Args:
        pruned: Sparse networks under masks of any pattern; network i is `dense[i]` with weights taken away.
        dense: The networks before pruning.
        task: Training inputs are drawn from its training split, and its validation split chooses by its main metric,
            ties by the loss. No labels of training data are read, and nothing of the test split.
        samples: Training inputs; all of them where there are fewer.
        validation: The first validation samples, which choose; None reads all.
        ridge: As in `refit`.
        memory_gb: As in `refit`.
        seed: Seed of the draw.
        device: Device to measure validation data on: "cpu", "cuda", or "auto", which is CUDA where there is a card.
            Networks are refitted on the CPU.

    Raises:
        InputError: The networks do not fit the task, or as in `refit`.
    """
    check_networks(pruned, "pruned")
    checks.instance(task, "task", Task, "a Task, such as ws.tasks.digits()")
    task.require_shared_data("to recover pruned networks")
    pruned.layout.require(task.architecture.layout(), f"networks of task {task.name!r}")
    samples, seed = checks.count(samples, "samples", at_least=1), checks.seed(seed)
    checks.given(validation, "validation", checks.count, at_least=1)
    device = devices.pick(device)
    order = torch.randperm(len(task.train), generator=seeds.generator(seed, "inputs of recover"))
    drawn = task.train.batch(order[:samples])
    seen, batches = as_in_training(drawn, task.recipe.augmentation, seed), -(-len(drawn) // _ROWS)
    pruned = pruned.replace(extras={}, records=[record.without("metrics") for record in pruned.records])
    refitted = refit(pruned, dense, drawn.x, ridge=ridge, memory_gb=memory_gb)
    ways = dict(zip(_KEPT, (refitted, pruned), strict=True))
    data = {"statistics anew": seen} | ({} if seen is drawn else {"statistics anew, of images as they are": drawn})
    if has_statistics(pruned):
        for what, split in data.items():
            ways |= {f"{name}, {what}": recalibrated(ways[name], split, batches=batches) for name in _KEPT}
    ways = {way: measured(networks, task, samples=validation, device=device) for way, networks in ways.items()}
    metric = task.scores[0] if task.scores else None
    name = "loss" if metric is None else metric.name
    stand = {way: standing(networks, task) for way, networks in ways.items()}
    chosen = [max(ways, key=lambda way, i=i: stand[way][i]) for i in range(len(pruned))]
    best = Collection.concatenate([ways[way][i : i + 1] for i, way in enumerate(chosen)])
    scores = {
        way: [record.metrics[f"validation_{name}"] for record in networks.records] for way, networks in ways.items()
    }
    return Recovered(best, chosen, ways, scores, name)
