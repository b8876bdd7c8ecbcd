"""Bayesian networks in Pyro: KL, live weights, exact posteriors, tickets."""

import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import weightspace as ws
from weightspace import bayes
from weightspace.errors import InputError
from weightspace.tickets.finder import Finder, LevelFinder


@pytest.fixture(scope="module")
def adam(task: ws.Task) -> ws.Task:
    return replace(task, recipe=ws.Recipe(ws.Step(epochs=3), batch_size=64, optimizer=ws.Adam(lr=5e-3)))


def networks(module: nn.Module, n: int, density: float, **settings) -> bayes.BayesianNetwork:
    layout = ws.Layout.of(module)
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(n, layout.size, generator=random)
    masks = ws.Unstructured(density).mask(weights.abs(), layout)
    std = 0.1 * torch.rand(n, layout.size, generator=random) + 0.05
    return bayes.BayesianNetwork(module, weights * masks, std, masks=masks, **settings)


def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(1)
    return torch.randn(n, 16, 6, generator=random), torch.randint(3, (n, 16), generator=random)


def small() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("density", [1.0, 0.3])
def test_the_loss_is_cross_entropy_and_tempered_kl_of_live_weights(density: float) -> None:
    network = networks(small(), 2, density, temperature=0.3)
    x, y = batch(2)
    with pyro.validation_enabled(True):
        torch.manual_seed(0)
        stock = TraceMeanField_ELBO().differentiable_loss(network.model, network.guide, x, y, 100)
    torch.manual_seed(0)
    own = bayes.MeanFieldELBO().differentiable_loss(network.model, network.guide, x, y, 100)
    torch.testing.assert_close(own, stock)
    torch.manual_seed(0)
    with pyro.poutine.trace() as trace:
        network.guide(x, y, 100)
    drawn = trace.trace.nodes["weights"]["value"][:, 0]
    logits = network.outputs(drawn, x)
    losses = nn.functional.cross_entropy(logits.flatten(0, 1), y.flatten(), reduction="sum") * 100 / 16
    posterior = torch.distributions.Normal(network.mu, network.std)
    kl = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum()
    torch.testing.assert_close(own, losses + 0.3 * kl)
    assert network.mu.shape[1] == int(density * 72 + 0.5) + 11, "biases are live, pruned weights are not"


def test_the_analytic_kl_is_the_mean_of_sampled_ones() -> None:
    network = networks(small(), 1, 0.5)
    x, y = batch(1)
    zero = lambda logits: dist.Categorical(logits=0 * logits)  # noqa: E731  (the likelihood is a constant then)
    network.likelihood = zero
    exact = bayes.MeanFieldELBO().loss(network.model, network.guide, x, y, 16)
    torch.manual_seed(0)
    drawn = torch.tensor([Trace_ELBO().loss(network.model, network.guide, x, y, 16) for _ in range(400)])
    assert abs(drawn.mean() - exact) < 4 * drawn.std() / 20
    assert drawn.std() > 0.1, "a sampled KL is noisy, the analytic one is not"


def test_the_likelihood_of_other_priors_is_theirs() -> None:
    x, y = batch(2)
    for prior in (bayes.Centred(0.2), bayes.ScaleMixture(), bayes.Horseshoe(0.3)):
        network = networks(small(), 2, 0.5, prior=prior)
        losses: list[torch.Tensor] = []
        gradients: list[tuple[torch.Tensor, ...]] = []
        parameters = [p for p in network.parameters() if p.numel()]
        for elbo in (bayes.MeanFieldELBO(), TraceMeanField_ELBO()):
            torch.manual_seed(0)
            losses.append(elbo.differentiable_loss(network.model, network.guide, x, y, 100))
            gradients.append(torch.autograd.grad(losses[-1], parameters))
        torch.testing.assert_close(losses[0], losses[1])
        torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-4)
        assert all(g.any() for g in gradients[0])
    centred = networks(small(), 1, 0.5, prior=bayes.Centred(0.2))
    prior = centred.prior.distribution(centred.centre[:, None])
    assert torch.equal(prior.base_dist.loc[:, 0], centred.mu)


