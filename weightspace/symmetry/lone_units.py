"""One unit alone between two linear layers, as in an adapter of rank one: it cannot be reordered, only rescaled."""

from dataclasses import replace

from torch import nn

from weightspace.symmetry.spec import Axis, Group, Symmetry


def with_lone_units(module: nn.Module, symmetry: Symmetry) -> Symmetry:
    """The symmetry with a group for each unit that may stand alone between two linear layers of one part of a network.

    Nothing is traced: what these groups claim is to be tried, as all factors are.

    Args:
        module: The network.
        symmetry: Its symmetry, in which no single unit moves, as there is nothing to exchange it with.
    """
    taken = {axis.tensor for group in symmetry.groups for axis in group.axes}
    found: list[Group] = []
    for prefix, part in module.named_modules():
        layers = [
            (f"{prefix}.{name}" if prefix else name, layer)
            for name, layer in part.named_children()
            if type(layer) is nn.Linear and layer.bias is None and f"{prefix}.{name}.weight" not in taken
        ]
        makes = [name for name, layer in layers if layer.out_features == 1]
        reads = [name for name, layer in layers if layer.in_features == 1]
        if len(makes) == len(reads) == 1 and makes != reads:
            to, by = Axis(f"{makes[0]}.weight", 0), Axis(f"{reads[0]}.weight", 1)
            group = Group(makes[0], 1, (to,), (by,), homogeneous=True, odd=True, linear="general", dual=(by,))
            found.append(group)
    return replace(symmetry, groups=(*symmetry.groups, *found))


def without_idle_units(symmetry: Symmetry) -> Symmetry:
    """The symmetry without single units that cannot be rescaled after all.

    Args:
        symmetry: The symmetry, its factors tried.
    """
    return replace(symmetry, groups=tuple(group for group in symmetry.groups if group.size > 1 or group.linear))
