"""Masks of tickets on other networks: what one task found, tried on another with another head."""

import torch

from weightspace.errors import LayoutMismatch
from weightspace.masks.patterns import Pattern, check_pattern
from weightspace.masks.schedule import part_of
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.networks.record import Extra


def transfer_masks(tickets: Collection, networks: Collection, pattern: Pattern | None = None) -> Collection:
    """Networks under the masks of tickets, for `train`: the tensors of one name are masked alike, others stay dense.

    `transfer` also takes the tickets' weights to another task; this takes the masks alone, so that networks may differ
    in more than the output layer, and begin where they are.

    Args:
        tickets: Tickets of any task.
        networks: As many networks, as training begins, such as those of `language.pretrained`.
        pattern: Pattern of the tickets; of a selection (`Only`, `Except`) the masks of the selected tensors are taken.
            None takes those of all prunable tensors that both have.

    Raises:
        LayoutMismatch: Numbers differ, a selected tensor is missing or of another shape, or none is shared.
    """
    check_networks(tickets, "tickets")
    check_networks(networks)
    if len(tickets) != len(networks):
        raise LayoutMismatch(
            f"masks go to networks one by one, got {len(tickets)} tickets and {len(networks)} networks"
        )
    source, target = tickets.layout, networks.layout
    part = source if pattern is None else part_of(check_pattern(pattern), source)
    shapes = {entry.name: entry.shape for entry in target.weights}
    shared = [entry for entry in part.weights if shapes.get(entry.name) == entry.shape]
    lost = [entry.name for entry in part.weights if entry not in shared]
    if not shared or (pattern is not None and lost):
        raise LayoutMismatch(
            f"the networks have no prunable {lost[0]} of that shape: select the tensors that both have, with "
            'Only(Unstructured(...), "encoder.*")'
        )
    masks = torch.ones(len(networks), target.size, dtype=torch.bool)
    for entry in shared:
        masks[:, target.slices[entry.name]] = tickets.masks[:, source.slices[entry.name]]
    return networks.replace(weights=networks.weights * masks, masks=masks, extras={Extra.REWIND: networks.weights})
