import pytest
import torch

import weightspace as ws
from weightspace.tasks import draw, grid, pictures


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Eight smooth pictures of 6 x 5 pixels."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 6), torch.linspace(0, 1, 5), indexing="ij")
    return torch.stack([0.5 + 0.5 * torch.sin(3 * rows * (i + 1) / 8 + columns) for i in range(8)])


@pytest.fixture(scope="module")
def task(images: torch.Tensor) -> ws.Task:
    network = ws.Architecture("Siren", {"sizes": (2, 16, 1), "omega": 5.0})
    return pictures("waves", images, network, ws.Recipe("150it", batch_size=30, optimizer=ws.Adam(lr=0.01)))


def test_each_network_draws_its_own_picture(task: ws.Task, images: torch.Tensor) -> None:
    networks = ws.collect(task, 8, plan=ws.SharedStart(at=ws.Step()), seed=0)
    drawn = draw(networks, 6, 5)
    assert drawn.shape == (8, 1, 6, 5)
    error = (drawn[:, None, 0] - images[None]).square().mean((2, 3))
    assert error.argmin(1).tolist() == list(range(8))
    assert error.diagonal().sqrt().max() < 0.05
    assert networks.records[3].metrics["validation_rmse"] == pytest.approx(error[3, 3].sqrt().item(), rel=1e-3)
    assert draw(networks, 12, 9).shape == (8, 1, 12, 9)  # any size
    again = ws.collect(task, 2, plan=ws.SharedStart(at=ws.Step()), seed=0)
    torch.testing.assert_close(again.weights, networks.weights[:2], rtol=1e-3, atol=1e-4)


def test_sparse_networks_draw_too(task: ws.Task) -> None:
    starts = ws.starts(ws.collect(task, 2, plan=ws.SharedStart(at=ws.Step()), seed=0))
    tickets = ws.tickets.PruneAtInit(ws.tickets.MagnitudeScore(), pattern=ws.Unstructured(0.5)).find(starts, task)
    assert tickets.densities.tolist() == pytest.approx([0.5, 0.5], abs=0.02)
    assert not tickets.masks[0].equal(tickets.masks[1])
    with torch.no_grad():
        alone = [tickets.module(i)(grid(6, 5))[:, 0].reshape(6, 5) for i in range(2)]
    torch.testing.assert_close(draw(tickets, 6, 5)[:, 0], torch.stack(alone))


def test_channels_come_first() -> None:
    task = pictures("colours", torch.rand(2, 3, 4, 4), recipe=ws.Recipe("1it", batch_size=16))
    assert task.train.of(1).y.shape == (16, 3)
    networks = ws.collect(task, 2, seed=0)
    assert draw(networks, 4, 4).shape == (2, 3, 4, 4)


def test_the_grid_runs_row_by_row() -> None:
    assert grid(2, 3).tolist() == [[-1, -1], [-1, 0], [-1, 1], [1, -1], [1, 0], [1, 1]]
    with pytest.raises(ws.InputError, match="rows and columns"):
        grid(0, 3)


def test_what_is_no_picture_is_refused() -> None:
    with pytest.raises(ws.InputError, match="expected pictures"):
        pictures("flat", torch.rand(3, 16))
    with pytest.raises(ws.InputError, match="NaN"):
        pictures("nan", torch.full((2, 4, 4), torch.nan))
    with pytest.raises(ws.InputError, match="shape"):
        draw(ws.collect(ws.tasks.iris(recipe=ws.Recipe("1it")), 2, seed=0), 4, 4)
