import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import weightspace as ws
from weightspace.errors import InputError
from weightspace.masks import top_k
from weightspace.networks.layout import Entry

ROWS = ws.Layout((Entry("w", (2, 4), "weight", "float32"), Entry("b", (2,), "bias", "float32")))
TWO = ws.Layout((Entry("v", (1, 6), "weight", "float32"), Entry("w", (1, 3), "weight", "float32")))
scores_and_layout = st.tuples(st.integers(0, 10_000), st.lists(st.integers(1, 5), min_size=2, max_size=4))


def keep(pattern: ws.masks.Pattern, scores: list[float], layout: ws.Layout) -> list[int]:
    return pattern.mask(torch.tensor(scores), layout).int().tolist()


@pytest.mark.parametrize(
    ("pattern", "scores", "layout", "expected"),
    [
        (ws.Unstructured(0.5), [1, 8, 2, 7, 3, 6, 4, 5, 0, 0], ROWS, [0, 1, 0, 1, 0, 1, 0, 1, 1, 1]),
        (ws.Unstructured(0.25), [1, 1, 1, 1, 1, 1, 1, 1, 9, 9], ROWS, [1, 1, 0, 0, 0, 0, 0, 0, 1, 1]),  # ties: first
        (ws.Unstructured(0.5, "layer"), [1, 2, 3, 4, 5, 6, 7, 8, 9], TWO, [0, 0, 0, 1, 1, 1, 0, 0, 1]),
        (ws.Unstructured(0.5, "global"), [1, 2, 3, 4, 5, 6, 7, 8, 9], TWO, [0, 0, 0, 0, 0, 1, 1, 1, 1]),
        (ws.NM(2, 4), [1, 2, 3, 4, 9, 1, 1, 8, 0, 0], ROWS, [0, 0, 1, 1, 1, 0, 0, 1, 1, 1]),
        (ws.NM(1, 2), [1, 2, 3, 4, 9, 1, 1, 8, 0, 0], ROWS, [0, 1, 0, 1, 1, 0, 0, 1, 1, 1]),
        (ws.NM(2, 4), [1, 2, 3, 4, 6, 5, 7, 8, 9], TWO, [0, 0, 1, 1, 1, 1, 0, 1, 1]),  # last group of 2 keeps both
    ],
)  # fmt: skip
def test_literal_tables(pattern: ws.masks.Pattern, scores: list[float], layout: ws.Layout, expected: list[int]) -> None:
    assert keep(pattern, [float(s) for s in scores], layout) == expected


def test_channels_keep_whole_units_but_the_output_layers() -> None:
    layout = ws.Layout((Entry("v", (3, 2), "weight", "float32"), Entry("w", (2, 3), "weight", "float32")))
    scores = torch.tensor([1.0, 1, 5, 0, 2, 2, 0, 0, 0, 0, 0, 0])
    assert ws.Channels(0.67).mask(scores, layout).int().tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]


def test_convolutions_group_along_input_channels() -> None:
    layout = ws.Layout((Entry("w", (1, 4, 1, 2), "weight", "float32"),))
    scores = torch.tensor([[[[1.0, 8]], [[2, 7]], [[3, 6]], [[4, 5]]]]).flatten()
    assert ws.NM(2, 4).mask(scores, layout).reshape(4, 2).int().tolist() == [[0, 1], [0, 1], [1, 0], [1, 0]]


@given(scores_and_layout, st.floats(0.05, 1.0), st.sampled_from(["global", "layer"]))
def test_the_count_is_exact(case: tuple[int, list[int]], density: float, scope: str) -> None:
    seed, sizes = case
    layout = ws.Layout.of(ws.models.MLP(sizes))
    scores = torch.randint(0, 5, (3, layout.size), generator=torch.Generator().manual_seed(seed)).float()  # many ties
    if round(density * layout.num_prunable) < 1:
        return
    masks = ws.Unstructured(density, scope).mask(scores, layout)
    assert (masks[:, layout.prunable].sum(1) == round(density * layout.num_prunable)).all()
    assert masks[:, ~layout.prunable].all()


