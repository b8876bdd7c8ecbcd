import copy
import csv
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import weightspace as ws
from weightspace.errors import InputError, LayoutMismatch, StorageError
from weightspace.storage.shards import ShardReader


class Norm(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.body(x)


def make(n: int = 6, *, sparse: bool = True, extras: bool = True) -> ws.Collection:
    """Random networks with BatchNorm, buffers of two dtypes, masks and extras."""
    architecture = ws.Architecture.of(Norm)
    layout = architecture.layout()
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(n, layout.size, generator=random)
    masks = ws.Unstructured(0.5).mask(torch.rand(n, layout.size, generator=random), layout)
    return ws.Collection(
        layout,
        weights * masks if sparse else weights,
        architecture=architecture,
        masks=masks if sparse else None,
        buffers={
            "body.1.running_mean": torch.randn(n, 3, generator=random),
            "body.1.running_var": torch.rand(n, 3, generator=random) + 0.5,
            "body.1.num_batches_tracked": torch.arange(n),
        },
        extras={"rewind": torch.randn(n, layout.size, generator=random)} if extras else None,
        records=[{"seed": i, "metrics": {"accuracy": i / 10}} for i in range(n)],
    )


def assert_same(a: ws.Collection, b: ws.Collection) -> None:
    assert a.layout == b.layout
    assert a.records == b.records
    assert torch.equal(a.weights, b.weights)
    assert torch.equal(a.masks, b.masks)
    assert a.buffers.keys() == b.buffers.keys()
    assert a.extras.keys() == b.extras.keys()
    for name in a.buffers:
        assert torch.equal(a.buffers[name], b.buffers[name])
        assert a.buffers[name].dtype == b.buffers[name].dtype
    for name in a.extras:
        assert torch.equal(a.extras[name], b.extras[name])


@pytest.mark.parametrize("sparse", [True, False])
def test_saved_equals_loaded(tmp_path: Path, sparse: bool) -> None:
    collection = make(sparse=sparse)
    loaded = ws.Collection.load(collection.save(tmp_path / "c"), factory=Norm)
    assert loaded.dense is not sparse
    assert_same(collection, loaded)


def test_files_do_not_depend_on_the_day(tmp_path: Path) -> None:
    a, b = make().save(tmp_path / "a"), make().save(tmp_path / "b")
    assert {p.name: p.read_bytes() for p in a.iterdir()} == {p.name: p.read_bytes() for p in b.iterdir()}


def test_many_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws.networks.collection, "_SHARD_BYTES", 500)
    collection = make(7)
    folder = collection.save(tmp_path / "c")
    assert len(list(folder.glob("shard-*"))) > 2
    loaded = ws.Collection.load(folder, factory=Norm)
    assert_same(collection, loaded)
    assert_same(collection[[6, 0, 3, 3]], loaded[[6, 0, 3, 3]])


def test_slicing_never_reads_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ws.networks.collection, "_SHARD_BYTES", 1)  # one network a shard
    collection = make(4)
    folder = collection.save(tmp_path / "c")
    loaded = ws.Collection.load(folder, factory=Norm)
    read: list[list[int]] = []
    original = ShardReader.weights
    monkeypatch.setattr(
        ShardReader, "weights", lambda self, rows, size: read.append(rows.tolist()) or original(self, rows, size)
    )
    part = loaded[1:3].filter(lambda record: record["seed"] == 2)
    assert read == []
    (folder / "shard-00000.safetensors").unlink()  # proof: the other files are not touched
    assert torch.equal(part.weights, collection.weights[2:3])
    assert read == [[2]]


def test_slices_lists_masks_and_negative_indices_agree() -> None:
    collection = make()
    assert_same(collection[1:5:2], collection[[1, 3]])
    assert_same(collection[torch.tensor([True, False, True, False, False, False])], collection[[0, 2]])
    assert torch.equal(collection[-1].weights, collection.weights[5])
    with pytest.raises(IndexError):
        collection[6]
    assert torch.equal(collection[torch.tensor(2)].weights, collection[np.int64(2)].weights)
    with pytest.raises(InputError, match="at least one network"):
        collection[3:3]
    with pytest.raises(InputError, match="at least one network"):
        collection.filter(lambda _: False)


def test_a_selection_of_one_is_still_a_collection() -> None:
    collection = make()
    for one in ([3], torch.tensor([3]), np.array([3]), slice(3, 4)):
        assert isinstance(collection[one], ws.Collection)
        assert torch.equal(collection[one].weights[0], collection.weights[3])
    for number in (3, torch.tensor(3), np.int64(3)):
        assert isinstance(collection[number], type(collection[3]))


