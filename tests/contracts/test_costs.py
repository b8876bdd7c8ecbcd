"""What holds of every cost of alignment, the library's and a user's own."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import permutations as orders
from pathlib import Path

import pytest
import torch
from torch import Tensor

import weightspace as ws
from tests.fixtures import outputs
from weightspace.align import (
    COSTS,
    Cost,
    FittedMatching,
    PrecisionCost,
    Star,
    WassersteinCost,
    WeightCost,
    WeightMatching,
)
from weightspace.errors import InputError, StorageError
from weightspace.storage.spelling import spelled_text


@COSTS.register("tests.LargeWeights")
@dataclass(frozen=True)
class LargeWeights:
    """A user's own cost: signed squares, so that large weights decide."""

    power: float = 2.0
    fields: tuple[str, ...] = ("weights",)
    rescaled: tuple[str, ...] = ()

    def of_reference(self, fields: Mapping[str, Tensor]) -> Tensor:
        return self.of_network(fields)

    def of_network(self, fields: Mapping[str, Tensor]) -> Tensor:
        weights = fields["weights"]
        return (weights.sign() * weights.abs() ** self.power)[None]


@dataclass(frozen=True)
class Unregistered(LargeWeights):
    """A cost that nobody registered."""


OURS: list[Cost] = [WeightCost(), WassersteinCost(), PrecisionCost(floor=1e-3)]
EVERY: list[Cost] = [*OURS, WeightCost(("weights", "std"), ("std",)), LargeWeights()]
ON_DISK = {
    WeightCost(): {"kind": "Weights", "fields": ["weights"], "rescaled": []},
    WassersteinCost(): {"kind": "Wasserstein", "scale": "std"},
    PrecisionCost(): {"kind": "Precision", "scale": "std", "floor": 0.1},
    LargeWeights(): {"kind": "tests.LargeWeights", "power": 2.0, "fields": ["weights"], "rescaled": []},
}


def posterior(networks: ws.Collection) -> ws.Collection:
    scale = 0.01 + 0.2 * torch.rand(networks.weights.shape, generator=torch.Generator().manual_seed(0))
    return networks.replace(extras={"std": scale * networks.masks})


@pytest.mark.parametrize("cost", EVERY, ids=repr)
def test_functions_stay_and_units_move(tickets: ws.Collection, task: ws.Task, cost: Cost) -> None:
    networks = posterior(tickets)
    aligned = WeightMatching(cost=cost).fit(networks).transform(networks)
    x = task.test.x[:20]
    torch.testing.assert_close(outputs(aligned, x), outputs(networks, x), rtol=1e-4, atol=1e-4)
    assert not torch.equal(aligned.masks, networks.masks)
    assert torch.equal(aligned.extras["std"] == 0, ~aligned.masks)


@pytest.mark.parametrize("cost", EVERY, ids=repr)
def test_the_permutation_found_has_the_largest_gain(cost: Cost) -> None:
    """Of one hidden layer every permutation can be tried."""
    arch = ws.Architecture("MLP", {"sizes": [3, 5, 2]})
    layout = arch.layout()
    weights = torch.randn(2, layout.size, generator=torch.Generator().manual_seed(0))
    networks = posterior(ws.Collection(layout, weights, architecture=arch))
    fitted = WeightMatching(cost=cost, balance=False, population=Star()).fit(networks)
    (group,) = fitted.symmetry.groups
    first, second = ({n: v.double() for n, v in one.items()} for one in fitted.fields(networks))
    target, features = cost.of_reference(first), cost.of_network(second)
    gains: dict[tuple[int, ...], float] = {}
    for order in orders(range(5)):
        moved = [fitted.symmetry.permute(one, {group.name: torch.tensor(order)}) for one in features]
        gains[order] = float((target * torch.stack(moved)).sum())
    matched = fitted.permutations(networks)[1]
    best = tuple(matched.permutations[group.name].tolist())
    assert gains[best] == pytest.approx(max(gains.values()), rel=1e-6)
    assert matched.value == pytest.approx(gains[best], rel=1e-4)
    assert min(gains.values()) < max(gains.values())


