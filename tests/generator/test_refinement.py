"""Refinement through the task: it helps, reads training data only, can be interrupted, and is saved."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import weightspace as ws
from weightspace.errors import InputError, LayoutMismatch, StorageError
from weightspace.generator import MANIFEST, TENSORS, diversity, refinement
from weightspace.masks.patterns import Pattern
from weightspace.storage.checkpoints import save_checkpoint

BASE = ws.TicketGenerator(compress=ws.PCA(5), generate=ws.FlowMatching(width=16, blocks=1, steps=60, batch_size=16))


def settings(steps: int = 40) -> ws.TaskRefinement:
    return ws.TaskRefinement(steps=steps, networks=8, batch_size=32, lr=1e-3, lr_mean=3e-3)


def loss(networks: ws.Collection, split: ws.Split) -> float:
    logits = networks.ensemble().logits(split.x)
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), split.y.repeat(len(networks))).item()


def test_the_mean_learns_three_times_as_fast_by_default(task: ws.Task) -> None:
    slow = replace(settings(), lr=1e-4, lr_mean=None)
    assert slow.rate_of_mean == pytest.approx(3e-4)
    assert replace(slow, lr_mean=1e-3).rate_of_mean == 1e-3
    assert slow.to_json()["lr_mean"] == slow.rate_of_mean


@pytest.fixture(scope="module")
def refined(tickets: ws.Collection, task: ws.Task) -> ws.FittedGenerator:
    return replace(BASE, refine=settings()).fit(tickets[:8], task=task, seed=0)


def test_samples_fit_the_task_better(refined: ws.FittedGenerator, generator: ws.FittedGenerator, task: ws.Task) -> None:
    plain, better = (g.sample(30, density=0.2, seed=1) for g in (generator, refined))
    assert loss(better, task.train) < 0.8 * loss(plain, task.train)
    assert loss(better, task.test) < loss(plain, task.test)
    kept = better.masks[:, better.layout.prunable].sum(1)
    assert (kept == round(0.2 * better.layout.num_prunable)).all()
    few = refined.sample(3, density=0.2, seed=1)
    torch.testing.assert_close(few.weights, better[:3].weights, rtol=1e-4, atol=1e-5)


def test_only_training_data_are_read(refined: ws.FittedGenerator, tickets: ws.Collection, task: ws.Task) -> None:
    random = torch.Generator().manual_seed(0)
    other = ws.Split(torch.randn(50, 1, 8, 8, generator=random), torch.randint(0, 10, (50,), generator=random))
    blind = replace(task, validation=other, test=other)
    again = replace(BASE, refine=settings()).fit(tickets[:8], task=blind, seed=0)
    assert again.fingerprint() == refined.fingerprint()
    changed = replace(task, train=ws.Split(task.train.x, task.train.y.flip(0)))
    other = replace(BASE, refine=settings()).fit(tickets[:8], task=changed, seed=0)
    assert other.fingerprint() != refined.fingerprint()


def test_the_gradient_is_that_of_the_sparse_networks_and_reaches_pruned_weights(
    tickets: ws.Collection, task: ws.Task
) -> None:
    """The first step of Adam moves the mean by the sign of the gradient, taken at the sparse networks."""
    fitted = BASE.fit(tickets[:8], seed=0)
    aligned = fitted.align.transform(tickets[:8])
    config = replace(settings(), diversity=0.0, mask_diversity=0.0)
    run = refinement.RefinementRun(
        config, aligned, task, fitted.masks, fitted.compress, fitted.flow, ws.generator.Conditions(), 0
    )
    before = {name: run.state[name].clone() for name in ("mean", "components")}
    run.step(0)
    moved = (before["mean"] - run.state["mean"]).sign()
    random = refinement.seeds.generator(0, "refinement", 0)
    codes, which = run.stock.draw(random)
    chosen = torch.randint(len(task.train), (8, config.batch_size), generator=random)
    assert run.patterns[which].density == pytest.approx(0.2, abs=1e-3)
    decoded = before["mean"] + codes @ before["components"]
    mask = ws.Unstructured(0.2).mask(decoded.abs(), tickets.layout)

    def gradient(networks: torch.Tensor) -> torch.Tensor:
        module, total = tickets.architecture.build_seeded(0), torch.zeros(tickets.layout.size)
        for network, rows in zip(networks, chosen, strict=True):
            leaf = network.clone().requires_grad_()
            logits = torch.func.functional_call(module, tickets.layout.unpack(leaf), (task.train.x[rows],))
            total += torch.autograd.grad(torch.nn.functional.cross_entropy(logits, task.train.y[rows]), leaf)[0]
        return total

    sparse, dense = gradient(decoded * mask), gradient(decoded)
    clear = sparse.abs() > 1e-3 * sparse.abs().max()
    assert (clear & ~mask.any(0)).any(), "some weights that no network keeps have a gradient"
    assert torch.equal(moved[clear], sparse.sign()[clear])
    assert not torch.equal(moved[clear], dense.sign()[clear])


@pytest.mark.parametrize("pattern", [ws.Unstructured(0.1), ws.Unstructured(0.1, scope="layer"), ws.NM(1, 4)])
def test_samples_become_sparse_along_the_ramp(tickets: ws.Collection, task: ws.Task, pattern: Pattern) -> None:
    """From all weights that a ticket keeps to the pattern's, in whose mask all weights stay that it asks for."""
    fitted = BASE.fit(tickets[:8], seed=0)
    aligned, layout = fitted.align.transform(tickets[:8]), tickets.layout
    config = replace(settings(steps=20), ramp=0.5, patterns=[pattern])
    run = refinement.RefinementRun(
        config, aligned, task, fitted.masks, fitted.compress, fitted.flow, ws.generator.Conditions(), 0
    )
    decoded = fitted.compress.inverse_transform(run.stock.codes(0)[:6]).requires_grad_()
    scores, within = decoded.abs(), (decoded != 0) | ~layout.prunable
    final = pattern.mask(scores, layout, within=within)
    counts = []
    for step in range(12):
        mask, beside = run._mask(scores, pattern, within, step)
        assert (mask >= final).all()
        kept, asked = (m[:, layout.prunable].sum(1) for m in (mask, final))
        assert (kept - asked).tolist() == pytest.approx((beside * (layout.num_prunable - asked)).tolist())
        if step >= 10:
            assert torch.equal(mask, final)
            assert beside == 0
        counts.append(kept.float().mean().item())
    reach = aligned.masks.any(0)[layout.prunable].sum().item()
    assert counts[0] == pytest.approx(reach, rel=0.01)
    assert counts == sorted(counts, reverse=True)
    assert counts[5] < 0.5 * counts[0], "cubic: at half of the ramp an eighth of the way is left"
    run.settings = replace(config, ramp=0.0)
    assert torch.equal(run._mask(scores, pattern, within, 0)[0], final)
    run.settings = config
    assert torch.equal(run._mask(scores.detach(), pattern, within, 0)[0], final), "such scores choose nothing"


