"""Networks drawn from posteriors."""

import pytest
import torch

import weightspace as ws
from weightspace import bayes
from weightspace.errors import InputError


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
