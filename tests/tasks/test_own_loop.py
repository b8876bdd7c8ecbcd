"""Loops of a user's own: trained in place under masks, by every finder that makes sense, resumed."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import weightspace as ws
from weightspace.errors import InputError
from weightspace.networks.sparse_module import masked_tensors

X = torch.randn(48, 6, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long() + (X[:, 1] > 0).long()


def network() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 10), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, 3))


class Loop:
    """A loop with momentum, weight decay and noise that counts its calls and can be killed."""

    def __init__(self, fail_at: int | None = None) -> None:
        self.calls: list[dict[str, Any]] = []
        self.fail_at = fail_at

    def __call__(self, module: nn.Module, seed: int, part: int, epochs: int, lr_factor: float = 1.0) -> None:
        if len(self.calls) == self.fail_at:
            raise KeyboardInterrupt
        density = sum(int(h.mask(o).sum()) for o, h in masked_tensors(module)) / 90
        self.calls.append({"seed": seed, "part": part, "density": density, "lr_factor": lr_factor})
        optimizer = torch.optim.SGD(module.parameters(), 0.1 * lr_factor, momentum=0.9, weight_decay=1e-3)
        for _ in range(epochs):
            for rows in torch.randperm(len(X)).split(16):
                optimizer.zero_grad()
                F.cross_entropy(module(X[rows]), Y[rows]).backward()
                optimizer.step()
                with torch.no_grad():
                    for p in module.parameters():
                        p.add_(torch.randn_like(p), alpha=1e-3)


def evaluate(module: nn.Module) -> dict[str, Any]:
    assert not module.training
    with torch.no_grad():
        outputs = module(X)
    return {"accuracy": (outputs.argmax(-1) == Y).double().mean(), "nll": F.cross_entropy(outputs, Y).item()}


def task(loop: Loop | None = None, parts: int = 1, **changes: Any) -> ws.Task:
    arguments = {"train": loop or Loop(), "evaluate": evaluate, "budget": {"epochs": 2}} | changes
    return ws.tasks.from_loop("mine", network, parts=parts, lower_is_better=["nll"], **arguments)


@pytest.fixture(scope="module")
def collected() -> ws.Collection:
    return ws.collect(task(), 2, seed=3)


def test_networks_are_trained_by_the_loop_and_measured_by_its_own_figures(collected: ws.Collection) -> None:
    again = ws.collect(task(), 2, seed=3)
    assert torch.equal(again.weights, collected.weights)  # PyTorch's random numbers follow the seed
    assert not torch.equal(collected.weights[0], collected.weights[1])
    untrained = task().figures(network())
    for record, own in zip(collected.records, task().measured(collected), strict=True):
        assert record["metrics"] == {f"validation_{name}": value for name, value in own.items()}
        assert record["metrics"]["validation_nll"] < untrained["nll"]
        assert record["recipe"] == {"length": "1it", "loop": {"epochs": 2}}
    assert [(m.name, m.higher_is_better) for m in task().scores] == [("accuracy", True), ("nll", False)]


@pytest.mark.parametrize("pattern", [None, ws.NM(2, 4)])
def test_imp_prunes_level_by_level_from_the_start(collected: ws.Collection, pattern: Any) -> None:
    loop = Loop()
    finder = ws.tickets.IMP(0.3, rate=0.5, pattern=pattern)
    tickets = finder.find(collected, task(loop))
    layout = collected.layout
    assert torch.equal(tickets.weights != 0, (tickets.weights != 0) & tickets.masks)  # momentum, decay, noise: zero
    if pattern is None:
        assert [round(call["density"], 2) for call in loop.calls[:2]] == [0.5, 0.3]
        assert int(tickets.masks[:, layout.prunable].sum()) == 2 * round(0.3 * layout.num_prunable)
    start = torch.stack(
        [layout.pack(collected.architecture.build_seeded(r.seed).state_dict()) for r in collected.records]
    )
    assert torch.equal(tickets.extras["rewind"], start)
    assert "validation_accuracy" in tickets.records[0]["metrics"]


def test_fine_tuning_one_shot_and_controls(collected: ws.Collection) -> None:
    loop = Loop()
    ws.tickets.IMP(0.3, rate=0.5, after_pruning="fine_tune").find(collected[:1], task(loop))
    assert [call["lr_factor"] for call in loop.calls] == [0.1, 0.1]
    oneshot = ws.tickets.IMP(0.3, rate=0.9, after_pruning="lr_rewind").find(collected[:1], task(loop))
    assert [call["lr_factor"] for call in loop.calls[2:]] == [1.0]
    random = ws.tickets.PruneAtInit(ws.tickets.RandomScore(), pattern=ws.ERK(0.3)).find(collected, task())
    control = ws.train(ws.tickets.TicketControls(seed=0).rewound(random), task(), "2it")
    for tickets in (oneshot, random, control):
        assert not tickets.weights[~tickets.masks].any()
        assert tickets.densities.tolist() == pytest.approx([0.3] * len(tickets), abs=0.01)


def test_parts_can_be_rewound_to_and_pruned_between(collected: ws.Collection) -> None:
    loop = Loop()
    divided = task(loop, parts=3)
    networks = ws.collect(divided, 1)
    assert [call["part"] for call in loop.calls] == [0, 1, 2]
    assert len({call["seed"] for call in loop.calls}) == 3
    tickets = ws.tickets.IMP(0.3, rate=0.7, rewind=ws.Step(0, 1)).find(networks, divided)
    assert [call["part"] for call in loop.calls[3:]] == [0, 1, 2]
    early = ws.collect(task(parts=3), 1, plan=ws.Trajectory(ws.Step(0, 1)))[:1]
    assert torch.equal(tickets.extras["rewind"], early.weights)
    gradual = ws.tickets.GradualPruning(0.3, length=ws.Step(0, 4), ramp=0.5, every=1).find(networks, divided)
    assert not gradual.weights[~gradual.masks].any()
    with pytest.raises(InputError, match="before the last"):
        ws.tickets.IMP(0.3, rewind=ws.Step(0, 1)).find(collected, task())


def test_what_needs_samples_refuses_by_name_and_says_what_works(collected: ws.Collection) -> None:
    tickets = ws.tickets
    finders = [
        *(tickets.PruneAtInit(score) for score in (tickets.SNIP(), tickets.GraSP(), tickets.SynFlow())),
        tickets.DynamicSparseTraining(),
        tickets.EdgePopup(),
        tickets.ContinuousSparsification(),
        tickets.EarlyBird(),
    ]
    loop = Loop()
    for finder in finders:
        name = type(getattr(finder, "score", finder)).__name__
        with pytest.raises(InputError, match=rf"{name} needs samples.*tickets\.IMP"):
            finder.find(collected, task(loop))
    with pytest.raises(InputError, match="loop of your own"):
        ws.evaluate(collected, task(loop), training=collected)
    with pytest.raises(InputError, match="grid"):
        ws.collect(task(loop), 1, plan=ws.Grid(lr=(0.1,)))
    assert not loop.calls  # before work starts


def test_finished_networks_and_levels_survive_a_kill(tmp_path: Path, collected: ws.Collection) -> None:
    finder = ws.tickets.IMP(0.2, rate=0.5)
    killed = Loop(fail_at=1)
    with pytest.raises(KeyboardInterrupt):
        ws.collect(task(killed), 2, seed=3, folder=tmp_path / "c")
    rest = Loop()
    networks = ws.collect(task(rest), 2, seed=3, folder=tmp_path / "c")
    assert len(rest.calls) == 1
    assert torch.equal(networks.weights, collected.weights)
    assert json.loads((tmp_path / "c" / "records.jsonl").read_text().splitlines()[0])["task"] == "mine"
    with pytest.raises(KeyboardInterrupt):
        finder.find(networks, task(Loop(fail_at=4)), folder=tmp_path / "t")
    rest = Loop()
    tickets = finder.find(networks, task(rest), folder=tmp_path / "t")
    assert len(rest.calls) == 2  # one network and one level were done
    assert torch.equal(tickets.weights, finder.find(collected, task()).weights)


def keeps_it(_module: nn.Module) -> None: ...


def another(_module: nn.Module) -> nn.Module:
    return network()


def diverges(module: nn.Module) -> None:
    module.get_parameter("0.weight").data.fill_(torch.nan)


def fails(_module: nn.Module) -> None:
    raise KeyError("column")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": another}, "in place"),
        ({"train": diverges}, "diverged"),
        ({"train": fails}, r"training function of task 'mine' failed: KeyError\('column'\)"),
        ({"train": lambda _m, optimizer: optimizer}, "needs an argument 'optimizer'"),
        ({"train": lambda _m: None, "budget": {"epochs": 1}}, "takes no argument 'epochs'"),
        ({"evaluate": lambda _m: 0.5}, "figures by name"),
        ({"evaluate": lambda _m: {"accuracy": torch.nan}}, "finite"),
        ({"evaluate": fails}, "evaluation function"),
    ],
)
def test_wrong_functions_are_refused_with_their_names(changes: dict[str, Any], message: str) -> None:
    budget = {} if "train" in changes else {"epochs": 1}
    with pytest.raises(InputError, match=message):
        ws.collect(task(**({"budget": budget} | changes)), 1)


def test_a_loop_that_changes_nothing_is_noticed() -> None:
    with pytest.warns(UserWarning, match="changed no weight"):
        ws.collect(task(train=keeps_it, budget={}), 1)


def test_fine_tuning_needs_a_learning_rate_to_scale(collected: ws.Collection) -> None:
    def plain(module: nn.Module, epochs: int) -> None:
        Loop()(module, 0, 0, epochs)

    with pytest.raises(InputError, match="lr_factor"):
        ws.tickets.IMP(0.3, after_pruning="fine_tune").find(collected, task(train=plain))


@pytest.mark.parametrize("wrong", [{"budget": {"epochs": object()}}, {"budget": {"seed": 1}}, {"parts": 0}])
def test_budgets_that_cannot_be_kept_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"JSON|budget|part"):
        task(**wrong)


def made() -> ws.Task:
    """For the command line below."""
    return task()


def test_the_command_line_takes_loops(tmp_path: Path) -> None:
    from weightspace.cli.main import main

    here = ["--task", f"{__name__}:made", "--factory", f"{__name__}:network"]
    main(["collect", "--out", str(tmp_path / "c"), "--n", "1", *here[:2]])
    main(
        [
            "tickets",
            "imp",
            str(tmp_path / "c"),
            "--out",
            str(tmp_path / "t"),
            "--density",
            "0.3",
            "--rate",
            "0.5",
            *here,
        ]
    )
    tickets = ws.Collection.load(tmp_path / "t", factory=network)
    assert tickets.densities.tolist() == pytest.approx([0.3], abs=0.01)
    assert isinstance(tickets.records[0]["metrics"]["validation_nll"], float)
