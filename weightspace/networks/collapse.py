"""Layers that have lost all their weights, so that nothing passes through them."""

import warnings
from collections import Counter

from weightspace.networks.collection import Collection
from weightspace.networks.forward import at_once, blocks
from weightspace.runtime import checks

_BLOCK = 64  # networks whose masks are read at once


def lost_layers(networks: Collection) -> list[list[str]]:
    """For each network, the weight tensors of which nothing is left.

    Args:
        networks: Networks with masks.
    """
    layout = checks.instance(networks, "networks", Collection, "a Collection of networks").layout
    weights = [entry.name for entry in layout.weights]
    return [
        [name for name in weights if not mask[layout.slices[name]].any()]
        for rows in blocks(len(networks), at_once(_BLOCK, layout.size))
        for mask in networks[rows].masks
    ]


REMEDY = 'ask for a higher density, or for one of each layer, such as Unstructured(..., scope="layer")'


def warn_of_lost_layers(networks: Collection, remedy: str = REMEDY) -> Collection:
    """Say how many networks have lost all weights of which layer, and return the networks.

    Args:
        networks: Networks with masks.
        remedy: What to do about it.
    """
    if networks.dense:
        return networks
    lost = Counter(name for names in lost_layers(networks) for name in names)
    if lost:
        which = "; ".join(f"{count} of {len(networks)} networks lost all weights of {n!r}" for n, count in lost.items())
        warnings.warn(f"{which}: {remedy}", stacklevel=3)
    return networks
