"""A pruner in a loop of one's own: the cubic curve, every pattern, exact zeros, resuming."""

import copy
import io
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import weightspace as ws
from weightspace.errors import InputError
from weightspace.networks.layout import Layout
from weightspace.tickets import GradualSchedule, Pruner

X = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
Y = torch.arange(32) % 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def train(module: nn.Module, optimizer: torch.optim.Optimizer, pruner: Pruner | None, steps: int) -> list[float]:
    densities: list[float] = []
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(module(X), Y).backward()
        optimizer.step()
        if pruner is not None:
            pruner.step()
            densities.append(pruner.density)
    return densities


def nonzero(module: nn.Module) -> int:
    return sum(int((p != 0).sum()) for p in module.parameters() if p.ndim > 1)


def test_the_density_follows_the_cubic_curve_and_ends_exactly() -> None:
    module, prunable = network(), 8 * 16 + 16 * 4
    schedule = GradualSchedule(ws.Unstructured(0.1), start=2, end=12, every=2)
    pruner = Pruner(module, schedule, optimizer=(optimizer := torch.optim.Adam(module.parameters(), 0.01)))
    densities = train(module, optimizer, pruner, 14)
    curve = [0.1 + 0.9 * (1 - (max(0, min(t, 12) - 2) // 2 * 2) / 10) ** 3 for t in range(1, 15)]
    assert densities == pytest.approx([round(d * prunable) / prunable for d in curve], abs=1e-9)
    assert nonzero(module) == round(0.1 * prunable)
    assert pruner.finished
    for name, mask in pruner.masks.items():
        state = optimizer.state[dict(module.named_parameters())[name]]
        assert not state["exp_avg"][~mask].any()
        assert not state["exp_avg_sq"][~mask].any()


def test_without_the_pruner_nothing_is_zero() -> None:  # the control
    module = network()
    train(module, torch.optim.Adam(module.parameters(), 0.01), None, 14)
    assert nonzero(module) == 8 * 16 + 16 * 4


@pytest.mark.parametrize(
    "pattern",
    [ws.NM(2, 4), ws.ERK(0.2), ws.Balanced(0.3), ws.Channels(0.5), ws.LayerRates(3), ws.Unstructured(0.2, "layer")],
)
def test_every_pattern_is_reached_step_by_step(pattern) -> None:
    module = network()
    pruner = Pruner(module, GradualSchedule(pattern, end=8, every=1))
    masks: list[Tensor] = []
    optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
    for _ in range(10):
        train(module, optimizer, pruner, 1)
        masks.append(torch.cat([mask.flatten() for mask in pruner.masks.values()]))
    assert all(not (after & ~before).any() for before, after in itertools.pairwise(masks))
    assert len({int(mask.sum()) for mask in masks}) > (2 if pattern != ws.NM(2, 4) else 1)
    layout = Layout.of(module)
    weights = layout.pack(module.state_dict())
    assert torch.equal(
        pattern.mask(weights.abs()[None], layout)[0] & (weights != 0), weights != 0
    )  # it fits the pattern
    assert (weights[layout.prunable] == 0).any()


def test_pruning_goes_on_after_an_interruption_to_the_same_bytes() -> None:
    def run(stop: int | None) -> dict[str, Tensor]:
        module = network()
        optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
        pruner = Pruner(module, GradualSchedule(ws.Unstructured(0.2), end=9, every=2), optimizer=optimizer)
        train(module, optimizer, pruner, stop or 12)
        if stop is not None:
            file = io.BytesIO()
            torch.save({"m": module.state_dict(), "o": optimizer.state_dict(), "p": pruner.state_dict()}, file)
            file.seek(0)
            saved = torch.load(file, weights_only=True)
            module = network()
            module.load_state_dict(saved["m"])
            optimizer = torch.optim.SGD(module.parameters(), 0.05, momentum=0.9)
            optimizer.load_state_dict(saved["o"])
            pruner = Pruner(module, pruner.schedule, optimizer=optimizer)
            pruner.load_state_dict(saved["p"])
            train(module, optimizer, pruner, 12 - stop)
        return module.state_dict()

    whole, halves = run(None), run(5)
    assert all(torch.equal(whole[name], halves[name]) for name in whole)


def test_masks_are_found_again_from_zeros() -> None:
    module = network()
    schedule = GradualSchedule(ws.Unstructured(0.2), end=9, every=2)
    pruner = Pruner(module, schedule)
    train(module, torch.optim.SGD(module.parameters(), 0.05), pruner, 5)
    again = network()
    again.load_state_dict(module.state_dict())
    resumed = Pruner(again, schedule, iterations=5)
    assert resumed.masks.keys() == pruner.masks.keys()
    assert all(torch.equal(mask, resumed.masks[name]) for name, mask in pruner.masks.items())
    with pytest.raises(InputError, match="same schedule"):
        Pruner(network(), GradualSchedule(ws.Unstructured(0.3), end=9)).load_state_dict(pruner.state_dict())


def test_averages_follow_the_masks() -> None:
    module = network()
    optimizer = torch.optim.SGD(module.parameters(), 0.05)
    pruner = Pruner(module, GradualSchedule(ws.Unstructured(0.2), end=6, every=1))
    averaged = AveragedModel(module)
    for _ in range(8):
        train(module, optimizer, pruner, 1)
        averaged.update_parameters(module)
    averaged(X)
    assert nonzero(averaged) == nonzero(module) == round(0.2 * 192)
    other = network()
    pruner.apply(other)
    assert nonzero(other) == round(0.2 * 192)


def test_the_result_is_a_collection(tmp_path) -> None:
    module = network()
    pruner = Pruner(module, GradualSchedule(ws.NM(2, 4), end=4, every=1))
    train(module, torch.optim.SGD(module.parameters(), 0.05), pruner, 5)
    for tickets in (pruner.collection(), pruner.collection(network)):
        assert torch.equal(tickets[0].module()(X), module(X))
        assert tickets[0].density == pruner.density == 0.5
    tickets.save(tmp_path / "c")
    again = ws.Collection.load(tmp_path / "c", factory=network)
    assert torch.equal(again.masks, tickets.masks)
    further = Pruner(again.module(0), GradualSchedule(ws.Unstructured(0.3), end=1))  # a ticket's own masks stay
    assert further.density == 0.5
    further.step()
    assert further.density == pytest.approx(0.3, abs=1 / 192)
    assert all((mask <= pruner.masks[name]).all() for name, mask in further.masks.items())
    with pytest.raises(InputError, match="lower density"):
        Pruner(again.module(0), GradualSchedule(ws.Unstructured(0.6)))


def test_schedules_that_cannot_be_followed_are_refused() -> None:
    for wrong in ({"start": 5, "end": 5}, {"every": 0}, {"start": -1}):
        with pytest.raises(InputError, match="schedule removes|must be a whole number of at least"):
            GradualSchedule(**wrong)
    with pytest.raises(InputError, match="prune"):
        Pruner(nn.BatchNorm1d(3), GradualSchedule())


def test_a_copy_of_a_pruned_module_stays_sparse() -> None:
    module = network()
    pruner = Pruner(module, GradualSchedule(ws.Unstructured(0.2), end=1))
    pruner.step()
    copied = copy.deepcopy(module)
    train(copied, torch.optim.Adam(copied.parameters(), 0.1), None, 3)
    assert nonzero(copied) == round(0.2 * 192)
