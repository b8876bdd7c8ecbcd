"""What holds of every ticket finder, the library's and a user's own."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace import tickets
from weightspace.errors import LayoutMismatch, StorageError
from weightspace.masks import keep_counts
from weightspace.networks import building
from weightspace.tickets import edge_popup
from weightspace.tickets import finder as shared
from weightspace.tickets.finder import Finder, LevelFinder, SearchBlock, SearchResult, recipe_length, search
from weightspace.training import trainer as training

NETWORKS, BLOCK = 3, 2


@dataclass(frozen=True)
class OneShot:
    """A finder in a few lines: the largest trained weights, put back to their initial values and trained."""

    density: float = 0.3

    def find(
        self, networks: ws.Collection, task: ws.Task, *, folder: str | Path | None = None, device: str = "auto"
    ) -> ws.Collection:
        length = recipe_length(task)

        def find(block: SearchBlock) -> SearchResult:
            masks = ws.Unstructured(self.density).mask(block.networks.weights.abs(), block.networks.layout)
            trainer = block.trainer(block.start.replace(weights=block.start.weights * masks, masks=masks))
            block.train(trainer, length)
            return SearchResult(trainer, block.start.weights)

        method = {"name": "OneShot", **asdict(self)}
        return search(
            networks, task, find, method=method, what="one-shot tickets", ticks=length, folder=folder, device=device
        )


@dataclass(frozen=True)
class FirstLayer:
    """A user's own pattern: as many weights of the first layer, and all others."""

    keep: int = 20

    def mask(self, scores: Tensor, layout: ws.Layout, within: Tensor | None = None) -> Tensor:
        return keep_counts(scores, layout, [self.keep, *(entry.size for entry in layout.weights[1:])], within)


def normed() -> nn.Module:
    return nn.Sequential(
        nn.Linear(4, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)
    )


AT = ws.Step
# The finder, its name on disk, and whether it keeps a checkpoint.
FINDERS: dict[str, tuple[Callable[[], Any], str, bool]] = {
    "gradual": (lambda: tickets.GradualPruning(0.3, length=AT(epochs=3), every=2), "Gradual", True),
    "imp": (lambda: tickets.IMP(0.3, 0.4), "IMP", True),
    "imp, later": (lambda: tickets.IMP(0.3, 0.4, rewind=AT(iterations=4)), "IMP", True),
    "imp, learning rate": (lambda: tickets.IMP(0.3, 0.4, after_pruning="lr_rewind"), "IMP", True),
    "imp, fine-tuned": (lambda: tickets.IMP(0.3, 0.4, after_pruning="fine_tune"), "IMP", True),
    "snip": (lambda: tickets.PruneAtInit(tickets.SNIP(), 0.3), "AtStart", True),
    "random": (lambda: tickets.PruneAtInit(tickets.RandomScore(), 0.3, start=AT(iterations=4)), "AtStart", True),
    "rigl": (lambda: tickets.DynamicSparseTraining(0.3, every=5), "Dynamic", True),
    "set": (lambda: tickets.DynamicSparseTraining(0.3, every=5, grow="random"), "Dynamic", True),
    "edge-popup": (lambda: tickets.EdgePopup(0.3), "EdgePopup", True),
    "continuous": (lambda: tickets.ContinuousSparsification(0.3), "ContinuousSparsification", True),
    "early-bird": (lambda: tickets.EarlyBird(0.5, max_mask_distance=0.3, history=1), "EarlyBird", False),
    "deconstruction": (lambda: tickets.Deconstruction(0.3), "Deconstruction", True),
    "a user's own": (OneShot, "OneShot", True),
}
ALL = pytest.mark.parametrize("name", FINDERS)
WITH_PATTERN: dict[str, Callable[[Any], Any]] = {
    "edge-popup": lambda pattern: tickets.EdgePopup(pattern=pattern),
    "continuous": lambda pattern: tickets.ContinuousSparsification(pattern=pattern),
    "imp": lambda pattern: tickets.IMP(pattern=pattern),
    "prune at init": lambda pattern: tickets.PruneAtInit(tickets.MagnitudeScore(), pattern=pattern),
    "dynamic": lambda pattern: tickets.DynamicSparseTraining(pattern=pattern, every=5),
    "deconstruction": lambda pattern: tickets.Deconstruction(pattern=pattern),
}
SELECTING = WITH_PATTERN | {
    "gradual": lambda pattern: tickets.GradualPruning(pattern=pattern, length=AT(epochs=3), every=2)
}