def test_pruned_weights_are_zero_in_every_draw(tickets: ws.Collection, adam: ws.Task) -> None:
    posteriors = bayes.Variational().fit(tickets[:3], adam)
    assert torch.equal(posteriors.masks, tickets[:3].masks)
    drawn = bayes.draw(posteriors, 5, seed=1)
    assert len(drawn) == 15
    assert not drawn.weights[~drawn.masks].any()
    assert (drawn.weights[drawn.masks[:, None].squeeze(1)] != 0).float().mean() > 0.99
    assert (posteriors.extras["std"][~posteriors.masks] == 0).all()
    again = bayes.draw(posteriors[:2], 5, seed=1)
    assert torch.equal(again.weights, drawn.weights[:10]), "a draw depends on its seed and place alone"
    spread = (drawn.weights[:5] - posteriors.weights[0]) / posteriors.extras["std"][0].clamp(min=1e-30)
    assert spread[:, posteriors.masks[0]].std().item() == pytest.approx(1.0, abs=0.05)
    x = adam.test.x[:7]
    torch.testing.assert_close(bayes.predict(posteriors, x, 5, seed=1), drawn.ensemble().logits(x))
    assert not torch.equal(bayes.predict(posteriors, x, 5, seed=2), drawn.ensemble().logits(x))
    with pytest.raises(InputError, match="no posteriors"):
        bayes.predict(tickets, x, 2)
    with pytest.raises(InputError, match="no posteriors"):
        bayes.draw(tickets, 2)


def test_a_linear_gaussian_model_recovers_the_exact_posterior() -> None:
    """Mean field is exact where inputs are orthogonal."""
    random = torch.Generator().manual_seed(0)
    x = torch.linalg.qr(torch.randn(40, 3, generator=random)).Q * 40**0.5
    noise = 0.5
    y = x @ torch.tensor([0.5, -1.0, 2.0]) + noise * torch.randn(40, generator=random)
    module = nn.Linear(3, 1, bias=False)
    network = bayes.BayesianNetwork(
        module,
        torch.zeros(1, 3),
        torch.full((1, 3), 0.3),
        likelihood=lambda out: dist.Normal(out[..., 0], noise),
    )
    optimizer = torch.optim.Adam(network.parameters(), lr=0.02)
    elbo = bayes.MeanFieldELBO(num_particles=8)
    torch.manual_seed(0)
    for step in range(600):
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * (1 - step / 600)
        optimizer.zero_grad()
        elbo.differentiable_loss(network.model, network.guide, x[None], y[None], 40).backward()
        optimizer.step()
    precision = x.T @ x / noise**2 + torch.eye(3)
    exact = torch.linalg.solve(precision, x.T @ y / noise**2)
    torch.testing.assert_close(network.mu[0].detach(), exact, atol=0.02, rtol=0)
    torch.testing.assert_close(network.std[0].detach(), precision.inverse().diagonal().sqrt(), atol=0.025, rtol=0)


def test_layers_that_cannot_be_bayesian_are_named() -> None:
    module = nn.Sequential(nn.Embedding(5, 4), nn.Flatten(), nn.Linear(4, 3))
    layout = ws.Layout.of(module)
    with pytest.raises(InputError, match=r"layer 0 is a Embedding.*deterministic=\('0',\)"):
        bayes.bayesian_positions(module, layout)
    found = bayes.bayesian_positions(module, layout, deterministic=("0",))
    assert not found[layout.slices["0.weight"]].any()
    assert found[layout.slices["2.weight"]].all()
    norms = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    layout = ws.Layout.of(norms)
    assert not bayes.bayesian_positions(norms, layout)[layout.slices["1.weight"]].any()


def test_impossible_settings_are_refused() -> None:
    for wrong in ({"temperature": 0.0}, {"std": -1.0}):
        with pytest.raises(InputError):
            bayes.Variational(**wrong)
    with pytest.raises(InputError, match="positive"):
        bayes.Normal(0.0)
    with pytest.raises(InputError, match="half-width"):
        bayes.Band(1.5)
    module = small()
    layout = ws.Layout.of(module)
    weights = torch.randn(2, layout.size)
    uneven = torch.ones(2, layout.size, dtype=torch.bool)
    uneven[0, 0] = False
    with pytest.raises(InputError, match="equally many"):
        bayes.BayesianNetwork(module, weights * uneven, torch.ones(2, layout.size), masks=uneven)
    with pytest.raises(InputError, match="positive and finite"):
        bayes.BayesianNetwork(module, weights, torch.zeros(2, layout.size))


