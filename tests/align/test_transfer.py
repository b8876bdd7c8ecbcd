"""Masks carried to another initialisation."""

import pytest
import torch

import weightspace as ws
from weightspace.align import (
    ActivationMatching,
    transfer_masks,
)
from weightspace.errors import InputError


def test_masks_are_carried_to_another_initialisation(
    tickets: ws.Collection, dense: ws.Collection, task: ws.Task
) -> None:
    x = task.train.x[:200]
    random = torch.Generator().manual_seed(0)
    symmetry = ActivationMatching().fit(dense, x).symmetry
    p = symmetry.random(random)
    # The target is the parent with its units in another order: the mask has to arrive in that order.
    target = dense[[0]].replace(weights=symmetry.permute(dense.weights[0], p)[None])
    carried = transfer_masks(tickets[[0]], dense[[0]], target, target, x)
    assert torch.equal(carried.masks[0], symmetry.permute(tickets.masks[0], p))
    assert not torch.equal(carried.masks[0], tickets.masks[0])
    assert carried.records[0]["kind"] == "carried mask"
    with pytest.raises(InputError, match="as many"):
        transfer_masks(tickets[:2], dense[[0]], target, target, x)
    with pytest.raises(InputError, match="no masks"):
        transfer_masks(dense[[0]], dense[[0]], target, target, x)