def test_alike_pairs_have_large_cosines_and_overlaps(tickets: ws.Collection) -> None:
    layout = tickets.layout
    random = torch.Generator().manual_seed(0)
    same = torch.ones(6, layout.size) + 1e-3 * torch.randn(6, layout.size, generator=random)
    apart = torch.zeros(6, layout.size)
    apart[range(6), layout.prunable.nonzero()[:6, 0]] = 1.0
    for weights, expected in ((same, 1.0), (apart, 0.0)):
        masks = (weights > 0.5).float()
        cosine, overlap = diversity.pairwise_similarity(
            diversity.products(weights, layout), diversity.products(masks, layout)
        )
        assert cosine.shape == (15,)
        assert cosine.tolist() == pytest.approx([expected] * 15, abs=1e-3)
        assert overlap.tolist() == pytest.approx([expected] * 15, abs=1e-3)
    masks = (torch.rand(5, layout.size, generator=random) < 0.3) | ~layout.prunable  # biases, which do not count
    own = masks[:, layout.prunable]
    shared = [(a & b).sum() / own.sum(1).float().mean() for i, a in enumerate(own) for b in own[i + 1 :]]
    found = diversity.products(masks.float(), layout)
    assert diversity.pairwise_similarity(found, found)[1].tolist() == pytest.approx(torch.stack(shared).tolist())


