"""Layers that have lost all their weights are named, with the number of networks."""

import warnings

import pytest
import torch

import weightspace as ws
from weightspace.networks.collapse import lost_layers, warn_of_lost_layers


def test_lost_layers_are_named_and_counted_and_others_are_not() -> None:
    architecture = ws.Architecture("MLP", {"sizes": [3, 2, 2]})
    layout = architecture.layout()
    masks = torch.ones(70, layout.size, dtype=torch.bool)
    name = layout.weights[1].name
    for i in (3, 69):
        masks[i, layout.slices[name]] = False
    masks[5, layout.slices[layout.weights[0].name].start] = False  # a weight is no layer
    networks = ws.Collection(layout, masks.float(), architecture=architecture, masks=masks)
    assert [i for i, names in enumerate(lost_layers(networks)) if names] == [3, 69]
    with pytest.warns(UserWarning, match=rf"2 of 70 networks lost all weights of '{name}': prune less"):
        warn_of_lost_layers(networks, "prune less")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_lost_layers(networks[:3], "prune less")
