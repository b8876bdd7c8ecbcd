"""Networks whose own weights are what training begins from."""

import dataclasses

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace import bayes, tickets
from weightspace.errors import InputError
from weightspace.networks.starts import are_starts


def build() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 3))


@pytest.fixture(scope="module")
def task() -> ws.Task:
    base = ws.tasks.iris()
    return ws.Task(
        "iris", ws.Architecture.of(build), base.train, base.validation, base.test, ws.Recipe(ws.Step(iterations=4))
    )


@pytest.fixture(scope="module")
def one() -> ws.Collection:
    module = build()
    module[1].running_mean.fill_(3)
    return ws.from_state_dict(module, build)


def test_one_network_starts_several_tickets(one: ws.Collection, task: ws.Task) -> None:
    three = ws.starts(one[[0] * 3], seed=4)
    assert len({record.seed for record in three.records}) == 3
    assert [record.parent for record in three.records] == [0, 0, 0]
    assert [record.index for record in three.records] == [0, 1, 2]
    assert ws.starts(one).records[0].seed == one.records[0].seed
    assert ws.starts(one.replace(records=None)).records[0].seed >= 0
    found = tickets.IMP(0.5).find(three, task)
    assert torch.equal(found.extras["rewind"], one.weights.expand(3, -1))
    assert len({tuple(row.tolist()) for row in found.weights}) == 3  # each in its own data order


def test_what_was_made_from_a_start_is_none(one: ws.Collection, task: ws.Task) -> None:
    found = tickets.GradualPruning(0.5, length=ws.Step(iterations=3), every=1).find(one, task)
    trained = ws.train(one, task, ws.Step(iterations=1))
    for made in (found, trained):
        with pytest.raises(InputError, match=r"made from a network that began at given weights.*starts\(networks\)"):
            tickets.PruneAtInit(density=0.2).find(made, task)
    again = tickets.IMP(0.2).find(ws.starts(found), task)
    assert not (again.masks & ~found.masks).any()
    assert torch.equal(again.extras["rewind"], found.weights)
    collected = ws.collect(task, 1)
    assert not are_starts(collected)
    with pytest.raises(InputError, match="network 1 is a start and network 0 is not"):
        tickets.PruneAtInit(density=0.2).find(ws.Collection.concatenate([collected, one]), task)
    with pytest.raises(InputError, match=r"or begin at the networks themselves with starts\(networks\)"):
        tickets.IMP(0.2).find(ws.train(collected, task, ws.Step(iterations=1)), task)


def test_rewound_tickets_of_starts_keep_what_no_seed_gives_back(one: ws.Collection, task: ws.Task) -> None:
    found = tickets.IMP(0.5).find(one, task)
    rewound = tickets.TicketControls().rewound(found)
    assert torch.equal(rewound.weights, one.weights * found.masks)
    assert torch.equal(rewound.buffers["1.running_mean"], found.buffers["1.running_mean"])
    fresh = tickets.TicketControls().reinitialised(found)
    assert not fresh.buffers["1.running_mean"].any()


def test_a_factory_that_loads_trained_weights_is_rewound_to_them(task: ws.Task) -> None:
    state = ws.Architecture.of(build).build_seeded(9).state_dict()

    def trained() -> nn.Module:
        module = build()
        module.load_state_dict(state)
        return module

    loaded = ws.Task("iris", ws.Architecture.of(trained), task.train, task.validation, task.test, task.recipe)
    found = tickets.IMP(0.5).find(ws.collect(loaded, 2), loaded)
    assert torch.equal(found.extras["rewind"], _vector(state).expand(2, -1))
    with pytest.raises(InputError, match="same weights whatever the seed"):
        tickets.TicketControls().reinitialised(found)


def test_bayesian_tickets_begin_at_starts(one: ws.Collection, task: ws.Task) -> None:
    search = bayes.BayesianIMP(density=0.5, rate=0.5)
    assert torch.equal(search.start(one, task).weights, one.weights)
    levels = search.find_levels(one, task)
    assert torch.equal(levels[-1].extras["rewind"], one.weights * levels[-1].masks)
    assert levels[-1].records[0].from_start


def _vector(state: dict[str, Tensor]) -> Tensor:
    return ws.Architecture.of(build).layout().pack(state)


def test_networks_of_one_start_begin_there_again(task: ws.Task) -> None:
    networks = ws.collect(task, 2, plan=ws.SharedStart(at=ws.Step()), seed=3)
    begun = ws.starts(networks, shared=True)
    assert are_starts(begun)
    assert begun.weights[0].equal(begun.weights[1])
    still = dataclasses.replace(task, recipe=dataclasses.replace(task.recipe, optimizer=ws.SGD(lr=1e-30)))
    unmoved = ws.collect(still, 2, plan=ws.SharedStart(at=ws.Step()), seed=3)
    torch.testing.assert_close(begun.weights, unmoved.weights, rtol=0, atol=1e-20)
    assert begun.buffers["1.running_mean"].eq(0).all()  # those of an untrained network
    finder = tickets.PruneAtInit(tickets.MagnitudeScore(), pattern=ws.Unstructured(0.5))
    assert finder.find(begun, task).masks.unique(dim=0).shape[0] == 1
    with pytest.warns(UserWarning, match="began at one shared start"):  # masks of initialisations that were not theirs
        assert finder.find(networks, task).masks.unique(dim=0).shape[0] == 2
    with pytest.raises(InputError, match="network 0 did not begin at an untrained shared start"):
        ws.starts(ws.collect(task, 2, seed=3), shared=True)
    trained = ws.collect(task, 2, plan=ws.SharedStart(at=ws.Step(iterations=2)), seed=3)
    with pytest.raises(InputError, match="untrained shared start"):
        ws.starts(trained, shared=True)


def test_different_networks_keep_data_of_their_own() -> None:
    task = ws.tasks.pictures("grey", torch.linspace(0, 1, 4)[:, None, None].repeat(1, 3, 3), recipe=ws.Recipe("1it"))
    networks = ws.collect(task, 4, plan=ws.SharedStart(at=ws.Step()), seed=0)
    assert [record.data for record in ws.starts(networks[2:]).records] == [2, 3]
    assert [record.data for record in ws.starts(networks[[2] * 2], seed=0).records] == [0, 1]  # numbered anew
