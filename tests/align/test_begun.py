"""What version 0.1 began goes on without signs and gates, to its bytes; what is new uses them, and says so."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.align.begun import KINDS, as_begun, begun_with, kinds_of
from weightspace.align.signs import without_signs
from weightspace.storage.runs import open_run, read_config
from weightspace.symmetry import trace
from weightspace.symmetry.gated import without_gates


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 8), nn.GLU(), nn.Linear(4, 2))


@pytest.fixture(scope="module")
def networks() -> ws.Collection:
    torch.manual_seed(0)
    layout = ws.Layout.of(build())
    weights = torch.stack([layout.pack(build().state_dict()) for _ in range(6)])
    return ws.Collection(layout, weights, architecture=ws.Architecture.of(build))


EXAMPLE = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))


def test_the_kinds_that_are_new() -> None:
    symmetry = trace(build(), EXAMPLE)
    assert kinds_of(symmetry) == ["sign", "gate"]
    old = without_signs(without_gates(symmetry))
    assert kinds_of(old) == []
    # The table that version 0.1 found: both halves of the gated layer on one side.
    gated = old.by_name["2"]
    assert [axis.index for axis in gated.incoming] == [(0, 4, 1, 5, 2, 6, 3, 7)] * 2
    assert not gated.following
    assert kinds_of(trace(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), EXAMPLE)) == []


@pytest.mark.parametrize("begun", [False, True])
def test_a_generator_that_was_begun_goes_on_as_it_was(networks: ws.Collection, begun: bool, tmp_path: Path) -> None:
    stage = ws.TicketGenerator(ws.WeightMatching(), ws.PCA(2), ws.FlowMatching(width=4, blocks=1, steps=2))
    symmetry = trace(build(), EXAMPLE)
    folder = tmp_path / "run"
    if begun:  # as version 0.1 leaves it when it is killed
        with (
            pytest.raises(KeyboardInterrupt),
            open_run(folder, "fit", stage._config(0, None), {"tickets": networks.fingerprint()}),
        ):
            raise KeyboardInterrupt
    assert begun_with(folder) == ([] if begun else None)
    fitted = stage.fit(networks, example=EXAMPLE, folder=folder, device="cpu")
    used = without_signs(without_gates(symmetry)) if begun else symmetry
    alone = replace(stage, align=ws.WeightMatching(used)).fit(networks, example=EXAMPLE, device="cpu")
    assert fitted.align is not None
    assert alone.align is not None
    assert fitted.align.symmetry == used
    assert torch.equal(fitted.align.reference["weights"], alone.align.reference["weights"])
    config = read_config(folder)["config"]["align"]
    assert config.get(KINDS) == (None if begun else ["sign", "gate"])
    again = stage.fit(networks, example=EXAMPLE, folder=folder, device="cpu")
    assert again.fingerprint() == fitted.fingerprint()


def test_a_symmetry_by_hand_and_networks_without_new_kinds_stay_as_they_are(
    networks: ws.Collection, tmp_path: Path
) -> None:
    by_hand = ws.WeightMatching(trace(build(), EXAMPLE))
    assert as_begun(by_hand, networks, EXAMPLE, tmp_path) == (by_hand, [])
    plain = ws.Architecture("MLP", {"sizes": [4, 3, 2]})
    layout = plain.layout()
    zoo = ws.Collection(layout, torch.zeros(3, layout.size), architecture=plain)
    assert as_begun(ws.WeightMatching(), zoo, EXAMPLE, tmp_path)[1] == []
