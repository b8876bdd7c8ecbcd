"""Networks against the training networks, in blocks: nearest distance, errors and masks in common."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from weightspace.evaluation.connectivity import sum_of
from weightspace.evaluation.memory import capacity
from weightspace.evaluation.metrics import novelty
from weightspace.masks.overlap import overlap_of_numbers
from weightspace.networks.collection import Collection
from weightspace.networks.forward import blocks

_ERRORS = 512  # networks whose errors are compared at once
_BASES = 2048  # training networks that a network may be a combination of


@dataclass(frozen=True)
class Nearest:
    """The largest similarity or smallest distance, and the next, for each network.

    Args:
        first: Figure for the nearest training network.
        second: Figure for the second nearest.
        index: Number of the nearest.
    """

    first: Float[Tensor, " n"]
    second: Float[Tensor, " n"]
    index: Int[Tensor, " n"]

    def without_one(self, count: int, random: torch.Generator) -> Float[Tensor, " n"]:
        """The nearest among all but one of the training networks, drawn for each network.

        A training network has one neighbour less to choose from than any other network; this makes the two comparable.

        Args:
            count: Number of training networks.
            random: Source of the draws.
        """
        dropped = torch.randint(count, self.index.shape, generator=random)
        return torch.where(self.index == dropped, self.second, self.first)


@dataclass(frozen=True)
class Neighbours:
    """Each network and the training networks around it.

    Args:
        nearest: Distances to the nearest training networks.
        few: Share of the deviation from the training mean that 16 training networks explain.
        angle: Angles to the nearest training networks in radians, seen from zero weights, whatever the norms are.
    """

    nearest: Nearest
    few: Float[Tensor, " n"]
    angle: Nearest


@dataclass(frozen=True)
class NeighbourSearch:
    """Finds the training networks around other networks.

    Args:
        networks: The training networks in canonical form.
        centre: Their mean, in float64.
        gram: Inner products of the deviations of the first 2,048 of them from the mean.
        memory_gb: Memory for the blocks that are worked on, in GiB.
        device: Device to compute on.
    """

    networks: Collection
    centre: Float[Tensor, " d"]
    gram: Float[Tensor, "k k"]
    memory_gb: float
    device: str = "cpu"

    def __getstate__(self) -> dict[str, Any]:
        """What other processes get: the fields, without what was computed from them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def of(
        cls, networks: Collection, centre: Float[Tensor, " d"], memory_gb: float, device: str = "cpu"
    ) -> "NeighbourSearch":
        """Compute the inner products, a pair of blocks at a time.

        Args:
            networks: The training networks in canonical form.
            centre: Their mean, in float64.
            memory_gb: Memory for the blocks that are worked on, in GiB.
            device: Device to compute on.
        """
        return cls(networks, centre, inner_products(networks[:_BASES], centre, memory_gb, device), memory_gb, device)

    @cached_property
    def _held(self) -> list[Float[Tensor, "n d"]] | None:
        """The training networks' deviations, which every group is compared with; None where they are too many."""
        if len(self.networks) > capacity(self.memory_gb, 8 * self.networks.layout.size):
            return None
        return [block for _, block in deviations(self.networks, self.centre, self.memory_gb, self.device)]

    def _deviations(self) -> Iterable[Float[Tensor, "n d"]]:
        if self._held is not None:
            return self._held
        return (block for _, block in deviations(self.networks, self.centre, self.memory_gb, self.device))

    @cached_property
    def _sizes(self) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
        """Squared lengths of the training networks' deviations, and their inner products with the mean."""
        centre = self.centre.to(self.device)
        found = [(others.square().sum(1).cpu(), (others @ centre).cpu()) for others in self._deviations()]
        sizes, tilts = zip(*found, strict=True)
        return torch.cat(sizes), torch.cat(tilts)

    def around(self, networks: Collection, *, itself: bool) -> Neighbours:
        """Find the training networks around each network.

        Args:
            networks: Networks in canonical form.
            itself: Whether these are the training networks: none is its own neighbour, and each is compared with the
                mean of the others.
        """
        found = deviations(networks, self.centre, self.memory_gb, self.device)
        parts = [self._block(rows, block, itself) for rows, block in found]
        first, second, index, few, *angles = (torch.cat(columns) for columns in zip(*parts, strict=True))
        return Neighbours(Nearest(first, second, index), few, Nearest(*angles))

    def _block(self, rows: slice, block: Float[Tensor, "n d"], itself: bool) -> tuple[Tensor, ...]:
        centre = self.centre.to(block.device)
        square = block.square().sum(1, keepdim=True).cpu()
        product = torch.cat([(block @ others.T).cpu() for others in self._deviations()], 1)
        size, tilt = self._sizes
        # Expanded, not subtracted: rounding makes a copy's distance about 1e-8 of the networks' length.
        distance = (square + size - 2 * product).clamp(min=0).sqrt()
        here = torch.arange(len(block))
        if itself:
            distance[here, here + rows.start] = torch.inf
        two = distance.topk(2, 1, largest=False)
        few = self._from_few(rows, product[:, : len(self.gram)], square[:, 0], itself)
        own, middle = (block @ centre).cpu()[:, None], self.centre.square().sum().cpu()
        norms = (square + 2 * own + middle).clamp(min=0).sqrt() * (size + 2 * tilt + middle).clamp(min=0).sqrt()
        angle = ((product + own + tilt + middle) / norms.clamp(min=1e-300)).clamp(-1, 1).arccos()
        if itself:
            angle[here, here + rows.start] = torch.inf
        least = angle.topk(2, 1, largest=False)
        return (
            *(two.values[:, 0], two.values[:, 1], two.indices[:, 0], few),
            *(least.values[:, 0], least.values[:, 1], least.indices[:, 0]),
        )

    def _from_few(self, rows: slice, product: Tensor, square: Tensor, itself: bool) -> Tensor:
        k = min(novelty.FEW, len(self.gram) - itself)
        cosine = (product / self.gram.diagonal().clamp(min=1e-300).sqrt()).abs()
        if itself:
            here = torch.arange(rows.start, min(rows.stop, len(self.gram)))
            cosine[torch.arange(len(here)), here] = -torch.inf
        chosen = cosine.topk(k, 1).indices
        target, gram = product.gather(1, chosen), self.gram[chosen[:, :, None], chosen[:, None, :]]
        if itself:
            # From the mean of the others: x becomes a x with a = N / (N - 1), a base b becomes b + x / (N - 1).
            n = len(self.networks)
            a, s = n / (n - 1), 1 / (n - 1)
            gram = gram + s * (target[:, :, None] + target[:, None, :]) + s * s * square[:, None, None]
            target, square = a * (target + s * square[:, None]), a * a * square
        return novelty.from_few(target, gram, square)