MU = torch.tensor([[3.0, -2.0, 1.0, 0.5, 0.4, 0.3, 0.2, 0.1]])
SIGMA = torch.tensor([[9.0, 0.1, 0.1, 2.0, 0.1, 0.1, 0.1, 0.01]])
LIVE = torch.ones(1, 8, dtype=torch.bool)


def kept(score: bayes.scores.PosteriorScore, pruned: float = 0.5) -> list[int]:
    scores = score(MU, SIGMA, LIVE, pruned)[0]
    return sorted(scores.argsort(descending=True)[: round(8 * (1 - pruned))].tolist())


def test_scores_on_a_small_table() -> None:
    assert kept(bayes.MeanMagnitude()) == [0, 1, 2, 3]
    assert kept(bayes.SignalToNoise()) == [1, 2, 4, 7]
    assert kept(bayes.RootSecondMoment()) == [0, 1, 2, 3]
    assert kept(bayes.RootSecondMoment(), 0.75) == [0, 3]
    assert kept(bayes.Bound(0.0)) == kept(bayes.MeanMagnitude())
    assert kept(bayes.Bound(1.0)) == kept(bayes.SignalToNoise())
    assert kept(bayes.Band(0.0)) == kept(bayes.MeanMagnitude())
    # The band holds ranks 3 to 6 of eight; in it the weight with sigma 2 goes first, then the smaller of two equals.
    assert kept(bayes.Band(0.25)) == [0, 1, 2, 4]
    random = torch.Generator().manual_seed(0)
    mu, sigma = torch.randn(3, 200, generator=random), torch.rand(3, 200, generator=random) + 0.05
    live = torch.rand(3, 200, generator=random) < 0.7
    for pruned in (0.1, 0.2, 0.5, 0.9):
        masks = []
        for score in (bayes.Bound(1.0), bayes.SignalToNoise()):
            scores = score(mu, sigma, live, pruned).masked_fill(~live, -math.inf)
            masks.append(
                torch.stack(
                    [
                        row >= row.sort(descending=True).values[int(on.sum()) - round(pruned * int(on.sum())) - 1]
                        for row, on in zip(scores, live, strict=True)
                    ]
                )
            )
        assert torch.equal(*masks)


@pytest.mark.parametrize("score", [bayes.SignalToNoise(), bayes.Bound(0.5), bayes.MeanMagnitude()])
def test_of_equal_means_the_more_uncertain_never_ranks_higher(score: bayes.scores.PosteriorScore) -> None:
    random = torch.Generator().manual_seed(0)
    mu = torch.full((1, 50), 0.7) * torch.where(torch.rand(1, 50, generator=random) < 0.5, -1.0, 1.0)
    sigma = torch.rand(1, 50, generator=random) + 0.01
    scores = score(mu, sigma, torch.ones(1, 50, dtype=torch.bool), 0.4)[0]
    order = sigma[0].argsort()
    assert (scores[order].diff() <= 1e-6).all()
    against = bayes.RootSecondMoment()(mu, sigma, torch.ones(1, 50, dtype=torch.bool), 0.4)[0]
    assert (against[order].diff() >= 0).all(), "the score that rewards uncertainty ranks the other way round"


def test_in_the_band_the_more_uncertain_goes_first() -> None:
    random = torch.Generator().manual_seed(0)
    mu, sigma = torch.randn(2, 100, generator=random), torch.rand(2, 100, generator=random)
    live = torch.ones(2, 100, dtype=torch.bool)
    scores = bayes.Band(0.1)(mu, sigma, live, 0.4)
    for row, size, spread in zip(scores, mu.abs(), sigma, strict=True):
        order = size.argsort()
        below, inside, above = order[:30], order[30:50], order[50:]
        assert row[below].max() < row[inside].min()
        assert row[inside].max() < row[above].min()
        assert (row[inside][spread[inside].argsort()].diff() < 0).all()


def test_bayesian_tickets_have_the_density_and_the_rewind_weights(task: ws.Task, adam: ws.Task) -> None:
    start = ws.collect(adam, 2, seed=0)
    finder = bayes.BayesianIMP(density=0.25, rate=0.5, score=bayes.SignalToNoise())
    found = finder.find(start, adam)
    count = ws.Unstructured(0.25).count(found.layout)
    assert (found.masks[:, found.layout.prunable].sum(1) == count).all()
    untrained = torch.stack(
        [found.layout.pack(adam.architecture.build_seeded(r["seed"]).state_dict()) for r in start.records]
    )
    assert torch.equal(found.extras["rewind"], untrained * found.masks)
    assert not torch.equal(found.weights, found.extras["rewind"])
    assert found.records[0]["method"]["score"] == "SignalToNoise()"
    assert torch.equal(finder.find(start, adam, device="cpu").weights, found.weights)


