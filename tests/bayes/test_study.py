"""The study of Bayesian tickets: its rows, controls, page and verb."""

import csv
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from tests.executors import Sending
from weightspace import bayes
from weightspace.bayes.study.controls import StudyControls
from weightspace.cli.main import main
from weightspace.errors import InputError
from weightspace.evaluation.metrics import calibration
from weightspace.runtime import seeds
from weightspace.training.conversion import initial


@pytest.fixture(scope="module")
def short(task: ws.Task) -> ws.Task:
    return replace(task, recipe=ws.Recipe(ws.Step(epochs=3), batch_size=64, optimizer=ws.Adam(lr=5e-3)))


@pytest.fixture(scope="module")
def study(short: ws.Task) -> bayes.Study:
    scores = {"|mu|": bayes.MeanMagnitude(), "|mu| / sigma": bayes.SignalToNoise()}
    return bayes.Study(short, bayes.BayesianIMP(density=0.2, rate=0.5), scores, networks=2, draws=4)


@pytest.fixture(scope="module")
def result(study: bayes.Study, tmp_path_factory: pytest.TempPathFactory) -> tuple[bayes.StudyResult, Path]:
    folder = tmp_path_factory.mktemp("study")
    return study.run(folder), folder


def test_every_method_has_a_row_for_each_density_and_seed(result: tuple[bayes.StudyResult, Path]) -> None:
    rows, folder = result[0].rows, result[1]
    count = {m: sum(row.method == m for row in rows) for m in dict.fromkeys(row.method for row in rows)}
    assert count == {
        "|mu|": 8,
        "|mu| / sigma": 8,
        "deterministic": 8,
        "ensemble of 2 deterministic": 4,
        "transplant of deterministic": 6,
        "mask re-initialised": 4,
        "mask shuffled in layers": 4,
        "mask globally shuffled": 4,
        "MC dropout": 1,
    }
    with open(folder / "rows.csv", newline="", encoding="utf-8") as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    assert all(0 < (row.seconds or 0) < 1000 for row in rows if row.method == "|mu|")
    dense = {m: [r.nll for r in rows if r.method == m and r.density == 1] for m in ("|mu|", "|mu| / sigma")}
    assert dense["|mu|"] == dense["|mu| / sigma"], "all scores start from the same posteriors"


def test_workers_make_the_same_rows(short: ws.Task, tmp_path: Path) -> None:
    scores = {"|mu|": bayes.MeanMagnitude()}
    task = replace(short, recipe=replace(short.recipe, length=ws.Step(iterations=2)))
    study = bayes.Study(task, bayes.BayesianIMP(density=0.5, rate=0.5), scores, networks=1, draws=2)
    alone, pool = study.run(tmp_path / "alone"), Sending()
    together = study.run(tmp_path / "together", executor=pool)
    assert len(pool.done) == 1 + 2 + 4  # a trial; searches; transplants and controls of one level

    def compared(result: bayes.StudyResult) -> list[bayes.StudyRow]:
        return [replace(row, seconds=None) for row in result.rows]

    assert compared(together) == compared(alone)
    assert together.overlaps == alone.overlaps
    with pytest.raises(InputError, match="workers compute on the CPU"):
        study.run(tmp_path / "card", executor=pool, device="cuda")


def test_a_row_is_the_mean_prediction_of_the_draws(short: ws.Task, result: tuple[bayes.StudyResult, Path]) -> None:
    posteriors = ws.Collection.load(result[1] / "0-Magnitude" / "level-02")
    row = bayes.StudyEvaluation(short, draws=4).rows("x", posteriors)[1]
    drawn = bayes.draw(posteriors[[1]], 4, seed=seeds.derive(0, "judged", 1))
    p = torch.stack([n.module().eval()(short.test.x).double().softmax(-1) for n in drawn]).mean(0)
    assert row.accuracy == pytest.approx((p.argmax(1) == short.test.y).double().mean().item())
    assert row.nll == pytest.approx(-p[torch.arange(len(p)), short.test.y].log().mean().item(), rel=1e-4)
    assert row.ece == pytest.approx(calibration.equal_width(p.log()[None], short.test.y).ece.item(), rel=1e-4)
    one = next(r for r in result[0].rows if r.method == "|mu|" and r.network == 1 and r.density < 0.3)
    assert one.nll == row.nll


