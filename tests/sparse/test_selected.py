"""Sparse networks whose embeddings were left out of pruning, through the whole way to speed."""

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from tests.sparse.test_refit import collected
from weightspace import sparse
from weightspace.errors import InputError


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 8)
        self.hidden = nn.Linear(8, 12)
        self.out = nn.Linear(12, 3)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.hidden(self.embed(ids).mean(1)).relu())


def test_pruned_layers_beside_dense_embeddings_go_all_the_way() -> None:
    dense, ids = collected(Tokens), torch.randint(7, (40, 5), generator=torch.Generator().manual_seed(0))
    pattern = ws.Except(ws.Unstructured(0.3), "embed.*")
    with pytest.raises(InputError, match=r"embed\.weight .* pattern=Except"):
        sparse.input_scores(dense, ids)
    scores = sparse.input_scores(dense, ids, pattern=pattern)
    masks = pattern.mask(scores, dense.layout)
    few = dense.replace(weights=dense.weights * masks, masks=masks)
    fitted = sparse.refit(few, dense, ids)
    goal = dense.module(0)(ids)
    errors = [(network.module(0)(ids) - goal).square().mean() for network in (few, fitted)]
    assert errors[1] < errors[0]
    module = fitted.module(0).eval()
    assert torch.equal(module.get_parameter("embed.weight"), dense.module(0).get_parameter("embed.weight"))
    small = ws.compact(module, ids)
    torch.testing.assert_close(small(ids), module(ids))
    fast = sparse.accelerate(module, ids)
    torch.testing.assert_close(fast(ids), module(ids), rtol=1e-3, atol=1e-4)
    everything = ws.Unstructured(0.3).mask(dense.weights.abs(), dense.layout)
    with pytest.raises(InputError, match=r"embed\.weight was pruned and cannot be refitted"):
        sparse.refit(dense.replace(weights=dense.weights * everything, masks=everything), dense, ids)