def test_a_search_has_the_contract_of_finders_on_the_cpu(adam: ws.Task, tickets: ws.Collection, tmp_path) -> None:
    finder = bayes.BayesianIMP(density=0.25, rate=0.5)
    assert isinstance(finder, LevelFinder)
    assert not isinstance(bayes.Variational(), Finder)
    for search in (finder.find, finder.find_levels):
        with pytest.raises(InputError, match="on the CPU only, got device 'cuda'.*'auto'"):
            search(tickets[:1], adam, folder=tmp_path / "run", device="cuda")
    assert not (tmp_path / "run").exists(), "refused before work starts"


def test_a_step_of_training_leaves_nothing_behind(adam: ws.Task, tickets: ws.Collection) -> None:
    """The KL is weighted by the warm-up inside a step, and by the temperature alone outside."""
    network = networks(small(), 2, 0.5, temperature=0.5)
    x, y = batch(2)

    def loss() -> torch.Tensor:
        torch.manual_seed(0)
        return bayes.MeanFieldELBO().differentiable_loss(network.model, network.guide, x, y, 100)

    before = loss()
    with network.training_step(kl_share=0.1, noise_seeds=[1, 2]):
        inside = loss()
    assert inside < before
    assert torch.equal(loss(), before)
    with pytest.raises(KeyboardInterrupt), network.training_step(kl_share=0.1, noise_seeds=[1, 2]):
        raise KeyboardInterrupt
    assert torch.equal(loss(), before)
    assert network.temperature == 0.5
    later = bayes.Variational().start(tickets[:1], adam, after=ws.Step(iterations=7))
    assert later.step == 7


@pytest.mark.parametrize("sigma", ["initial", "learned", "rescaled"])
def test_an_interrupted_search_continues_to_the_same_bytes(
    task: ws.Task, adam: ws.Task, sigma, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = ws.collect(adam, 2, seed=0)
    finder = bayes.BayesianIMP(density=0.4, rate=0.4, sigma=sigma)
    whole = finder.find(start, adam, folder=tmp_path / "whole")
    original, calls = bayes.inference.variational.Inference.run, 0

    def interrupt(self, *arguments) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        original(self, *arguments)

    monkeypatch.setattr(bayes.inference.variational.Inference, "run", interrupt)
    with pytest.raises(KeyboardInterrupt):
        finder.find(start, adam, folder=tmp_path / "parts")
    monkeypatch.setattr(bayes.inference.variational.Inference, "run", original)
    parts = finder.find(start, adam, folder=tmp_path / "parts")
    assert torch.equal(parts.weights, whole.weights)
    assert torch.equal(parts.extras["std"], whole.extras["std"])


def test_draws_in_training_do_not_depend_on_the_neighbours(adam: ws.Task, tickets: ws.Collection) -> None:
    together = bayes.Variational().fit(tickets[:2], adam)
    alone = bayes.Variational().fit(tickets[1:2], adam)
    torch.testing.assert_close(alone.weights[0], together.weights[1], rtol=1e-3, atol=1e-4)


def test_a_checkpoint_at_the_very_end_keeps_the_loss(adam: ws.Task, tickets: ws.Collection, tmp_path) -> None:
    inference = bayes.Variational().start(tickets[:2], adam)
    inference.run(inference.length)
    inference.save(tmp_path / "c.safetensors")
    again = bayes.Variational().start(tickets[:2], adam)
    again.resume(tmp_path / "c.safetensors")
    assert (again.step, again.loss) == (inference.step, inference.loss)
    assert torch.equal(again.network.means(), inference.network.means())


def test_what_variational_training_does_not_know_is_refused(adam: ws.Task, tickets: ws.Collection) -> None:
    for change in (
        {"optimizer": ws.Adam(weight_decay=0.1)},
        {"augmentation": ws.Augmentation(flip=True)},
        {"optimizer": ws.SGD(lr=0.1)},
    ):
        with pytest.raises(InputError):
            bayes.Variational().fit(tickets[:1], replace(adam, recipe=replace(adam.recipe, **change)))


def test_divergence_stops_with_the_step_and_the_rate(adam: ws.Task, tickets: ws.Collection) -> None:
    wild = replace(adam, recipe=replace(adam.recipe, optimizer=ws.Adam(lr=1e9)))
    with pytest.raises(InputError, match=r"at step \d+ \(learning rate 1e\+09\)"):
        bayes.Variational().fit(tickets[:1], wild)
    assert math.isfinite(bayes.Variational().fit(tickets[:1], adam).records[0]["metrics"]["validation_loss"])


def conv() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 3))


