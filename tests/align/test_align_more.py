"""Matching against oracles, populations, posteriors, activations, connectivity."""

import math
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise, product
from itertools import permutations as orders
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from torch import nn

import weightspace as ws
from tests.conftest import outputs
from tests.symmetry.test_symmetry import Attention, Recurrent
from weightspace.align import (
    ActivationMatching,
    GrowingMean,
    MergeMany,
    PrecisionCost,
    Star,
    StraightThrough,
    Universe,
    WassersteinCost,
    WeightCost,
    WeightMatching,
    transfer_masks,
)
from weightspace.align import assign as assigning
from weightspace.align.assign import assign
from weightspace.align.matcher import Matcher
from weightspace.errors import InputError, LayoutMismatch
from weightspace.evaluation import alignment_report, connectivity
from weightspace.symmetry import Symmetry, trace


def gain(symmetry: Symmetry, a: torch.Tensor, b: torch.Tensor, order: dict[str, torch.Tensor]) -> float:
    return float(a @ symmetry.permute(b, order))


@pytest.fixture(scope="module")
def symmetry(dense: ws.Collection) -> Symmetry:
    return WeightMatching().symmetry_of(dense)


# Assignments


@pytest.mark.parametrize("size", [1, 2, 7, 40])
def test_assignments_are_optimal_permutations(size: int) -> None:
    matrix = torch.randn(size, size, generator=torch.Generator().manual_seed(size))
    found = assign(matrix)
    rows, columns = linear_sum_assignment(matrix.numpy(), maximize=True)
    best = float(matrix[torch.from_numpy(rows), torch.from_numpy(columns)].sum())
    assert sorted(found.tolist()) == list(range(size))
    assert float(matrix.gather(1, found[:, None]).sum()) == pytest.approx(best, rel=1e-6)


def test_a_solver_that_returns_no_permutation_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    def constant(cost: np.ndarray, **_: object) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros(len(cost), dtype=int), np.zeros(len(cost), dtype=int)

    monkeypatch.setattr(assigning.lap, "lapjvr", constant)
    assert assign(torch.eye(5)).tolist() == [0, 1, 2, 3, 4]  # SciPy's answer
    monkeypatch.setattr(assigning, "linear_sum_assignment", lambda cost: constant(cost))
    with pytest.raises(InputError, match="did not return a permutation"):
        assign(torch.eye(5))


def test_nan_gains_are_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        assign(torch.full((3, 3), torch.nan))


# Matching


def test_two_hidden_layers_by_brute_force() -> None:
    """Coordinate descent ends in a local optimum: no single group can be improved, and often it is global."""
    arch = ws.Architecture("MLP", {"sizes": [3, 4, 4, 2]})
    symmetry = trace(arch.build_seeded(0), torch.randn(16, 3))
    names = [g.name for g in symmetry.groups]
    hits = 0
    for seed in range(6):
        a, b = (
            torch.randn(symmetry.layout.size, generator=torch.Generator().manual_seed(s)) for s in (seed, 99 + seed)
        )
        found = Matcher(symmetry, a[None].double()).match(b[None].double())
        assert found.converged
        assert found.value == pytest.approx(gain(symmetry, a.double(), b.double(), found.permutations), rel=1e-9)
        every = [torch.tensor(o) for o in orders(range(4))]
        values = {
            (i, j): gain(symmetry, a, b, {names[0]: every[i], names[1]: every[j]})
            for i, j in product(range(24), repeat=2)
        }
        mine = [next(i for i, o in enumerate(every) if torch.equal(o, found.permutations[n])) for n in names]
        assert found.value >= max(values[i, mine[1]] for i in range(24)) - 1e-4
        assert found.value >= max(values[mine[0], j] for j in range(24)) - 1e-4
        hits += found.value >= max(values.values()) - 1e-4
    assert hits >= 2


def gated() -> nn.Module:
    return Recurrent(nn.LSTM(4, 6, 2), 6)