@given(scores_and_layout, st.sampled_from(["global", "layer"]))
def test_masks_are_nested_as_density_falls(case: tuple[int, list[int]], scope: str) -> None:
    seed, sizes = case
    layout = ws.Layout.of(ws.models.MLP(sizes))
    scores = torch.randint(0, 9, (2, layout.size), generator=torch.Generator().manual_seed(seed)).float()
    densities = [k / layout.num_prunable for k in range(layout.num_prunable, 0, -1)]
    masks = [ws.Unstructured(density, scope).mask(scores, layout) for density in densities]
    for wider, narrower in itertools.pairwise(masks):
        assert (narrower <= wider).all()


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(0, 4), st.integers(1, 11))
def test_every_group_keeps_n_of_m(seed: int, n: int, more: int, inputs: int) -> None:
    m = n + more
    layout = ws.Layout((Entry("w", (3, inputs), "weight", "float32"),))
    scores = torch.randint(0, 4, (3 * inputs,), generator=torch.Generator().manual_seed(seed)).float()
    mask = ws.NM(n, m).mask(scores, layout).reshape(3, inputs)
    for start in range(0, inputs, m):
        group = mask[:, start : start + m]
        assert (group.sum(1) == min(n, group.shape[1])).all()
        # Which: the largest, of equal scores the first (Python's sort is stable).
        for row, kept in zip(scores.reshape(3, inputs)[:, start : start + m].tolist(), group, strict=True):
            best = sorted(range(len(row)), key=lambda i: -row[i])[:n]
            assert kept.nonzero()[:, 0].tolist() == sorted(best)


def test_pruned_stays_pruned_within_an_earlier_mask() -> None:
    earlier = torch.tensor([[1, 1, 0, 0, 1, 1, 0, 0, 1, 1]]).bool()
    scores = torch.tensor([[1.0, 2, 90, 91, 3, 4, 92, 93, 0, 0]])
    assert ws.Unstructured(0.25).mask(scores, ROWS, within=earlier).int().tolist() == [[0, 0, 0, 0, 1, 1, 0, 0, 1, 1]]
    assert (ws.NM(2, 4).mask(scores, ROWS, within=earlier) <= earlier).all()
    with pytest.raises(InputError, match="asked to keep 6 weights of the network, but only 4 are left"):
        ws.Unstructured(0.75).mask(scores, ROWS, within=earlier)


@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, float("nan")])
def test_impossible_densities_are_refused(density: float) -> None:
    with pytest.raises(InputError, match="density"):
        ws.Unstructured(density)


def test_bad_scores_and_patterns_are_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        ws.Unstructured(0.5).mask(torch.full((10,), torch.nan), ROWS)
    with pytest.raises(InputError, match="10 values a network, one a parameter; got 9"):
        ws.Unstructured(0.5).mask(torch.zeros(9), ROWS)
    with pytest.raises(InputError, match="keeps none of 8"):
        ws.Unstructured(0.01).mask(torch.zeros(10), ROWS)
    with pytest.raises(InputError, match="5:4"):
        ws.NM(5, 4)


def test_channels_rank_units_by_what_is_left_of_them() -> None:
    layout = ws.Layout.of(torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 2)))
    scores = torch.rand(layout.size, generator=torch.Generator().manual_seed(0))
    within = torch.ones(layout.size, dtype=torch.bool)
    first = layout.slices["0.weight"]
    within[first] = torch.arange(24) % 4 != 0  # an input that no network uses
    mask = ws.Channels(0.5).mask(scores, layout, within=within)
    units = (scores * within)[first].unflatten(0, (6, 4)).sum(1)
    kept = mask[first].unflatten(0, (6, 4)).any(1)
    assert kept.nonzero()[:, 0].tolist() == sorted(units.topk(3).indices.tolist())


@pytest.mark.parametrize("pruned", [0.0, 0.5, 0.9, 0.95, 1.0])
@pytest.mark.parametrize("value", [0.0, -math.inf])
def test_the_largest_of_long_rows_are_chosen_however_many_are_equal(pruned: float, value: float) -> None:
    random = torch.Generator().manual_seed(0)
    scores = torch.rand(3, top_k._LONG, generator=random)
    scores[torch.rand(scores.shape, generator=random) < pruned] = value
    count = top_k._LONG // 10
    order = scores.argsort(dim=1, descending=True, stable=True)  # of equal scores the first come first
    expected = torch.zeros_like(scores, dtype=torch.bool).scatter(1, order[:, :count], True)
    assert torch.equal(top_k._top(scores, count), expected)
    assert torch.equal(top_k._top(-scores.abs(), count).sum(1), torch.full((3,), count))
