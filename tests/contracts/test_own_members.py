"""A user's own pattern, mask rule and cost, written outside the package, go the whole way from finding to saving."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace.align import COSTS
from weightspace.errors import InputError, StorageError
from weightspace.generator import MASK_RULES
from weightspace.masks import PATTERNS


@PATTERNS.register("test: every other")
@dataclass(frozen=True)
class EveryOther:
    """Keep every second weight, whatever the scores."""

    first: int = 0

    def mask(self, scores: Tensor, layout: ws.Layout, within: Tensor | None = None) -> Tensor:
        kept = torch.arange(layout.size) % 2 == self.first
        mask = (kept | ~layout.prunable).expand(scores.shape)
        return mask if within is None else mask & within


@MASK_RULES.register("test: doubled")
@dataclass(frozen=True)
class Doubled:
    """Compress the weights at twice their size; rank them by magnitude."""

    factor: float = 2.0

    def fit(self, tickets: ws.Collection) -> "Doubled":
        return self

    def vectors(self, tickets: ws.Collection) -> Tensor:
        return tickets.weights * self.factor

    def split(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return vectors / self.factor, vectors.abs()


@COSTS.register("test: signs")
@dataclass(frozen=True)
class Signs:
    """Match the signs of the weights."""

    fields: tuple[str, ...] = ("weights",)
    rescaled: tuple[str, ...] = ()

    def of_reference(self, fields: Mapping[str, Tensor]) -> Tensor:
        return fields["weights"].sign()[None]

    def of_network(self, fields: Mapping[str, Tensor]) -> Tensor:
        return fields["weights"].sign()[None]


def test_own_members_go_the_whole_way(dense: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    tickets = ws.tickets.IMP(pattern=EveryOther()).find(dense[:6], task, folder=tmp_path / "tickets")
    expected = EveryOther().mask(tickets.weights, tickets.layout)
    assert torch.equal(tickets.masks, expected)
    assert "EveryOther(first=0)" in tickets.records[0]["method"]["pattern"]

    stages = ws.TicketGenerator(
        align=ws.WeightMatching(cost=Signs()),
        compress=ws.PCA(3),
        generate=ws.FlowMatching(width=8, blocks=1, steps=20, batch_size=8),
        masks=Doubled(),
        refine=ws.TaskRefinement(patterns=[EveryOther(), EveryOther(1)], steps=4, networks=4),
    )
    model = stages.fit(tickets, task=task, folder=tmp_path / "generator")
    samples = model.sample(3, pattern=EveryOther(), seed=1, folder=tmp_path / "samples")
    assert not (samples.masks & ~EveryOther().mask(samples.weights, samples.layout)).any()

    again = ws.FittedGenerator.load(tmp_path / "generator")
    assert isinstance(again.masks, Doubled)
    assert torch.equal(again.sample(3, pattern=EveryOther(), seed=1).weights, samples.weights)
    loaded = ws.Collection.load(tmp_path / "samples")
    assert torch.equal(loaded.masks, samples.masks)
    assert PATTERNS.from_json(PATTERNS.to_json(EveryOther(1)), "the test") == EveryOther(1)


def test_members_without_a_name_are_refused_before_work(dense: ws.Collection, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Nameless(Doubled):
        pass

    with pytest.raises(InputError, match="register"):
        ws.TicketGenerator(compress=ws.PCA(3), masks=Nameless()).fit(dense, folder=tmp_path / "generator")
    assert not (tmp_path / "generator").exists()
    with pytest.raises(StorageError, match="import the module"):
        PATTERNS.from_json({"kind": "test: absent"}, "the test")
