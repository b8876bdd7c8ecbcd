"""Derive the symmetry of a chain of linear layers, and prove it.

Any other module needs a symmetry written by hand: `WeightMatching(symmetry=...)`.
"""

import torch
from torch import nn

from weightspace import seeds
from weightspace.architecture import Architecture
from weightspace.errors import InputError
from weightspace.layout import Layout
from weightspace.symmetry.spec import Axis, Group, Symmetry

_HOMOGENEOUS = (nn.ReLU, nn.LeakyReLU, nn.Identity, nn.Dropout)
_ELEMENTWISE = (*_HOMOGENEOUS, nn.Tanh, nn.Sigmoid, nn.GELU, nn.SiLU, nn.ELU, nn.Softplus)


def derive(architecture: Architecture) -> Symmetry:
    """The symmetry of an `nn.Sequential` of linear layers and elementwise activations.

    Raises:
        InputError: the module is of another kind; write its symmetry by hand.
    """
    module = architecture.build_seeded(0)
    layout = Layout.of(module)
    if type(module).forward is not nn.Sequential.forward:
        raise _refusal(architecture, f"{type(module).__name__} is not an nn.Sequential")
    groups: list[Group] = []
    producer: tuple[str, nn.Linear] | None = None
    homogeneous = True
    # Not named_children(): it leaves out layers that are used twice.
    for name, layer in module._modules.items():
        if isinstance(layer, nn.Linear):
            if any(layer is other for key, other in module._modules.items() if key != name):
                raise _refusal(architecture, f"layer {name!r} is used twice")
            if producer is not None:
                before, source = producer
                incoming = (
                    Axis(f"{before}.weight", 0),
                    *((Axis(f"{before}.bias", 0),) if source.bias is not None else ()),
                )
                group = Group(
                    f"units {len(groups)}", layer.in_features, incoming, (Axis(f"{name}.weight", 1),), homogeneous
                )
                groups.append(group)
            producer, homogeneous = (name, layer), True
        elif isinstance(layer, _ELEMENTWISE):
            homogeneous = homogeneous and isinstance(layer, _HOMOGENEOUS)
        elif not (isinstance(layer, nn.Flatten) and producer is None):
            raise _refusal(architecture, f"layer {name!r} is a {type(layer).__name__}")
    if producer is None:
        raise _refusal(architecture, "it has no linear layer")
    symmetry = Symmetry(layout, tuple(groups))
    features = next(layer.in_features for layer in module._modules.values() if isinstance(layer, nn.Linear))
    prove(symmetry, architecture, torch.randn(16, features, generator=seeds.generator(0, "proof inputs")))
    return symmetry


def prove(symmetry: Symmetry, architecture: Architecture, example: torch.Tensor) -> None:
    """Check numerically, in float64, that permuting every group, and scaling the homogeneous ones, leaves the
    function unchanged.

    Args:
        symmetry: the table to check.
        architecture: of the module it is for.
        example: a batch of inputs.

    Raises:
        InputError: the outputs differ; the table is wrong for this module.
    """
    module = architecture.build_seeded(0).double().eval()
    random = seeds.generator(0, "symmetry proof")
    # Fresh networks hide mistakes (biases of zero, norms of one), so everything is drawn anew.
    vector = torch.randn(symmetry.layout.size, dtype=torch.float64, generator=random)
    buffers = {
        b.name: torch.rand(b.shape, dtype=torch.float64, generator=random) + 0.5 if b.shape else torch.zeros(())
        for b in symmetry.layout.buffers
    }
    permutations = symmetry.random(random)
    scales = {
        g.name: torch.rand(g.size, dtype=torch.float64, generator=random) + 0.5
        for g in symmetry.groups
        if g.homogeneous
    }
    moved = symmetry.permute(symmetry.scale(vector, scales), permutations)
    moved_buffers = symmetry.permute_buffers(buffers, permutations)
    outputs: list[torch.Tensor] = []
    for weights, statistics in ((vector, buffers), (moved, moved_buffers)):
        module.load_state_dict(symmetry.layout.unpack(weights) | statistics)
        with torch.no_grad():
            outputs.append(module(example.double()))
    error = ((outputs[1] - outputs[0]).abs().max() / outputs[0].abs().max()).item()
    if not error < 1e-9:
        raise InputError(
            f"the symmetry does not fit {architecture.name}: permuting (and scaling) its groups changed the output by "
            f"{error:.1e} of its scale. Check each group's axes, and which groups are homogeneous"
        )


def _refusal(architecture: Architecture, reason: str) -> InputError:
    return InputError(
        f"no symmetry is known for {architecture.name} ({reason}). Write the groups by hand and pass "
        "WeightMatching(symmetry=Symmetry(layout, groups)), or leave the networks unaligned with align=None"
    )
