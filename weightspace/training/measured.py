"""measured: networks with their validation metrics in their records, as trained networks have them."""

import math

from weightspace.networks.collection import Collection
from weightspace.networks.forward import evaluation
from weightspace.runtime import checks, devices
from weightspace.tasks.arguments import check_run
from weightspace.tasks.measuring import measure
from weightspace.tasks.own_loop import require_samples
from weightspace.tasks.task import Task
from weightspace.training.conversion import meaning


def measured(networks: Collection, task: Task, *, samples: int | None = None, device: str = "auto") -> Collection:
    """Networks whose records have the loss and the metrics of the task's validation split.

    Trained networks have them already; samples of a generator and networks from other programs do not. With them
    `best(k)` chooses networks, and pages of collections show figures. Training and test data are not read.

    Args:
        networks: Networks of the task's architecture.
        task: Task that defines loss and metrics.
        samples: The first validation samples that are read; None reads all.
        device: Device to compute on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

    Returns:
        The same networks, with `metrics` in their records replaced.

    Raises:
        LayoutMismatch: The networks are not of the task's architecture.
        InputError: The task has no samples that all networks share.
    """
    check_run(networks, task, None, device)
    require_samples(task, "measuring")
    task.require_shared_data("measuring")
    networks.layout.require(task.architecture.layout(), f"the network of task {task.name!r}")
    count = len(task.validation) if samples is None else checks.count(samples, "samples", at_least=1)
    device = devices.pick(device)
    data = task.validation.head(min(count, len(task.validation))).to(device)
    module = task.architecture.following(networks.layout).build_seeded(0).to(device)
    weights = networks.weights.to(device)
    with evaluation(module):
        buffers = {name: buffer.to(device) for name, buffer in networks.buffers.items()}
        figures = measure(task, module, networks.layout, weights, buffers, data)
    metrics = {f"validation_{name}": values for name, values in figures.items()}
    records = [
        record | meaning(task, metrics) | {"metrics": {name: values[i] for name, values in metrics.items()}}
        for i, record in enumerate(networks.records)
    ]
    return networks.replace(records=records)


def standing(networks: Collection, task: Task) -> list[tuple[bool, float, float]]:
    """How good measured networks are on validation data; of two ways to have a network the larger one is better.

    Figures that are not NaN come first, then the task's main metric, then its loss.

    Args:
        networks: Networks with validation metrics in their records.
        task: The task.
    """
    metric = task.scores[0] if task.scores else None
    name, sign = ("loss", -1.0) if metric is None else (metric.name, 1.0 if metric.higher_is_better else -1.0)
    found = [(one.metrics[f"validation_{name}"], one.metrics["validation_loss"]) for one in networks.records]
    return [(not math.isnan(score), sign * score, -loss) for score, loss in found]