STRUCTURED = {
    "heads": (Attention, (2, 7, 5)),
    "grouped convolutions": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 12, 3, groups=4), nn.ReLU(), nn.Conv2d(12, 4, 3)
        ),
        (2, 3, 8, 8),
    ),
    "LSTM": (gated, (5, 2, 4)),
    "ResNet-20": (lambda: ws.models.ResNet20(width=0.5), (2, 3, 16, 16)),
}


@pytest.mark.parametrize("name", STRUCTURED)
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_planted_permutations_of_structured_networks_are_recovered(name: str, noise: float) -> None:
    make, shape = STRUCTURED[name]
    torch.manual_seed(0)
    module = make()
    symmetry = trace(module, torch.randn(shape))
    random = torch.Generator().manual_seed(3)
    state = {n: t + (0.1 * torch.randn(t.shape) if t.ndim == 1 else 0) for n, t in module.state_dict().items()}
    a = symmetry.layout.pack(state).double()
    planted = symmetry.random(random)
    b = symmetry.permute(a, planted) + noise * a.std() * torch.randn(a.shape, generator=random, dtype=torch.float64)
    found = Matcher(symmetry, a[None]).match(b[None]).permutations
    recovered = symmetry.compose(planted, found)
    still = symmetry.identity()
    assert all(torch.equal(recovered[g.name], still[g.name]) for g in symmetry.groups)


def test_the_result_does_not_depend_on_the_order_of_units(dense: ws.Collection, symmetry: Symmetry) -> None:
    random = torch.Generator().manual_seed(0)
    a, b = dense.weights[0].double(), dense.weights[1].double()
    found = Matcher(symmetry, a[None]).match(b[None])
    shuffled = Matcher(symmetry, a[None]).match(symmetry.permute(b, symmetry.random(random))[None])
    assert shuffled.value == pytest.approx(found.value, rel=1e-12)


def test_incremental_gains_equal_gains_from_scratch(dense: ws.Collection, symmetry: Symmetry) -> None:
    """The matcher ends where no group can be improved, judged by gain matrices computed anew."""
    a, b = dense.weights[2].double(), dense.weights[3].double()
    found = Matcher(symmetry, a[None]).match(b[None])
    moved = symmetry.layout.unpack(symmetry.permute(b, found.permutations))
    target = symmetry.layout.unpack(a)
    for group in symmetry.groups:
        scores = sum(
            target[x.tensor].movedim(x.axis, 0).flatten(1) @ moved[x.tensor].movedim(x.axis, 0).flatten(1).T
            if target[x.tensor].ndim > 1
            else torch.outer(target[x.tensor], moved[x.tensor])
            for x in group.axes
        )
        rows, columns = linear_sum_assignment(scores.numpy(), maximize=True)
        assert float(scores[rows, columns].sum()) <= float(scores.diagonal().sum()) + 1e-8


# Populations


@pytest.mark.parametrize("population", [GrowingMean(), Star(1), MergeMany(sweeps=3), Universe(steps=20)])
def test_every_population_keeps_functions_and_brings_networks_together(
    dense: ws.Collection, task: ws.Task, population: object
) -> None:
    matching = WeightMatching(population=population)
    aligned = matching.fit(dense).transform(dense)
    x = task.test.x[:30]
    torch.testing.assert_close(outputs(aligned, x), outputs(dense, x), rtol=1e-4, atol=1e-4)
    assert connectivity.residual_share(aligned) < connectivity.residual_share(dense) - 0.1


def test_a_reference_outside_the_collection_is_refused(dense: ws.Collection, task: ws.Task) -> None:
    for matching, data in (
        (WeightMatching(population=Star(99)), ()),
        (ActivationMatching(reference=99), (task.train.x[:50],)),
        (StraightThrough(reference=-1), (task,)),
    ):
        with pytest.raises(InputError, match="is not among the"):
            matching.fit(dense, *data)


