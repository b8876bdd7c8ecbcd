"""Partial adapters: exact numbers of lines, absent entries that stay zero, and ratios from the base."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import weightspace as ws
from tests.adapt.conftest import RECIPE
from weightspace import adapt, align, symmetry
from weightspace.adapt.lines import counts_of, line_scores, random_lines, top_lines

LAYERS = ("encoder.0.weight", "encoder.3.weight")  # (12, 4) and (8, 12): 36 lines


def lora(pattern: adapt.PartialAdapters | None, rank: int = 2) -> adapt.LoRA:
    return adapt.LoRA(rank, on="encoder.*", whole="head.*", pattern=pattern)


@pytest.fixture(scope="module")
def one(base: ws.Collection) -> ws.Collection:
    return ws.starts(base[[0, 0, 0]], seed=0)


@pytest.fixture(scope="module")
def able(first: ws.Task) -> tuple[ws.Collection, ws.Task]:
    """A base that does its task, of which one layer needs one line and the other all."""

    class Uneven(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.all, self.head = nn.Linear(4, 6), nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.one(x) + self.all(x))

    draw = torch.Generator().manual_seed(0)
    module = Uneven()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
        module.one.weight[0, 0] = 0.5  # all that counts of it; a tenth of what the other does
        module.all.weight.copy_(torch.linalg.qr(torch.randn(6, 4, generator=draw))[0] * 3)
        module.head.weight[1] = torch.linalg.pinv(module.all.weight).T @ torch.ones(4)
    x = torch.randn(200, 4, generator=draw)
    y = module(x).argmax(1)
    split = ws.Split(x, y)
    task = ws.Task("signs", ws.Architecture.of(Uneven), split, split.head(50), split.head(50), RECIPE, first.loss)
    return ws.from_state_dict(module.state_dict(), Uneven), task


@pytest.mark.parametrize("density", [0.1, 0.25, 0.61, 1.0])
def test_lines_are_counted_exactly_and_shared_out_by_ratio(density: float) -> None:
    sizes = {"a": (40, 7), "b": (3, 100), "c": (64, 64)}
    lines = sum(map(sum, sizes.values()))
    for ratios in ({"a": 0.5, "b": 0.5, "c": 0.5}, {"a": 1.0, "b": 0.1, "c": 1 / 64}):
        counts = counts_of(ratios, sizes, density)
        assert sum(map(sum, counts.values())) == round(density * lines)
        for name, pair in counts.items():
            assert all(1 <= count <= size for count, size in zip(pair, sizes[name], strict=True))
    uniform = counts_of(dict.fromkeys(sizes, 0.5), sizes, 0.5)
    assert uniform == {"a": (20, 4), "b": (2, 50), "c": (32, 32)} or sum(map(sum, uniform.values())) == 139
    assert counts_of({"a": 0.11}, {"a": (10, 20)}, None) == {"a": (2, 3)}  # rounded up
    with pytest.raises(ws.InputError, match="at least one of each: ask for at least 0.022"):
        counts_of(dict.fromkeys(sizes, 0.5), sizes, 0.01)


def test_scores_are_the_energy_of_the_top_subspace() -> None:
    weight = torch.randn(5, 7, generator=torch.Generator().manual_seed(1)).double()
    rows, columns = line_scores(weight, 7)
    torch.testing.assert_close(rows, weight.square().sum(1))  # all of it: norms of rows and columns
    torch.testing.assert_close(columns, weight.square().sum(0))
    u, v = torch.randn(5).double(), torch.randn(7).double()
    strong = 100 * torch.outer(u, v) + weight
    rows, _ = line_scores(strong, 1)
    assert rows.argsort().tolist() == u.abs().argsort().tolist()
    assert top_lines((torch.tensor([1.0, 3.0, 3.0]), torch.tensor([0.0, 1.0])), (1, 1)).rows.tolist() == [0, 1, 0]
    first, again = (random_lines((3, 4), (12, 9), 5, "a") for _ in range(2))
    assert torch.equal(first.rows, again.rows)
    assert first.count == 7
    assert not torch.equal(first.columns, random_lines((3, 4), (12, 9), 6, "a").columns)


@pytest.mark.parametrize("optimizer", [RECIPE.optimizer, ws.SGD(lr=0.1, momentum=0.9, weight_decay=0.1)])
def test_what_is_absent_is_zero_after_any_optimiser(
    one: ws.Collection, first: ws.Task, optimizer: ws.Adam | ws.SGD
) -> None:
    task = replace(first, recipe=replace(RECIPE, optimizer=optimizer))
    found = lora(adapt.UniformRatio(0.5)).find(one, task)
    assert len(found.masks.unique(dim=0)) == 3  # each seed its own
    head = 3 * 8 + 3
    for mask, weights, record in zip(found.masks, found.weights, found.records, strict=True):
        assert int(mask.sum()) == round(0.5 * 36) * 2 + head
        assert not weights[~mask].any()
        assert bool((weights[mask] != 0).all())  # the control: all else has moved
        assert sum(map(sum, record["lines"].values())) == 18
    parts = found.layout.tensors(found.masks.float())
    b, a = parts["encoder.0.lora_B.weight"], parts["encoder.0.lora_A.weight"]
    assert torch.equal(b, b[:, :, :1].expand_as(b))  # whole rows of B, whole columns of A
    assert torch.equal(a, a[:, :1].expand_as(a))
    vectors = adapt.task_vectors(found, one)
    change = vectors.layout.tensors(vectors.weights)["encoder.0.weight"] != 0
    assert torch.equal(change, vectors.layout.tensors(vectors.trained.float())["encoder.0.weight"] != 0)
    assert int(change[0].any(1).sum()) == int(b[0, :, 0].sum())
    dense = lora(None).find(one, task)
    assert dense.dense
    assert "pattern" not in dense.records[0]["method"]


def test_partial_adapters_are_saved_and_loaded_and_resumed(one: ws.Collection, first: ws.Task, tmp_path: Path) -> None:
    finder = lora(adapt.UniformRatio(0.3, "scored"))
    found = finder.find(one, first, folder=tmp_path / "run")
    assert len(found.masks.unique(dim=0)) == 1  # scores are the base's
    again = finder.find(one, first, folder=tmp_path / "run")
    loaded = adapt.LoRA.load(tmp_path / "run", one)
    for other in (again, loaded):
        assert torch.equal(other.weights, found.weights)
        assert torch.equal(other.masks, found.masks)
    assert found.records[0]["method"]["pattern"] == {"name": "UniformRatio", "density": 0.3, "lines": "scored"}
    with pytest.raises(ws.StorageError):
        lora(adapt.UniformRatio(0.4, "scored")).find(one, first, folder=tmp_path / "run")


def test_ratios_say_which_layers_the_base_needs(able: tuple[ws.Collection, ws.Task]) -> None:
    base, task = able
    layers = ("one.weight", "all.weight")
    ratios = adapt.LayerRatios(samples=100).ratios(base, task, layers, 4)
    assert ratios["one.weight"] == 1 / 64
    assert ratios["all.weight"] > 0.5
    assert adapt.LayerRatios(keeps=0.5, samples=100).ratios(base, task, layers, 4)["all.weight"] <= ratios["all.weight"]
    pattern = adapt.LayerRatios(samples=100, density=0.5)
    chosen = pattern.choose(base, task, layers, 4, [0, 1])
    assert [sum(lines.count for lines in each.values()) for each in chosen] == [10, 10]
    assert chosen[0]["all.weight"].count > chosen[0]["one.weight"].count
    shuffled = adapt.LayerRatios(samples=100, density=0.5, permuted=True).choose(base, task, layers, 4, list(range(8)))
    assert all(sum(lines.count for lines in each.values()) == 10 for each in shuffled)
    assert len({each["all.weight"].count for each in shuffled}) == 2  # dealt out either way


def test_what_says_nothing_of_a_base_is_refused(
    able: tuple[ws.Collection, ws.Task], one: ws.Collection, first: ws.Task
) -> None:
    base, task = able
    untrained = base.replace(weights=torch.zeros_like(base.weights))
    with pytest.raises(ws.InputError, match="train its head on the task first, or use UniformRatio"):
        adapt.LayerRatios().ratios(untrained, task, ("one.weight",), 2)
    with pytest.raises(ws.InputError, match="samples must be at most 200"):
        adapt.LayerRatios(samples=1000).ratios(base, task, ("one.weight",), 2)
    worse = ws.tasks.Metric(
        "distance", lambda outputs, y: (outputs.argmax(-1) != y).float().mean(), higher_is_better=False
    )
    with pytest.raises(ws.InputError, match="of which more is better"):
        adapt.LayerRatios().ratios(base, replace(task, metrics=(worse,)), ("one.weight",), 2)
    with pytest.raises(ws.InputError, match="density"):
        adapt.UniformRatio(0.0)
    for name, value in {"keeps": 1.5, "samples": 0, "density": 2.0, "seed": -1}.items():
        with pytest.raises(ws.InputError, match=name):
            adapt.LayerRatios(**{name: value})  # pyright: ignore[reportArgumentType]
    with pytest.raises(ws.InputError, match="ask for at least"):
        lora(adapt.UniformRatio(0.05)).find(one, first)


def test_partial_adapters_have_one_canonical_form(one: ws.Collection, first: ws.Task) -> None:
    found = lora(adapt.UniformRatio(0.5)).find(one, first)
    table = symmetry.trace(
        found.architecture.build_seeded(0), first.train.head(8).x
    )  # no warning: the base stands still
    form = align.canonical(found, table)
    assert torch.equal(form.masks, found.masks)
    assert not torch.equal(form.weights, found.weights)
    for i in range(3):
        torch.testing.assert_close(form.module(i)(first.test.x), found.module(i)(first.test.x), rtol=1e-4, atol=1e-4)
    uneven = found.masks.clone()
    uneven[:, found.layout.slices["encoder.0.lora_B.weight"].start] ^= True  # one entry of a row
    with pytest.raises(ws.InputError, match="masks cannot be mixed"):
        align.canonical(found.replace(weights=found.weights * uneven, masks=uneven), table)
