"""Structured tickets from unstructured ones: refill and regroup (Chen et al. 2022, arXiv 2202.04736)."""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.runtime import checks
from weightspace.tickets.finder import rewind_of, start_from


def refill(tickets: Collection, *, by: Literal["count", "magnitude"] = "count", extra: float = 0.0) -> Collection:
    """Whole output units for about as many weights: each layer keeps its best units, filled up, and drops the others.

    A layer of m kept weights affords floor(m / inputs of a unit) units, at least one. The first and the output layer
    stay as they are. Give the result to `weightspace.train`; `weightspace.sparse.compact` then removes the
    dropped units, where nothing else writes them (a residual connection) and no BatchNorm makes another constant than
    zero of them.

    Args:
        tickets: Tickets as a finder returns them, with the weights to train from in `extras["rewind"]`.
        by: Rank units by the number of their kept weights or by the sum of their magnitudes; equal ones keep their
            order.
        extra: Fraction of the dropped units that are kept on top (the paper's Refill+).

    Raises:
        InputError: The tickets have no rewind weights, or a setting lies outside its range.
    """
    check_networks(tickets, "tickets")
    checks.one_of(by, "by", ("count", "magnitude"))
    extra = checks.number(extra, "extra", at_least=0, at_most=1)
    layout, masks = tickets.layout, tickets.masks.clone()
    inner = layout.weights[1:-1]
    for mask, weights in zip(masks, tickets.weights, strict=True):
        for entry in inner:
            at = layout.slices[entry.name]
            rows, values = mask[at].reshape(entry.shape[0], -1), weights[at].reshape(entry.shape[0], -1)
            count = max(1, int(rows.sum()) // rows.shape[1])
            count += round(extra * (entry.shape[0] - count))
            score = rows.sum(1) if by == "count" else values.abs().sum(1)
            kept = torch.zeros(entry.shape[0], dtype=torch.bool)
            kept[score.argsort(descending=True, stable=True)[:count]] = True
            mask[at] = kept[:, None].expand_as(rows).flatten()
    return start_from(tickets, rewind_of(tickets), masks)


def regroup(tickets: Collection, *, clusters: int = 8, fill: float = 1.5, rows: int = 16, seed: int = 0) -> Collection:
    """Dense blocks in place of scattered weights: rows with similar supports share their most used inputs.

    The rows of each weight matrix (outputs x inputs, kernels flattened) are divided into clusters of about equal size;
    a cluster keeps the inputs that most of its rows use, as many as its mean row has weights times `fill` at most. The
    mask is the union of these blocks. The output layer stays as it is.

    Args:
        tickets: Tickets as a finder returns them, with the weights to train from in `extras["rewind"]`.
        clusters: Number of clusters of rows in each layer; fewer if a block would have less than `rows` rows.
        fill: Number of inputs of a block, over the mean number of weights in its rows.
        rows: Smallest number of rows of a block; smaller layers are one block.
        seed: Seed of the clustering.

    Raises:
        InputError: The tickets have no rewind weights, or a setting lies outside its range.
    """
    check_networks(tickets, "tickets")
    clusters = checks.count(clusters, "clusters", at_least=1)
    fill = checks.number(fill, "fill", above=0, at_most=2**32)
    rows, seed = checks.count(rows, "rows", at_least=1), checks.seed(seed)
    layout, masks = tickets.layout, tickets.masks.clone()
    inner = layout.weights[:-1]
    for mask in masks:
        for entry in inner:
            at = layout.slices[entry.name]
            matrix = mask[at].reshape(entry.shape[0], -1)
            mask[at] = _blocks(matrix, clusters, fill, rows, seed).flatten()
    return start_from(tickets, rewind_of(tickets), masks)


def _blocks(matrix: Bool[Tensor, "o i"], clusters: int, fill: float, rows: int, seed: int) -> Bool[Tensor, "o i"]:
    """The union of dense blocks for the rows of a mask that are not empty."""
    used = matrix.any(1).nonzero()[:, 0]
    blocks = torch.zeros_like(matrix)
    if not len(used):
        return blocks
    count = max(1, min(clusters, len(used) // rows))
    support = matrix[used].double()
    for members in _balanced(support, count, seed):
        uses = support[members].sum(0)
        width = min(matrix.shape[1], max(1, round(fill * float(uses.sum()) / len(members))))
        wanted = min(width, int((uses > 0).sum()))
        columns = uses.argsort(descending=True, stable=True)[:wanted]
        blocks[used[members][:, None], columns] = True
    return blocks


def _balanced(support: Float[Tensor, "r i"], count: int, seed: int) -> list[Tensor]:
    """Rows in clusters of equal size, give or take one: k-means, then the cheapest assignment to the centres."""
    from scipy.optimize import linear_sum_assignment
    from sklearn.cluster import KMeans

    if count == 1:
        return [torch.arange(len(support))]
    unit = (support / support.norm(dim=1, keepdim=True)).numpy()
    centres = KMeans(count, random_state=seed).fit(unit).cluster_centers_
    places = np.arange(len(unit)) % count  # a seat for each row, shared out evenly
    cost = ((unit[:, None] - centres[None]) ** 2).sum(2)[:, places]
    _, seats = linear_sum_assignment(cost)
    chosen = torch.from_numpy(places[seats])
    return [(chosen == c).nonzero()[:, 0] for c in range(count)]
