"""What brings tanh networks with two hidden layers into one basin best?

    python -m experiments.alignment.sign_schemes        (about six minutes on one thread)

Digits, populations of eight networks, three populations of each kind, ReLU networks of the same size beside them. The
mean of all networks is measured on every split: schemes are judged on training and validation data.
"""

import statistics
from dataclasses import replace
from pathlib import Path

import tyro

import weightspace as ws
from experiments.alignment.signs import SIZES, Network
from experiments.common import tables
from weightspace.align import ActivationMatching, MergeMany, WeightMatching
from weightspace.evaluation import connectivity
from weightspace.symmetry import Symmetry


def main(seeds: tuple[int, ...] = (0, 1, 2), networks: int = 8, results: Path = tables.RESULTS) -> None:
    """Write one row for each population and scheme to alignment/sign_schemes.csv.

    Args:
        seeds: Seeds of the populations.
        networks: Number of networks in each population.
        results: Folder of the result tables.
    """
    digits = ws.tasks.digits()
    rows: list[dict[str, object]] = []
    for activation in ("relu", "tanh"):
        task = replace(digits, architecture=ws.Architecture.of(lambda a=activation: Network(SIZES[1], a)))
        for seed in seeds:
            trained = ws.collect(task, networks, seed=seed)
            symmetry = WeightMatching().symmetry_of(trained, task.train.head(8).x)
            for name, aligned in schemes(trained, task, symmetry).items():
                splits = {"training": task.train, "validation": task.validation, "test": task.test}
                mean = {k: connectivity.mean_network(aligned, task, split=s).accuracy for k, s in splits.items()}
                own = statistics.mean(connectivity.measure(trained, task).accuracies.tolist())
                share = connectivity.residual_share(aligned)
                row: dict[str, object] = {"activation": activation, "population": seed, "scheme": name}
                rows.append({**row, "network accuracy": own, **mean, "residual share": share})
                print(rows[-1], flush=True)
    tables.add(results / "alignment/sign_schemes.csv", rows, ("activation", "population", "scheme"))


def schemes(trained: ws.Collection, task: ws.Task, symmetry: Symmetry) -> dict[str, ws.Collection]:
    """A population aligned in each way.

    Args:
        trained: The population.
        task: The task that it was trained on.
        symmetry: Its symmetry.
    """

    def matched(networks: ws.Collection, matching: WeightMatching) -> ws.Collection:
        return matching.fit_proven(networks, symmetry).transform(networks)

    growing, merging = WeightMatching(symmetry), WeightMatching(symmetry, population=MergeMany())
    by_activations = ActivationMatching(symmetry=symmetry).fit(trained, task.train.head(1000).x).transform(trained)
    level = matched(trained, growing)
    return {
        "growing mean": level,
        "MergeMany": matched(trained, merging),
        "MergeMany, layers weighed alike": _moved_as(level, _level(level), merging, symmetry),
        "activations, then MergeMany": matched(by_activations, merging),
    }


def _level(networks: ws.Collection) -> ws.Collection:
    """The networks with tensors of one standard deviation."""
    weights = networks.weights.clone()
    for at in networks.layout.slices.values():
        weights[:, at] /= weights[:, at].std()
    return networks.replace(weights=weights)


def _moved_as(
    networks: ws.Collection, compared: ws.Collection, matching: WeightMatching, symmetry: Symmetry
) -> ws.Collection:
    """Networks in the order and with the signs in which others are aligned."""
    fitted = replace(matching, balance=False).fit_proven(compared, symmetry)
    matches = fitted.permutations(compared)
    return fitted.apply(networks, [m.permutations for m in matches], signs=[m.signs for m in matches])


if __name__ == "__main__":
    tyro.cli(main)
