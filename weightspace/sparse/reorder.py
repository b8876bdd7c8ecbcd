"""Reorder hidden units so that N:M pruning keeps more: the function stays, the groups of inputs change."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.masks.patterns import NM
from weightspace.networks.arguments import check_inputs, check_module, check_networks
from weightspace.networks.collection import Collection
from weightspace.runtime import checks
from weightspace.runtime.progress import progress
from weightspace.runtime.trees import Tree
from weightspace.sparse.arguments import check_search
from weightspace.sparse.gathered import checked_scores
from weightspace.sparse.order import Order, find_order
from weightspace.symmetry import Group, Symmetry, trace


@dataclass(frozen=True)
class Reordered:
    """Networks with other orders of hidden units, and what each order is worth.

    Args:
        networks: Networks with the same functions.
        orders: For each network the `Order` of each group of units that some layer reads in groups of M.
        scores: What the orders were chosen by (n, D), moved along; the pattern's mask of them keeps what the orders
            say.
    """

    networks: Collection
    orders: Sequence[dict[str, Order]]
    scores: Float[Tensor, "n d"]

    def __str__(self) -> str:
        lines = [f"{'network':<9}{'units of':<24}{'before':>10}{'kept':>10}{'bound':>10}{'efficacy':>10}"]
        for i, orders in enumerate(self.orders):
            for name, order in orders.items():
                lines.append(
                    f"{i:<9}{name:<24}{order.before:>10.2f}{order.kept:>10.2f}{order.bound:>10.2f}{order.efficacy:>9.1%}"
                )
        return "\n".join(lines)


def reorder(
    networks: Collection,
    pattern: NM = NM(2, 4),
    *,
    scores: Float[Tensor, "n d"] | None = None,
    symmetry: Symmetry | None = None,
    example: Tree | None = None,
    seconds: float = 60.0,
    restarts: int | None = None,
    seed: int = 0,
) -> Reordered:
    """Choose the order of every group of hidden units that keeps the most of magnitudes, or of scores, under N:M.

    All layers that read the same units count together. Groups do not depend on each other, as a permutation changes the
    groups of inputs of the layers that read the units, and of no others. Inputs of the network keep their order.

    Args:
        networks: Networks, dense or under masks, which move along; so do extras and statistics.
        pattern: N:M along the inputs.
        scores: What each kept weight is worth (n, D), not negative, such as `input_scores`; by default its
            magnitude.
        symmetry: Symmetry of the architecture; by default it is traced.
        example: A batch of at least two inputs for tracing, where the architecture does not know its own: a tensor, a
            tuple of all inputs, or a mapping of them by name.
        seconds: Time limit of each search.
        restarts: Number of restarts of each search, as in `find_order`.
        seed: Seed of each search.

    Raises:
        InputError: No example is known, the network has no units that can be reordered, or scores do not fit.
    """
    check_networks(networks)
    check_search(pattern, seconds, restarts, seed)
    checks.given(scores, "scores", checks.tensor, shape=("networks", "parameters"))
    checks.given(symmetry, "symmetry", checks.instance, kinds=Symmetry, wanted="a Symmetry, or None to trace it")
    checks.given(example, "example", check_inputs)
    worth = networks.weights.abs() if scores is None else checked_scores(scores, networks.weights, "these networks")
    if symmetry is None:
        example = networks.architecture.example() if example is None else example
        if example is None:
            raise InputError("the inputs of this network are not known: give example=, a batch of at least two inputs")
        symmetry = trace(networks.architecture.build_seeded(0), example, fix_unknown=True)
    symmetry.layout.require_tensors(networks.layout, "the networks to reorder")
    permutations: list[dict[str, Tensor]] = []
    chosen: list[dict[str, Order]] = []
    for row in progress(worth, f"ordering the units of {len(networks)} networks for {pattern.n}:{pattern.m}"):
        orders = _orders(symmetry, row, pattern, seconds, restarts, seed)
        chosen.append(orders)
        permutations.append(symmetry.identity() | {name: order.columns for name, order in orders.items()})
    if not chosen[0]:
        raise InputError(
            f"{networks.architecture.name} has no hidden units whose order matters for {pattern.n}:{pattern.m}"
        )

    def moved(vectors: Tensor) -> Tensor:
        return torch.stack([symmetry.permute(v, p) for v, p in zip(vectors, permutations, strict=True)])

    buffers = networks.buffers
    rows = [symmetry.permute_buffers({n: b[i] for n, b in buffers.items()}, p) for i, p in enumerate(permutations)]
    changed = networks.replace(
        weights=moved(networks.weights),
        masks=None if networks.dense else moved(networks.masks),
        extras={name: moved(extra) for name, extra in networks.extras.items()},
        buffers={name: torch.stack([row[name] for row in rows]) for name in buffers},
    )
    return Reordered(changed, chosen, moved(worth))


def reorder_module(
    module: nn.Module,
    example: Tree,
    pattern: NM = NM(2, 4),
    *,
    symmetry: Symmetry | None = None,
    seconds: float = 60.0,
    restarts: int | None = None,
    seed: int = 0,
) -> dict[str, Order]:
    """Reorder the hidden units of one module in place, as `reorder` does.

    Args:
        module: Any network that can be traced; the masks of a ticket's module move along.
        example: A batch of at least two inputs: a tensor, a tuple of all inputs, or a mapping of them by name.
        pattern: N:M along the inputs.
        symmetry: Symmetry of the module; by default it is traced.
        seconds: Time limit of each search.
        restarts: Number of restarts of each search, as in `find_order`.
        seed: Seed of each search.

    Returns:
        The order of each group of units.

    Raises:
        InputError: The module cannot be traced.
    """
    check_module(module)
    check_inputs(example, "example")
    check_search(pattern, seconds, restarts, seed)
    checks.given(symmetry, "symmetry", checks.instance, kinds=Symmetry, wanted="a Symmetry, or None to trace it")
    if symmetry is None:
        symmetry = trace(module, example, fix_unknown=True)
    state = {name: tensor.detach() for name, tensor in module.state_dict().items()}
    masks = {name.removesuffix("_mask"): mask for name, mask in module.named_buffers() if name.endswith("_mask")}
    masks = {name: mask for name, mask in masks.items() if name in state}
    orders = _orders(symmetry, symmetry.layout.pack(state).float(), pattern, seconds, restarts, seed)
    permutations = symmetry.identity() | {name: order.columns for name, order in orders.items()}
    for name, mask in symmetry.move(masks, permutations).items():  # before the weights, which they are held to
        module.get_buffer(f"{name}_mask").copy_(mask)
    module.load_state_dict(state | symmetry.move(state, permutations))
    return orders


def _orders(
    symmetry: Symmetry, weights: Float[Tensor, " d"], pattern: NM, seconds: float, restarts: int | None, seed: int
) -> dict[str, Order]:
    tensors = symmetry.layout.tensors(weights)
    orders: dict[str, Order] = {}
    for group in symmetry.groups:
        readers = _readers(symmetry, group, pattern)
        if readers:
            matrix = torch.cat([tensors[name].movedim(1, -1).flatten(0, -2) for name in readers])
            orders[group.name] = find_order(matrix, pattern, seconds=seconds, restarts=restarts, seed=seed)
    return orders


def _readers(symmetry: Symmetry, group: Group, pattern: NM) -> list[str]:
    """Weights whose groups of M inputs are units of this group; none if the group cannot be moved freely."""
    if group.parent is not None or symmetry.children(group.name) or any(axis.within is not None for axis in group.axes):
        return []
    weights = {entry.name: entry.shape for entry in symmetry.layout.weights}
    readers: list[str] = []
    # N:M runs along axis 1, also where that is what a tensor produces (transposed convolutions).
    for axis in group.axes:
        if axis.tensor not in weights or axis.axis != 1:
            continue
        place = symmetry.places[group.name, axis]
        if axis.index is None and weights[axis.tensor][1] == group.size:
            readers.append(axis.tensor)
            continue
        # Units of whole groups can change places without changing what shares a group.
        whole = place.shape[1] % pattern.m == 0 and bool((place[:, 0] % pattern.m == 0).all())
        if not whole or not torch.equal(place, place[:, :1] + torch.arange(place.shape[1])):
            return []
    return readers
