"""What a generator has to beat: cheap ways to make networks out of the training networks.

Every arm is a collection of networks at one density, made from the aligned training networks.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from weightspace import seeds
from weightspace.collection import Collection
from weightspace.compress import PCA
from weightspace.errors import InputError
from weightspace.pattern import Unstructured

_SOUP = 16


@dataclass(frozen=True)
class Arm:
    """Networks to compare, with a name and a line that says what they are."""

    name: str
    note: str
    networks: Collection


def baselines(
    aligned: Collection, unaligned: Collection, *, n: int, density: float, noise: float, components: int, seed: int
) -> list[Arm]:
    """The baseline arms.

    Args:
        aligned: the training networks in one basin.
        unaligned: the same networks as they were found.
        n: networks in each arm.
        density: every arm is pruned to it.
        noise: length of the noise vector of the noise arm.
        components: principal components of the Gaussian arm.
    """
    weights, masks = aligned.weights, aligned.masks
    random = seeds.generator(seed, "baselines")

    def choose(k: int) -> Tensor:
        """N sets of k different training networks."""
        return torch.stack([torch.randperm(len(weights), generator=random)[:k] for _ in range(n)])

    def arm(name: str, note: str, vectors: Tensor) -> Arm:
        return Arm(name, note, _pruned(aligned, vectors, density))

    one, pair = choose(1)[:, 0], choose(2)
    xi = torch.randn(n, weights.shape[1], generator=random) * masks[one]
    noisy = weights[one] + xi * (noise / xi.norm(dim=1, keepdim=True))
    share = torch.rand(n, 1, generator=random)
    between = share * weights[pair[:, 0]] + (1 - share) * weights[pair[:, 1]]
    soup = torch.stack([weights[chosen].mean(0) for chosen in choose(min(_SOUP, len(weights)))])
    pca = PCA(components).fit(weights)
    codes = torch.randn(n, components, generator=random, dtype=torch.float64) * pca.variances.sqrt()
    crossed = unaligned.weights[pair].mean(1)
    fresh = torch.stack(
        [
            aligned.layout.pack(aligned.architecture.build_seeded(seeds.derive(seed, "random network", i)).state_dict())
            for i in range(n)
        ]
    )
    return [
        arm("ticket + noise", "a training ticket plus noise as long as the samples' median nearest distance", noisy),
        arm("interpolation", "between two aligned training tickets", between),
        arm(f"soup of {min(_SOUP, len(weights))}", "mean of aligned training tickets", soup),
        arm("mean network", "mean of all aligned training tickets; one network", weights.mean(0, keepdim=True)),
        arm("Gaussian", f"normal distribution fitted to {components} PCA codes", pca.inverse_transform(codes.to(weights.dtype))),
        arm("unaligned average", "mean of two training tickets, not aligned", crossed),
        arm("random", "fresh initialisation, largest weights kept, no training", fresh),
    ]  # fmt: skip


def _pruned(like: Collection, vectors: Tensor, density: float) -> Collection:
    rule = Unstructured(density)
    try:
        within = (vectors != 0) | ~like.layout.prunable
        masks = rule.mask(vectors.abs(), like.layout, within=within)
    except InputError:  # fewer non-zeros than asked for: zeros fill up the mask
        masks = rule.mask(vectors.abs(), like.layout)
    return Collection(like.layout, vectors * masks, architecture=like.architecture, masks=masks)
