"""Tasks that are no classification of one label: every kind of output and structure of inputs through evaluate."""

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import weightspace as ws
from tests.evaluation.cases import few_points
from weightspace.errors import InputError
from weightspace.evaluation import alignment_report, connectivity
from weightspace.evaluation.groups import Group
from weightspace.evaluation.mean_outputs import MeanOutputs
from weightspace.evaluation.measure import TrainingReference
from weightspace.evaluation.neighbours import largest_error_overlap
from weightspace.evaluation.other_outputs import OtherOutputs, sample_losses
from weightspace.evaluation.predictions import ScoredPredictions
from weightspace.evaluation.scoring import scorer_of
from weightspace.networks.calling import call
from weightspace.networks.outputs import LossOnly, Regression
from weightspace.runtime import trees
from weightspace.tasks.metrics import Metric

TRAINING, NEW = 10, 5
STRUCTURES = ("tensor", "tuple", "mapping")


class Net(nn.Module):
    """Two layers on one or two inputs, with outputs of a shape per sample."""

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.shape = shape
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, width)

    def forward(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        outputs = self.b(torch.relu(self.a(x if other is None else x + other)))
        return outputs.reshape(len(outputs), *self.shape)


def positions(outputs: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(outputs.reshape(-1, 2), y.reshape(-1))


def absolute(outputs: Tensor, y: Tensor) -> Tensor:
    return (outputs - y).abs().mean()


def right(outputs: np.ndarray, y: np.ndarray) -> float:
    return float(((outputs > 0) == y).mean())


def determination(outputs: np.ndarray, y: np.ndarray) -> float:
    return 1 - float(((outputs - y) ** 2).sum() / ((y - y.mean()) ** 2).sum())


@dataclass(frozen=True)
class Kind:
    """A kind of task: shapes, loss and the main metric computed a second time, with NumPy."""

    structure: str
    shape: tuple[int, ...]
    width: int
    loss: object
    main: str
    by_hand: object
    outputs: object = None
    metrics: object = None


KINDS = {
    "positions": Kind(
        "mapping", (3, 2), 6, positions, "accuracy", lambda o, y: float((o.argmax(-1) == y).mean())
    ),
    "one logit": Kind("tensor", (), 1, F.binary_cross_entropy_with_logits, "accuracy", right),
    "labels": Kind("tuple", (3,), 3, F.binary_cross_entropy_with_logits, "accuracy", right),
    "value": Kind("mapping", (), 1, F.mse_loss, "r2", determination),
    "values": Kind(
        "tensor", (3,), 3, F.mse_loss, "rmse", lambda o, y: float(((o - y) ** 2).mean() ** 0.5), None, ("rmse", "r2")
    ),
    "loss only": Kind(
        "tuple", (), 1, F.mse_loss, "mae", lambda o, y: float(abs(o - y).mean()), LossOnly(),
        (Metric("mae", absolute, higher_is_better=False),),
    ),
}  # fmt: skip
LOWER = ("values", "loss only")
REPORTED = ("positions", "labels", "values", "loss only")  # one report each, as these take longest


@cache
def task_of(kind: str, structure: str) -> ws.Task:
    random = torch.Generator().manual_seed(0)
    x, other = torch.randn(120, 4, generator=random), 0.1 * torch.randn(120, 4, generator=random)
    given = {"tensor": x + other, "tuple": (x, other), "mapping": {"x": x, "other": other}}[structure]
    signs = (torch.stack([x[:, 0], x[:, 1], x.sum(1)], 1) > 0).long()
    y = {
        "positions": signs,
        "one logit": signs[:, 0].float(),
        "labels": signs.float(),
        "value": x.sum(1),
        "values": 2 * x[:, :3] + 1,
        "loss only": x.sum(1),
    }[kind]
    one = KINDS[kind]
    recipe = ws.Recipe(ws.Step(epochs=3), batch_size=20, optimizer=ws.Adam(lr=2e-2))
    return ws.tasks.from_tensors(
        kind,
        given,
        y,
        lambda: Net(one.shape, one.width),
        loss=one.loss,
        outputs=one.outputs,
        metrics=one.metrics,
        recipe=recipe,
        test=0.4,
    )


@cache
def tickets_of(kind: str) -> ws.Collection:
    """Tickets of one task; what they compute does not depend on the structure of inputs."""
    task = task_of(kind, KINDS[kind].structure)
    dense = ws.collect(task, TRAINING + NEW, seed=0)
    return ws.tickets.PruneAtInit(score=ws.tickets.MagnitudeScore(), density=0.6).find(dense, task)


@cache
def report_of(kind: str) -> ws.Report:
    """New tickets with a planted copy among them, beside their training tickets."""
    tickets = tickets_of(kind)
    samples = ws.Collection.concatenate([tickets[TRAINING:], tickets[:1]])
    dropout = ws.MCDropout((0.2,)) if kind in ("labels", "values") else None
    task = task_of(kind, KINDS[kind].structure)
    with few_points(NOISE=(1e-3, 0.1, 1.0)):
        return ws.evaluate(samples, task, training=tickets[:TRAINING], dropout=dropout)


def outputs_of(networks: ws.Collection, task: ws.Task) -> np.ndarray:
    with torch.no_grad():
        return np.stack([call(network.module().eval(), task.test.x).numpy() for network in networks])


@pytest.mark.parametrize("kind", REPORTED)
def test_a_report_has_the_metrics_of_its_task(kind: str, tmp_path: Path) -> None:
    report, one, tickets = report_of(kind), KINDS[kind], tickets_of(kind)
    task = task_of(kind, one.structure)
    assert report.metric.name == one.main
    assert report.metric.higher_is_better == (kind not in LOWER)
    outputs, y = outputs_of(tickets[TRAINING:], task), task.test.y.numpy()
    group = report["samples"]
    by_hand = [one.by_hand(each, y) for each in outputs]
    assert list(group.values(one.main))[:NEW] == pytest.approx(by_hand, rel=1e-4)
    losses = [one.loss(torch.tensor(each), task.test.y).item() for each in outputs]
    assert list(group.values("loss"))[:NEW] == pytest.approx(losses, rel=1e-4)
    with pytest.raises(InputError, match="no figure 'brier'"):  # nothing is filled up
        group.mean("brier")
    report.save(tmp_path / "report.json")
    loaded = ws.Report.load(tmp_path / "report.json")
    assert loaded.to_json() == report.to_json()
    assert str(loaded) == str(report)
    assert one.main in str(report).splitlines()[0]
    assert all(verdict.words and "nan" not in verdict.words for verdict in report.verdicts)


@pytest.mark.parametrize("kind", REPORTED)
def test_a_planted_copy_is_found_and_the_others_are_not(kind: str) -> None:
    report = report_of(kind)
    assert report.verdict("not copies").outcome == "fail"
    assert "1 of 6" in report.verdict("not copies").words
    group = report["samples"]
    assert group.novelty.copies == pytest.approx(1 / (NEW + 1))
    assert group.per_network.max_error_iou[NEW] == pytest.approx(1)  # its errors are the training network's
    assert max(group.per_network.max_error_iou[:NEW]) < 1
    assert group.per_network.gain_over_nearest[NEW] == pytest.approx(0, abs=1e-6)
    weights = aligned(kind).double()
    nearest = int(torch.cdist(weights[TRAINING:], weights[:TRAINING])[0].argmin())
    values = group.values(report.metric.name)[0], report["training tickets"].values(report.metric.name)[nearest]
    gain = values[0] - values[1] if kind not in LOWER else values[1] - values[0]
    assert group.per_network.gain_over_nearest[0] == pytest.approx(gain)  # positive is better in either direction


def aligned(kind: str) -> Tensor:
    tickets, task = tickets_of(kind), task_of(kind, KINDS[kind].structure)
    return ws.WeightMatching().fit(tickets[:TRAINING], example=task.train.head(8).x).transform(tickets).weights


@pytest.mark.parametrize("kind", KINDS)
def test_an_ensemble_averages_probabilities_or_values(kind: str) -> None:
    one, tickets = KINDS[kind], tickets_of(kind)[:TRAINING]
    task = task_of(kind, one.structure)
    scorer = scorer_of(task)
    scored = scorer.score(tickets, task.test, memory_gb=1e-6)  # a network at a time
    together = scorer.ensemble(scored.predictions, task.test)
    if kind == "loss only":
        assert not together.scores
        return
    outputs, y = outputs_of(tickets, task), task.test.y.numpy()
    if kind == "positions":
        joint = torch.tensor(outputs).double().softmax(-1).mean(0).numpy()
    elif kind in ("one logit", "labels"):
        joint = torch.tensor(outputs).double().sigmoid().mean(0).logit().numpy()
    else:
        joint = outputs.astype(np.float64).mean(0)
    assert together[one.main] == pytest.approx(one.by_hand(joint, y), rel=1e-4)
    if kind in ("value", "values"):
        deviation = outputs.astype(np.float64).std(0, ddof=1)
        assert together["coverage"] == pytest.approx((abs(joint - y) <= 1.96 * deviation).mean())
        assert together["spread"] == pytest.approx((deviation**2).mean() ** 0.5, rel=1e-4)
        assert not scorer.reliability(scored.predictions, task.test)
    else:
        labels = outputs.argmax(-1) if kind == "positions" else outputs > 0
        pairs = [(labels[i] != labels[j]).mean() for i in range(TRAINING) for j in range(i)]
        assert together["disagreement"] == pytest.approx(np.mean(pairs))
        assert sum(one.count for one in scorer.reliability(scored.predictions, task.test)) == y.size


def test_what_does_not_apply_is_said() -> None:
    blind, values = report_of("loss only"), report_of("values")
    assert not blind.ensembles
    assert "a better ensemble" not in {verdict.claim for verdict in blind.verdicts}
    assert any("cannot be averaged" in line for line in blind.left_out)
    assert any("several tensors" in line for line in blind.left_out)
    assert "a better ensemble" in {verdict.claim for verdict in values.verdicts}  # the control
    assert values.ensemble("MC dropout").metrics["rmse"] > 0
    assert not any("averaged" in line or "several" in line for line in values.left_out)
    assert [shift.kind for shift in values.ensembles[0].shifts][:2] == ["none", "noise"]


def test_errors_of_values_are_compared_by_their_residuals() -> None:
    task, tickets = task_of("value", "mapping"), tickets_of("value")
    residuals = outputs_of(tickets[:TRAINING], task) - task.test.y.numpy()
    correlation = np.corrcoef(residuals)
    np.fill_diagonal(correlation, -1)
    errors = scorer_of(task).score(tickets[:TRAINING], task.test, memory_gb=1.0).errors
    found = largest_error_overlap(errors, errors, itself=True).first
    assert found.tolist() == pytest.approx(correlation.max(1).tolist(), abs=1e-4)
    assert scorer_of(task).reported.errors == "residual correlation"
    assert scorer_of(task_of("labels", "tuple")).reported.errors == "error IoU"


def test_a_threshold_lies_on_the_worse_side_of_the_median() -> None:
    report = report_of("values")
    median = report["training tickets"].median("rmse")
    assert report.settings.threshold == pytest.approx(median / 0.95)
    text = report_of("values").tables()[1].legend[0][1]
    assert "rmse of at most" in text
    reference = TrainingReference(task_of("value", "mapping"), tickets_of("value"), lambda c: c, 0.95, 1.0, 0)
    for scores, expected in ((torch.tensor([0.5] * 3), 0.475), (torch.tensor([-0.5] * 3), -0.5 / 0.95)):
        reference.__dict__["scored"] = ScoredPredictions(None, torch.zeros(3, 1), None, {"r2": scores.double()})
        assert reference.threshold == pytest.approx(expected)
        assert reference.performs(torch.tensor([expected + 0.01, expected - 0.01])).tolist() == [True, False]


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("kind", KINDS)
def test_structures_of_inputs_change_nothing(kind: str, structure: str) -> None:
    """The same numbers come in as a tensor, a tuple and a mapping; scores, lines and means are the same."""
    tickets, own, task = tickets_of(kind)[:3], task_of(kind, KINDS[kind].structure), task_of(kind, structure)
    expected, found = (scorer_of(t).score(tickets, t.test, memory_gb=1.0) for t in (own, task))
    for name, values in expected.scores.items():
        torch.testing.assert_close(found.scores[name], values, rtol=1e-4, atol=1e-5)
    lines = [connectivity.barriers(tickets, t, pairs=[(0, 1)], points=1)[0] for t in (own, task)]
    assert lines[1].losses == pytest.approx(lines[0].losses, rel=1e-4)
    assert lines[1].scores == pytest.approx(lines[0].scores, rel=1e-4, abs=1e-5)
    assert lines[0].losses[0] == pytest.approx(expected.scores["loss"][0].item(), rel=1e-5)
    assert lines[0].scores[0] == pytest.approx(expected.main[0].item(), rel=1e-5)
    sign = 1 if kind not in LOWER else -1
    straight = (lines[0].scores[0] + lines[0].scores[2]) / 2
    assert lines[0].score == pytest.approx(sign * (straight - lines[0].scores[1]))


def test_pages_and_comparisons_name_the_metric(tmp_path: Path) -> None:
    report = report_of("values")
    report.html(tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    for words in ("rmse and novelty", "residual correlation", "Left out", "ensemble rmse"):
        assert words in page, words
    assert "test accuracy" not in page
    assert "as an ensemble: rmse" in report.headline()
    assert "ensemble" not in report_of("loss only").headline()  # its outputs cannot be averaged
    comparison = ws.Comparison({"one": report, "two": replace(report)})
    assert "ensemble rmse" in str(comparison)
    other = replace(report_of("loss only"), task="values", test_samples=report.test_samples)
    with pytest.raises(InputError, match="judge by one metric"):
        ws.Comparison({"one": report, "two": other})
    names = {picture.name for picture in report_of("labels").plot()}
    assert "reliability" in names
    assert "confusion" not in names


def test_an_alignment_is_reported_by_the_main_metric(tmp_path: Path) -> None:
    task, tickets = task_of("values", "tensor"), tickets_of("values")
    matching = ws.WeightMatching().fit(tickets[:4], example=task.train.head(8).x)
    report = alignment_report(tickets[:4], matching.transform(tickets[:4]), task, networks=2, points=1)
    assert "mean network rmse" in str(report)
    assert report.to_json()["metric"] == {"name": "rmse", "higher_is_better": False}
    with pytest.raises(InputError, match="not by accuracy"):
        print(report.sides[0].barriers[0].accuracies)


def test_tasks_in_which_each_network_has_its_own_data() -> None:
    task = ws.tasks.from_own_data(
        "curves",
        torch.linspace(-1, 1, 20)[:, None],
        torch.randn(4, 20, 1, generator=torch.Generator().manual_seed(0)),
        lambda: nn.Linear(1, 1),
        recipe=ws.Recipe(ws.Step.of("2it"), batch_size=10),
        loss=F.mse_loss,
    )
    networks = ws.collect(task, 4)
    with pytest.raises(InputError, match="data of its own"):
        ws.evaluate(networks, task, training=networks)
    with pytest.raises(InputError, match="data of its own"):
        connectivity.barriers(networks, task)
    with pytest.raises(InputError, match="data of its own"):
        connectivity.mean_network(networks, task)
    found = connectivity.measure(networks[[2]], task)  # on the third network's own data
    module = networks[2].module()
    expected = F.mse_loss(module(task.test.of(2).x), task.test.of(2).y).item()
    assert found.loss == pytest.approx(expected, rel=1e-5)
    assert found.loss != pytest.approx(F.mse_loss(module(task.test.of(1).x), task.test.of(1).y).item(), rel=1e-3)


def test_a_metric_that_is_not_finite_is_told() -> None:
    task = replace(task_of("positions", "tensor"), metrics=("perplexity",))
    tickets = tickets_of("positions")[:3]
    broken = tickets.replace(weights=tickets.weights * 1e4)
    scored = [scorer_of(task).score(part, task.test, memory_gb=1.0) for part in (tickets, broken)]
    assert scored[0].finite
    assert not scored[1].finite
    reference = TrainingReference(task, tickets, lambda networks: networks, 0.95, 1.0, 0)
    assert reference.measure_point("noise", 1.0, broken) is None
    with pytest.raises(InputError, match="'broken' is not finite"):
        reference.measure(Group("broken", "", broken))


def test_the_guides_example_runs(root: Path) -> None:
    section = (root / "docs" / "guides" / "evaluation.md").read_text().partition("## Other tasks")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    here = {"nets": None, "regression": None, "zoo": None}
    exec(code, here | {"ws": SimpleNamespace(evaluate=lambda *_, **__: report_of("values"))})


def test_a_loop_of_ones_own_has_no_samples_to_evaluate_on() -> None:
    loop = ws.tasks.from_loop("loop", lambda: nn.Linear(2, 1), train=lambda module: None)
    networks = ws.Collection(
        loop.architecture.layout(), torch.zeros(4, loop.architecture.layout().size), architecture=loop.architecture
    )
    with pytest.raises(InputError, match="training loop of your own"):
        ws.evaluate(networks, loop, training=networks)
    with pytest.raises(InputError, match="training loop of your own"):
        connectivity.measure(networks, loop)


def test_losses_of_single_samples_need_no_vectorising() -> None:
    random = torch.Generator().manual_seed(0)
    outputs, y = torch.randn(6, 2, generator=random), torch.randn(6, 2, generator=random)

    def stubborn(o: Tensor, t: Tensor) -> Tensor:
        return F.mse_loss(o, t) if o.sum().item() < 1e9 else o.sum()  # reads a number, which vmap cannot

    expected = (outputs - y).square().mean(1).double()
    for loss in (F.mse_loss, stubborn):
        torch.testing.assert_close(sample_losses(loss, outputs, y), expected)


def test_positions_that_do_not_count_are_left_out() -> None:
    task = task_of("positions", "tensor")
    y = task.test.y.clone()
    y[:, 2] = -100
    masked = replace(task, test=ws.Split(task.test.x, y))
    scorer, tickets = OtherOutputs(masked), tickets_of("positions")[:2]
    scored = scorer.score(tickets, masked.test, memory_gb=1.0)
    first = outputs_of(tickets, masked)[:, :, :2].argmax(-1)
    assert scored.main.tolist() == pytest.approx((first == y[:, :2].numpy()).mean((1, 2)).tolist())
    assert scored.errors.shape == (2, 2 * len(y))
    full = OtherOutputs(task).score(tickets, task.test, memory_gb=1.0)
    assert full.errors.shape == (2, 3 * len(y))  # the control


def test_classifiers_with_a_metric_of_their_own_are_judged_by_it(task: ws.Task, tickets: ws.Collection) -> None:
    assert scorer_of(task).reported is None
    own = replace(task, metrics=("perplexity",))
    scored = scorer_of(own).score(tickets[:2], own.test, memory_gb=1.0)
    logits = tickets[:2].ensemble().logits(own.test.x).double()
    nll = torch.stack([F.cross_entropy(one, own.test.y) for one in logits])
    torch.testing.assert_close(scored.main, nll.exp(), rtol=1e-5, atol=1e-6)


def test_structured_outputs_are_averaged_in_their_place() -> None:
    total = MeanOutputs(Regression(output="value"))
    for i in (1, 2):
        aside, step = torch.full((2, 3), 10.0 * i), torch.ones(2, 3).long()
        total.add({"value": torch.full((2, 3), float(i)), "aside": aside, "step": step})
    joint = total.result()
    assert joint.networks == 4
    assert trees.first(joint.outputs).tolist() == [1.5] * 3
    assert joint.outputs["aside"].tolist() == [15.0] * 3
    assert joint.outputs["step"].dtype == torch.long


@pytest.mark.parametrize("kind", ["value", "values"])
def test_the_best_networks_are_those_of_the_main_metric(kind: str) -> None:
    tickets = tickets_of(kind)
    name = f"validation_{KINDS[kind].main}"
    values = [record.metrics[name] for record in tickets.records]
    best = tickets.best(3)
    expected = sorted(values, reverse=kind not in LOWER)[:3]
    assert [record.metrics[name] for record in best.records] == expected
    assert [record.metrics[name] for record in tickets.best(3, name).records] == expected
