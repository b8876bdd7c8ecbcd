"""Carry a ticket's mask to another initialisation (Adnan et al., ICML 2025, arXiv 2505.05143)."""

from dataclasses import replace

from torch import Tensor

from weightspace.align.activation_matching import ActivationMatching
from weightspace.errors import InputError
from weightspace.networks.arguments import check_inputs, check_networks
from weightspace.networks.collection import Collection
from weightspace.runtime import devices
from weightspace.runtime.trees import Tree


def transfer_masks(
    tickets: Collection,
    parents: Collection,
    targets: Collection,
    starts: Collection,
    x: Tree,
    *,
    matching: ActivationMatching = ActivationMatching(),
    device: str = "auto",
) -> Collection:
    """Other networks under the masks of tickets, permuted to fit them.

    Ticket i was found in the dense network parents[i]. That parent is matched to targets[i], a dense network trained
    from another initialisation, and the ticket's mask goes along. The result is to be trained: `weightspace.train`. A
    mask that is not permuted (the naive one) does worse. Source: Adnan et al. 2025, arXiv 2505.05143.

    Args:
        tickets: The sparse networks whose masks are carried.
        parents: The trained dense networks in which the tickets were found.
        targets: The trained dense networks whose basins the masks are carried to.
        starts: Early checkpoints of the targets ("rewind points"), from which training will start.
        x: Inputs of the training split, on which activations are compared: a tensor, a tuple of all inputs, or a
            mapping of them by name.
        matching: Settings of the matching; its reference is not used.
        device: Device to compute activations on: "cpu", "cuda", or "auto", which is CUDA where there is a card.

    Returns:
        The starts under the carried masks; their records name both sides.

    Raises:
        InputError: The collections differ in number, the tickets are dense, or the device is not available.
        LayoutMismatch: The collections differ in layout.
    """
    named = {"tickets": tickets, "parents": parents, "targets": targets, "starts": starts}
    for name, networks in named.items():
        check_networks(networks, name)
    check_inputs(x)
    if not isinstance(matching, ActivationMatching):
        raise InputError(
            f"masks are carried by activations: give matching=ActivationMatching(), got a {type(matching).__name__}"
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
    device = devices.pick(device)
    carried: list[Collection] = []
    for i in range(len(tickets)):
        fitted = replace(matching, reference=0).fit(targets[[i]], x)
        order = fitted.match(parents[i], device=device)
        mask: Tensor = fitted.symmetry.permute(tickets[i].mask, order)[None]
        start = starts[[i]]
        record = start.records[0] | {"kind": "carried mask", "mask of": tickets.records[i], "permuted": True}
        carried.append(start.replace(weights=start.weights * mask, masks=mask, records=[record]))
    return Collection.concatenate(carried)
