"""Give tied tensors a copy each."""

import torch
from torch import nn

from weightspace.errors import InputError
from weightspace.networks.architecture import Architecture
from weightspace.networks.arguments import check_networks
from weightspace.networks.collection import Collection
from weightspace.runtime import checks


def untie(networks: Collection, name: str) -> Collection:
    """The same functions with a tied tensor untied: its other name gets a copy of its own.

    Args:
        networks: Networks of a factory, or built in.
        name: Either name of the tied tensor, such as "decoder.weight".

    Raises:
        InputError: No tensor of this name is tied.
    """
    layout = check_networks(networks).layout
    checks.text(name, "name", "decoder.weight")
    pairs = [(alias, own) for alias, own in layout.aliases if name in (alias, own)]
    if not pairs:
        tied = ", ".join(alias for alias, _ in layout.aliases) or "none"
        raise InputError(f"name must be that of a tied tensor of the network ({tied}), got {name!r:.80}")
    before = networks.architecture

    def factory() -> nn.Module:
        module = before.build()
        for alias, _ in pairs:
            place, _, own = alias.rpartition(".")
            layer = module.get_submodule(place)
            copied = nn.Parameter(getattr(layer, own).detach().clone())
            setattr(layer, own, copied)
        return module

    architecture = Architecture.of(factory)
    untied = architecture.layout()
    states = layout.unpack(networks.weights)
    return Collection(
        untied,
        torch.cat([states[entry.name].flatten(1) for entry in untied.parameters], 1),
        architecture=architecture,
        buffers=networks.buffers,
        records=networks.records,
    )
