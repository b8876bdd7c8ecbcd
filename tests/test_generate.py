from pathlib import Path

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace import generate
from weightspace.errors import InputError, StorageError
from weightspace.flow import fit as flow_fit

MODEL = ws.TicketGenerator(compress=ws.PCA(5), generate=ws.FlowMatching(width=16, blocks=1, steps=60, batch_size=16))


@pytest.mark.parametrize("density", [0.05, 0.1, 0.2, 0.333])
def test_samples_have_exactly_the_density_asked(generator: ws.FittedGenerator, density: float) -> None:
    nets = generator.sample(6, density=density, seed=1)
    prunable = generator.layout.prunable
    asked = round(density * generator.layout.num_prunable)
    assert (nets.masks[:, prunable].sum(1) == asked).all()
    assert ((nets.weights != 0)[:, prunable].sum(1) == asked).all()
    modules = [network.module() for network in nets]
    assert all(
        sum(int((m.weight != 0).sum()) for m in module.modules() if isinstance(m, nn.Linear)) == asked
        for module in modules
    )
    assert nets.records[3]["kind"] == "sample"


def test_patterns_are_met_exactly(generator: ws.FittedGenerator) -> None:
    nets = generator.sample(3, pattern=ws.NM(1, 4), seed=1)
    masks = generator.layout.unpack(nets.masks)["3.weight"].unflatten(2, (3, 4))
    assert (masks.sum(-1) == 1).all()
    pixels = generator.layout.unpack(nets.masks)["1.weight"].unflatten(2, (16, 4))
    assert (pixels.sum(-1) <= 1).all()  # none where no ticket uses any of four pixels


def test_masks_are_nested_as_density_falls(generator: ws.FittedGenerator) -> None:
    wide, narrow = (generator.sample(5, density=d, seed=1).masks for d in (0.3, 0.1))
    assert (narrow <= wide).all()


def test_samples_differ_and_follow_their_seed(generator: ws.FittedGenerator) -> None:
    a, b, c = (generator.sample(4, density=0.2, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(a.weights, b.weights)
    assert not torch.allclose(a.weights, c.weights)
    assert not torch.allclose(a[0].weights, a[1].weights)
    few = generator.sample(2, density=0.2, seed=1)
    torch.testing.assert_close(few.weights, a[:2].weights, rtol=1e-4, atol=1e-5)


def test_saved_equals_loaded(generator: ws.FittedGenerator, tmp_path: Path) -> None:
    loaded = ws.FittedGenerator.load(generator.save(tmp_path / "g"))
    assert torch.equal(loaded.sample(3, density=0.2).weights, generator.sample(3, density=0.2).weights)
    assert loaded.trained_on == generator.trained_on
    assert loaded.trained_on["networks"] == 8
    assert loaded.align is not None
    assert torch.equal(loaded.align.reference["weights"], generator.align.reference["weights"])
    with pytest.raises(StorageError, match="not empty"):
        generator.save(tmp_path / "g")


def test_damaged_or_foreign_folders_are_refused(generator: ws.FittedGenerator, tmp_path: Path) -> None:
    folder = generator.save(tmp_path / "g")
    tensors = folder / generate.TENSORS
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StorageError, match="checksum"):
        ws.FittedGenerator.load(folder)
    with pytest.raises(StorageError, match="not a generator"):
        ws.FittedGenerator.load(tmp_path)


def test_an_interrupted_fit_continues_to_the_same_bytes(
    tickets, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_fit, "_CHECKPOINT_EVERY", 20)
    MODEL.fit(tickets, seed=2, folder=tmp_path / "whole")
    original = flow_fit.linear_path
    calls = 0

    def interrupt(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(flow_fit, "linear_path", interrupt)
    with pytest.raises(KeyboardInterrupt):
        MODEL.fit(tickets, seed=2, folder=tmp_path / "broken")
    with pytest.raises(StorageError, match="interrupted"):
        ws.FittedGenerator.load(tmp_path / "broken")
    MODEL.fit(tickets, seed=2, folder=tmp_path / "broken")
    assert calls == 30 + 40
    for name in (generate.TENSORS, generate.MANIFEST):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    with pytest.raises(StorageError, match=r"config\.seed: 2 there, 3 asked"):
        MODEL.fit(tickets, seed=3, folder=tmp_path / "whole")


def test_aligned_collections_are_taken_as_they_are(tickets: ws.Collection) -> None:
    aligned = ws.WeightMatching().fit(tickets).transform(tickets)
    assert MODEL.fit(aligned).align is None
    assert MODEL.fit(tickets).align is not None
    halves = [ws.WeightMatching().fit(half).transform(half) for half in (tickets[:5], tickets[5:])]
    assert MODEL.fit(ws.Collection.concatenate(halves)).align is not None  # aligned, but not to each other


def test_a_mistake_leaves_no_trace(tickets: ws.Collection, generator: ws.FittedGenerator, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        ws.TicketGenerator(compress=ws.PCA(10)).fit(tickets, folder=tmp_path / "g")
    for wrong in ({"density": 1e-9}, {"density": 1.0}, {"density": 0.1, "seed": -1}):
        with pytest.raises(InputError):
            generator.sample(2, **wrong, folder=tmp_path / "g")
    assert not (tmp_path / "g").exists()
    assert len(generator.sample(2, density=0.1, folder=tmp_path / "g")) == 2


def test_impossible_requests_are_refused(generator: ws.FittedGenerator, tickets: ws.Collection) -> None:
    with pytest.raises(InputError, match="either density= or pattern="):
        generator.sample(2)
    with pytest.raises(InputError, match="either density= or pattern="):
        generator.sample(2, density=0.1, pattern=ws.NM(2, 4))
    with pytest.raises(InputError, match=r"only \d+ are left: ask for a lower density"):
        generator.sample(2, density=1.0)  # pixels that no ticket uses have no weights to keep
    with pytest.raises(InputError, match="at least one network"):
        generator.sample(0, density=0.1)
    with pytest.raises(InputError, match="10 networks of"):
        ws.TicketGenerator(compress=ws.PCA(10)).fit(tickets)


def test_networks_with_statistics_are_refused(task: ws.Task) -> None:
    from dataclasses import replace

    normed = replace(task, architecture=ws.Architecture.of(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 3), nn.BatchNorm1d(3), nn.Linear(3, 10))
    ))  # fmt: skip
    with pytest.raises(InputError, match=r"buffers \(2\.running_mean"):
        MODEL.fit(ws.collect(normed, 7))
