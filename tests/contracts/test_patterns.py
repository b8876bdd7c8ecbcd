"""What holds of every pattern, the library's and a user's own."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.errors import InputError, StorageError
from weightspace.masks import PATTERNS, Pattern, count_of, density_of, one_threshold, part_of, steps_to
from weightspace.storage.spelling import spelled_text

LAYOUT = ws.Layout.of(nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 4)))
FIRST, LAST = 96, 48
TOTAL = FIRST + LAST


@PATTERNS.register("tests.PerUnit")
@dataclass(frozen=True)
class PerUnit:
    """A user's own pattern that says all it can: as many weights of each output unit."""

    fraction: float

    def counts(self, layout: ws.Layout) -> list[tuple[slice, tuple[int, int], int]]:
        rows = [
            (layout.slices[e.name], (e.shape[0], e.size // e.shape[0])) for e in layout.parameters if e.role == "weight"
        ]
        return [(at, shape, max(1, round(self.fraction * shape[1]))) for at, shape in rows]

    @property
    def density(self) -> float:
        return self.fraction

    def count(self, layout: ws.Layout) -> int:
        return sum(shape[0] * keep for _, shape, keep in self.counts(layout))

    def steps(self, rate: float) -> Sequence[Pattern]:
        levels = max(1, math.ceil(math.log(self.fraction) / math.log(1 - rate)))
        return [*(PerUnit((1 - rate) ** level) for level in range(1, levels)), self]

    def mask(self, scores: Tensor, layout: ws.Layout, within: Tensor | None = None) -> Tensor:
        if scores[..., layout.prunable].isnan().any():
            raise InputError("NaN")
        masks = torch.ones(scores.shape, dtype=torch.bool)
        for at, shape, keep in self.counts(layout):
            left = scores[..., at] if within is None else scores[..., at].masked_fill(~within[..., at], -math.inf)
            best = left.unflatten(-1, shape).argsort(dim=-1, descending=True, stable=True)[..., :keep]
            chosen = torch.zeros(*scores.shape[:-1], *shape, dtype=torch.bool).scatter(-1, best, True)
            masks[..., at] = chosen.flatten(-2)
        return masks if within is None else masks & (within | ~layout.prunable)


@PATTERNS.register("tests.Bare")
@dataclass(frozen=True)
class Bare:
    """A user's own pattern that has a mask and nothing else."""

    keep: int = 20

    def mask(self, scores: Tensor, layout: ws.Layout, within: Tensor | None = None) -> Tensor:
        return ws.Unstructured(self.keep / layout.num_prunable).mask(scores, layout, within)


# Patterns of falling density, and the number of weights of (12, 8) and (4, 12) that each keeps.
FAMILIES: dict[str, tuple[list[Pattern], Callable[[Pattern], int]]] = {
    "Unstructured": ([ws.Unstructured(d) for d in (1.0, 0.5, 0.1)], lambda p: round(p.density * TOTAL)),  # pyright: ignore
    "layer": ([ws.Unstructured(d, "layer") for d in (0.9, 0.3, 0.05)], lambda p: round(p.density * TOTAL)),  # pyright: ignore
    "NM": ([ws.NM(4, 4), ws.NM(2, 4), ws.NM(1, 4)], lambda p: p.n * TOTAL // 4),  # pyright: ignore
    "Channels": ([ws.Channels(1.0), ws.Channels(0.5), ws.Channels(0.1)], lambda p: 8 * round(p.fraction * 12) + LAST),  # pyright: ignore
    "ERK": ([ws.ERK(d) for d in (0.8, 0.3, 0.1)], lambda p: round(p.density * TOTAL)),  # pyright: ignore
    "Balanced": ([ws.Balanced(d) for d in (0.8, 0.3, 0.1)], lambda p: round(p.density * TOTAL)),  # pyright: ignore
    "LayerRates": (
        [ws.LayerRates(k, others={"0.weight": 0.5}) for k in (0, 1, 4)],
        lambda p: round(0.5**p.level * FIRST) + round(0.9**p.level * LAST),  # pyright: ignore
    ),
    "Only": ([ws.Only(ws.Unstructured(d), "0.*") for d in (1.0, 0.5, 0.1)], lambda p: round(p.density * FIRST) + LAST),  # pyright: ignore
    "Except": ([ws.Except(ws.NM(n, 4), "3.*") for n in (4, 2, 1)], lambda p: p.pattern.n * FIRST // 4 + LAST),  # pyright: ignore
    "Only, bare": ([ws.Only(Bare(k), "0.weight") for k in (60, 20, 1)], lambda p: p.pattern.keep + LAST),  # pyright: ignore
    "a user's own": ([PerUnit(f) for f in (1.0, 0.5, 0.25)], lambda p: round(p.fraction * TOTAL)),  # pyright: ignore
    "a user's own, bare": ([Bare(k) for k in (100, 20, 1)], lambda p: p.keep),  # pyright: ignore
}
ALL = pytest.mark.parametrize("name", FAMILIES)


def scores(networks: int = 3, seed: int = 0) -> Tensor:
    return torch.rand(networks, LAYOUT.size, generator=torch.Generator().manual_seed(seed))


def kept(masks: Tensor) -> list[int]:
    return masks[:, LAYOUT.prunable].sum(1).tolist()


@ALL
def test_the_counts_are_exact_and_what_the_pattern_says(name: str) -> None:
    patterns, count = FAMILIES[name]
    for pattern in patterns:
        assert kept(pattern.mask(scores(), LAYOUT)) == [count(pattern)] * 3
        assert count_of(pattern, LAYOUT) in (None, count(pattern))
        density, part = density_of(pattern), part_of(pattern, LAYOUT).num_prunable
        assert density is None or abs(density * part - (count(pattern) - (TOTAL - part))) <= 0.5


@ALL
def test_masks_are_nested_as_the_density_falls(name: str) -> None:
    masks = [pattern.mask(scores(), LAYOUT) for pattern in FAMILIES[name][0]]
    for wider, narrower in itertools.pairwise(masks):
        assert (narrower <= wider).all()
        assert (narrower != wider).any()


@ALL
def test_what_is_pruned_stays_pruned(name: str) -> None:
    wide, _, narrow = FAMILIES[name][0]
    within = wide.mask(scores(seed=1), LAYOUT)
    if kept(within)[0] == TOTAL:
        within = FAMILIES[name][0][1].mask(scores(seed=1), LAYOUT)
    masks = narrow.mask(scores(), LAYOUT, within=within)
    assert (masks <= within).all()
    assert masks[:, LAYOUT.prunable].any(1).all()
    assert not (narrow.mask(scores(), LAYOUT) <= within).all()  # without `within` the scores choose others


@ALL
def test_biases_and_norms_are_never_pruned(name: str) -> None:
    for pattern in FAMILIES[name][0]:
        low = torch.where(LAYOUT.prunable, scores(), -1.0)
        assert pattern.mask(low, LAYOUT)[:, ~LAYOUT.prunable].all()
        within = ws.Unstructured(1.0).mask(low, LAYOUT)
        assert pattern.mask(low, LAYOUT, within=within)[:, ~LAYOUT.prunable].all()


@ALL
def test_many_networks_get_the_masks_of_each(name: str) -> None:
    for pattern in FAMILIES[name][0]:
        together = pattern.mask(scores(), LAYOUT)
        assert torch.equal(together, torch.stack([pattern.mask(row, LAYOUT) for row in scores()]))


@ALL
def test_scores_that_are_no_numbers_are_refused(name: str) -> None:
    pattern = FAMILIES[name][0][1]
    bad = scores()
    bad[1, LAYOUT.slices["0.weight"].start] = torch.nan
    with pytest.raises(InputError, match="NaN"):
        pattern.mask(bad, LAYOUT)
    off = torch.where(LAYOUT.prunable, scores(), torch.nan)  # only prunable positions are read
    assert torch.equal(pattern.mask(off, LAYOUT), pattern.mask(scores(), LAYOUT))


@ALL
def test_steps_fall_and_end_at_the_goal(name: str) -> None:
    for goal in FAMILIES[name][0]:
        steps = steps_to(goal, 0.3)
        assert steps[-1] == goal
        counts = [kept(step.mask(scores(), LAYOUT))[0] for step in steps]
        assert counts == sorted(counts, reverse=True)
    sparsest = FAMILIES[name][0][-1]
    inside = getattr(sparsest, "pattern", sparsest)
    assert (len(steps_to(sparsest, 0.3)) > 1) == hasattr(inside, "steps")


@ALL
def test_one_threshold_means_the_highest_scores_of_the_network(name: str) -> None:
    pattern = FAMILIES[name][0][1]
    masks = pattern.mask(scores(), LAYOUT)
    highest = [
        row[LAYOUT.prunable & mask].min() > row[LAYOUT.prunable & ~mask].max()
        for row, mask in zip(scores(), masks, strict=True)
    ]
    if one_threshold(pattern):
        assert all(highest)
        assert count_of(pattern, LAYOUT) == kept(masks)[0]
    elif name != "a user's own, bare":
        assert not all(highest)


@ALL
def test_the_registry_reads_what_it_wrote(name: str) -> None:
    for pattern in FAMILIES[name][0]:
        data = PATTERNS.to_json(pattern)
        assert PATTERNS.from_json(data, "here") == pattern
        with pytest.raises(StorageError, match="damaged"):
            PATTERNS.from_json(data | {"more": 1}, "here")


def test_a_pattern_without_a_name_cannot_be_written() -> None:
    @dataclass(frozen=True)
    class Nameless(Bare):
        pass

    with pytest.raises(InputError, match="Nameless"):
        PATTERNS.to_json(Nameless())
    with pytest.raises(StorageError, match="import the module"):
        PATTERNS.from_json({"kind": "unheard of"}, "here")
    with pytest.raises(InputError, match="already"):
        PATTERNS.register("NM")(Nameless)


def test_runs_know_patterns_by_the_text_of_the_first_version() -> None:
    texts = {
        "Unstructured(density=0.1, scope='layer')": ws.Unstructured(0.1, "layer"),
        "NM(n=2, m=4)": ws.NM(2, 4),
        "Channels(density=0.5)": ws.Channels(0.5),
        "ERK(density=0.1)": ws.ERK(0.1),
        "Balanced(density=0.1)": ws.Balanced(0.1),
        "Only(pattern=NM(n=2, m=4), names=('a.*', 'b'))": ws.Only(ws.NM(2, 4), "a.*", "b"),
        "LayerRates(level=3, rate=0.2, output=0.1, others={'a': 0.5})": ws.LayerRates(3, others={"a": 0.5}),
    }
    assert [spelled_text(pattern) for pattern in texts.values()] == list(texts)


def test_steps_start_where_the_networks_are() -> None:
    assert steps_to(ws.Unstructured(0.1), 0.5, start=0.3) == [ws.Unstructured(0.15), ws.Unstructured(0.1)]
    assert steps_to(replace(ws.ERK(0.1)), 0.5, start=0.3) == [ws.ERK(0.15), ws.ERK(0.1)]
    assert steps_to(Bare(), 0.5, start=0.3) == [Bare()]