@pytest.mark.parametrize("cost", EVERY, ids=repr)
def test_a_matching_is_saved_and_loaded(tickets: ws.Collection, tmp_path: Path, cost: Cost) -> None:
    networks = posterior(tickets)
    fitted = WeightMatching(cost=cost).fit(networks)
    again = FittedMatching.load(fitted.save(tmp_path / "matching"))
    assert again.cost == cost
    assert again.fingerprint() == fitted.fingerprint()
    assert torch.equal(again.transform(networks).weights, fitted.transform(networks).weights)


@pytest.mark.parametrize("cost", EVERY, ids=repr)
def test_a_generator_carries_its_cost(tickets: ws.Collection, tmp_path: Path, cost: Cost) -> None:
    flow = ws.FlowMatching(width=8, blocks=1, steps=5, batch_size=8)
    stages = ws.TicketGenerator(align=WeightMatching(cost=cost), compress=ws.PCA(3), generate=flow)
    fitted = stages.fit(posterior(tickets), folder=tmp_path / "generator")
    loaded = ws.FittedGenerator.load(tmp_path / "generator")
    assert loaded.align is not None
    assert loaded.align.cost == cost
    assert loaded.fingerprint() == fitted.fingerprint()
    assert loaded.sample(2, density=0.2).weights.shape == (2, tickets.layout.size)


@pytest.mark.parametrize("cost", ON_DISK, ids=repr)
def test_what_is_written_has_the_name_of_the_registry(cost: Cost) -> None:
    data = json.loads(json.dumps(COSTS.to_json(cost)))
    assert data == ON_DISK[cost]
    assert list(data) == list(ON_DISK[cost])
    assert COSTS.from_json(data, "a file") == cost
    assert spelled_text(cost).startswith(data["kind"].removeprefix("tests.") + "(")


def test_a_cost_without_a_name_aligns_and_is_not_saved(tickets: ws.Collection, tmp_path: Path) -> None:
    fitted = WeightMatching(cost=Unregistered()).fit(tickets)
    assert len(fitted.transform(tickets)) == len(tickets)
    with pytest.raises(InputError, match=r"Unregistered cannot be saved.*register"):
        fitted.save(tmp_path / "matching")
    assert not (tmp_path / "matching").exists()


def test_a_folder_whose_cost_is_unknown_or_damaged_is_refused(tickets: ws.Collection, tmp_path: Path) -> None:
    WeightMatching(cost=LargeWeights()).fit(tickets).save(tmp_path / "matching")
    path = tmp_path / "matching" / "matching.json"
    text = path.read_text()
    (path.parent / "manifest.json").unlink()  # as in folders of before; with it, the change itself is what is seen
    path.write_text(text.replace("tests.LargeWeights", "tests.Elsewhere"))
    with pytest.raises(StorageError, match="'tests.Elsewhere' that is not registered"):
        FittedMatching.load(tmp_path / "matching")
    path.write_text(text.replace('"power": 2.0', '"power": "two"'))
    with pytest.raises(StorageError, match="damaged"):
        FittedMatching.load(tmp_path / "matching")
    with pytest.raises(StorageError, match=r"no matching\.json"):
        FittedMatching.load(tmp_path)


@pytest.mark.parametrize("cost", OURS[1:], ids=repr)
def test_standard_deviations_are_checked(tickets: ws.Collection, cost: Cost) -> None:
    networks = posterior(tickets)
    with pytest.raises(InputError, match="negative values"):
        WeightMatching(cost=cost).fit(networks.replace(extras={"std": -networks.extras["std"]}))
    with pytest.raises(InputError, match="no extra 'std'"):
        WeightMatching(cost=cost).fit(tickets)
    assert WeightMatching(cost=cost).fit(networks).reference.keys() == {"weights", "std"}