@pytest.fixture(scope="module")
def short() -> ws.Task:
    recipe = ws.Recipe(AT(epochs=4), batch_size=18, optimizer=ws.SGD(lr=0.1, momentum=0.9), schedule="cosine")
    return replace(ws.tasks.iris(), architecture=ws.Architecture.of(normed), recipe=recipe)


@pytest.fixture(scope="module")
def networks(short: ws.Task) -> ws.Collection:
    return ws.collect(short, NETWORKS, seed=0)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "block_size", lambda *_, **__: BLOCK)
    monkeypatch.setattr(training, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(edge_popup, "_EVERY", 3)


def stopped_at(share: float) -> Callable[[range, str], Any]:
    """A progress bar that interrupts its run once it is past a share of the steps."""

    class Bar:
        def __init__(self, total: int) -> None:
            self.total, self.done = total, 0

        def update(self, steps: int) -> None:
            self.done += steps
            if self.done > share * self.total:
                raise KeyboardInterrupt

    @contextmanager
    def progress(steps: range, _what: str) -> Iterator[Bar]:
        yield Bar(len(steps))

    return progress


def data_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name.startswith(("shard", "records"))}


@ALL
def test_there_is_a_ticket_of_every_network_in_order(name: str, networks: ws.Collection, short: ws.Task) -> None:
    make, spelling, _ = FINDERS[name]
    finder = make()
    assert isinstance(finder, Finder)
    found = finder.find(networks, short)
    assert len(found) == NETWORKS
    assert not found.weights[~found.masks].any()
    assert found.masks[:, ~found.layout.prunable].all()
    counts = found.masks[:, found.layout.prunable].sum(1)
    if name != "early-bird":  # its density is of the channels
        assert (counts == round(make().density * found.layout.num_prunable)).all()
    for i, record in enumerate(found.records):
        assert (record["kind"], record["method"]["name"], record["parent"]) == ("ticket", spelling, i)
        assert record["seed"] == networks.records[i]["seed"]
        assert record["density"] == pytest.approx(counts[i].item() / found.layout.num_prunable, abs=0.003)
        assert record["method"]["density"] == record["density"]
    assert len({tuple(mask.tolist()) for mask in found.masks}) > 1
    again = make().find(networks, short)
    assert torch.equal(again.weights, found.weights)
    assert torch.equal(again.masks, found.masks)
    other = make().find(networks[1:], short)
    assert [record["parent"] for record in other.records] == [1, 2]
    assert not torch.equal(other.weights, found.weights[:2])


