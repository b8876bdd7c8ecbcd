"""Contract: patterns of some tensors (`Only`, `Except`) mean the same wherever a pattern is taken."""

from dataclasses import replace

import pytest
import torch

import weightspace as ws
from weightspace import bayes
from weightspace.bayes.study.controls import StudyControls
from weightspace.generator import GateMask, SharedMask
from weightspace.generator.mask_rules import MagnitudeMask

FLOW = ws.FlowMatching(width=8, blocks=1, steps=2, batch_size=8)


def kept(networks: ws.Collection) -> dict[str, list[int]]:
    """Kept weights of each tensor, a number for each network."""
    masks, layout = networks.masks, networks.layout
    return {entry.name: masks[:, layout.slices[entry.name]].sum(1).tolist() for entry in layout.weights}


@pytest.fixture(scope="module")
def sizes(dense: ws.Collection) -> dict[str, int]:
    return {entry.name: entry.size for entry in dense.layout.weights}


@pytest.fixture(scope="module")
def but(sizes: dict[str, int]) -> ws.Except:
    """A fifth of all weights but those of the second layer."""
    return ws.Except(ws.Unstructured(0.2), list(sizes)[1])


@pytest.fixture(scope="module")
def partly(dense: ws.Collection, but: ws.Except) -> ws.Collection:
    """Tickets under that pattern."""
    masks = but.mask(dense.weights.abs(), dense.layout)
    weights = dense.weights * masks
    return dense.replace(weights=weights, masks=masks, extras={"rewind": weights})


@pytest.mark.parametrize("rule", [MagnitudeMask(), SharedMask(), GateMask()], ids=lambda rule: type(rule).__name__)
def test_samples(rule, tickets: ws.Collection, sizes: dict[str, int]) -> None:
    model = ws.TicketGenerator(compress=ws.PCA(3), generate=FLOW, masks=rule).fit(tickets)
    first, *rest = sizes
    samples = model.sample(2, pattern=ws.Only(ws.Unstructured(0.1), first), seed=1)
    counts = kept(samples)
    assert counts[first] == [round(0.1 * sizes[first])] * 2
    pruned = kept(model.sample(2, density=0.1, seed=1))
    assert all(min(counts[name]) > max(pruned[name]) for name in rest), "these are not pruned"


def test_controls_stay_in_the_selection(partly: ws.Collection, but: ws.Except, sizes: dict[str, int]) -> None:
    whole = list(sizes)[1]
    controls = ws.tickets.TicketControls(pattern=but)
    made = {
        "globally shuffled": controls.globally_shuffled(partly),
        "shuffled": controls.shuffled(partly),
        "refill": ws.tickets.refill(partly),
        "of posteriors": StudyControls(pattern=but).globally_shuffled(
            partly.replace(extras={"std": torch.ones_like(partly.weights)}), partly.replace(masks=None, extras={})
        ),
    }
    for name, control in made.items():
        assert kept(control)[whole] == [sizes[whole]] * len(partly), name
    assert not torch.equal(made["globally shuffled"].masks, partly.masks)
    everywhere = ws.tickets.TicketControls().globally_shuffled(partly)
    assert max(kept(everywhere)[whole]) < sizes[whole], "without the pattern weights are moved in the whole network"
    assert everywhere.masks.sum() == made["globally shuffled"].masks.sum()


def test_posteriors(dense: ws.Collection, task: ws.Task, but: ws.Except, sizes: dict[str, int]) -> None:
    recipe = ws.Recipe(ws.Step(iterations=2), batch_size=16, optimizer=ws.Adam(lr=0.01))
    found = bayes.BayesianIMP(pattern=but, rate=0.8).find(dense[:2], replace(task, recipe=recipe))
    whole = list(sizes)[1]
    counts = kept(found)
    assert counts.pop(whole) == [sizes[whole]] * 2
    assert sum(count[0] for count in counts.values()) == round(0.2 * sum(sizes[name] for name in counts))