@pytest.mark.parametrize("pattern", [ws.Unstructured(0.2), ws.NM(2, 4)])
@pytest.mark.parametrize("rule", [ws.generator.MagnitudeMask(), ws.GateMask()])
def test_the_penalties_gradient_is_that_of_soft_masks(
    tickets: ws.Collection, task: ws.Task, pattern: Pattern, rule: ws.generator.MagnitudeMask | ws.GateMask
) -> None:
    """The products' gradients, written out in `step`, against automatic differentiation through soft masks."""
    layout, support = tickets.layout, rule.fit(tickets)
    size = layout.size + (layout.num_prunable if isinstance(rule, ws.GateMask) else 0)
    decoded = torch.randn(4, size, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    values, scores = support.split(decoded)
    mask = pattern.mask(scores.detach(), layout)
    fixed, kept = scores.detach(), mask & layout.prunable
    if isinstance(pattern, ws.Unstructured):
        lowest = fixed.where(kept, torch.inf).amin(1, keepdim=True)
        mean = (fixed * kept).sum(1, keepdim=True) / kept.sum(1, keepdim=True)
        soft = torch.sigmoid((scores - lowest) / (0.5 * (mean - lowest)))
    else:
        soft = scores / fixed.std(1, keepdim=True)
    masks = mask + soft - soft.detach()
    sparse, at = values * mask, layout.prunable
    inner, shared = sparse[:, at] @ sparse[:, at].T, masks[:, at] @ masks[:, at].T
    first, second = torch.triu_indices(4, 4, offset=1)
    cosine = (inner / (inner.diagonal()[:, None] * inner.diagonal()).sqrt())[first, second]
    overlap = shared[first, second] / shared.detach().diagonal().mean()
    limits = (cosine.median().item() + 1e-6, overlap.median().item() + 1e-6)  # some pairs are above, some below
    total = (cosine - limits[0]).relu().mean() + (overlap - limits[1]).relu().mean()
    (expected,) = torch.autograd.grad(total, decoded, retain_graph=True)

    by_value, by_mask = diversity.similarity_penalty(sparse.detach(), mask.double(), limits, layout)
    slope = refinement.slope(fixed, mask, pattern, layout)
    (found,) = torch.autograd.grad([values, scores], decoded, [by_value * mask, by_mask * slope])
    torch.testing.assert_close(found, expected)
    without = torch.autograd.grad(support.split(decoded)[0], decoded, by_value * mask)[0]
    assert not torch.allclose(without, expected)


def test_masks_are_pulled_apart_where_one_threshold_decides_alone(
    tickets: ws.Collection, task: ws.Task, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under N:M, or a density for each layer, the pull on masks would spoil the networks."""
    fitted = BASE.fit(tickets[:8], seed=0)
    aligned = fitted.align.transform(tickets[:8])
    for pattern, weight, pulled in (
        (ws.NM(2, 4), 0.3, False),
        (ws.Unstructured(0.2, "layer"), 0.3, False),
        (ws.Unstructured(0.2), 0.3, True),
        (ws.Unstructured(0.2), 0.0, False),
    ):
        means: list[torch.Tensor] = []
        for pull in (0.0, 1.0):
            monkeypatch.setattr(
                refinement,
                "similarity_penalty",
                lambda sparse, *_, p=pull: (torch.zeros_like(sparse), torch.full_like(sparse, p)),
            )
            config = replace(settings(), patterns=[pattern], mask_diversity=weight)
            run = refinement.RefinementRun(
                config, aligned, task, fitted.masks, fitted.compress, fitted.flow, ws.generator.Conditions(), 0
            )
            run.step(0)
            means.append(run.state["mean"])
        assert torch.equal(*means) != pulled


def test_an_interrupted_refinement_continues_to_the_same_bytes(
    tickets: ws.Collection, task: ws.Task, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(refinement, "_CHECKPOINT_EVERY", 10)
    model = replace(BASE, refine=replace(settings(steps=25), ramp=0.8))  # interrupted on the ramp
    model.fit(tickets[:8], task=task, folder=tmp_path / "whole")
    original, calls = refinement.RefinementRun.step, 0

    def interrupt(self: refinement.RefinementRun, step: int) -> float:
        nonlocal calls
        calls += 1
        if calls == 17:
            raise KeyboardInterrupt
        return original(self, step)

    monkeypatch.setattr(refinement.RefinementRun, "step", interrupt)
    with pytest.raises(KeyboardInterrupt):
        model.fit(tickets[:8], task=task, folder=tmp_path / "broken")
    model.fit(tickets[:8], task=task, folder=tmp_path / "broken")
    assert calls == 17 + 15
    for name in (TENSORS, MANIFEST):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not list((tmp_path / "broken").glob("*checkpoint*"))


def test_saved_equals_loaded(refined: ws.FittedGenerator, tmp_path: Path) -> None:
    loaded = ws.FittedGenerator.load(refined.save(tmp_path / "g"))
    assert loaded.refined is not None
    assert torch.equal(loaded.sample(3, density=0.2).weights, refined.sample(3, density=0.2).weights)
    assert loaded.fingerprint() == refined.fingerprint()


def test_codes_are_brought_to_one_radius(tickets: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    model = replace(BASE, refine=replace(settings(steps=2), radius=0.8))
    one = model.fit(tickets[:8], task=task, seed=0)
    free = replace(model, refine=replace(settings(steps=2), radius=None)).fit(tickets[:8], task=task, seed=0)
    assert one.refined is not None
    assert free.refined is not None
    codes = one.encode(tickets[:8])
    aligned = one.align.transform(tickets[:8]).weights  # all of their variance, not the five components' share
    tickets_own = (aligned - aligned.mean(0)).square().sum().div(7).sqrt().item()
    assert one.refined.length == pytest.approx(0.8 * tickets_own, rel=1e-4)
    assert codes.square().sum(1).mean().sqrt() < 0.95 * tickets_own
    moved = one.refined.decode(codes) - one.refined.mean
    by_hand = (codes / codes.norm(dim=1, keepdim=True)).to(moved.dtype) * one.refined.length @ one.refined.components
    torch.testing.assert_close(moved, by_hand, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.refined.decode(3 * codes), one.refined.decode(codes))
    assert not torch.allclose(free.refined.decode(3 * codes), free.refined.decode(codes))
    assert ws.FittedGenerator.load(one.save(tmp_path / "one")).refined.length == one.refined.length
    assert ws.FittedGenerator.load(free.save(tmp_path / "free")).refined.length is None
    with pytest.raises(InputError, match="radius must be"):
        ws.TaskRefinement(radius=0.0)


def test_refined_generators_of_the_version_before_are_read(refined: ws.FittedGenerator, tmp_path: Path) -> None:
    """They left codes as the flow makes them."""
    folder = refined.save(tmp_path / "g")
    (folder / "manifest.json").unlink()  # that version wrote none
    path = folder / MANIFEST
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 3, "refined": True}))
    loaded = ws.FittedGenerator.load(folder)
    assert loaded.refined is not None
    assert loaded.refined.length is None
    assert torch.equal(loaded.refined.mean, refined.refined.mean)
    path.write_text(json.dumps(json.loads(path.read_text()) | {"version": 5}))
    with pytest.raises(StorageError, match="format version 5"):
        ws.FittedGenerator.load(folder)


def test_any_density_between_those_refined_for(tickets: ws.Collection, task: ws.Task) -> None:
    patterns = [ws.Unstructured(0.1), ws.NM(2, 4), ws.Unstructured(0.3)]
    model = replace(BASE, refine=replace(settings(steps=60), patterns=patterns))
    fitted = model.fit(tickets[:8], task=task, seed=0)
    plain = BASE.fit(tickets[:8], seed=0)
    for pattern in (ws.Unstructured(0.12), ws.Unstructured(0.25), ws.NM(2, 4)):
        better, worse = (loss(g.sample(20, pattern=pattern, seed=1), task.train) for g in (fitted, plain))
        assert better < worse


def test_bad_settings_are_refused(tickets: ws.Collection, task: ws.Task) -> None:
    with pytest.raises(InputError, match="networks must be"):
        replace(settings(), networks=1)
    for wrong in ({"mask_diversity": -0.1}, {"diversity": float("inf")}):
        with pytest.raises(InputError, match=f"{next(iter(wrong))} must be"):
            ws.TaskRefinement(**wrong)
    with pytest.raises(InputError, match="ramp must be"):
        ws.TaskRefinement(ramp=1.5)
    with pytest.raises(InputError, match="patterns must be"):
        replace(settings(), patterns=())
    other = ws.tasks.digits(hidden=(3,))
    with pytest.raises(LayoutMismatch):
        replace(BASE, refine=settings()).fit(tickets[:8], task=other)


@pytest.mark.parametrize("masks", [ws.GateMask(), ws.SharedMask()])
def test_other_mask_rules_are_refined_too(tickets: ws.Collection, task: ws.Task, masks) -> None:
    model = replace(BASE, masks=masks)
    plain = model.fit(tickets[:8], seed=0)
    refined = replace(model, refine=settings(steps=60)).fit(tickets[:8], task=task, seed=0)
    better, worse = (loss(g.sample(20, density=0.2, seed=1), task.train) for g in (refined, plain))
    assert better < worse


def test_outside_a_shared_support_nothing_moves(tickets: ws.Collection, task: ws.Task) -> None:
    fitted = replace(BASE, masks=ws.SharedMask(), refine=settings(steps=20)).fit(tickets[:8], task=task, seed=0)
    assert fitted.refined is not None
    mask = ws.Unstructured(0.2).mask(fitted.masks.scores, fitted.layout)
    same = fitted.refined.mean == fitted.compress.mean
    assert same[~mask].all()
    assert not same[mask].all()


def test_usual_pairs_belong_to_the_pattern(tickets: ws.Collection) -> None:
    sparser = ws.Unstructured(0.05).mask(tickets.weights.abs(), tickets.layout, within=tickets.masks)
    sparse = tickets.replace(weights=tickets.weights * sparser, masks=sparser)
    both = ws.Collection.concatenate([tickets, sparse])
    for density, own in ((0.2, tickets), (0.05, sparse)):
        expected = diversity.typical_similarity(own, ws.Unstructured(density), 0)
        assert diversity.typical_similarity(both, ws.Unstructured(density), 0) == pytest.approx(expected)
    for pattern, chance in ((ws.NM(2, 4), 0.5), (ws.Unstructured(0.5), 0.5)):
        assert chance < diversity.typical_similarity(both, pattern, 0)[1] < 1, "more than two random masks share"


class Stubborn(torch.nn.Module):
    """Control flow on data: networks cannot be trained side by side."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = ws.models.MLP([64, 12, 8, 10])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x) if x.sum() > -1e9 else -self.inner(x)


def test_networks_that_do_not_vectorise_are_refined_one_by_one(tickets: ws.Collection, task: ws.Task) -> None:
    other = replace(task, architecture=ws.Architecture.of(Stubborn))
    layout = other.architecture.layout()
    networks = ws.Collection(
        layout,
        tickets.weights[:8],
        architecture=other.architecture,
        masks=tickets.masks[:8],
        records=[record | {"aligned": "here"} for record in tickets.records[:8]],
    )
    fitted = replace(BASE, align=None, refine=settings(steps=3)).fit(networks, task=other, seed=0)
    assert fitted.refined is not None
    assert not torch.equal(fitted.refined.mean, fitted.compress.mean)


def test_samples_start_as_varied_as_the_tickets(tickets: ws.Collection, task: ws.Task) -> None:
    fitted = BASE.fit(tickets[:8], seed=0)
    aligned = fitted.align.transform(tickets[:8])
    decoded: dict[str, torch.Tensor] = {}
    for directions in ("tickets", "random"):
        config = replace(settings(), directions=directions, radius=None)
        run = refinement.RefinementRun(
            config, aligned, task, fitted.masks, fitted.compress, fitted.flow, ws.generator.Conditions(), 0
        )
        decoded[directions] = run.stock.codes(0) @ run.state["components"]
    each = aligned.weights.var(0)
    spread = {name: vectors.var(0).sum().item() / each.sum().item() for name, vectors in decoded.items()}
    assert spread["tickets"] < 0.95  # five components of seven, and a flow that learned little
    assert spread["random"] == pytest.approx(1.0, rel=0.15)
    for directions in ("tickets", "random"):  # on a sphere, whatever the flow makes
        config = replace(settings(), directions=directions, radius=0.7)
        run = refinement.RefinementRun(
            config, aligned, task, fitted.masks, fitted.compress, fitted.flow, ws.generator.Conditions(), 0
        )
        radii = (run.stock.codes(0) @ run.state["components"]).norm(dim=1) / each.sum().sqrt()
        torch.testing.assert_close(
            radii, torch.full_like(radii, 0.7), rtol=1e-4 if directions == "tickets" else 0.2, atol=0
        )
    never = each == 0
    assert never.any()
    assert (decoded["random"][:, never] == 0).all()  # a weight that no ticket has stays away
    inside = fitted.compress.components  # rows span what the tickets' directions span
    share = {n: ((v @ inside.T).square().sum() / v.square().sum()).item() for n, v in decoded.items()}
    assert share["tickets"] == pytest.approx(1.0, rel=1e-3)
    assert share["random"] < 0.1


def test_tickets_of_their_own_densities_can_be_refined(tickets: ws.Collection, task: ws.Task) -> None:
    densities = [0.20, 0.17, 0.14, 0.11, 0.08]
    parts = []
    for i, density in enumerate(densities):
        mask = ws.Unstructured(density).mask(tickets[i : i + 1].weights.abs(), tickets.layout)
        parts.append(tickets[i : i + 1].replace(weights=tickets[i : i + 1].weights * mask, masks=mask, extras={}))
    ladder = ws.Collection.concatenate(parts)
    cosine, overlap = diversity.typical_similarity(ladder, ws.Unstructured(0.08), 0)
    assert 0 < cosine < 1
    assert 0 < overlap < 1


def test_damaged_checkpoints_are_named(tickets: ws.Collection, task: ws.Task, tmp_path: Path) -> None:
    fitted = BASE.fit(tickets[:8], seed=0)
    aligned, path = fitted.align.transform(tickets[:8]), tmp_path / "state.safetensors"
    arguments = (aligned, task, fitted.masks, fitted.compress, fitted.flow)
    path.write_bytes(b"x" * 500)
    with pytest.raises(ws.StorageError, match=r"state.safetensors is damaged.* delete it"):
        settings().fit(*arguments, checkpoint=path)
    run = refinement.RefinementRun(settings(), *arguments, ws.generator.Conditions(), 0)
    save_checkpoint(path, run.state, 41)  # of 40
    with pytest.raises(ws.StorageError, match="another training"):
        settings().fit(*arguments, checkpoint=path)
    save_checkpoint(path, {**run.state, "mean": run.state["mean"][1:]}, 10)
    with pytest.raises(ws.StorageError, match="another training"):
        settings().fit(*arguments, checkpoint=path)
    save_checkpoint(path, run.state, 40)
    torch.testing.assert_close(settings().fit(*arguments, checkpoint=path).mean, run.state["mean"])
