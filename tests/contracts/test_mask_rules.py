"""What holds of every mask rule of the generator, the library's and a user's own."""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import weightspace as ws
from weightspace.errors import InputError, StorageError
from weightspace.generator import MANIFEST, MASK_RULES, FittedMaskRule, MaskRule

REFINE = ws.TaskRefinement(steps=3, networks=4, batch_size=8)
MODEL = ws.TicketGenerator(
    compress=ws.PCA(3), generate=ws.FlowMatching(width=8, blocks=1, steps=5, batch_size=8), refine=REFINE
)


@MASK_RULES.register("tests.frequent")
@dataclass(frozen=True)
class FittedFrequent:
    """Scores are magnitudes, raised where tickets often keep a weight."""

    layout: ws.Layout
    frequency: Tensor
    strength: float

    def vectors(self, tickets: ws.Collection) -> Tensor:
        return tickets.weights

    def split(self, vectors: Tensor) -> tuple[Tensor, Tensor]:
        return vectors, vectors.abs() * (1 + self.strength * self.frequency)


@dataclass(frozen=True)
class Frequent:
    """A user's own rule."""

    strength: float = 0.5

    def fit(self, tickets: ws.Collection) -> FittedFrequent:
        return FittedFrequent(tickets.layout, tickets.masks.float().mean(0), self.strength)


@dataclass(frozen=True)
class FittedUnregistered(FittedFrequent):
    """A rule whose class has no name on disk."""


class Unregistered:
    """A rule that nobody registered."""

    def fit(self, tickets: ws.Collection) -> FittedUnregistered:
        return FittedUnregistered(tickets.layout, tickets.masks.float().mean(0), 0.5)


RULES = {
    "magnitude": ws.MagnitudeMask(), "shared": ws.SharedMask(), "gates": ws.GateMask(0.3), "a user's own": Frequent(),
}  # fmt: skip
ALL = pytest.mark.parametrize("name", RULES)


def fitted(rule: MaskRule, tickets: ws.Collection, task: ws.Task, folder: Path | None = None) -> ws.FittedGenerator:
    return replace(MODEL, masks=rule).fit(tickets[:6], task=task, folder=folder)


@ALL
def test_it_splits_its_vectors_into_values_and_scores(name: str, tickets: ws.Collection) -> None:
    rule = RULES[name]
    assert isinstance(rule, MaskRule)
    known = rule.fit(tickets)
    assert isinstance(known, FittedMaskRule)
    vectors = known.vectors(tickets)
    values, scores = known.split(vectors.weights if isinstance(vectors, ws.Collection) else vectors)
    assert torch.equal(values, tickets.weights)
    assert scores.shape == values.shape


@ALL
def test_it_is_refined_sampled_saved_and_loaded(
    name: str, tickets: ws.Collection, task: ws.Task, tmp_path: Path
) -> None:
    generator = fitted(RULES[name], tickets, task, tmp_path / "run")
    assert generator.refined is not None
    samples = generator.sample(3, density=0.15, seed=1)
    count = round(0.15 * tickets.layout.num_prunable)
    assert samples.masks[:, tickets.layout.prunable].sum(1).tolist() == [count] * 3
    again = ws.FittedGenerator.load(generator.save(tmp_path / "saved"))
    assert again.fingerprint() == generator.fingerprint()
    assert torch.equal(again.sample(3, density=0.15, seed=1).weights, samples.weights)
    assert fitted(RULES[name], tickets, task).fingerprint() == generator.fingerprint()
    assert not torch.equal(generator.sample(3, density=0.15, seed=2).weights, samples.weights)


@ALL
def test_damage_is_named(name: str, tickets: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    path = fitted(RULES[name], tickets, task).save(tmp_path / "g") / MANIFEST
    manifest = json.loads(path.read_text())
    (path.parent / "manifest.json").unlink()  # as in folders of before; with it, the change itself is what is seen
    for damage, words in (({"rule": "tests.gone"}, "import the module"), ({"more": 1}, "more")):
        path.write_text(json.dumps(manifest | {"masks": manifest["masks"] | damage}))
        with pytest.raises(StorageError, match=words):
            ws.FittedGenerator.load(path.parent)
    for field in set(manifest["masks"]) - {"rule"}:
        path.write_text(json.dumps(manifest | {"masks": manifest["masks"] | {field: "x"}}))
        with pytest.raises(StorageError, match=field):
            ws.FittedGenerator.load(path.parent)


def test_a_rule_that_cannot_be_saved_is_found_before_the_work(tickets: ws.Collection, task: ws.Task) -> None:
    with pytest.raises(InputError, match="register the class"):
        fitted(Unregistered(), tickets, task)