def test_aligned_output_is_independent_of_chunking_and_workers(dense: ws.Collection) -> None:
    fitted = WeightMatching().fit(dense)
    whole = fitted.transform(dense)
    parts = ws.Collection.concatenate([fitted.transform(dense[i : i + 3]) for i in range(0, len(dense), 3)])
    assert torch.equal(whole.weights, parts.weights)
    threads = torch.get_num_threads()
    with ThreadPoolExecutor(2) as pool:
        again = WeightMatching().fit(dense, executor=pool)
        assert torch.equal(again.reference["weights"], fitted.reference["weights"])
        assert torch.equal(again.transform(dense, executor=pool).weights, whole.weights)
    torch.set_num_threads(threads)


# Tickets and posteriors


def test_everything_in_weight_space_moves_together(tickets: ws.Collection) -> None:
    random = torch.Generator().manual_seed(0)
    moments = torch.rand(tickets.weights.shape, generator=random)
    given = tickets.replace(extras={"rewind": tickets.weights + 1, "moment": moments, "number": moments * 0 + 2})
    fitted = WeightMatching(balance=False).fit(given)
    aligned = fitted.transform(given)
    for i, found in enumerate(fitted.permutations(given)):
        for name in ("rewind", "moment"):
            moved = fitted.symmetry.permute(given.extras[name][i], found.permutations)
            assert torch.equal(aligned.extras[name][i], moved)
        assert torch.equal(aligned.masks[i], fitted.symmetry.permute(given.masks[i], found.permutations))


def posterior(networks: ws.Collection, seed: int = 0) -> ws.Collection:
    scale = 0.01 + 0.2 * torch.rand(networks.weights.shape, generator=torch.Generator().manual_seed(seed))
    return networks.replace(extras={"std": scale})


@pytest.mark.parametrize(
    ("cost", "distance"),
    [
        (WassersteinCost(), lambda m, s, n, t: (m - n).square().sum() + (s - t).square().sum()),
        (PrecisionCost(floor=1e-3), lambda m, s, n, t: ((m - n).square() / s.square()).sum()),
        (WeightCost(), lambda m, s, n, t: (m - n).square().sum()),
    ],
)
def test_posterior_costs_by_brute_force(cost: object, distance: object) -> None:
    arch = ws.Architecture("MLP", {"sizes": [3, 5, 2]})
    layout = arch.layout()
    random = torch.Generator().manual_seed(0)
    networks = posterior(
        ws.Collection(layout, torch.randn(2, layout.size, generator=random), architecture=arch, records=[{}] * 2)
    )
    fitted = WeightMatching(cost=cost, balance=False, population=Star()).fit(networks)
    (name,) = (g.name for g in fitted.symmetry.groups)
    m, s = networks.weights[0].double(), networks.extras["std"][0].double()
    values = {}
    for order in orders(range(5)):
        p = {name: torch.tensor(order)}
        n, t = (fitted.symmetry.permute(v[1].double(), p) for v in (networks.weights, networks.extras["std"]))
        values[order] = float(distance(m, s, n, t))
    found = tuple(fitted.permutations(networks)[1].permutations[name].tolist())
    assert values[found] == pytest.approx(min(values.values()), rel=1e-6)


def test_scales_of_posteriors_follow_a_rescaling(tickets: ws.Collection) -> None:
    given = posterior(tickets)
    aligned = WeightMatching(cost=WassersteinCost()).fit(given).transform(given)
    # A unit's weights and their deviations are multiplied by the same factor.
    ratio = (given.extras["std"] / given.weights.abs()).masked_fill(given.weights == 0, 0).sort(1).values
    after = (aligned.extras["std"] / aligned.weights.abs()).masked_fill(aligned.weights == 0, 0).sort(1).values
    torch.testing.assert_close(after, ratio, rtol=1e-3, atol=1e-4)


def test_missing_extras_are_named(tickets: ws.Collection) -> None:
    with pytest.raises(InputError, match=r"no extra 'parent'.*none"):
        WeightMatching(cost=WeightCost(("parent",))).fit(tickets)
    with pytest.raises(InputError, match="no extra 'std'"):
        WeightMatching(cost=WassersteinCost()).fit(tickets)


# Activations