def test_controls_keep_the_number_of_weights(result: tuple[bayes.StudyResult, Path]) -> None:
    tickets = ws.Collection.load(result[1] / "0-Magnitude" / "level-03")
    start = initial(tickets.architecture, tickets.records)
    controls, layout = StudyControls(), tickets.layout
    again, shuffled = controls.reinitialised(tickets, start), controls.shuffled(tickets, start)
    everywhere = controls.globally_shuffled(tickets, start)
    assert torch.equal(again.masks, tickets.masks)
    assert not torch.equal(again.weights, tickets.extras["rewind"])
    weights = [e.name for e in layout.weights]
    for moved in (shuffled, everywhere):
        assert not torch.equal(moved.masks, tickets.masks)
        assert torch.equal(moved.masks.sum(1), tickets.masks.sum(1))
        assert not moved.weights[~moved.masks].any()
        assert (moved.extras["std"][moved.masks] > 0).all()
    counts = [[m.masks[:, layout.slices[n]].sum(1).tolist() for n in weights] for m in (tickets, shuffled, everywhere)]
    assert counts[0] == counts[1]
    assert counts[0] != counts[2]


def test_overlaps_are_those_of_the_last_masks(result: tuple[bayes.StudyResult, Path]) -> None:
    one, other = (ws.Collection.load(result[1] / f / "level-03") for f in ("0-Magnitude", "1-SignalToNoise"))
    prunable = one.layout.prunable
    shared = [(a & b)[prunable].sum() / a[prunable].sum() for a, b in zip(one.masks, other.masks, strict=True)]
    assert result[0].overlap("|mu|", "|mu| / sigma") == pytest.approx(torch.stack(shared).mean().item())


def test_the_page_shows_all_of_it(result: tuple[bayes.StudyResult, Path], tmp_path: Path) -> None:
    bayes.write_report(result[0], tmp_path)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for method in {row.method for row in result[0].rows}:
        assert method in page
    assert (tmp_path / "curves.svg").exists()
    assert page.index(bayes.pages.headline(result[0])[:30]) < page.index("<img") < page.index("<table")


def test_verdicts_follow_the_paired_differences(result: tuple[bayes.StudyResult, Path]) -> None:
    """A method that is shifted up is better, one that is shifted down is worse, the same one is open."""
    first = [row for row in result[0].rows if row.method == result[0].rows[0].method]
    low = [row for row in first if row.density == min(one.density for one in first)]
    base = [replace(low[0], network=i, accuracy=0.5 + 0.01 * i) for i in range(3)]
    shifts = {"up": 0.1, "down": -0.1, "wild": 0.0}
    moved = [
        replace(row, method=name, accuracy=row.accuracy + shift + (0.05 * (-1) ** i if name == "wild" else 0.001 * i))
        for name, shift in shifts.items()
        for i, row in enumerate(base)
    ]
    study = replace(result[0], rows=[*base, *moved])
    assert [one.outcome for one in bayes.pages.verdicts(study)] == ["pass", "fail", "open"]
    assert "the best first: up 0.6" in bayes.pages.headline(study)
    assert "1 of 3 methods are better" in bayes.pages.headline(study)
    single = replace(study, rows=[row for row in study.rows if row.network == 0])
    assert {one.outcome for one in bayes.pages.verdicts(single)} == {"open"}


def test_paired_intervals_are_students() -> None:
    assert bayes.pages.paired([0.01, 0.02, 0.03]) == "+2.00 ± 2.48"  # 4.303 * 1 / sqrt(3)
    assert bayes.pages.paired([0.01]) == "–"
    assert math.isclose(4.303 / 3**0.5, 2.48, abs_tol=0.01)


