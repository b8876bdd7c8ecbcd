"""Any structure of inputs, any loss and any metric goes through collect, the finders, train and predictions."""

import warnings
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import TensorDataset

import weightspace as ws
from weightspace.runtime import trees
from weightspace.tasks import Binary, Classes, LossOnly, Metric, OutputKind, Regression

N, IN = 60, 6
RECIPE = ws.Recipe(ws.Step(iterations=3), batch_size=16, optimizer=ws.Adam(lr=1e-2))


class Net(nn.Module):
    """Takes a tensor, two, or two by name; returns a tensor or a mapping."""

    def __init__(self, outputs: int, shape: tuple[int, ...], named: bool) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(IN, 8), nn.Linear(8, outputs)
        self.shape, self.named = shape, named

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor | dict[str, Tensor]:
        x = x if scale is None else x * scale[:, None]
        out = self.head(torch.relu(self.body(x))).reshape(len(x), *self.shape)
        return {"hidden": x, "logits": out} if self.named else out


def inputs(structure: str) -> Any:
    torch.manual_seed(0)
    x, scale = torch.randn(N, IN), torch.rand(N) + 0.5
    return {"tensor": x, "tuple": (x, scale), "mapping": {"scale": scale, "x": x}}[structure]


def largest_error(outputs: Any, y: Tensor) -> Tensor:
    """A user's own metric, of whatever the network returns."""
    return (trees.tensors(outputs)[-1].reshape(len(y), -1)[:, 0] - y.reshape(len(y), -1)[:, 0].float()).abs().max()


def logits(outputs: Any) -> Tensor:
    return outputs["logits"] if isinstance(outputs, Mapping) else outputs


def plainly(module: nn.Module, x: Any) -> Any:
    """The module's own outputs, as PyTorch calls it."""
    if isinstance(x, Mapping):
        return module(**x)
    return module(*x) if isinstance(x, tuple) else module(x)


def on_logits(loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Any, Tensor], Tensor]:
    return lambda outputs, y: loss(logits(outputs), y)


torch.manual_seed(1)
KINDS: dict[str, tuple[tuple[int, tuple[int, ...]], Tensor, Any, OutputKind, list[str | Metric] | None]] = {
    "classes": ((3, (3,)), torch.randint(3, (N,)), F.cross_entropy, Classes(), ["accuracy", "perplexity"]),
    "classes per position": ((12, (3, 4)), torch.randint(3, (N, 4)), F.cross_entropy, Classes(axis=-2), None),
    "one logit": ((1, (1,)), torch.randint(2, (N, 1)).float(), F.binary_cross_entropy_with_logits, Binary(), None),
    "labels": ((4, (4,)), torch.randint(2, (N, 4)).float(), F.binary_cross_entropy_with_logits, Binary(), None),
    "values": ((1, (1,)), torch.randn(N, 1), F.mse_loss, Regression(), ["rmse", "r2"]),
    "images": ((4, (2, 2)), torch.randn(N, 2, 2), F.smooth_l1_loss, Regression(), None),
    "own": ((2, (2,)), torch.randn(N), lambda o, y: (o.mean(1) - y).abs().mean(), LossOnly(),
            [Metric("largest_error", largest_error, higher_is_better=False)]),
}  # fmt: skip


def make(structure: str, kind: str, *, named: bool = False) -> ws.Task:
    (outputs, shape), y, loss, meaning, metrics = KINDS[kind]
    network = partial(Net, outputs, shape, named)
    network.__qualname__ = "Net"  # pyright: ignore[reportAttributeAccessIssue]
    told = meaning if named else None
    loss = on_logits(loss) if named else loss
    return ws.tasks.from_tensors(
        "any", inputs(structure), y, network, recipe=RECIPE, loss=loss, outputs=told, metrics=metrics
    )


GRID = [(structure, kind, False) for structure in ("tensor", "tuple", "mapping") for kind in KINDS]
GRID += [("mapping", kind, True) for kind in KINDS]


