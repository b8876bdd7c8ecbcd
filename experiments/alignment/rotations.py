"""Do rotations matter when transformers are aligned?

    python -m experiments.alignment.rotations      (about four minutes on one thread)

Digits as sequences of eight rows, transformers of two layers with four heads, populations of six networks, three
populations of each kind. What a head computes does not depend on the basis of its queries and keys, nor on that of its
values; behind norms without scales, the residual stream has no basis either. Heads and units are aligned by
permutations alone, with rotations inside heads, and with rotations of all units that can be mixed. Barriers are of the
test loss, at the midpoint.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import tyro
from torch import Tensor, nn

import weightspace as ws
from experiments.common import tables
from experiments.common.alignment_rows import alignment_rows
from weightspace.align import WeightMatching
from weightspace.models.vit import Attention
from weightspace.symmetry import Symmetry

RECIPE = ws.Recipe(ws.Step(epochs=30), batch_size=64, optimizer=ws.Adam(lr=3e-3), schedule="cosine")
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "LayerNorm": nn.LayerNorm,
    "RMSNorm without scales": partial(nn.RMSNorm, elementwise_affine=False),
}


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        width: Width of the residual stream.
        heads: Heads of the attention.
        norm: Makes a norm of this width.
    """

    def __init__(self, width: int, heads: int, norm: Callable[[int], nn.Module]) -> None:
        super().__init__()
        self.norm1, self.norm2 = norm(width), norm(width)
        self.attention = Attention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for a batch."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Rows(nn.Module):
    """A transformer that reads an image row by row.

    Args:
        norm: Name of the norm.
        width: Width of the residual stream.
        heads: Heads of each layer.
        depth: Number of layers.
    """

    def __init__(self, norm: str, width: int = 32, heads: int = 4, depth: int = 2) -> None:
        super().__init__()
        self.rows = nn.Linear(8, width)
        self.position = nn.Parameter(torch.empty(1, 8, width).normal_(std=0.02))
        self.layers = nn.Sequential(*(Layer(width, heads, NORMS[norm]) for _ in range(depth)))
        self.norm, self.head = NORMS[norm](width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of a batch of images."""
        h = self.layers(self.rows(x[:, 0]) + self.position)
        return self.head(self.norm(h).mean(1))


def main(
    seeds: tuple[int, ...] = (0, 1, 2),
    networks: int = 6,
    results: Path = tables.RESULTS,
) -> None:
    """Write one row for each population and way to align it to alignment/rotations.csv.

    Args:
        seeds: Seeds of the populations.
        networks: Number of networks in each population.
        results: Folder of the result tables.
    """
    rows: list[dict[str, object]] = []
    for norm in NORMS:
        architecture = ws.Architecture.of(lambda norm=norm: Rows(norm))
        task = replace(ws.tasks.digits(), architecture=architecture, recipe=RECIPE)
        for seed in seeds:
            for row in ways(ws.collect(task, networks, seed=seed), task):
                rows.append({"norm": norm, "population": seed} | row)
                print(rows[-1], flush=True)
    tables.add(results / "alignment/rotations.csv", rows, ("norm", "population", "alignment"))


def in_heads_alone(symmetry: Symmetry) -> Symmetry:
    """The symmetry in which only units inside heads are mixed."""
    groups = (g if g.parent is not None else replace(g, linear=None, dual=()) for g in symmetry.groups)
    return replace(symmetry, groups=tuple(groups))


def ways(trained: ws.Collection, task: ws.Task) -> list[dict[str, object]]:
    """One row for each way to align a population."""
    symmetry = WeightMatching().symmetry_of(trained, task.train.head(8).x)
    heads = in_heads_alone(symmetry)
    aligned = {
        "none": trained,
        "permutations": WeightMatching().fit_proven(trained, symmetry).transform(trained),
        "rotations inside heads": WeightMatching(rotate=True).fit_proven(trained, heads).transform(trained),
    }
    if heads != symmetry:
        fitted = WeightMatching(rotate=True).fit_proven(trained, symmetry)
        aligned["rotations inside heads and of the stream"] = fitted.transform(trained)
    return alignment_rows(aligned, task)


if __name__ == "__main__":
    tyro.cli(main)
