import weakref
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.errors import InputError, LayoutMismatch, StorageError
from weightspace.flow import flow_matching as flow_fit
from weightspace.flow import training_pairs
from weightspace.generator import MANIFEST, TENSORS, projection
from weightspace.networks import forward

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
    assert {record["generator"] for record in a.records} == {record["generator"] for record in c.records}
    few = generator.sample(2, density=0.2, seed=1)
    torch.testing.assert_close(few.weights, a[:2].weights, rtol=1e-4, atol=1e-5)


def test_large_networks_are_made_one_by_one_with_the_same_result(
    generator: ws.FittedGenerator, monkeypatch: pytest.MonkeyPatch
) -> None:
    together = generator.sample(5, density=0.2, seed=1)
    assert forward.at_once(4, generator.layout.size) == 4
    monkeypatch.setattr(forward, "_NUMBERS", generator.layout.size)
    assert forward.at_once(4, generator.layout.size) == 1
    one_by_one = generator.sample(5, density=0.2, seed=1)
    assert torch.equal(one_by_one.weights, together.weights)
    assert torch.equal(one_by_one.masks, together.masks)
    assert torch.equal(one_by_one.densities, together.densities)


def test_a_fitted_generator_is_not_in_memory_twice(
    tickets: ws.Collection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written to a folder is gone before it is read."""
    written: list[weakref.ref[ws.FittedGenerator]] = []
    write, load = ws.FittedGenerator.write, ws.FittedGenerator.load

    def kept(self: ws.FittedGenerator, folder: Path) -> None:
        written.append(weakref.ref(self))
        write(self, folder)

    def loaded(folder: Path, **options: object) -> ws.FittedGenerator:
        assert [one() for one in written] == [None]
        return load(folder)

    monkeypatch.setattr(ws.FittedGenerator, "write", kept)
    monkeypatch.setattr(ws.FittedGenerator, "load", loaded)
    flow = ws.FlowMatching(width=8, blocks=1, steps=2, batch_size=4)
    ws.TicketGenerator(align=None, compress=ws.PCA(2), generate=flow).fit(tickets, folder=tmp_path / "g")
    assert len(written) == 1


def test_saved_equals_loaded(generator: ws.FittedGenerator, tmp_path: Path) -> None:
    loaded = ws.FittedGenerator.load(generator.save(tmp_path / "g"))
    assert torch.equal(loaded.sample(3, density=0.2).weights, generator.sample(3, density=0.2).weights)
    assert loaded.trained_on == generator.trained_on
    assert loaded.trained_on["networks"] == 8
    other = replace(generator, trained_on=generator.trained_on | {"seed": 7})
    first, again, another = (g.sample(1, density=0.2).records[0]["generator"] for g in (generator, loaded, other))
    assert first == again
    assert first != another
    assert loaded.align is not None
    assert torch.equal(loaded.align.reference["weights"], generator.align.reference["weights"])
    with pytest.raises(StorageError, match="not empty"):
        generator.save(tmp_path / "g")


def test_damaged_or_foreign_folders_are_refused(generator: ws.FittedGenerator, tmp_path: Path) -> None:
    folder = generator.save(tmp_path / "g")
    tensors = folder / TENSORS
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
    original = training_pairs.linear_path
    calls = 0

    def interrupt(*arguments: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(training_pairs, "linear_path", interrupt)
    with pytest.raises(KeyboardInterrupt):
        MODEL.fit(tickets, seed=2, folder=tmp_path / "broken")
    with pytest.raises(StorageError, match="interrupted"):
        ws.FittedGenerator.load(tmp_path / "broken")
    MODEL.fit(tickets, seed=2, folder=tmp_path / "broken")
    assert calls == 30 + 40
    for name in (TENSORS, MANIFEST):
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
    with pytest.raises(InputError, match="n must be"):
        generator.sample(0, density=0.1)
    with pytest.raises(InputError, match="10 networks of"):
        ws.TicketGenerator(compress=ws.PCA(10)).fit(tickets)
    with pytest.raises(InputError, match="at least one of each"):
        ws.TicketGenerator(compress=ws.PCA(1)).fit(tickets[:4])


def test_several_densities_are_nested_or_independent(generator: ws.FittedGenerator) -> None:
    nets = generator.sample(4, density=[0.3, 0.1, 0.2], seed=1)
    assert len(nets) == 12
    wide, narrow, middle = nets.split(4, 4, 4)
    assert (narrow.masks <= middle.masks).all()
    assert (middle.masks <= wide.masks).all()
    assert torch.equal(wide.weights, generator.sample(4, density=0.3, seed=1).weights)
    assert [r["index"] for r in nets.records] == list(range(12))
    others = generator.sample(4, density=[0.3, 0.1, 0.2], nested=False, seed=1).split(4, 4, 4)
    assert not (others[1].masks <= others[0].masks).all()
    assert (others[1].densities == narrow.densities).all()
    with pytest.raises(InputError, match="at least 1 value"):
        generator.sample(2, density=[])


def test_networks_are_encoded_and_restored(generator: ws.FittedGenerator, tickets: ws.Collection) -> None:
    aligned = generator.align.transform(tickets)
    codes = generator.encode(tickets)
    torch.testing.assert_close(codes, generator.compress.transform(aligned.weights))
    samples = generator.sample(3, density=0.2, seed=0)
    torch.testing.assert_close(
        generator.encode(samples), generator.compress.transform(samples.weights)
    )  # aligned already
    exact = ws.TicketGenerator(compress=ws.PCA(7), generate=MODEL.generate).fit(tickets[:8])
    restored = exact.reconstruct(tickets[:8], density=0.2)
    again = exact.align.transform(tickets[:8])
    torch.testing.assert_close(restored.weights, again.weights, rtol=1e-3, atol=1e-4)  # 7 components hold 8 networks
    assert not torch.allclose(generator.reconstruct(tickets[8:], density=0.2).weights, aligned.weights[8:], atol=0.05)


def test_the_way_between_two_networks(generator: ws.FittedGenerator, tickets: ws.Collection) -> None:
    way = generator.interpolate(tickets[:2], 5, density=0.2)
    ends = generator.reconstruct(tickets[:2], density=0.2)
    assert len(way) == 5
    torch.testing.assert_close(way[[0, 4]].weights, ends.weights, rtol=0.1, atol=0.05)
    gaps = (way.weights[1:] - way.weights[:-1]).norm(dim=1)
    assert gaps.max() < 0.7 * (way.weights[0] - way.weights[4]).norm()
    with pytest.raises(InputError, match="2 networks"):
        generator.interpolate(tickets[:3], 5, density=0.2)


def test_likelihoods_follow_the_order_of_the_flow(generator: ws.FittedGenerator, tickets: ws.Collection) -> None:
    found = generator.log_prob(tickets)
    assert found.shape == (10,)
    broken = tickets.replace(weights=tickets.weights * 4)
    assert (generator.log_prob(broken) < found).all()


def test_networks_with_batchnorm_get_statistics_from_training_data(task: ws.Task, tmp_path: Path) -> None:
    class Net(nn.Sequential):
        def __init__(self) -> None:
            super().__init__(nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 10))

    normed = replace(task, architecture=ws.Architecture.of(Net))
    tickets = ws.tickets.GradualPruning(density=0.5, length=ws.Step(epochs=3)).find(ws.collect(normed, 8), normed)
    fitted = MODEL.fit(tickets)
    nets = fitted.sample(5, density=0.5, data=task.train)
    hidden = nn.functional.linear(
        task.train.x.flatten(1)[:1024], *(nets[0].state_dict()[name] for name in ("1.weight", "1.bias"))
    )
    mean = torch.stack([part.mean(0) for part in hidden.split(512)]).mean(0)  # of batches of 512
    torch.testing.assert_close(nets[0].state_dict()["2.running_mean"], mean, atol=0.05, rtol=0.1)
    loaded = ws.FittedGenerator.load(fitted.save(tmp_path / "g"), factory=Net)
    again = loaded.sample(5, density=0.5, data=task.train)
    assert torch.equal(again.weights, nets.weights)
    assert torch.equal(again.buffers["2.running_var"], nets.buffers["2.running_var"])
    with pytest.raises(InputError, match=r"2\.running_mean.*give data=task\.train"):
        fitted.sample(5, density=0.5)


def test_tickets_taken_as_they_are_can_be_encoded(tickets: ws.Collection) -> None:
    fitted = replace(MODEL, align=None).fit(tickets)
    assert fitted.trained_on["basin"] is None
    again = fitted.reconstruct(tickets, density=0.2)
    assert (again.weights - tickets.weights).norm() < tickets.weights.norm()
    assert fitted.log_prob(fitted.sample(2, density=0.2)).isfinite().all()


def test_sampling_leaves_the_global_random_state_alone(generator: ws.FittedGenerator) -> None:
    before = torch.get_rng_state()
    generator.sample(2, density=0.2)
    generator.log_prob(generator.sample(1, density=0.2))
    assert torch.equal(before, torch.get_rng_state())


def test_float64_tickets_give_float64_samples(tickets: ws.Collection, task: ws.Task) -> None:
    def double() -> nn.Module:
        return task.architecture.build_seeded(0).double()

    architecture = ws.Architecture.of(double)
    networks = ws.Collection(
        architecture.layout(),
        tickets.weights.double(),
        architecture=architecture,
        masks=tickets.masks,
        records=tickets.records,
    )
    example = task.train.x[:8].double()
    for compress in (MODEL.compress, None):
        model = replace(MODEL, compress=compress)
        samples = model.fit(networks, example=example).sample(3, density=0.2)
        assert samples.weights.dtype is torch.float64


def test_a_folder_of_samples_knows_all_that_decides_them(generator: ws.FittedGenerator, tmp_path: Path) -> None:
    generator.sample(3, density=0.2, folder=tmp_path / "s")
    coarse = replace(generator, flow=replace(generator.flow, config=replace(generator.flow.config, solver_steps=2)))
    assert coarse.fingerprint() != generator.fingerprint()
    with pytest.raises(StorageError, match="another run"):
        coarse.sample(3, density=0.2, folder=tmp_path / "s")
    one = generator.sample(3, density=0.2, nested=False)
    assert torch.equal(one.weights, generator.sample(3, density=0.2).weights), "one density has nothing to nest"


def test_samples_on_disk_are_written_as_they_are_made(
    generator: ws.FittedGenerator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = generator.sample(5, density=[0.2, 0.1], seed=1)
    monkeypatch.setattr("weightspace.generator.sampling._BLOCK_BYTES", 4 * generator.layout.size * 3)
    parts = generator.sample(5, density=[0.2, 0.1], seed=1, folder=tmp_path / "s")
    assert parts.records == whole.records
    assert torch.equal(parts.masks, whole.masks)
    torch.testing.assert_close(parts.weights, whole.weights, rtol=1e-4, atol=1e-6)
    assert len(list((tmp_path / "s").glob("shard-*"))) == 4


def test_numbers_of_any_kind_are_densities(generator: ws.FittedGenerator) -> None:
    import numpy as np

    plain = generator.sample(2, density=0.2)
    rules = projection.patterns_of.__wrapped__  # without the type checks of the tests, as users call it
    for density in (np.float32(0.2), torch.tensor(0.2)):
        (rule,) = rules(density, None, generator.layout, (0.2, 0.2))
        assert torch.equal(generator.sample(2, pattern=rule).masks, plain.masks)
    assert len(rules(np.array([0.1, 0.2]), None, generator.layout, (0.2, 0.2))) == 2
    with pytest.raises(InputError, match="at least 1 value"):
        generator.sample(2, density=[])


def test_a_flow_that_diverges_says_so(tickets: ws.Collection) -> None:
    wild = replace(MODEL, generate=replace(MODEL.generate, lr=1e8, steps=40))
    with pytest.raises(InputError, match="diverged"):
        wild.fit(tickets)


def test_mistakes_are_found_before_the_work(
    tickets: ws.Collection, dense: ws.Collection, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("work has begun")

    monkeypatch.setattr(ws.WeightMatching, "fit", never)
    with pytest.raises(InputError, match="dense"):
        replace(MODEL, masks=ws.GateMask()).fit(dense)
    with pytest.raises(LayoutMismatch):
        replace(MODEL, refine=ws.TaskRefinement()).fit(tickets, task=ws.tasks.digits(hidden=(3,)))
    with pytest.raises(InputError, match="keeps none"):
        few = ws.TaskRefinement(patterns=[ws.Unstructured(1e-6)])
        replace(MODEL, refine=few).fit(tickets, task=ws.tasks.digits(hidden=(12, 8)))


class _WithTable(nn.Module):
    """A layer with a buffer that is no statistic, such as an embedding that is not trained."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.register_buffer("table", torch.ones(4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)


def test_buffers_that_are_no_statistics_need_no_data() -> None:
    architecture = ws.Architecture.of(_WithTable)
    layout = architecture.layout()
    weights = torch.randn(6, layout.size, generator=torch.Generator().manual_seed(0))
    tables = {"table": torch.arange(4.0).expand(6, 4)}
    networks = ws.Collection(layout, weights, architecture=architecture, buffers=tables)
    flow = ws.FlowMatching(width=8, blocks=1, steps=2, batch_size=4)
    model = ws.TicketGenerator(align=None, compress=ws.PCA(2), generate=flow)
    assert torch.equal(model.fit(networks).sample(2, density=1.0).buffers["table"], tables["table"][:2])


def test_a_task_gives_the_input_of_networks_that_do_not_tell_theirs(task: ws.Task) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 10))

    own = replace(task, architecture=ws.Architecture.of(build), recipe=ws.Recipe("2it"))
    finder = ws.tickets.GradualPruning(density=0.5, length=ws.Step(iterations=2), every=1, ramp=0.5)
    tickets = finder.find(ws.collect(own, 5), own)
    model = ws.TicketGenerator(compress=ws.PCA(2), generate=ws.FlowMatching(steps=2))
    with pytest.raises(InputError, match="is not known"):
        model.fit(tickets)
    fitted = model.fit(tickets, task=own)
    assert fitted.align is not None
    again = model.fit(tickets, example=own.train.head(8).x)
    assert torch.equal(fitted.sample(2, density=0.5).weights, again.sample(2, density=0.5).weights)
    assert repr(fitted).startswith("FittedGenerator(trained on 5 ")
    assert "tensor" not in repr(fitted)