def test_activation_matching_recovers_planted_permutations(dense: ws.Collection, task: ws.Task) -> None:
    fitted = ActivationMatching().fit(dense, task.train.x[:200])
    random = torch.Generator().manual_seed(0)
    planted = fitted.symmetry.random(random)
    copy = dense[[0]].replace(weights=fitted.symmetry.permute(dense.weights[0], planted)[None])
    assert torch.equal(fitted.transform(copy).weights, dense.weights[:1])


def test_activations_of_units_that_no_layer_puts_out_are_refused() -> None:
    arch = ws.Architecture.of(gated)
    states = [arch.build_seeded(i).state_dict() for i in range(2)]
    layout = arch.layout()
    networks = ws.Collection(layout, torch.stack([layout.pack(s) for s in states]), architecture=arch)
    with pytest.raises(InputError, match="output of no layer"):
        ActivationMatching().fit(networks, torch.randn(20, 2, 4))


def test_straight_through_keeps_functions(dense: ws.Collection, task: ws.Task) -> None:
    fitted = StraightThrough(ws.Step(iterations=30)).fit(dense, task)
    aligned = fitted.transform(dense[:3])
    x = task.test.x[:30]
    torch.testing.assert_close(outputs(aligned, x), outputs(dense[:3], x), rtol=1e-4, atol=1e-4)
    assert torch.equal(fitted.transform(dense[1:3]).weights, aligned.weights[1:])


def test_masks_are_carried_to_another_initialisation(
    tickets: ws.Collection, dense: ws.Collection, task: ws.Task
) -> None:
    x = task.train.x[:200]
    random = torch.Generator().manual_seed(0)
    symmetry = ActivationMatching().fit(dense, x).symmetry
    p = symmetry.random(random)
    # The target is the parent with its units in another order: the mask has to arrive in that order.
    target = dense[[0]].replace(weights=symmetry.permute(dense.weights[0], p)[None])
    carried = transfer_masks(tickets[[0]], dense[[0]], target, target, x)
    assert torch.equal(carried.masks[0], symmetry.permute(tickets.masks[0], p))
    assert not torch.equal(carried.masks[0], tickets.masks[0])
    assert carried.records[0]["kind"] == "carried mask"
    with pytest.raises(InputError, match="as many"):
        transfer_masks(tickets[:2], dense[[0]], target, target, x)
    with pytest.raises(InputError, match="no masks"):
        transfer_masks(dense[[0]], dense[[0]], target, target, x)


# Connectivity


def test_barriers_against_a_direct_computation(dense: ws.Collection, task: ws.Task) -> None:
    (barrier,) = connectivity.barriers(dense, task, pairs=[(0, 2)], points=3)
    module = dense.module(0)
    losses = []
    for t in (0.0, 0.25, 0.5, 0.75, 1.0):
        module.load_state_dict(dense.layout.unpack((1 - t) * dense.weights[0] + t * dense.weights[2]))
        with torch.no_grad():
            losses.append(float(nn.functional.cross_entropy(module(task.test.x), task.test.y)))
    above = [v - (1 - t) * losses[0] - t * losses[-1] for v, t in zip(losses, barrier.positions, strict=True)]
    assert barrier.losses == pytest.approx(losses, rel=1e-5)
    assert barrier.loss == pytest.approx(max(above[1:-1]), rel=1e-5)
    assert barrier.midpoint_accuracy == barrier.accuracies[2]
    same = dense[[0, 0]]
    assert connectivity.barriers(same, task, points=1)[0].loss == pytest.approx(0, abs=1e-9)


def test_barriers_refuse_pairs_that_are_not_there(dense: ws.Collection, task: ws.Task) -> None:
    with pytest.raises(InputError, match="pairs of the"):
        connectivity.barriers(dense, task, pairs=[(0, 99)])
    with pytest.raises(InputError, match="pairs of the"):
        connectivity.barriers(dense[[0]], task)
    with pytest.raises(InputError, match="interior point"):
        connectivity.barriers(dense, task, points=0)