@pytest.mark.parametrize(("structure", "kind", "named"), GRID)
def test_collect_measures_the_metrics_of_the_task(structure: str, kind: str, named: bool) -> None:
    task = make(structure, kind, named=named)
    assert task.output_kind == KINDS[kind][3]
    zoo = ws.collect(task, 2, seed=0)
    for network, record in zip(zoo, zoo.records, strict=True):
        x = task.validation.x
        raw = plainly(network.module(), x)
        assert record.metrics["validation_loss"] == pytest.approx(task.loss(raw, task.validation.y).item(), rel=1e-4)
        for metric in task.scores:
            expected = metric(raw, task.validation.y)
            assert record.metrics[f"validation_{metric.name}"] == pytest.approx(expected, rel=1e-4, abs=1e-6)
    names = {name.removeprefix("validation_") for name in zoo.records[0].metrics} - {"loss", "last_batch_loss"}
    assert names == {metric.name for metric in task.scores}
    ensemble = zoo.ensemble()
    assert ensemble.outputs == task.output_kind
    if kind != "own":
        single = [logits(plainly(network.module(), x)) for network in zoo]
        expected = torch.stack([task.output_kind.predictions(one) for one in single])
        assert torch.allclose(ensemble.logits(x), expected, atol=1e-5)


@pytest.mark.parametrize("alone", [False, True])
def test_side_by_side_is_the_same_as_one_after_another(alone: bool) -> None:
    from weightspace.training.conversion import initial, trainer_for
    from weightspace.training.engine import Execution

    task = make("mapping", "classes per position", named=True)
    start = initial(task.architecture, [{"seed": i} for i in range(3)])
    trainer = trainer_for(start, task, execution=Execution(1 if alone else 3, 1, 0.0))
    trainer.run(3)
    reference = [plain_loop(task, start[i : i + 1]) for i in range(3)]
    assert torch.allclose(trainer.weights, torch.stack(reference), atol=1e-5)
    assert not torch.allclose(trainer.weights, start.weights, atol=1e-3)


def plain_loop(task: ws.Task, start: ws.Collection) -> Tensor:
    """What a user would write, in the data order of the library."""
    from weightspace.runtime import seeds

    module = start.module(0)
    optimizer = torch.optim.Adam(module.parameters(), 1e-2)
    order = torch.randperm(len(task.train), generator=seeds.generator(start.records[0].seed, "data order", 0))
    for step in range(3):
        rows = order[16 * step : 16 * step + 16] if step < 2 else order[32:]
        batch = task.train.batch(rows)
        optimizer.zero_grad()
        task.loss(module(**batch.x), batch.y).backward()
        optimizer.step()
    return start.layout.pack(module.state_dict())


def test_a_dataset_trains_as_tensors_do() -> None:
    x, y = inputs("tensor"), KINDS["values"][1]
    network = partial(Net, 1, (1,), False)
    tasks = [
        ws.tasks.from_dataset("set", TensorDataset(x, y), network, recipe=RECIPE, loss=F.mse_loss, in_memory=memory)
        for memory in (True, False)
    ]
    one, other = (ws.collect(task, 2, seed=1) for task in tasks)
    assert torch.equal(one.weights, other.weights)
    assert dict(one.records[0].metrics) == pytest.approx(dict(other.records[0].metrics), rel=1e-5)
    assert tasks[0].to_json() == tasks[1].to_json()


def test_each_network_learns_its_own_targets() -> None:
    x = torch.randn(32, IN)
    y = torch.stack([x @ torch.randn(IN, 1) for _ in range(4)])
    task = ws.tasks.from_own_data(
        "own",
        x,
        y,
        lambda: nn.Linear(IN, 1),
        loss=F.mse_loss,
        recipe=ws.Recipe(ws.Step(epochs=40), batch_size=8, optimizer=ws.Adam(lr=1e-1), schedule="cosine"),
    )
    zoo = ws.collect(task, 4, seed=0, plan=ws.SharedStart(at=ws.Step(epochs=0)))
    outputs = torch.stack([network.module()(x) for network in zoo])
    errors = (outputs[:, None] - y[None]).square().mean((2, 3))  # network i on the targets of network j
    assert (errors.diagonal() < 1e-2).all()
    assert (errors[~torch.eye(4, dtype=torch.bool)] > 0.1).all()
    assert all(record.metrics["validation_r2"] > 0.99 for record in zoo.records)
    ticket = ws.tickets.GradualPruning(density=0.5).find(zoo[2:3], task)
    assert ticket.records[0].metrics["validation_loss"] < 0.5 * y[2].square().mean()  # of the third set still
    with pytest.raises(ws.InputError, match="0 to 3, and none for network 4"):
        ws.collect(task, 5, seed=0)
    with pytest.raises(ws.InputError, match="data of its own"):
        ws.collect(task, 2, plan=ws.SharedStart(at=ws.Step(epochs=1)))