@pytest.mark.parametrize("build", [small, conv])
@pytest.mark.parametrize("estimator", ["local", "flipout"])
def test_estimators_agree_with_drawn_weights_in_mean_and_have_less_noise(build, estimator) -> None:
    """Pre-activations of one layer have the same mean and variance; samples of a batch no longer share their noise."""
    module = nn.Sequential(build()[0])
    layout = ws.Layout.of(module)
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(1, layout.size, generator=random)
    std = 0.3 * torch.rand(1, layout.size, generator=random) + 0.1
    shape = (1, 1, 4, 4) if build is conv else (1, 6)
    x = torch.randn(shape, generator=random).expand(1, 4000, *shape[1:])  # one input, many times
    network = bayes.BayesianNetwork(module, weights, std, estimator=estimator)
    plain = bayes.BayesianNetwork(module, weights, std)
    with torch.no_grad():
        draws = torch.stack([weights[0] + std[0] * torch.randn(layout.size, generator=random) for _ in range(4000)])
        exact = torch.cat([plain.outputs(w[None].gather(1, plain.live), x[:, :1]) for w in draws], dim=1)[0]
        torch.manual_seed(0)
        if estimator == "local":
            found = network._noisy_outputs(network.mu, x)[0]
        else:  # many draws of the weights, one sample each, then one draw and many samples
            found = torch.cat(
                [network._noisy_outputs(w[None].gather(1, network.live), x[:, :1]) for w in draws], dim=1
            )[0]
        one = network._noisy_outputs(draws[:1].gather(1, network.live), x)[0]
        shared = plain.outputs(draws[:1].gather(1, plain.live), x)[0]
    torch.testing.assert_close(found.mean(0), exact.mean(0), atol=0.1, rtol=0)
    torch.testing.assert_close(found.std(0), exact.std(0), atol=0.08, rtol=0.05)
    assert one.std(0).mean() > 0.05, "samples of a batch have noise of their own"
    assert shared.std(0).max() < 1e-5, "with one draw of the weights equal samples have equal outputs"


@pytest.mark.parametrize("estimator", ["local", "flipout"])
def test_estimators_train_with_seeds_of_their_own(estimator, adam: ws.Task, tickets: ws.Collection) -> None:
    settings = bayes.Variational(estimator=estimator)
    together = settings.fit(tickets[:2], adam)
    alone = settings.fit(tickets[1:2], adam)
    torch.testing.assert_close(alone.weights[0], together.weights[1], rtol=1e-3, atol=1e-4)
    assert torch.equal(settings.fit(tickets[:2], adam).weights, together.weights)
    assert together.records[1]["metrics"]["validation_loss"] == pytest.approx(
        alone.records[0]["metrics"]["validation_loss"], rel=1e-3
    )
    assert not together.weights[~together.masks].any()


def test_local_reparameterisation_needs_an_analytic_kl() -> None:
    module = small()
    layout = ws.Layout.of(module)
    ones = torch.ones(1, layout.size)
    with pytest.raises(InputError, match="normal prior"):
        bayes.BayesianNetwork(module, ones, ones, prior=bayes.ScaleMixture(), estimator="local")
    with pytest.raises(InputError, match="'weights', 'local' or 'flipout'"):
        bayes.BayesianNetwork(module, ones, ones, estimator="none")  # pyright: ignore[reportArgumentType]


def test_inclusion_ranks_by_probability_where_it_rounds_to_one() -> None:
    random = torch.Generator().manual_seed(0)
    mu, sigma = torch.randn(2, 300, generator=random), 0.02 * torch.rand(2, 300, generator=random) + 1e-4
    live = torch.ones(2, 300, dtype=torch.bool)
    scores = bayes.Inclusion()(mu, sigma, live, 0.5)
    assert scores.isfinite().all()
    assert all(len(row.unique()) == 300 for row in scores), "no ties"
    wide = 0.5 * torch.rand(2, 300, generator=random).double() + 0.3
    found = bayes.Inclusion()(mu.double(), wide, live, 0.5)
    cut = 0.5 * mu.double().std(1, keepdim=True)
    normal = torch.distributions.Normal(mu.double(), wide)
    inside = normal.cdf(cut) - normal.cdf(-cut)
    torch.testing.assert_close(found, ((1 - inside) / inside).log())