def deviations(
    networks: Collection, centre: Float[Tensor, " d"], memory_gb: float, device: str = "cpu", start: int = 0
) -> Iterator[tuple[slice, Float[Tensor, "n d"]]]:
    """Blocks of networks, from one of the blocks on, less a point, in float64, on a device."""
    centre = centre.double().to(device)
    for rows in blocks(len(networks), capacity(memory_gb, 32 * networks.layout.size)):
        if rows.start >= start:
            yield rows, networks.view(rows).weights.to(device) - centre  # in float64, as the point is


def squared_spread(networks: Collection, centre: Float[Tensor, " d"], memory_gb: float, device: str = "cpu") -> float:
    """Sum of squared distances of networks to a point."""
    return sum(block.square().sum().item() for _, block in deviations(networks, centre, memory_gb, device))


def inner_products(
    networks: Collection, centre: Float[Tensor, " d"], memory_gb: float, device: str = "cpu"
) -> Float[Tensor, "n n"]:
    """Inner products of the deviations of all pairs of networks from a point, in float64."""
    result = torch.empty(len(networks), len(networks), dtype=torch.float64)
    fits = len(networks) <= capacity(memory_gb, 8 * networks.layout.size)
    held = list(deviations(networks, centre, memory_gb, device)) if fits else None
    for i, (rows, block) in enumerate(held or deviations(networks, centre, memory_gb, device)):
        following = held[i:] if held else deviations(networks, centre, memory_gb, device, rows.start)
        for columns, others in following:
            product = block @ others.T
            result[rows, columns] = product
            result[columns, rows] = product.T
    return result


