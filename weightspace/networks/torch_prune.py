"""Tickets as `torch.nn.utils.prune` has them."""

from collections import defaultdict

from torch import nn
from torch.nn.utils import prune

from weightspace.errors import InputError
from weightspace.networks.layout import Layout
from weightspace.networks.network import Network
from weightspace.runtime import checks


def to_torch_prune(network: Network) -> nn.Module:
    """A module whose masks are those of `torch.nn.utils.prune`: `weight_orig` and `weight_mask`, and hooks.

    It is for code that knows such modules (`prune.is_pruned`, `prune.remove`, `prune.global_unstructured` on top).
    `network.module()` keeps plain parameters and masks them, which is what weightspace's own tools take. The way back
    is `from_state_dict(module, factory)`, which keeps these masks.

    Args:
        network: One network of a collection, such as `tickets[0]`; a dense one has no masks.

    Raises:
        InputError: It is no network of a collection.
    """
    checks.instance(network, "network", Network, "one network of a collection, such as tickets[0]")
    module = network.architecture.build_seeded(0)
    network.layout.require_tensors(Layout.of(module), f"the network built by {network.architecture.name}")
    module.load_state_dict(network.state_dict())
    masks = network.layout.unpack(network.mask)
    owners: dict[int, list[tuple[nn.Module, str]]] = defaultdict(list)  # layers that share a parameter
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            owners[id(parameter)].append((layer, name))
    parameters = dict(module.named_parameters())
    for entry in network.layout.parameters:
        mask = masks[entry.name]
        if mask.all():
            continue
        for layer, name in owners[id(parameters[entry.name])]:
            if hasattr(layer, f"{name}_orig"):
                raise InputError(
                    f"{entry.name} has masks of torch.nn.utils.prune already: give a factory that does not prune"
                )
            prune.custom_from_mask(layer, name, mask)
    return module