def test_residual_share_and_mean_network_in_closed_form(dense: ws.Collection, task: ws.Task) -> None:
    assert connectivity.residual_share(dense[[0, 0, 0]]) == pytest.approx(0, abs=1e-9)
    opposite = dense[[0, 0]].replace(weights=torch.stack([dense.weights[0], -dense.weights[0]]))
    assert connectivity.residual_share(opposite) == pytest.approx(1)
    alone = connectivity.mean_network(dense[[1]], task)
    assert alone.loss == pytest.approx(connectivity.measure(dense[[1]], task).loss, rel=1e-5)


def test_mask_overlap_against_sets_and_chance(tickets: ws.Collection) -> None:
    found = connectivity.mask_overlap(tickets[[0, 1]])
    prunable = tickets.layout.prunable
    a, b = (set(m[prunable].nonzero()[:, 0].tolist()) for m in tickets.masks[:2])
    assert found.iou == pytest.approx(len(a & b) / len(a | b))
    assert found.shared == pytest.approx(2 * len(a & b) / (len(a) + len(b)))
    # Chance: shuffle the masks inside their layers.
    random = torch.Generator().manual_seed(0)
    shared = []
    for _ in range(200):
        other = tickets.masks[1].clone()
        for e in tickets.layout.weights:
            at = tickets.layout.slices[e.name]
            other[at] = other[at][torch.randperm(e.size, generator=random)]
        shared.append(len(a & set(other[prunable].nonzero()[:, 0].tolist())))
    mean = sum(shared) / len(shared)
    assert found.chance_shared == pytest.approx(2 * mean / (len(a) + len(b)), rel=0.05)
    with pytest.raises(InputError, match="two or more sparse"):
        connectivity.mask_overlap(tickets[[0]])


def test_statistics_are_estimated_on_training_data_as_pytorch_does() -> None:
    arch = ws.Architecture.of(lambda: nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)))
    states = [arch.build_seeded(i).state_dict() for i in range(3)]
    layout = arch.layout()
    networks = ws.Collection(
        layout, torch.stack([layout.pack(s) for s in states]), architecture=arch,
        buffers={b.name: torch.stack([s[b.name] for s in states]) for b in layout.buffers},
    )  # fmt: skip
    x = torch.randn(300, 6, generator=torch.Generator().manual_seed(0)) * 2 + 1
    data = ws.Split(x, torch.zeros(300, dtype=torch.long))
    found = connectivity.recalibrated(networks, data, batch=100, batches=3)
    for i in range(3):
        module = networks.module(i)
        module[1].reset_running_stats()
        module[1].momentum = None  # PyTorch's cumulative mean
        for part in x.split(100):
            module.train()(part)
        torch.testing.assert_close(found.buffers["1.running_mean"][i], module[1].running_mean)
        torch.testing.assert_close(found.buffers["1.running_var"][i], module[1].running_var)
    assert not torch.equal(found.buffers["1.running_mean"], networks.buffers["1.running_mean"])


def test_instability_falls_as_copies_part_later(task: ws.Task, tmp_path: Path) -> None:
    found = connectivity.instability(
        task, [ws.Step(), ws.Step(epochs=2)], copies=2, points=1, folder=tmp_path / "copies"
    )
    assert [str(step) for step, _ in found] == ["0it", "2ep"]
    early, late = (b[0].loss for _, b in found)
    assert late < early
    assert (tmp_path / "copies" / "from-2ep" / "collection.json").exists()


