"""Patterns in some tensors only."""

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.errors import InputError
from weightspace.masks import part_of, steps_to, with_density


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.encoder = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4))
        self.head = nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


LAYOUT = ws.Layout.of(Tied())
SCORES = torch.rand(2, LAYOUT.size, generator=torch.Generator().manual_seed(0))


def kept(mask: torch.Tensor) -> dict[str, int]:
    return {e.name: int(mask[0, LAYOUT.slices[e.name]].sum()) for e in LAYOUT.weights}


def test_only_and_except_name_two_halves() -> None:
    only, but = ws.Only(ws.Unstructured(0.25), "encoder.*"), ws.Except(ws.Unstructured(0.25), "head.*")  # the tied name
    assert torch.equal(only.mask(SCORES, LAYOUT), but.mask(SCORES, LAYOUT))
    counts = kept(only.mask(SCORES, LAYOUT))
    assert counts["embed.weight"] == 20
    assert counts["encoder.0.weight"] + counts["encoder.2.weight"] == 8
    assert only.count(LAYOUT) == sum(counts.values())
    assert part_of(only, LAYOUT).num_prunable == 32
    everything = ws.Only(ws.Unstructured(0.25), "*").mask(SCORES, LAYOUT)
    assert torch.equal(everything, ws.Unstructured(0.25).mask(SCORES, LAYOUT))
    assert not torch.equal(everything, only.mask(SCORES, LAYOUT))


def test_selections_follow_one_another() -> None:
    first = ws.Only(ws.Unstructured(0.5), "embed.*").mask(SCORES, LAYOUT)
    second = ws.Only(ws.NM(2, 4), "encoder.*").mask(SCORES, LAYOUT, within=first)
    assert kept(second) == {"embed.weight": 10, "encoder.0.weight": 8, "encoder.2.weight": 8}
    nested = ws.Except(ws.Only(ws.Unstructured(0.5), "encoder.*"), "encoder.2.*")
    assert kept(nested.mask(SCORES, LAYOUT)) == {"embed.weight": 20, "encoder.0.weight": 8, "encoder.2.weight": 16}


def test_the_way_to_a_selection() -> None:
    goal = ws.Only(ws.ERK(0.25), "encoder.*")
    assert steps_to(goal, 0.5) == [ws.Only(ws.ERK(0.5), "encoder.*"), goal]
    assert with_density(goal, 0.75) == ws.Only(ws.ERK(0.75), "encoder.*")
    with pytest.raises(InputError, match="no density that could fall"):
        with_density(ws.Only(ws.NM(2, 4), "encoder.*"), 0.75)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        (
            ws.Only(ws.NM(2, 4), "encodr.*"),
            "called 'encodr.*': give a name or a glob of these, say: encoder",
        ),
        (ws.Except(ws.NM(2, 4), "encoder.1.*"), "encoder.1.bias, encoder.1.weight, of which none is prunable"),
        (ws.Except(ws.NM(2, 4), "*"), "everything prunable is left out"),
    ],
)
def test_selections_of_nothing_are_refused(pattern: ws.masks.Pattern, message: str) -> None:
    with pytest.raises(InputError) as error:
        pattern.mask(SCORES, LAYOUT)
    assert message in str(error.value)


def test_a_selection_needs_a_pattern_and_names() -> None:
    with pytest.raises(InputError, match="names or globs"):
        ws.Only(ws.NM(2, 4))