@pytest.mark.parametrize("norm", [False, True])
def test_training_that_is_interrupted_midway_goes_on_to_the_same_bytes(
    norm: bool, adam: ws.Task, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = lambda: nn.Sequential(  # noqa: E731
        nn.Flatten(), nn.Linear(64, 8), nn.BatchNorm1d(8) if norm else nn.ReLU(), nn.Linear(8, 10)
    )
    own = replace(adam, architecture=ws.Architecture.of(build))
    start = ws.collect(replace(own, recipe=replace(own.recipe, length=ws.Step(iterations=1))), 2)
    whole = bayes.Variational().fit(start, own)
    monkeypatch.setattr(bayes.inference.variational, "_CHECKPOINT_STEPS", 10)
    batch, calls = bayes.inference.variational.Inference._batch, 0

    def interrupt(self):
        nonlocal calls
        calls += 1
        if calls == 25:
            raise KeyboardInterrupt
        return batch(self)

    monkeypatch.setattr(bayes.inference.variational.Inference, "_batch", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bayes.Variational().fit(start, own, folder=tmp_path / "run")
    again = bayes.Variational().fit(start, own, folder=tmp_path / "run")
    assert torch.equal(again.weights, whole.weights)
    assert torch.equal(again.extras["std"], whole.extras["std"])
    assert all(torch.equal(b, whole.buffers[n]) for n, b in again.buffers.items())
    assert calls < 25 + 3 * 17, "it went on from the checkpoint"


def test_rewinding_goes_on_from_the_rewind_point(adam: ws.Task, monkeypatch: pytest.MonkeyPatch) -> None:
    start = ws.collect(adam, 1, seed=0)
    steps: list[int] = []
    batch = bayes.inference.variational.Inference._batch
    monkeypatch.setattr(
        bayes.inference.variational.Inference, "_batch", lambda self: steps.append(self.step) or batch(self)
    )
    finder = bayes.BayesianIMP(density=0.5, rate=0.5, rewind=ws.Step(epochs=1))
    rungs = finder.find_levels(start, adam)
    per_epoch = adam.recipe.per_epoch(len(adam.train))
    rest = list(range(per_epoch, 3 * per_epoch))
    assert steps == [*range(per_epoch), *rest, *rest], "no level trains longer than the schedule"
    early = finder.start(start, adam)
    assert torch.equal(rungs[1].extras["rewind"], early.weights * rungs[1].masks)


def test_networks_that_would_go_wrong_silently_are_refused(adam: ws.Task) -> None:
    dropping = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    size = ws.Layout.of(dropping).size
    with pytest.raises(InputError, match="layer 1 is a dropout"):
        bayes.BayesianNetwork(dropping, torch.zeros(1, size), torch.ones(1, size))

    class Scaled(nn.Linear):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return 0.1 * super().forward(input)

    own = nn.Sequential(Scaled(6, 3))
    bayes.BayesianNetwork(own, torch.zeros(1, 21), torch.ones(1, 21))
    with pytest.raises(InputError, match="forward of its own"):
        bayes.BayesianNetwork(own, torch.zeros(1, 21), torch.ones(1, 21), estimator="local")
    with pytest.raises(InputError, match="no seed"):
        bayes.BayesianIMP().find_levels(ws.collect(adam, 1).replace(records=[{}]), adam)
    with pytest.raises(InputError, match="threshold"):
        bayes.Inclusion(0.0)


def test_tied_weights_have_one_posterior() -> None:
    module = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6))
    module[2].weight = module[0].weight
    layout = ws.Layout.of(module)
    network = bayes.BayesianNetwork(module, torch.randn(1, layout.size), bayes.initial_std(module, layout)[None])
    assert network.mu.shape[1] == 36 + 12
    x = torch.randn(1, 5, 6)
    weight = layout.tensors(network.vectors(network.mu)[0])["0.weight"]
    bias = [layout.tensors(network.vectors(network.mu)[0])[f"{i}.bias"] for i in (0, 2)]
    expected = (x[0] @ weight.T + bias[0]).relu() @ weight.T + bias[1]
    torch.testing.assert_close(network.outputs(network.mu, x)[0], expected)
