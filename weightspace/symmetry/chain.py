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
    for name, layer in module.named_children():
        if isinstance(layer, nn.Linear):
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
    return Symmetry(layout, tuple(groups))


def prove(symmetry: Symmetry, architecture: Architecture, example: torch.Tensor) -> None:
    """Check numerically, in float64, that permuting every group leaves the function unchanged.

    Raises:
        InputError: the outputs differ; the table is wrong for this module.
    """
    module = architecture.build_seeded(1).double().eval()
    x = example.double()
    vector = symmetry.layout.pack(module.state_dict())
    permutations = symmetry.random(seeds.generator(0, "symmetry proof"))
    with torch.no_grad():
        before = module(x)
        state = symmetry.layout.unpack(symmetry.permute(vector, permutations))
        module.load_state_dict(state, strict=False)
        after = module(x)
    error = ((after - before).abs().max() / before.abs().max()).item()
    if not error < 1e-9:
        raise InputError(
            f"the symmetry does not fit {architecture.name}: permuting its groups changed the output by "
            f"{error:.1e} of its scale. Check each group's axes"
        )


def _refusal(architecture: Architecture, reason: str) -> InputError:
    return InputError(
        f"no symmetry is known for {architecture.name} ({reason}). Write the groups by hand and pass "
        "WeightMatching(symmetry=Symmetry(layout, groups)), or leave the networks unaligned with align=None"
    )