def test_concatenate_and_split_are_inverse() -> None:
    collection = make()
    assert_same(ws.Collection.concatenate(collection.split(1, 2, 3)), collection)
    with pytest.raises(InputError, match="add up"):
        collection.split(1, 2)
    with pytest.raises(LayoutMismatch, match="another layout"):
        ws.Collection.concatenate([collection, ws.collect(ws.tasks.digits(hidden=(2,)), 1)])


def test_records_as_csv(tmp_path: Path) -> None:
    make(3).to_csv(tmp_path / "r.csv")
    rows = list(csv.DictReader((tmp_path / "r.csv").read_text().splitlines()))
    assert [row["metrics.accuracy"] for row in rows] == ["0.0", "0.1", "0.2"]
    assert rows[2]["network"] == "2"


def test_module_carries_weights_buffers_and_masks() -> None:
    network = make()[2]
    module = network.module()
    state = module.state_dict()
    assert state.keys() == Norm().state_dict().keys()  # plain names: loads anywhere
    assert torch.equal(network.layout.pack(state), network.weights)
    assert int(state["body.1.num_batches_tracked"]) == 2
    layer = module.get_submodule("body.0")
    assert torch.equal(layer.get_buffer("weight_mask"), network.layout.unpack(network.mask)["body.0.weight"])
    assert network.density == 0.5