def test_the_report_compares_before_and_after(tickets: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    aligned = WeightMatching().fit(tickets).transform(tickets)
    report = alignment_report(tickets, aligned, task, networks=3, points=3)
    before, after = report.sides
    assert after.residual_share < before.residual_share
    assert len(after.barriers) == 3
    assert math.isfinite(after.barrier)
    report.write(tmp_path)
    page = (tmp_path / "alignment.html").read_text()
    assert page.count("data:image/png") == 4
    assert "Before and after" in page
    assert (tmp_path / "alignment.json").exists()
    assert "aligned" in str(report)
    with pytest.raises(InputError, match="same networks"):
        alignment_report(tickets, aligned[:2], task)
    with pytest.raises(InputError, match="at least two"):
        alignment_report(tickets[[0]], aligned[[0]], task)


def test_networks_of_unknown_input_need_an_example(dense: ws.Collection) -> None:
    arch = ws.Architecture.of(Attention)
    layout = arch.layout()
    networks = ws.Collection(
        layout, torch.stack([layout.pack(arch.build_seeded(0).state_dict())] * 2), architecture=arch
    )
    with pytest.raises(InputError, match=r"input of Attention is not known.*example="):
        WeightMatching().fit(networks)
    fitted = WeightMatching().fit(networks, example=torch.randn(2, 7, 5))
    with pytest.raises(LayoutMismatch):
        fitted.transform(dense)


# What a review found


def test_merge_many_never_ends_lower_than_it_was(dense: ws.Collection, monkeypatch: pytest.MonkeyPatch) -> None:
    from weightspace.align import population

    norms: list[float] = []
    original = population._norm
    monkeypatch.setattr(population, "_norm", lambda fields: norms.append(original(fields)) or norms[-1])
    fitted = WeightMatching(population=MergeMany(sweeps=6)).fit(dense)
    assert len(norms) > 2
    assert all(later >= earlier * (1 - 1e-9) for earlier, later in pairwise(norms))
    mean = fitted.reference["weights"].double() * len(dense)
    assert float(mean.square().sum()) == pytest.approx(max(norms), rel=1e-5)


@pytest.mark.parametrize("make", [gated, lambda: ws.models.MLP((4, 5, 6, 3))])
def test_the_gradient_of_the_universe_by_finite_differences(make: object) -> None:
    from weightspace.align.universe import _PairwiseProducts

    module = make()
    shape = (5, 2, 4) if isinstance(module, Recurrent) else (6, 4)
    symmetry = trace(module, torch.randn(shape))
    random = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, 1, symmetry.layout.size, dtype=torch.float64, generator=random)
    work = _PairwiseProducts(symmetry, [dict(symmetry.layout.tensors(v)) for v in vectors])
    soft = [
        {g.name: torch.rand(g.size, g.size, dtype=torch.float64, generator=random) for g in symmetry.groups}
        for _ in vectors
    ]
    for group in symmetry.groups:
        ahead = [{n: p.clone() for n, p in one.items()} for one in soft]
        step = torch.randn(group.size, group.size, dtype=torch.float64, generator=random)
        ahead[1][group.name] += 1e-6 * step
        slope = (work.value(ahead) - work.value(soft)) / 1e-6
        assert slope == pytest.approx(float((work.gains(soft)[1][group.name] * step).sum()), rel=1e-4, abs=1e-3)


def test_activations_of_a_layer_norm_over_images() -> None:
    def build() -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.LayerNorm((8, 4, 8)), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3), nn.Flatten()
        )

    arch = ws.Architecture.of(build)
    layout = arch.layout()
    x = torch.randn(20, 3, 6, 10, generator=torch.Generator().manual_seed(0))
    vector = layout.pack(arch.build_seeded(0).state_dict())
    vector = vector + 0.1 * torch.randn(vector.shape, generator=torch.Generator().manual_seed(1))
    networks = ws.Collection(layout, vector[None], architecture=arch)
    fitted = ActivationMatching().fit(networks, x)
    planted = fitted.symmetry.random(torch.Generator().manual_seed(2))
    moved = networks.replace(weights=fitted.symmetry.permute(vector, planted)[None])
    assert torch.equal(fitted.transform(moved).weights, networks.weights)


def test_networks_without_hidden_units_are_not_aligned_silently() -> None:
    arch = ws.Architecture("MLP", {"sizes": [4, 3]})
    layout = arch.layout()
    networks = ws.Collection(layout, torch.randn(2, layout.size), architecture=arch)
    with pytest.raises(InputError, match="no hidden units"):
        WeightMatching().fit(networks)


