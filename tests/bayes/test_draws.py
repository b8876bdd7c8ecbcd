"""Networks drawn from posteriors."""

import pytest
import torch

import weightspace as ws
from weightspace import bayes
from weightspace.errors import InputError
from weightspace.runtime import seeds


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


def test_draws_keep_their_bytes() -> None:
    architecture = ws.Architecture("MLP", {"sizes": [7, 5, 3]})
    layout, random = architecture.layout(), torch.Generator().manual_seed(0)
    posteriors = ws.Collection(
        layout,
        torch.randn(2, layout.size, generator=random),
        architecture=architecture,
        extras={"std": torch.rand(2, layout.size, generator=random)},
    )

    def drawn(i: int, j: int, seed: int) -> torch.Tensor:
        """What version 0.1 computed."""
        own = seeds.derive(seeds.derive(seed, "draws of a posterior", i), "draw", j)
        noise = torch.randn(layout.size, generator=torch.Generator().manual_seed(own))
        return posteriors.weights[i].clone().addcmul_(posteriors.extras["std"][i], noise)

    expected = torch.stack([drawn(i, j, 3) for i in range(2) for j in range(4)])
    means = posteriors.weights.clone()
    assert torch.equal(bayes.draw(posteriors, 4, seed=3).weights, expected)
    assert torch.equal(posteriors.weights, means), "the posterior stays as it was"
    assert not torch.equal(bayes.draw(posteriors, 4, seed=4).weights, expected)