def test_the_verb_runs_a_study_and_reads_it_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "bayes",
        "--out",
        str(tmp_path / "b"),
        "--hidden",
        "8",
        "--n",
        "2",
        "--scores",
        "magnitude",
        "band",
        "--density",
        "0.4",
        "--rate",
        "0.6",
        "--length",
        "2ep",
        "--draws",
        "2",
    ]
    assert main(words) == 0
    first = capsys.readouterr().out
    assert "band of |mu|, then sigma" in first
    assert main(words) == 0
    assert capsys.readouterr().out == first
    assert main([*words[:-1], "0"]) == 1
    assert "draws must be a whole number of at least 1" in capsys.readouterr().err


OWN_TASK = """
import torch
import weightspace as ws
from torch import nn

def task(**settings):
    random = torch.Generator().manual_seed(0)
    x = torch.rand(60, 1, generator=random) * 6 - 3
    y = x.sin() + 0.2 * torch.randn(60, 1, generator=random)
    build = lambda: nn.Sequential(nn.Linear(1, 6), nn.Tanh(), nn.Linear(6, 1))
    return ws.tasks.from_tensors("waves", x, y, build, loss=nn.functional.mse_loss, metrics=["rmse", "r2"], **settings)

def unknown():
    from weightspace.networks.outputs import LossOnly
    import dataclasses
    return dataclasses.replace(task(), outputs=LossOnly(), metrics=None)
"""


@pytest.fixture(scope="module")
def waves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ws.Task]:
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_waves.py").write_text(OWN_TASK, encoding="utf-8")
    names: dict[str, Callable[[], ws.Task]] = {}
    exec(OWN_TASK, names)
    return folder, names["task"]()


def test_the_verb_studies_a_regression_by_its_metrics(
    waves: tuple[Path, ws.Task], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, task = waves
    words = ["bayes", "--out", str(folder / "out"), "--import-from", str(folder), "--task", "own_waves:task"]
    words += ["--n", "2", "--scores", "magnitude", "--density", "0.6", "--rate", "0.5", "--length", "2it"]
    assert main([*words, "--draws", "3", "--batch-size", "30"]) == 0
    assert "rmse" in (folder / "out" / "report.html").read_text(encoding="utf-8")
    result = bayes.StudyResult.load(folder / "out")
    assert [(one.name, one.higher_is_better) for one in result.metrics or ()][:3] == [
        ("rmse", False),
        ("r2", True),
        ("loss", False),
    ]
    assert result.main.name == "rmse"
    place = folder / "out" / "0-Magnitude" / "level-01"
    posteriors = ws.Collection.load(place, factory=task.architecture.factory)
    row = next(one for one in result.rows if one.method == "|mu|" and one.network == 1 and one.density < 1)
    seed, (x, y) = seeds.derive(0, "judged", 1), (task.test.x, task.test.y)
    mean = bayes.draw(posteriors[[1]], 3, seed=seed).ensemble().predict(x)
    assert row.metric("rmse") == pytest.approx((mean - y).square().mean().sqrt().item(), rel=1e-4)
    predicted = bayes.predict_values(posteriors[[1]], x, 3, seed=seed)
    assert row.metric("nll") == pytest.approx(-predicted.log_prob(y).mean().item(), rel=1e-4)
    assert predicted.stddev.min() > posteriors.records[1]["noise_std"], "noise and draws both count"
    plain = next(one for one in result.rows if one.method == "deterministic")
    assert plain.metric("nll") is None, "a network without noise is no distribution of values"
    with open(folder / "out" / "rows.csv", newline="", encoding="utf-8") as file:
        header = next(csv.reader(file))
    assert header == ["method", "network", "density", "layers", "rmse", "r2", "loss", "nll", "coverage", "seconds"]
    capsys.readouterr()


def test_a_study_without_a_likelihood_is_refused_before_training(
    waves: tuple[Path, ws.Task], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = waves
    words = ["bayes", "--out", str(folder / "none"), "--import-from", str(folder), "--task", "own_waves:unknown"]
    assert main(words) == 1
    assert "outputs=Classes(), Binary() or Regression()" in capsys.readouterr().err
    assert not (folder / "none").exists()