def test_half_precision_collections_are_aligned() -> None:
    arch = ws.Architecture.of(lambda: ws.models.MLP((4, 6, 3)).bfloat16())
    layout = arch.layout()
    weights = torch.randn(3, layout.size, generator=torch.Generator().manual_seed(0)).bfloat16()
    networks = ws.Collection(layout, weights, architecture=arch)
    example = torch.randn(5, 4).bfloat16()
    aligned = WeightMatching(balance=False).fit(networks, example=example).transform(networks)
    assert torch.equal(aligned.weights.sort(1).values, weights.sort(1).values)
    assert not torch.equal(aligned.weights, weights)


def test_costs_are_checked() -> None:
    with pytest.raises(InputError, match="at least one"):
        WeightCost(())
    with pytest.raises(InputError, match="floor"):
        PrecisionCost(floor=0.0)


def test_wrong_settings_are_refused_at_once(dense: ws.Collection, task: ws.Task) -> None:
    # Strings are stopped by the tests' own type checks; classes in the place of objects are not.
    for bad in ({"population": Star}, {"cost": WassersteinCost}):
        with pytest.raises(InputError, match="must be one of"):
            WeightMatching(**bad)
    with pytest.raises(InputError, match="at least 16 inputs"):
        ActivationMatching().fit(dense, task.train.x[:3])
    assert "% of the parameters can move" in repr(WeightMatching().fit(dense))


def test_the_report_tells_a_star_and_what_failed(dense: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    star = WeightMatching(population=Star(2)).fit(dense).transform(dense)
    report = alignment_report(dense, star, task, networks=4, points=1, reference=2, settings="Aligned to network 2.")
    assert report.centre is not None
    assert any("nobody aligned to each other" in line for line in report.findings())
    report.write(tmp_path)
    assert "Aligned to network 2." in (tmp_path / "alignment.html").read_text()
    same = dense[[0, 0, 0]]
    again = alignment_report(same, same, task, networks=3, points=1)
    assert any("already" in line for line in again.findings())
    failed = alignment_report(dense, dense, task, networks=4, points=1)
    assert any("Not in one basin" in line for line in failed.findings())


def test_batchnorm_barriers_use_statistics_of_their_own(task: ws.Task) -> None:
    def build() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 10))

    from dataclasses import replace

    normed = replace(task, architecture=ws.Architecture.of(build))
    networks = ws.collect(normed, 2, seed=0)
    aligned = WeightMatching().fit(networks, example=task.train.x[:8]).transform(networks)
    (default,) = connectivity.barriers(aligned, normed, points=1)
    (reset,) = connectivity.barriers(aligned, normed, points=1, reset_statistics=True)
    (stale,) = connectivity.barriers(aligned, normed, points=1, reset_statistics=False)
    assert default == reset
    assert default.loss != stale.loss


def test_the_command_line_aligns_in_every_way(
    dense: ws.Collection, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from weightspace.cli.main import main

    dense.save(tmp_path / "dense")
    common = ["align", str(tmp_path / "dense"), "--out"]
    assert main([*common, str(tmp_path / "a"), "--population", "star", "--reference", "1"]) == 0
    assert main([*common, str(tmp_path / "a"), "--population", "star", "--reference", "1", "--report", "3"]) == 0
    assert (tmp_path / "a" / "alignment.html").exists()
    assert "All were matched to network" in capsys.readouterr().out
    assert main([*common, str(tmp_path / "b"), "--method", "activations", "--reference", "2"]) == 0
    assert main([*common, str(tmp_path / "b"), "--method", "activations", "--reference", "3"]) == 1
    assert "another run" in capsys.readouterr().err
    assert main([*common, str(tmp_path / "c"), "--reference", "3"]) == 1
    assert "--population star" in capsys.readouterr().err
    assert main([*common, str(tmp_path / "c"), "--method", "activations", "--population", "star"]) == 1
    assert main([*common, str(tmp_path / "c"), "--report", "1"]) == 1
    assert not (tmp_path / "c").exists()
    mode = (tmp_path / "a" / "shard-00000.safetensors").stat().st_mode & 0o777
    assert mode == (tmp_path / "a" / "collection.json").stat().st_mode & 0o777
