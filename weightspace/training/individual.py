"""What each network of a trainer has of its own: seeds, rates, label noise."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from weightspace.errors import InputError
from weightspace.networks.record import Record
from weightspace.recipes.recipe import Recipe
from weightspace.runtime import seeds
from weightspace.tasks.data import Data


@dataclass(frozen=True)
class Individual:
    """What networks trained side by side have of their own, one value a network.

    Args:
        seeds: Seeds of data order, augmentation, dropout and label noise.
        lr: Learning rates (n, 1); None for the recipe's.
        weight_decay: (n, 1); None for the recipe's.
        label_noise: Fraction of training labels drawn anew, uniformly; None for none.
        label_seeds: Seeds of the label noise; None for `seeds`.
        data: Number of each network's own data; it is not read where all networks share the data.
    """

    seeds: Sequence[int]
    lr: Float[Tensor, "n 1"] | None = None
    weight_decay: Float[Tensor, "n 1"] | None = None
    label_noise: Sequence[float] | None = None
    label_seeds: Sequence[int] | None = None
    data: Sequence[int | None] | None = None

    @classmethod
    def of(cls, records: Sequence[Record], recipe: Recipe) -> "Individual":
        """Read from records: "seed", and "individual" where a network departs from the recipe.

        Raises:
            InputError: A record has no seed.
        """
        require_seeds(records)
        own = [record.individual for record in records]

        def column(name: str, default: float) -> Tensor | None:
            values = [float(one.get(name, default)) for one in own]
            return torch.tensor(values)[:, None] if any(name in one for one in own) else None

        noise = [float(one.get("label_noise", 0.0)) for one in own]
        return cls(
            [record.seed for record in records],
            column("lr", recipe.optimizer.lr),
            column("weight_decay", recipe.optimizer.weight_decay),
            noise if any(noise) else None,
            [one.get("label_seed", record.seed) for one, record in zip(own, records, strict=True)],
            [record.data for record in records],
        )


def require_seeds(records: Sequence[Record]) -> None:
    """Raise InputError unless every record has a seed."""
    missing = [i for i, record in enumerate(records) if "seed" not in record]
    if missing:
        raise InputError(
            f"network {missing[0]} has no seed in its record, so its initialisation and data order are not defined: "
            'give records a "seed", for example collection.replace(records=[{**r, "seed": i} ...])'
        )


def noisy_labels(data: Data, individual: Individual) -> Tensor | None:
    """Each network's own training labels (n, samples), or None if all learn the true ones."""
    if individual.label_noise is None:
        return None
    y = data.y
    if not isinstance(y, Tensor) or y.is_floating_point() or y.ndim != 1:
        raise InputError(
            "label noise draws classes anew: it needs one class number a sample, and does not apply to a regression "
            "task nor to several targets"
        )
    classes = int(y.max()) + 1
    labels = y.repeat(len(individual.seeds), 1)
    drawn = individual.label_seeds or individual.seeds
    for row, seed, fraction in zip(labels, drawn, individual.label_noise, strict=True):
        random = seeds.generator(seed, "label noise")
        chosen = torch.randperm(len(y), generator=random)[: round(fraction * len(y))].to(y.device)
        row[chosen] = torch.randint(classes, (len(chosen),), generator=random).to(y.device)
    return labels