@pytest.mark.parametrize(
    ("loss", "y", "message"),
    {
        "stretched by hand": (lambda o, y: (o - y).square().mean(), torch.randn(N), r"stretches .* y\[:, None\]"),
        "stretched by PyTorch": (F.mse_loss, torch.randn(N), r"stretches .* y\[:, None\]"),
        "no mean": (lambda o, y: (o - y[:, None]) ** 2, torch.randn(N), r"one number.*\.mean\(\)"),
        "classes as floats": (F.cross_entropy, torch.randn(N), "does not fit"),
    }.values(),
)
def test_wrong_shapes_are_refused_before_training(loss: Any, y: Tensor, message: str) -> None:
    network = partial(Net, 1, (1,), False)
    task = ws.tasks.from_tensors("t", inputs("tensor"), y, network, recipe=RECIPE, loss=loss)
    with warnings.catch_warnings(), pytest.raises(ws.InputError, match=message):
        warnings.simplefilter("ignore")  # PyTorch's own word on it, which not every loss has
        ws.collect(task, 1)


def test_the_same_shapes_pass() -> None:
    for loss in (lambda o, y: (o[:, 0] - y).square().mean(), lambda o, y: (o - y[:, None]).square().mean()):
        task = ws.tasks.from_tensors("t", inputs("tensor"), torch.randn(N), partial(Net, 1, (1,), False), loss=loss)
        assert task.try_out() > 0
    # An axis of seven classes with weights is no stretching.
    weight, y = torch.rand(7), torch.randint(7, (N,))
    task = ws.tasks.from_tensors(
        "t", inputs("tensor"), y, partial(Net, 7, (7,), False), loss=partial(F.cross_entropy, weight=weight)
    )
    assert task.try_out() > 0


def test_a_metric_that_fails_is_told_before_training() -> None:
    def broken(outputs: Tensor, y: Tensor) -> Tensor:
        return outputs["logits"].mean()  # pyright: ignore

    task = make("tensor", "values")
    task = ws.tasks.from_tensors(
        "t", inputs("tensor"), KINDS["values"][1], task.architecture, loss=F.mse_loss, metrics=[Metric("mine", broken)]
    )
    with pytest.raises(ws.InputError, match="the metric 'mine' of task 't' fails on outputs"):
        ws.collect(task, 1)
    with pytest.raises(ws.InputError, match="two metrics have one name"):
        _ = ws.tasks.from_tensors(
            "t", inputs("tensor"), KINDS["values"][1], task.architecture, loss=F.mse_loss, metrics=["r2", "r2"]
        ).scores


FINDERS = {
    "imp": lambda: ws.tickets.IMP(density=0.5, rate=0.5),
    "gradual": lambda: ws.tickets.GradualPruning(density=0.5),
    "snip": lambda: ws.tickets.PruneAtInit(ws.tickets.SNIP(), density=0.5),
    "grasp": lambda: ws.tickets.PruneAtInit(ws.tickets.GraSP(), density=0.5),
    "rigl": lambda: ws.tickets.DynamicSparseTraining(density=0.5),
    "edge-popup": lambda: ws.tickets.EdgePopup(density=0.5),
}


@pytest.mark.parametrize("finder", FINDERS)
@pytest.mark.parametrize(("structure", "kind"), [("mapping", "labels"), ("tuple", "classes per position")])
def test_finders_take_any_task(finder: str, structure: str, kind: str) -> None:
    task = make(structure, kind, named=True)
    zoo = ws.collect(task, 1, seed=0)
    tickets = FINDERS[finder]().find(zoo, task)
    assert tickets.densities[0] == pytest.approx(0.5, abs=0.02)
    assert set(tickets.records[0].metrics) == set(zoo.records[0].metrics)
    assert tickets.ensemble().outputs == task.output_kind


class Scale(nn.Module):
    """A factor, which no finder can prune."""

    def __init__(self) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.ones(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


@pytest.mark.filterwarnings("error")
def test_a_network_without_prunable_weights_is_said_before_training() -> None:
    x, y = torch.randn(40, 3), torch.randn(40, 3)
    with pytest.warns(UserWarning, match="none of the parameters of Scale can be pruned.*no finder takes them"):
        assert ws.tasks.from_tensors("scale", x, y, Scale, loss=F.mse_loss).try_out() > 0
    ws.tasks.from_tensors("line", x, y, lambda: nn.Linear(3, 3), loss=F.mse_loss).try_out()
