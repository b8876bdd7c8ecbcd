from pathlib import Path

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace.evaluation.pictures import _difference, _share
from weightspace.tasks import draw, grid, pictures

SIDE, N = 5, 48


def stripes(n: int, seed: int) -> Tensor:
    """Pictures of two kinds, bright on the left or bright at the top, with a little noise."""
    random = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0.9, 0.1, SIDE).expand(SIDE, SIDE)
    left = torch.rand(n, generator=random) < 0.5
    images = torch.where(left[:, None, None], ramp, ramp.T)
    return (images + 0.05 * torch.randn(n, SIDE, SIDE, generator=random)).clamp(0, 1)


def drawing(images: Tensor, unseen: Tensor | None) -> ws.Task:
    network = ws.Architecture("Siren", {"sizes": (2, 60, 1), "omega": 6.0})
    return pictures("stripes", images, network, ws.Recipe("1it", batch_size=SIDE**2), unseen)


def drawn_by(start: ws.Collection, images: Tensor) -> ws.Collection:
    """Networks of one start whose last layers are solved for, so that each draws its picture."""
    layout, module = start.layout, start.module(0)
    last = next(entry.name for entry in reversed(layout.entries) if entry.name.endswith("weight"))
    inputs: list[Tensor] = []
    module.get_submodule(last.removesuffix(".weight")).register_forward_hook(lambda _, x, __: inputs.append(x[0]))
    module(grid(SIDE, SIDE))
    features = torch.cat([inputs[0].detach(), torch.ones(SIDE**2, 1)], 1).double()
    solved = torch.linalg.pinv(features) @ images.flatten(1).double().T  # (units + 1, n)
    weights = start.weights[:1].repeat(len(images), 1)
    weights[:, layout.slices[last]] = solved[:-1].T.float()
    weights[:, layout.slices[last.replace("weight", "bias")]] = solved[-1:].T.float()
    records = [{"data": i, "index": i} for i in range(len(images))]
    return start[[0] * len(images)].replace(weights=weights, records=records)


@pytest.fixture(scope="module")
def task() -> ws.Task:
    return drawing(stripes(N, 0), stripes(N, 1))


@pytest.fixture(scope="module")
def start(task: ws.Task) -> ws.Collection:
    return ws.collect(task, 1, seed=0)


@pytest.fixture(scope="module")
def training(start: ws.Collection) -> ws.Collection:
    return drawn_by(start, stripes(N, 0))


@pytest.fixture(scope="module")
def fresh(start: ws.Collection) -> ws.Collection:
    """Networks of other pictures of the same kind."""
    return drawn_by(start, stripes(N, 2))


@pytest.fixture(scope="module")
def report(task: ws.Task, training: ws.Collection, fresh: ws.Collection) -> ws.PictureReport:
    return ws.evaluate_pictures(fresh, task, training=training, components=8, others={"again": training})


def outcomes(report: ws.PictureReport) -> dict[str, str]:
    return {verdict.claim: verdict.outcome for verdict in report.verdicts}


def test_networks_of_other_pictures_are_no_copies_and_training_networks_are(
    task: ws.Task, training: ws.Collection, report: ws.PictureReport
) -> None:
    torch.testing.assert_close(draw(training, SIDE, SIDE)[:, 0], stripes(N, 0), rtol=0, atol=1e-3)
    assert report.count == N
    assert [one.name for one in report.sets] == ["unseen pictures", "training", "samples", "again", "Gaussian"]
    rows = {one.name: one for one in report.sets}
    assert rows["samples"].copies.value < 0.2
    assert rows["again"].copies.value > 0.8
    assert rows["again"].nearest < rows["samples"].nearest
    copied = ws.evaluate_pictures(training, task, training=training, components=8)
    assert outcomes(copied)["the pictures are no copies"] == "fail"
    assert outcomes(report)["the pictures are no copies"] != "fail"


def test_a_gaussian_draws_between_two_kinds(report: ws.PictureReport) -> None:
    rows = {one.name: one for one in report.sets}
    ours, gaussian = rows["samples"], rows["Gaussian"]
    assert ours.precision is not None
    assert gaussian.precision is not None
    assert ours.precision.value > 0.8
    assert gaussian.precision.low < ours.precision.low - 0.2
    shown = {row.name: torch.tensor(row.pixels) for row in report.shown}
    assert shown["samples"].shape == (16, SIDE, SIDE, 1)
    assert int(shown["samples"].min()) >= 0
    assert int(shown["samples"].max()) <= 255


def test_features_are_the_users(task: ws.Task, training: ws.Collection, fresh: ws.Collection) -> None:
    def brightness(images: Tensor) -> Tensor:
        return images.mean((1, 2, 3))[:, None]

    judged = ws.evaluate_pictures(fresh, task, training=training, components=8, features=brightness)
    assert judged.features == "features"
    assert "by features" in str(judged)


def test_a_report_is_read_back_and_shown(report: ws.PictureReport, tmp_path: Path) -> None:
    report.write(tmp_path)
    assert ws.PictureReport.load(tmp_path / "report.json").to_json() == report.to_json()
    page = (tmp_path / "report.html").read_text()
    assert page.count("<img") == 1
    assert "the pictures are no copies" in page
    assert page.index(report.headline().split(";")[0]) < page.index("<img") < page.index("<table")
    assert str(report).startswith("samples: precision ")
    (tmp_path / "report.json").write_text("{}")
    with pytest.raises(ws.StorageError):
        ws.PictureReport.load(tmp_path / "report.json")


def test_what_cannot_be_compared_is_refused(task: ws.Task, training: ws.Collection, fresh: ws.Collection) -> None:
    with pytest.raises(ws.InputError, match="unseen"):
        ws.evaluate_pictures(fresh, drawing(stripes(N, 0), None), training=training)
    with pytest.raises(ws.InputError, match="is no task of pictures"):
        ws.evaluate_pictures(fresh, ws.tasks.iris(recipe=ws.Recipe("1it")), training=training)
    with pytest.raises(ws.InputError, match="belongs to picture"):
        ws.evaluate_pictures(fresh, drawing(stripes(4, 0), stripes(N, 1)), training=training)
    broken = fresh.replace(weights=fresh.weights.clone().fill_(1e38))
    with pytest.raises(ws.InputError, match="draw NaN"):
        ws.evaluate_pictures(broken, task, training=training, components=8)
    with pytest.raises(ws.InputError, match="may not be named samples"):
        ws.evaluate_pictures(fresh, task, training=training, others={"samples": training})
    bright = drawing(2 * stripes(N, 0), stripes(N, 1))
    with pytest.raises(ws.InputError, match="from 0 to 1"):
        ws.evaluate_pictures(fresh, bright, training=training)
    with pytest.raises(ws.InputError, match=r"features\(pictures\)"):
        ws.evaluate_pictures(fresh, task, training=training, components=8, features=lambda images: images[:3])
    with pytest.raises(ws.InputError, match="of the size"):
        drawing(stripes(N, 0), torch.rand(3, 4, 4))


def test_intervals_of_shares() -> None:
    from scipy.stats import binomtest

    hits = torch.arange(50) < 8
    exact = binomtest(8, 50).proportion_ci(method="wilson")
    assert (_share(hits).low, _share(hits).high) == pytest.approx((exact.low, exact.high), abs=1e-6)
    assert _share(torch.zeros(10).bool()).low == 0
    same = _difference(hits, hits, paired=True)
    assert (same.low, same.high) == (0, 0)  # one by one, nothing differs
    assert _difference(hits, hits, paired=False).low < 0 < _difference(hits, hits, paired=False).high