@ALL
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_an_interrupted_search_goes_on_to_the_same_bytes(
    name: str, share: float, networks: ws.Collection, short: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, _, keeps = FINDERS[name]
    make().find(networks, short, folder=tmp_path / "whole")
    monkeypatch.setattr(building, "progress", stopped_at(share))
    with pytest.raises(KeyboardInterrupt):
        make().find(networks, short, folder=tmp_path / "cut")
    checkpoints = list((tmp_path / "cut").glob("*.checkpoint.safetensors"))
    assert bool(checkpoints) == keeps or share < 0.5
    assert not (tmp_path / "cut" / "complete.json").exists()
    monkeypatch.setattr(building, "progress", stopped_at(2.0))
    make().find(networks, short, folder=tmp_path / "cut")
    assert data_files(tmp_path / "cut") == data_files(tmp_path / "whole")
    assert not list((tmp_path / "cut").glob("*.checkpoint.safetensors"))


@ALL
def test_a_finished_folder_is_read_and_not_made_again(
    name: str, networks: ws.Collection, short: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, _, _ = FINDERS[name]
    found = make().find(networks, short, folder=tmp_path / "run")
    loaded = ws.Collection.load(tmp_path / "run")
    assert torch.equal(loaded.weights, found.weights)

    def no_training(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(training.Trainer, "__init__", no_training)
    again = make().find(networks, short, folder=tmp_path / "run")
    assert torch.equal(again.weights, found.weights)
    with pytest.raises(StorageError, match="another run|there,"):
        replace(make(), density=0.4).find(networks, short, folder=tmp_path / "run")
    with pytest.raises(AssertionError, match="trained again"):
        make().find(networks, short, folder=tmp_path / "other")


@ALL
def test_networks_of_another_layout_are_refused_before_work_starts(
    name: str, networks: ws.Collection, short: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = replace(short, architecture=ws.Architecture.of(lambda: nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))))
    monkeypatch.setattr(training.Trainer, "run", lambda *_: pytest.fail("training began"))
    with pytest.raises(LayoutMismatch):
        FINDERS[name][0]().find(networks, wider, folder=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", WITH_PATTERN)
def test_a_user_s_own_pattern_is_as_good_as_any(
    name: str, networks: ws.Collection, short: ws.Task, tmp_path: Path
) -> None:
    finder = WITH_PATTERN[name](FirstLayer())
    found = finder.find(networks, short, folder=tmp_path / "run")
    first = found.layout.weights[0]
    assert found.masks[:, found.layout.slices[first.name]].sum(1).tolist() == [20] * NETWORKS
    assert found.masks.sum(1).tolist() == [found.layout.size - first.size + 20] * NETWORKS
    assert found.records[0]["method"]["pattern"] == "FirstLayer(keep=20)"
    with pytest.raises(StorageError, match="keep=20"):
        WITH_PATTERN[name](FirstLayer(19)).find(networks, short, folder=tmp_path / "run")


@pytest.mark.parametrize("name", SELECTING)
def test_a_selection_is_pruned_and_nothing_else(name: str, networks: ws.Collection, short: ws.Task) -> None:
    found = SELECTING[name](ws.Except(ws.Unstructured(0.25), "0.*", "6.weight")).find(networks[:1], short)
    kept = {e.name: int(found.masks[0, found.layout.slices[e.name]].sum()) for e in found.layout.weights}
    assert kept == {"0.weight": 64, "3.weight": 32, "6.weight": 24}
    assert found.records[0].density == pytest.approx(120 / 216) == found.densities.item()


def test_levels_end_at_the_tickets_of_find(networks: ws.Collection, short: ws.Task, tmp_path: Path) -> None:
    finder = tickets.IMP(0.3, 0.4)
    assert isinstance(finder, LevelFinder)
    assert not isinstance(OneShot(), LevelFinder)
    levels = finder.find_levels(networks, short, folder=tmp_path / "levels")
    assert [level.densities.mean().item() for level in levels] == pytest.approx([1, 0.6, 0.36, 0.3], abs=0.005)
    assert torch.equal(levels[-1].weights, finder.find(networks, short).weights)
    assert sorted(path.name for path in (tmp_path / "levels").iterdir()) == ["level-01", "level-02", "level-03"]


@pytest.fixture(scope="module")
def imported(networks: ws.Collection) -> ws.Collection:
    """The networks, as files of another program."""
    return ws.Collection.concatenate([ws.from_state_dict(network.state_dict(), normed) for network in networks])


@pytest.fixture(scope="module")
def still(short: ws.Task) -> ws.Task:
    """The task, with steps too small to change a number."""
    return replace(short, recipe=replace(short.recipe, length=AT(epochs=2), optimizer=ws.SGD(lr=1e-30)))


@ALL
def test_from_imported_networks_a_ticket_has_their_weights_or_is_refused(
    name: str, imported: ws.Collection, still: ws.Task, tmp_path: Path
) -> None:
    finder = FINDERS[name][0]()
    begins = getattr(finder, "starts", "either")
    if begins == "seeds":
        with pytest.raises(ws.InputError, match=rf"from these go {re.escape(shared.FROM_STARTS)}"):
            finder.find(imported, still, folder=tmp_path / "run")
        assert not (tmp_path / "run").exists()
        return
    finder = replace(finder, length=AT(epochs=2)) if name == "gradual" else finder
    found = finder.find(imported, still)
    weights, masks = found.weights, found.masks
    if name in ("rigl", "set"):  # what grows begins at zero
        old = weights.abs() > 1e-20
        assert torch.equal(weights[old], imported.weights[old])
        assert old[:, found.layout.prunable].sum() > 0.5 * masks[:, found.layout.prunable].sum()
    else:
        assert torch.equal(weights, imported.weights * masks)
    if name != "gradual":
        assert torch.equal(found.extras["rewind"], imported.weights)
    assert type(finder).__name__ in shared.FROM_STARTS or name == "a user's own"
    assert all(record.from_start and not record.is_start for record in found.records)


def test_networks_that_are_no_starts_begin_at_their_seeds(networks: ws.Collection, still: ws.Task) -> None:
    found = tickets.PruneAtInit(density=0.3).find(networks, still)
    assert not torch.equal(found.weights, networks.weights * found.masks)
    begun = tickets.PruneAtInit(density=0.3).find(ws.starts(networks), still)
    assert torch.equal(begun.weights, networks.weights * begun.masks)


@pytest.mark.parametrize("share", [0.15, 0.5])
def test_an_interrupted_search_from_starts_goes_on_to_the_same_bytes(
    share: float, imported: ws.Collection, short: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder = tickets.IMP(0.3, 0.4)
    finder.find(imported, short, folder=tmp_path / "whole")
    monkeypatch.setattr(building, "progress", stopped_at(share))
    with pytest.raises(KeyboardInterrupt):
        finder.find(imported, short, folder=tmp_path / "cut")
    assert list((tmp_path / "cut").glob("*.checkpoint.safetensors"))
    monkeypatch.setattr(building, "progress", stopped_at(2.0))
    finder.find(imported, short, folder=tmp_path / "cut")
    assert data_files(tmp_path / "cut") == data_files(tmp_path / "whole")


def test_the_levels_of_starts_begin_with_their_training(
    imported: ws.Collection, short: ws.Task, tmp_path: Path
) -> None:
    finder = tickets.IMP(0.3, 0.4)
    levels = finder.find_levels(imported, short, folder=tmp_path / "levels")
    assert [level.densities.mean().item() for level in levels] == pytest.approx([1, 0.6, 0.36, 0.3], abs=0.005)
    assert torch.equal(levels[-1].weights, finder.find(imported, short).weights)
    assert sorted(path.name for path in (tmp_path / "levels").iterdir()) == [f"level-0{i}" for i in range(4)]
    assert not torch.equal(levels[0].weights, imported.weights)
    later = replace(finder, rewind=AT(iterations=3))
    assert torch.equal(later.find_levels(imported, short)[-1].weights, later.find(imported, short).weights)


@pytest.mark.parametrize("name", ["imp", "imp, fine-tuned", "snip", "gradual", "rigl", "early-bird"])
def test_sparse_starts_are_pruned_within_their_masks_or_refused(
    name: str, imported: ws.Collection, short: ws.Task
) -> None:
    masks = ws.Unstructured(0.5).mask(imported.weights.abs(), imported.layout)
    sparse = imported.replace(weights=imported.weights * masks, masks=masks)
    finder = FINDERS[name][0]()
    if name in ("rigl", "early-bird"):
        with pytest.raises(ws.InputError, match=r"starts are sparse.*masks=None"):
            finder.find(sparse, short)
        return
    found = finder.find(sparse, short)
    assert not (found.masks & ~masks).any()
    assert found.densities.tolist() == pytest.approx([0.3] * NETWORKS, abs=0.003)
    with pytest.raises(ws.InputError, match="keeps .* weights already"):
        replace(finder, density=0.6).find(sparse, short)


@dataclass(frozen=True)
class WithoutLayer:
    """A user's own pattern that keeps no weight of one layer, or all."""

    lost: int | None = 1

    def mask(self, scores: Tensor, layout: ws.Layout, within: Tensor | None = None) -> Tensor:
        kept = [0 if i == self.lost else entry.size for i, entry in enumerate(layout.weights)]
        return keep_counts(scores, layout, kept, within)


def test_a_layer_that_lost_all_its_weights_is_named_and_no_other(dense: ws.Collection, task: ws.Task) -> None:
    def finder(pattern: WithoutLayer) -> Finder:
        return tickets.PruneAtInit(tickets.MagnitudeScore(), pattern=pattern)

    short = replace(task, recipe=replace(task.recipe, length=ws.Step(iterations=2)))
    name = dense.layout.weights[1].name
    with pytest.warns(UserWarning, match=f"2 of 2 networks lost all weights of '{name}'") as said:
        found = finder(WithoutLayer()).find(dense[:2], short)
    assert tickets.collapsed_layers(found) == [[name], [name]]
    assert len([warning for warning in said if "lost all" in str(warning.message)]) == 1
    assert tickets.collapsed_layers(finder(WithoutLayer(None)).find(dense[:2], short)) == [[], []]  # and no warning
