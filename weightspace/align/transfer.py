"""Carry a ticket's mask to another initialisation (Adnan et al., ICML 2025, arXiv 2505.05143)."""

from dataclasses import replace

from torch import Tensor

from weightspace.align.activation_matching import ActivationMatching
from weightspace.errors import InputError
from weightspace.networks.collection import Collection


def transfer_masks(
    tickets: Collection, parents: Collection, targets: Collection, starts: Collection, *, matching: ActivationMatching
) -> Collection:
    """Other networks under the masks of tickets, permuted to fit them.

    Ticket i was found in the dense network parents[i]; that parent is matched to targets[i], a dense
    network trained from another initialisation, and the ticket's mask goes along. The result is to be
    trained: `weightspace.train`. A mask that is not permuted (the naive one) does worse.

    Args:
        tickets: give the masks.
        parents: the trained dense networks in which they were found.
        targets: the trained dense networks whose basins the masks are carried to.
        starts: where training will start: early checkpoints of the targets ("rewind points").
        matching: gives the inputs on which activations are compared.

    Returns:
        The starts under the carried masks; their records name both sides.

    Raises:
        InputError: the collections differ in number, or the tickets are dense.
        LayoutMismatch: they differ in layout.
    """
    if not isinstance(matching, ActivationMatching):
        raise InputError(
            f"masks are carried by activations: give ActivationMatching(x), got a {type(matching).__name__}"
        )
    if tickets.dense:
        raise InputError("the tickets have no masks: give sparse networks")
    if not len(tickets) == len(parents) == len(targets) == len(starts):
        raise InputError(
            f"transfer needs as many tickets as parents, targets and starts, got {len(tickets)}, {len(parents)}, "
            f"{len(targets)} and {len(starts)}"
        )
    for name, other in (("parents", parents), ("targets", targets), ("starts", starts)):
        tickets.layout.require(other.layout, f"the collection of {name}")
    made: list[Collection] = []
    for i in range(len(tickets)):
        fitted = replace(matching, reference=0).fit(targets[[i]])
        order = fitted.match(parents[i])
        mask: Tensor = fitted.symmetry.permute(tickets[i].mask, order)[None]
        start = starts[[i]]
        record = start.records[0] | {"kind": "carried mask", "mask of": tickets.records[i], "permuted": True}
        made.append(start.replace(weights=start.weights * mask, masks=mask, records=[record]))
    return Collection.concatenate(made)