def train_on(module: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> None:
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        optimizer.zero_grad()
        module(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("prepare", [lambda m: m, copy.deepcopy])
@pytest.mark.parametrize(
    "optimizer",
    [
        lambda p: torch.optim.SGD(p, 0.01, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.Adam(p, 0.01, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.01),
    ],
)
def test_pruned_weights_stay_zero_in_training_and_kept_ones_move(prepare, optimizer) -> None:
    network = make()[0]
    module = prepare(network.module())
    train_on(module, optimizer(module.parameters()))
    after = network.layout.pack(module.state_dict())
    prunable = network.layout.prunable
    assert (after[~network.mask] == 0).all()
    assert (after[prunable & network.mask] != network.weights[prunable & network.mask]).all()


def test_without_masks_training_would_revive_pruned_weights() -> None:  # the control of the test above
    network = make()[0]
    plain = Norm()
    plain.load_state_dict(network.state_dict())
    train_on(plain, torch.optim.SGD(plain.parameters(), 0.01))
    assert (network.layout.pack(plain.state_dict())[~network.mask] != 0).any()


def test_loading_dense_weights_into_a_sparse_module_keeps_it_sparse() -> None:
    network = make()[0]
    module = network.module()
    module.load_state_dict(Norm().state_dict())
    assert (network.layout.pack(module.state_dict())[~network.mask] == 0).all()


def test_sparse_modules_work_with_functional_calls() -> None:
    module = make()[0].module().eval()
    x = torch.randn(3, 4)
    torch.testing.assert_close(torch.func.functional_call(module, module.state_dict(), (x,)), module(x))


def test_a_pickled_module_still_keeps_its_zeros(tmp_path: Path) -> None:
    network = make()[0]
    torch.save(network.module(), tmp_path / "m.pt")
    module = torch.load(tmp_path / "m.pt", weights_only=False)  # our own file, written one line above
    train_on(module, torch.optim.SGD(module.parameters(), 0.01))
    assert (network.layout.pack(module.state_dict())[~network.mask] == 0).all()


def test_ensemble_equals_modules_one_by_one(tickets: ws.Collection, task: ws.Task) -> None:
    x = task.test.x[:50]
    each = torch.stack([network.module().eval()(x).softmax(-1) for network in tickets]).detach()
    ensemble = tickets.ensemble()
    torch.testing.assert_close(ensemble.member_proba(x), each, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(ensemble.predict_proba(x), each.mean(0), rtol=1e-5, atol=1e-6)
    assert torch.equal(ensemble.predict(x.double().numpy()), each.mean(0).argmax(-1))
    with pytest.raises(InputError, match=r"inputs of shape \(50, 63\) do not fit"):
        ensemble.predict_proba(x.flatten(1)[:, :63])


def test_ensemble_uses_each_networks_own_statistics() -> None:
    collection = make()
    x = torch.randn(9, 4)
    each = torch.stack([network.module().eval()(x) for network in collection]).detach()
    torch.testing.assert_close(collection.ensemble().logits(x), each)


def test_bad_tensors_are_refused() -> None:
    good = make()
    layout, architecture, weights, masks, buffers = (
        good.layout,
        good.architecture,
        good.weights,
        good.masks,
        good.buffers,
    )

    def build(**changes: object) -> ws.Collection:
        return ws.Collection(
            **(
                {"layout": layout, "weights": weights, "architecture": architecture, "masks": masks, "buffers": buffers}
                | changes
            )
        )

    bad = weights.clone()
    bad[3, 1] = torch.nan
    with pytest.raises(InputError, match=r"network 3 holds NaN.*body\.0\.weight"):
        build(weights=bad, masks=None)
    bad[3, 1] = torch.inf
    with pytest.raises(InputError, match="infinite"):
        build(weights=bad, masks=None)
    with pytest.raises(LayoutMismatch, match=r"weights has shape \(6, 5\), expected \(6, \d+\)"):
        build(weights=weights[:, :5], masks=None)
    with pytest.raises(InputError, match="not zero"):
        build(weights=torch.ones_like(weights))
    with pytest.raises(InputError, match="never pruned"):
        build(masks=torch.zeros_like(masks), weights=torch.zeros_like(weights))
    with pytest.raises(LayoutMismatch, match="buffers that were not given"):
        build(buffers={})
    with pytest.raises(LayoutMismatch, match="no buffer 'x'"):
        build(buffers=buffers | {"x": torch.zeros(6, 1)})
    with pytest.raises(InputError, match=r"float64.*float32"):
        build(weights=weights.double())
    with pytest.raises(InputError, match="one for each of the 6 networks, got 2"):
        build(records=[{}, {}])


def test_save_refuses_a_used_folder_and_changes_nothing(tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "mine.txt").write_text("keep")
    with pytest.raises(StorageError, match="not empty"):
        make().save(tmp_path / "c")
    assert [p.name for p in (tmp_path / "c").iterdir()] == ["mine.txt"]


def test_a_record_that_is_not_json_is_named_and_nothing_is_left_behind(tmp_path: Path) -> None:
    collection = make(2).replace(records=[{"loss": float("nan")}, {}])
    with pytest.raises(InputError, match="cannot be written as JSON"):
        collection.save(tmp_path / "c")
    assert list(tmp_path.iterdir()) == []


def test_own_modules_need_their_factory(tmp_path: Path) -> None:
    folder = make(2).save(tmp_path / "c")
    loaded = ws.Collection.load(folder)
    assert torch.equal(loaded.weights, make(2).weights)  # weights need no factory
    with pytest.raises(InputError, match=r"'Norm'.*factory="):
        loaded.module(0)
    with pytest.raises(LayoutMismatch, match="given factory has another layout"):
        ws.Collection.load(folder, factory=lambda: ws.models.MLP((4, 3, 2)))


def test_built_in_networks_rebuild_themselves(tmp_path: Path, dense: ws.Collection, task: ws.Task) -> None:
    loaded = ws.Collection.load(dense.save(tmp_path / "c"))
    assert torch.equal(loaded.module(3)(task.test.x), dense.module(3)(task.test.x))


def test_fingerprint_follows_content(tmp_path: Path) -> None:
    a = make()
    assert a.fingerprint() == make().fingerprint()
    assert a.fingerprint() != a[:5].fingerprint()
    changed = a.weights.clone()
    changed[0, a.masks[0]] += 1
    assert a.fingerprint() != a.replace(weights=changed).fingerprint()
    loaded = ws.Collection.load(a.save(tmp_path / "c"))
    assert loaded.fingerprint() == ws.Collection.load(tmp_path / "c").fingerprint() != loaded[1:].fingerprint()


def test_a_view_has_the_tensors_themselves() -> None:
    networks = make()
    view = networks.view(slice(2, 5))
    assert view.fingerprint() == networks[2:5].fingerprint()
    assert view.weights.data_ptr() == networks.weights[2:].data_ptr()
    assert networks[2:5].weights.data_ptr() != networks.weights[2:].data_ptr()
    with pytest.raises(InputError, match="selection is empty"):
        networks.view(slice(6, 9))


def test_a_view_is_sent_without_the_other_networks(tickets: ws.Collection) -> None:
    sent = pickle.dumps(tickets.view(slice(2, 3)))
    assert len(sent) < 2 * len(pickle.dumps(tickets[[2]]))
    assert len(sent) < 0.5 * len(pickle.dumps(tickets))
    got = pickle.loads(sent)
    assert got.weights.equal(tickets.weights[2:3])
    assert got.masks.equal(tickets.masks[2:3])
