"""Ticket finders: closed forms of their scores, exact counts, what they may and may not change, resuming."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import weightspace as ws
from weightspace import tickets
from weightspace.errors import InputError
from weightspace.runtime import seeds
from weightspace.tickets.rigl import moved
from weightspace.training.batches import Batches
from weightspace.training.conversion import initial


class Linear2(nn.Sequential):
    """Two linear layers without biases."""

    def __init__(self) -> None:
        super().__init__(nn.Linear(3, 4, bias=False), nn.Linear(4, 2, bias=False))


@pytest.fixture(scope="module")
def linear() -> tuple[ws.Collection, ws.Task]:
    """A linear network with the squared error."""
    random = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, generator=random)
    data = ws.Split(x, x @ torch.randn(3, 2, generator=random))
    architecture = ws.Architecture.of(Linear2)
    loss = lambda out, y: ((out - y) ** 2).sum() / (2 * len(y))  # noqa: E731
    task = ws.Task("linear", architecture, data, data, data, recipe=ws.Recipe(ws.Step(epochs=1)), loss=loss)
    layout = architecture.layout()
    networks = ws.Collection(
        layout,
        torch.randn(2, layout.size, generator=random),
        architecture=architecture,
        records=[{"seed": 0}, {"seed": 1}],
    )
    return networks, task


def batch(task: ws.Task, size: int, seed: int) -> ws.Split:
    return tickets.scores.balanced(task, size, seed)


def pieces(networks: ws.Collection, i: int) -> tuple[torch.Tensor, torch.Tensor]:
    tensors = networks.layout.tensors(networks.weights[i])
    return tensors["0.weight"], tensors["1.weight"]


def test_snip_is_gradient_times_weight_in_closed_form(linear: tuple[ws.Collection, ws.Task]) -> None:
    networks, task = linear
    found = tickets.SNIP(per_class=20)(networks, task)
    for i in range(2):
        a, b = pieces(networks, i)
        data = batch(task, 20, i)
        error = (data.x @ a.T @ b.T - data.y) / len(data)
        exact = [(b.T @ error.T @ data.x * a).abs(), (error.T @ (data.x @ a.T) * b).abs()]
        torch.testing.assert_close(found[i], torch.cat([e.flatten() for e in exact]), rtol=1e-4, atol=1e-6)


def test_grasp_is_weight_times_hessian_times_gradient(linear: tuple[ws.Collection, ws.Task]) -> None:
    networks, task = linear
    found = tickets.GraSP(per_class=20, temperature=1.0)(networks, task)
    weights, data = networks.weights[0].double(), batch(task, 20, 0)

    def loss(w: torch.Tensor) -> torch.Tensor:
        a, b = w[:12].reshape(4, 3), w[12:].reshape(2, 4)
        return task.loss(data.x.double() @ a.T @ b.T, data.y.double())

    gradient, hessian = (
        torch.autograd.functional.jacobian(loss, weights),
        torch.autograd.functional.hessian(loss, weights),
    )
    torch.testing.assert_close(found[0].double(), weights * (hessian @ gradient), rtol=1e-3, atol=1e-4)


def test_synaptic_flow_in_closed_form_and_conserved(linear: tuple[ws.Collection, ws.Task]) -> None:
    networks, task = linear
    found = tickets.SynFlow()(networks, task)
    a, b = (t.double().abs() for t in pieces(networks, 0))
    first, second = found[0, :12].reshape(4, 3), found[0, 12:].reshape(2, 4)
    torch.testing.assert_close(first, b.sum(0)[:, None] * a)
    torch.testing.assert_close(second, b * a.sum(1))
    torch.testing.assert_close(first.sum(1), second.sum(0), msg="what flows into a unit flows out of it")
    torch.testing.assert_close(first.sum(), second.sum())


def test_scoring_changes_neither_weights_nor_statistics(task: ws.Task) -> None:
    architecture = ws.Architecture.of(
        lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 10))
    )
    start = initial(architecture, [{"seed": 0}])
    before = start.weights.clone(), {n: b.clone() for n, b in start.buffers.items()}
    for score in (tickets.SNIP(), tickets.GraSP(), tickets.SynFlow(), tickets.RandomScore(), tickets.MagnitudeScore()):
        scores = score(start, task)
        assert scores.shape == start.weights.shape
        assert torch.equal(start.weights, before[0])
        assert all(torch.equal(b, before[1][n]) for n, b in start.buffers.items())
        assert torch.equal(score(start, task), scores), "the same networks get the same scores"


def test_one_round_of_synaptic_flow_collapses_a_layer_and_a_hundred_do_not() -> None:
    task = ws.tasks.digits(hidden=(60, 60, 60))
    start = initial(task.architecture, [{"seed": 0}, {"seed": 1}])
    once, often = (
        start.replace(masks=m, weights=start.weights * m)
        for m in (tickets.PruneAtInit(tickets.SynFlow(), 0.01, rounds=k).masks(start, task) for k in (1, 100))
    )
    assert all(tickets.collapsed_layers(once))
    assert not any(tickets.collapsed_layers(often))
    prunable = start.layout.prunable
    assert once.masks[:, prunable].sum(1).tolist() == often.masks[:, prunable].sum(1).tolist()


@settings(max_examples=40, deadline=None)
@given(density=st.floats(0.002, 1), sizes=st.lists(st.integers(1, 40), min_size=2, max_size=5))
def test_erk_and_balanced_counts_sum_exactly(density: float, sizes: list[int]) -> None:
    layout = ws.Architecture("MLP", {"sizes": sizes}).layout()
    total = round(density * layout.num_prunable)
    if total < 1:
        return
    for pattern in (ws.ERK(density), ws.Balanced(density)):
        counts = pattern.counts(layout)
        weights = [e.size for e in layout.weights]
        assert sum(counts) == total
        assert all(0 <= c <= s for c, s in zip(counts, weights, strict=True))
        mask = pattern.mask(torch.rand(layout.size), layout)
        assert mask[layout.prunable].sum() == total


def test_erk_and_balanced_give_what_their_formulas_say() -> None:
    layout = ws.Architecture("LeNet300").layout()
    counts = ws.ERK(0.02).counts(layout)
    raw = [(784 + 300), (300 + 100), (100 + 10)]
    expected = [0.02 * 266_200 * r / sum(raw) for r in raw]
    assert all(abs(c - e) <= 1 for c, e in zip(counts, expected, strict=True))
    assert ws.Balanced(0.1).counts(layout) == [12810, 12810, 1000], (
        "the output layer is full, the others share the rest"
    )
    assert ws.LayerRates(2).counts(layout) == [150528, 19200, 810]
    assert [p.level for p in ws.masks.steps_to(ws.LayerRates(3), 0.2)] == [1, 2, 3]


FINDERS: list[tuple[str, Callable[[], object]]] = [
    ("snip", lambda: tickets.PruneAtInit(tickets.SNIP(), 0.1)),
    ("synflow", lambda: tickets.PruneAtInit(tickets.SynFlow(), 0.1, rounds=10)),
    ("erk", lambda: tickets.PruneAtInit(tickets.RandomScore(), pattern=ws.ERK(0.1))),
    ("early", lambda: tickets.PruneAtInit(tickets.MagnitudeScore(), 0.1, start=ws.Step(iterations=7))),
    ("rigl", lambda: tickets.DynamicSparseTraining(0.1, every=6)),
    ("set", lambda: tickets.DynamicSparseTraining(0.1, every=6, grow="random")),
    ("popup", lambda: tickets.EdgePopup(0.1)),
    ("multi-prize", lambda: tickets.EdgePopup(0.1, binary=True)),
    ("continuous", lambda: tickets.ContinuousSparsification(0.1)),
    ("keep", lambda: tickets.IMP(0.1, 0.6, after_pruning="lr_rewind")),
    ("fine-tune", lambda: tickets.IMP(0.1, 0.9, after_pruning="fine_tune")),
]


@pytest.mark.parametrize(("name", "make"), FINDERS, ids=[name for name, _ in FINDERS])
def test_every_finder_keeps_the_exact_count_and_pruned_weights_zero(
    name: str, make, dense: ws.Collection, task: ws.Task
) -> None:
    found = make().find(dense[:2], task)
    prunable = found.layout.prunable
    assert (found.masks[:, prunable].sum(1) == round(0.1 * found.layout.num_prunable)).all()
    assert not found.weights[~found.masks].any()
    assert all(record["kind"] == "ticket" and record["parent"] == i for i, record in enumerate(found.records))
    assert not torch.equal(found.masks[0], found.masks[1])
    assert torch.equal(make().find(dense[:2], task).weights, found.weights)
    alone = make().find(dense[1:2], task)
    assert (alone.masks[0] == found.masks[1]).double().mean() > 0.97, (
        "up to rounding, a network does not see its neighbours"
    )
    if name in ("popup", "multi-prize"):
        return
    kept = found.masks & prunable
    start = found.extras["rewind"] if "rewind" in found.extras else dense[:2].weights
    for sign in (-1, 1):  # some have inputs that are always zero, or none at all
        own = kept & (start.sign() == sign)
        assert (found.weights != start)[own].double().mean() > 0.2, "kept weights of either sign move"


@pytest.mark.parametrize("name", ["synflow", "rigl", "popup", "keep"])
def test_an_interrupted_finder_continues_to_the_same_bytes(
    name: str, dense: ws.Collection, task: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = dict(FINDERS)[name]
    whole = make().find(dense[:2], task)
    monkeypatch.setattr(ws.training.trainer, "_CHECKPOINT_SECONDS", 0.0)
    monkeypatch.setattr(tickets.edge_popup, "_EVERY", 7)
    done, calls = Batches.batch, 0

    def interrupt(self, *arguments):
        nonlocal calls
        calls += 1
        if calls == stop:
            raise KeyboardInterrupt
        return done(self, *arguments)

    monkeypatch.setattr(Batches, "batch", interrupt)
    stop = 150 if isinstance(make(), tickets.IMP) else 50  # behind the first level
    with pytest.raises(KeyboardInterrupt):
        make().find(dense[:2], task, folder=tmp_path / "run")
    stop, before = 0, calls
    again = make().find(dense[:2], task, folder=tmp_path / "run")
    assert torch.equal(again.weights, whole.weights)
    assert torch.equal(again.masks, whole.masks)
    calls, whole_run = 0, calls - before
    make().find(dense[:2], task)
    assert whole_run < calls, "it went on from a checkpoint"


def test_connections_move_as_a_table_says() -> None:
    layout = ws.Architecture.of(lambda: nn.Linear(6, 1, bias=False)).layout()
    weights = torch.tensor([[5.0, -0.1, 3.0, 0.2, 0.0, 0.0]])
    masks = torch.tensor([[True, True, True, True, False, False]])
    wanted = torch.tensor([[9.0, 9.0, 0.0, 0.0, 1.0, 2.0]])
    assert moved(weights, masks, wanted, layout, 0.25)[0].tolist() == [True, False, True, True, False, True]
    assert moved(weights, masks, wanted, layout, 0.5)[0].tolist() == [True, False, True, False, True, True]
    assert moved(weights, masks, wanted, layout, 0.01)[0].tolist() == masks[0].tolist()


def test_untrained_weights_stay_what_they_were(dense: ws.Collection, task: ws.Task) -> None:
    found = tickets.EdgePopup(0.3).find(dense[:2], task)
    assert torch.equal(found.weights, found.extras["rewind"] * found.masks)
    signed = tickets.EdgePopup(0.3, binary=True).find(dense[:2], task)
    for entry in signed.layout.weights:
        part = signed.weights[0, signed.layout.slices[entry.name]]
        assert len(part[part != 0].abs().unique()) == 1, "one magnitude a layer"


def test_impossible_settings_are_refused() -> None:
    for wrong in (
        lambda: tickets.PruneAtInit(rounds=0),
        lambda: tickets.DynamicSparseTraining(every=0),
        lambda: tickets.EdgePopup(0.0),
        lambda: tickets.ContinuousSparsification(hardness=1.0),
        lambda: ws.LayerRates(-1),
        lambda: ws.ERK(0.0),
        lambda: tickets.IMP(after_pruning="lr_rewind", rewind=ws.Step(epochs=1)),
        lambda: tickets.PruneAtInit(rounds=5, pattern=ws.NM(2, 4)),
    ):
        with pytest.raises(InputError):
            wrong()
    with pytest.raises(InputError, match="no weight is called 'x'"):
        ws.LayerRates(1, others={"x": 0.5}).counts(ws.Architecture("LeNet300").layout())


def test_an_effective_weight_lies_on_a_path() -> None:
    architecture = ws.Architecture.of(lambda: nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2)))
    layout = architecture.layout()
    random = torch.Generator().manual_seed(0)
    masks = ws.Unstructured(0.4).mask(torch.rand(6, layout.size, generator=random), layout)
    networks = ws.Collection(
        layout, torch.randn(6, layout.size, generator=random) * masks, architecture=architecture, masks=masks
    )
    found = tickets.effective_masks(networks, (3,))
    for i, mask in enumerate(masks):
        first, second = (layout.tensors(mask)[n] for n in ("0.weight", "2.weight"))
        exact = [first & second.any(0)[:, None], second & first.any(1)]
        assert torch.equal(found[i][layout.prunable], torch.cat([e.flatten() for e in exact]))
    assert (tickets.effective_density(networks, (3,)) <= networks.densities).all()
    assert (tickets.effective_density(networks, (3,)) < networks.densities).any()


def test_persistence_agrees_with_a_tree_built_edge_by_edge() -> None:
    architecture = ws.Architecture.of(lambda: nn.Linear(5, 4, bias=False))
    layout = architecture.layout()
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(2, 20, generator=random)
    weights[1, :12] = 0
    networks = ws.Collection(layout, weights, architecture=architecture)
    for found, row in zip(tickets.neural_persistence(networks), weights, strict=True):
        sizes = (row.abs() / row.abs().max()).reshape(4, 5)
        parent = list(range(9))

        def root(i: int, parent: list[int] = parent) -> int:
            return i if parent[i] == i else root(parent[i])

        deaths: list[float] = []
        for k in sizes.flatten().argsort(descending=True).tolist():  # Kruskal, largest first
            a, b = root(k // 5), root(4 + k % 5)
            if a != b and sizes.flatten()[k] > 0:
                parent[a] = b
                deaths.append(sizes.flatten()[k].item())
        deaths += [0.0] * (8 - len(deaths))
        exact = sum((1 - d) ** 2 for d in deaths) ** 0.5 / 8**0.5
        assert found.item() == pytest.approx(exact, rel=1e-6)


def test_one_step_of_popup_is_autograds(dense: ws.Collection, task: ws.Task) -> None:
    """Straight through the choice of the mask."""
    once = replace(task, recipe=ws.Recipe(ws.Step(iterations=1), batch_size=64, optimizer=ws.SGD(lr=5.0, momentum=0.0)))
    layout, record = dense.layout, dense.records[0]
    begun = initial(task.architecture, [record])
    scores, fixed = tickets.edge_popup._scores(begun), tickets.edge_popup.fixed_weights(begun, "kaiming", 0.3)
    mask = ws.Unstructured(0.3, "layer").mask(scores.abs(), layout)
    order = torch.randperm(len(task.train), generator=seeds.generator(record["seed"], "data order", 0))[:64]
    module = task.architecture.build_seeded(0)
    leaf = (fixed * mask)[0].clone().requires_grad_()
    out = torch.func.functional_call(module, layout.tensors(leaf), (task.train.x[order],))
    (gradient,) = torch.autograd.grad(task.loss(out, task.train.y[order]), leaf)
    moved_to = scores[0] - 5.0 * gradient * fixed[0] * scores[0].sign() * layout.prunable
    expected = ws.Unstructured(0.3, "layer").mask(moved_to.abs(), layout)
    found = tickets.EdgePopup(0.3).find(dense[:1], once)
    assert (found.masks[0] == expected).double().mean() > 0.997
    assert (mask[0] == expected).double().mean() < 0.99, "the step moved the mask"


def test_searches_learn(task: ws.Task) -> None:
    long = replace(task, recipe=ws.Recipe(ws.Step(epochs=12), batch_size=64, optimizer=ws.SGD(lr=0.1)))
    before = replace(long, recipe=replace(long.recipe, length=ws.Step(iterations=1)))
    start = ws.collect(before, 3)
    accuracy = lambda c: sum(r["metrics"]["validation_accuracy"] for r in c.records) / 3  # noqa: E731
    for finder in (tickets.EdgePopup(0.5), tickets.EdgePopup(0.5, binary=True)):
        assert accuracy(finder.find(start, long)) > accuracy(finder.find(start, before)) + 0.1
    soft = tickets.ContinuousSparsification(0.1).find(start, long)
    other = tickets.PruneAtInit(tickets.RandomScore(), 0.1).find(start, long)
    assert accuracy(soft) > accuracy(other) + 0.03


def test_levels_do_not_end_with_one_that_prunes_nothing() -> None:
    for density in (0.3, 0.1, 0.05, 0.02, 0.01):
        assert len(tickets.IMP(density, 1 - density).levels()) == 1
    assert [len(tickets.IMP(0.8**k).levels()) for k in (1, 2, 3, 16)] == [1, 2, 3, 16]
    assert len(tickets.IMP(pattern=ws.LayerRates(0)).levels()) == 1


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=3, max_size=7))
def test_falling_erk_and_balanced_counts_are_nested(sizes: list[int]) -> None:
    layout = ws.Architecture("MLP", {"sizes": sizes}).layout()
    for pattern in (ws.ERK, ws.Balanced):
        counts = [pattern(0.9**k).counts(layout) for k in range(20) if round(0.9**k * layout.num_prunable) >= 1]
        for more, fewer in pairwise(counts):
            assert all(b <= a for a, b in zip(more, fewer, strict=True))


def test_own_learning_rates_are_followed(dense: ws.Collection, task: ws.Task) -> None:
    sgd = replace(task, recipe=replace(task.recipe, optimizer=ws.SGD(lr=0.1), length=ws.Step(epochs=1)))
    slow, fast = (dense[:1].replace(records=[dense.records[0] | {"individual": {"lr": lr}}]) for lr in (1e-6, 0.5))
    for finder in (tickets.EdgePopup(0.3), tickets.ContinuousSparsification(0.3)):
        assert not torch.equal(finder.find(slow, sgd).masks, finder.find(fast, sgd).masks)


def test_flow_through_layers_that_take_means_is_refused(task: ws.Task) -> None:
    build = lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 6), nn.LayerNorm(6), nn.Linear(6, 10))  # noqa: E731
    start = initial(ws.Architecture.of(build), [{"seed": 0}])
    with pytest.raises(InputError, match="layer 2 is a LayerNorm"):
        tickets.SynFlow()(start, task)
    with pytest.raises(InputError, match="LayerNorm"):
        tickets.effective_masks(start, (64,))


def test_frozen_parameters_survive_pruning(task: ws.Task) -> None:
    def build() -> nn.Module:
        first = nn.Linear(64, 6)
        first.weight.requires_grad_(False)
        return nn.Sequential(nn.Flatten(), first, nn.ReLU(), nn.Linear(6, 10))

    own = replace(task, architecture=ws.Architecture.of(build))
    found = tickets.PruneAtInit(tickets.RandomScore(), 0.5).find(initial(own.architecture, [{"seed": 0}]), own)
    first = found.layout.slices["1.weight"]
    assert torch.equal(found.weights[:, first], (found.extras["rewind"] * found.masks)[:, first])


def test_matching_has_an_interval() -> None:
    assert tickets.matching([0.97, 0.972, 0.974], [0.968, 0.970, 0.972]).matches
    worse = tickets.matching([0.96, 0.965, 0.962], [0.97, 0.971, 0.972])
    assert not worse.matches
    assert worse.difference == pytest.approx(-0.00867, abs=1e-4)
    assert not tickets.matching([0.9, 0.99], [0.95, 0.94]).matches, "two seeds that disagree prove nothing"
    with pytest.raises(InputError, match="two pairs"):
        tickets.matching([0.9], [0.9])


def test_replaying_the_learning_rate_starts_from_the_trained_weights(dense: ws.Collection, task: ws.Task) -> None:
    tiny = replace(task, recipe=replace(task.recipe, length=ws.Step(iterations=1)))
    start = ws.collect(tiny, 2, seed=0)
    kept, rewound = (tickets.IMP(0.5, 0.5, after_pruning=how).find(start, tiny) for how in ("lr_rewind", "rewind"))
    assert torch.equal(kept.masks, rewound.masks)
    assert not torch.equal(kept.weights, rewound.weights)


def test_synaptic_flow_leaves_no_layer_of_a_deep_network_empty() -> None:
    """Ten weights a layer are left of four hundred; magnitudes and SNIP's one round empty layers, as biases in the
    flow would.
    """
    architecture = ws.Architecture("MLP", {"sizes": [20] * 12 + [5]})
    base = ws.tasks.digits()
    few = lambda split: ws.Split(split.x.flatten(1)[:, :20], split.y % 5)  # noqa: E731
    task = replace(
        base, architecture=architecture, train=few(base.train), validation=few(base.validation), test=few(base.test)
    )
    start = initial(architecture, [{"seed": 0}])
    kept = start
    for k in range(100):
        mask = ws.Unstructured(0.025 ** ((k + 1) / 100)).mask(ws.tickets.SynFlow()(kept, task), start.layout)
        kept = start.replace(weights=start.weights * mask, masks=mask)
    assert ws.tickets.collapsed_layers(kept) == [[]]
    assert ws.tickets.effective_density(kept, (20,)).item() == pytest.approx(0.025, abs=2e-4)
    loud = start.weights.clone()
    loud[:, [p.role == "bias" for p in start.layout.parameters for _ in range(p.size)]] *= 100
    assert torch.equal(
        ws.tickets.SynFlow()(start.replace(weights=loud), task)[:, start.layout.prunable],
        ws.tickets.SynFlow()(start, task)[:, start.layout.prunable],
    )
    mask = ws.Unstructured(0.025).mask(ws.tickets.SNIP()(start, task), start.layout)
    snip = start.replace(weights=start.weights * mask, masks=mask)
    assert ws.tickets.collapsed_layers(snip) != [[]]
