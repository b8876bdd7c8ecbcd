"""A unit alone between two linear layers: adapters of rank one have a canonical form too."""

import torch
from torch import nn

import weightspace as ws
from weightspace import align, symmetry
from weightspace.adapt import LoRA
from weightspace.networks.roles import mark_held


class Lone(nn.Module):
    """Two linear layers with one unit between, and what lies between."""

    def __init__(self, between: nn.Module) -> None:
        super().__init__()
        self.makes, self.between, self.reads = nn.Linear(3, 1, bias=False), between, nn.Linear(1, 2, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.reads(self.between(self.makes(x)))


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4))


X = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))


def test_a_lone_unit_of_an_adapter_can_be_rescaled_where_all_is_linear() -> None:
    (group,) = symmetry.trace(mark_held(Lone(nn.Identity())), X).groups
    assert (group.name, group.size, group.linear) == ("makes", 1, "general")
    symmetry.prove(symmetry.trace(mark_held(Lone(nn.Identity())), X), Lone(nn.Identity()), X)
    assert symmetry.trace(mark_held(Lone(nn.Tanh())), X).groups == ()  # the control: no factor passes a tanh
    assert symmetry.trace(Lone(nn.Identity()), X).groups == ()  # other networks have the groups that they had


def test_adapters_of_rank_one_have_a_canonical_form() -> None:
    base = ws.from_state_dict(linear().state_dict(), linear)
    architecture = LoRA(rank=1).architecture(base)
    weights = torch.randn(3, 7, generator=torch.Generator().manual_seed(1))
    adapters = ws.Collection(architecture.layout(), weights, architecture=architecture)
    found = symmetry.trace(architecture.build_seeded(0), X)
    form = align.canonical(adapters, found)
    outputs = [networks.ensemble().raw(X) for networks in (adapters, form)]
    torch.testing.assert_close(outputs[0], outputs[1])
    a, b = form.weights[:, :3], form.weights[:, 3:]
    torch.testing.assert_close(a.norm(dim=1), b.norm(dim=1))
    other = torch.cat([-5 * adapters.weights[:, :3], adapters.weights[:, 3:] / -5], 1)  # the same functions
    torch.testing.assert_close(align.canonical(adapters.replace(weights=other), found).weights, form.weights)
    assert not torch.allclose(other, adapters.weights)