def distances_by(products: Float[Tensor, "n n"]) -> Float[Tensor, "n n"]:
    """Distances of all pairs by their inner products, infinite to oneself.

    Expanded, not subtracted: rounding makes the distance of copies about 1e-8 of the networks' length.
    """
    squares = products.diagonal()
    distance = (squares[:, None] + squares - 2 * products).clamp(min=0).sqrt()
    return distance.fill_diagonal_(torch.inf)


def spread_by(products: Float[Tensor, "n n"]) -> float:
    """Sum of squared distances of networks to their mean, by their inner products."""
    return max(0.0, (products.trace() - products.sum() / len(products)).item())


def distances_among(networks: Collection, memory_gb: float, device: str = "cpu") -> Float[Tensor, "n n"]:
    """Distances of all pairs, infinite to oneself."""
    centre = sum_of(networks) / len(networks)
    return distances_by(inner_products(networks, centre, memory_gb, device))


def mask_overlaps(
    networks: Collection, others: Collection, memory_gb: float, device: str = "cpu"
) -> Float[Tensor, "n m"]:
    """Mask overlaps of prunable weights of all pairs of networks from two collections."""
    prunable = networks.layout.prunable.to(device)
    size = capacity(memory_gb, 16 * networks.layout.size)
    result = torch.empty(len(networks), len(others), dtype=torch.float64)

    def numbers(of: Collection, rows: slice) -> Float[Tensor, "n d"]:
        return (of.view(rows).masks.to(device) & prunable).float()

    for columns in blocks(len(others), size):
        other = numbers(others, columns)
        for rows in blocks(len(networks), size):
            same = others is networks and rows == columns
            result[rows, columns] = overlap_of_numbers(other if same else numbers(networks, rows), other).cpu()
    return result


def largest_error_overlap(
    errors: Float[Tensor, "n s"] | Bool[Tensor, "n s"], training: Tensor, *, itself: bool
) -> Nearest:
    """The largest likeness of each network's errors to a training network's, itself excepted."""
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for rows in blocks(len(errors), _ERRORS):
        overlap = torch.cat(
            [novelty.likeness(errors[rows], training[columns]) for columns in blocks(len(training), _ERRORS)], 1
        )
        if itself:
            here = torch.arange(len(overlap))
            overlap[here, here + rows.start] = -torch.inf
        two = overlap.topk(2, 1)
        parts.append((two.values[:, 0], two.values[:, 1], two.indices[:, 0]))
    return Nearest(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def largest_mask_overlap(
    networks: Collection, training: Collection, *, itself: bool, memory_gb: float, device: str = "cpu"
) -> Float[Tensor, " n"]:
    """The largest mask overlap of each network with a training network, itself excepted."""
    best: list[Tensor] = []
    for rows in blocks(len(networks), _ERRORS):
        overlap = mask_overlaps(networks.view(rows), training, memory_gb, device)
        if itself:
            here = torch.arange(len(overlap))
            overlap[here, here + rows.start] = -torch.inf
        best.append(overlap.max(1).values)
    return torch.cat(best)


def kept_in_layers(
    networks: Collection, memory_gb: float
) -> tuple[Float[Tensor, "n layers"], Float[Tensor, " layers"]]:
    """Weights that each network keeps in each weight tensor, and the tensors' sizes."""
    layout = networks.layout
    weights = layout.weights
    parts: list[Tensor] = []
    for rows in blocks(len(networks), capacity(memory_gb, 16 * layout.size)):
        masks = networks.view(rows).masks
        parts.append(torch.stack([masks[:, layout.slices[e.name]].sum(1).double() for e in weights], 1))
    return torch.cat(parts), torch.tensor([float(e.size) for e in weights], dtype=torch.float64)
