"""Loss and metrics of networks on a split, by the task's own definitions."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.networks.forward import predict
from weightspace.networks.layout import Layout
from weightspace.runtime import trees
from weightspace.runtime.trees import Tree
from weightspace.tasks.data import Data, DatasetSplit, Split
from weightspace.tasks.metrics import Metric
from weightspace.tasks.task import Task

_OUTPUT_BYTES = 256 * 2**20  # outputs of all networks that are held at once
_ROWS = 1024  # samples in a batch of what is read batch by batch


def measure(
    task: Task,
    module: nn.Module,
    layout: Layout,
    weights: Float[Tensor, "n d"],
    buffers: Mapping[str, Tensor],
    data: Data,
    sets: Sequence[int | None] | None = None,
) -> dict[str, list[float]]:
    """Loss and metrics of every network on a split.

    Where the split is read batch by batch, the loss is the mean over batches, weighted by their samples, and only
    metrics that are means over samples are measured batch by batch; for others all outputs are kept.

    Args:
        task: Task that defines loss and metrics.
        module: Module that gives the computation.
        layout: Layout of the networks.
        weights: (n, D).
        buffers: (n, *shape) by name.
        data: The split.
        sets: Number of each network's own data; None where all share the data.

    Returns:
        A list of n figures for "loss" and for the name of each metric.
    """
    figures: dict[str, list[float]] = {name: [] for name in ("loss", *(metric.name for metric in task.scores))}
    together = isinstance(data, Split)
    if together:
        one = trees.tensors(
            predict(module, layout, weights[:1], {k: b[:1] for k, b in buffers.items()}, data.head(1).x)
        )
        size = sum(tensor.numel() * tensor.element_size() for tensor in one) * len(data)
        together = size * len(weights) <= _OUTPUT_BYTES
    if together:
        outputs = predict(module, layout, weights, buffers, data.x)
        for i in range(len(weights)):
            _add(figures, task, trees.take(outputs, i), data.y)
        return figures
    for i in range(len(weights)):
        own = {name: buffer[i : i + 1] for name, buffer in buffers.items()}
        split = data.of(None if sets is None else sets[i])
        if isinstance(split, DatasetSplit):
            _add_batchwise(figures, task, module, layout, weights[i : i + 1], own, split)
        else:
            _add(figures, task, trees.take(predict(module, layout, weights[i : i + 1], own, split.x), 0), split.y)
    return figures


def _add(figures: dict[str, list[float]], task: Task, outputs: Tree, y: Tree) -> None:
    figures["loss"].append(task.loss(outputs, y).item())
    for metric in task.scores:
        figures[metric.name].append(metric(outputs, y))


def _add_batchwise(
    figures: dict[str, list[float]],
    task: Task,
    module: nn.Module,
    layout: Layout,
    weights: Float[Tensor, "1 d"],
    buffers: Mapping[str, Tensor],
    data: Data,
) -> None:
    loss = 0.0
    values: dict[str, list[Tensor]] = {metric.name: [] for metric in task.scores}
    kept: list[tuple[Tree, Tree]] = []
    whole: list[Metric] = [metric for metric in task.scores if not metric.per_sample]
    for start in range(0, len(data), _ROWS):
        part = data.batch(slice(start, start + _ROWS))
        outputs = trees.take(predict(module, layout, weights, buffers, part.x), 0)
        loss += task.loss(outputs, part.y).item() * len(part)
        for metric in task.scores:
            if metric.per_sample:
                values[metric.name].append(metric.values(outputs, part.y))
        if whole:
            kept.append((outputs, part.y))
    figures["loss"].append(loss / len(data))
    for metric in task.scores:
        if metric.per_sample:
            figures[metric.name].append(metric.of_values(torch.cat(values[metric.name])))
        else:
            outputs, y = (trees.concatenate([pair[side] for pair in kept]) for side in (0, 1))
            figures[metric.name].append(metric(outputs, y))
