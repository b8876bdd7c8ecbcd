"""What tables of alignment say of a population, for each way to align it."""

import statistics
from collections.abc import Mapping

import weightspace as ws
from weightspace.evaluation import connectivity


def alignment_rows(aligned: Mapping[str, ws.Collection], task: ws.Task) -> list[dict[str, object]]:
    """One row for each way; barriers are of the test loss, at the midpoint.

    Args:
        aligned: The population by the way in which it was aligned; no network's accuracy changes with it.
        task: Task of the networks.
    """
    first = next(iter(aligned.values()))
    accuracy = statistics.mean(connectivity.measure(first, task).accuracies.tolist())
    return [
        {
            "alignment": name,
            "network accuracy": accuracy,
            "barrier": statistics.mean(b.loss for b in connectivity.barriers(networks, task, points=1)),
            "mean network accuracy": connectivity.mean_network(networks, task).accuracy,
            "residual share": connectivity.residual_share(networks),
        }
        for name, networks in aligned.items()
    ]
