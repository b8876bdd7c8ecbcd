"""Do the signs of units matter when networks with tanh or sine activations are aligned?

    python -m experiments.alignment.signs          (about three minutes on one thread)

Digits, populations of eight networks, three populations of each kind, ReLU networks of the same sizes beside them.
Units of odd activations can change sign without a change of the function: they are aligned by permutations alone, and
by permutations and signs. Barriers are of the test loss, at the midpoint.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

import weightspace as ws
from experiments.common import tables
from experiments.common.alignment_rows import alignment_rows
from weightspace.align import WeightMatching
from weightspace.align.signs import without_signs

SIZES = ((64, 64, 10), (64, 64, 64, 10))
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {"relu": torch.relu, "tanh": torch.tanh, "sine": torch.sin}


class Network(nn.Module):
    """Linear layers with one of these activations between them.

    Args:
        sizes: Units per layer, inputs and outputs included.
        activation: Name of the activation.
    """

    def __init__(self, sizes: tuple[int, ...], activation: str) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.activation = ACTIVATIONS[activation]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        h = x.flatten(1)
        for layer in self.layers[:-1]:
            h = self.activation(layer(h))
        return self.layers[-1](h)


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    networks: int = 8,
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each population and way to align it to alignment/signs.csv.

    Args:
        seeds: Seeds of the populations.
        networks: Number of networks in each population.
        results: Folder of the result tables.
    """
    digits = ws.tasks.digits()
    rows: list[dict[str, object]] = []
    for sizes in SIZES:
        for activation in ACTIVATIONS:
            task = replace(digits, architecture=ws.Architecture.of(lambda s=sizes, a=activation: Network(s, a)))
            for seed in seeds:
                trained = ws.collect(task, networks, seed=seed)
                settings = {"sizes": "-".join(map(str, sizes)), "activation": activation, "population": seed}
                for row in ways(trained, task):
                    rows.append(settings | row)
                    print(rows[-1], flush=True)
    tables.add(results / "alignment/signs.csv", rows, ("sizes", "activation", "population", "alignment"))


def ways(trained: ws.Collection, task: ws.Task) -> list[dict[str, object]]:
    """One row for each way to align a population."""
    example = task.train.head(8).x
    symmetry = WeightMatching().symmetry_of(trained, example)
    aligned = {"none": trained}
    if symmetry.odd:
        unsigned = WeightMatching(without_signs(symmetry))
        aligned["permutations"] = unsigned.fit(trained, example=example).transform(trained)
        aligned["permutations and signs"] = WeightMatching(symmetry).fit(trained, example=example).transform(trained)
    else:
        aligned["permutations and scales"] = WeightMatching(symmetry).fit(trained, example=example).transform(trained)
    return alignment_rows(aligned, task)


if __name__ == "__main__":
    tyro.cli(main)
