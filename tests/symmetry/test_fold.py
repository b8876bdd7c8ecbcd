"""Gains of RMS norms, folded: the function stays, and the stream between the norms can be rotated."""

import warnings

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace import symmetry
from weightspace.symmetry.fold import rms_gains


class Stream(nn.Module):
    """A residual stream between RMS norms, and a head that may be tied to the embedding."""

    def __init__(self, tied: bool = False, norm: type[nn.Module] = nn.RMSNorm) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.first, self.last = norm(6), norm(6)
        self.up, self.down = nn.Linear(6, 5), nn.Linear(5, 6)
        self.head = nn.Linear(6, 7, bias=False)
        if tied:
            self.head.weight = self.embedding.weight
        for layer in (self.first, self.last):
            for parameter in layer.parameters():
                nn.init.uniform_(parameter, 0.5, 1.5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.embedding(x)
        h = h + self.down(torch.relu(self.up(self.first(h))))
        return self.head(self.last(h))


class OnePlusRMSNorm(nn.RMSNorm):
    """A gain of another form."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.rms_norm(x, (6,), None, 1e-6) * (1 + self.weight)


class Looked(Stream):
    """Something else than a layer reads the norm."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.last(self.embedding(x)) * 2)


X = torch.arange(14).reshape(2, 7) % 7


def networks_of(make: type[nn.Module], *arguments: object) -> ws.Collection:
    def build() -> nn.Module:
        return make(*arguments)

    torch.manual_seed(0)
    return ws.from_state_dict(build().state_dict(), factory=build)


def kinds(module: nn.Module) -> set[str]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        groups = symmetry.trace(module, X).groups
    return {kind for group in groups for kind in group.kinds}


def test_folded_networks_compute_the_same_and_their_stream_can_be_rotated() -> None:
    networks = networks_of(Stream)
    folded = symmetry.fold_gains(networks, X)
    before, after = networks.module(0)(X), folded.module(0)(X)
    torch.testing.assert_close(after, before)
    assert folded.layout.size == networks.layout.size - 12
    assert rms_gains(networks.module(0)) == ["first.weight", "last.weight"]
    assert rms_gains(folded.module(0)) == []
    assert "orthogonal" not in kinds(networks.module(0))
    table = symmetry.trace(folded.module(0), X)
    stream = next(group for group in table.groups if "orthogonal" in group.kinds)
    assert stream.size == 6

    matrices = table.random_matrices(torch.Generator().manual_seed(0))
    rotated = folded.replace(weights=table.mix(folded.weights, matrices))
    torch.testing.assert_close(rotated.module(0)(X), before, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(rotated.weights, folded.weights, atol=1e-2)


def test_sparse_networks_stay_sparse() -> None:
    networks = networks_of(Stream)
    masks = ws.Unstructured(0.5).mask(networks.weights.abs(), networks.layout)
    sparse = networks.replace(weights=networks.weights * masks, masks=masks)
    folded = symmetry.fold_gains(sparse, X)
    assert folded.densities.tolist() == sparse.densities.tolist()
    torch.testing.assert_close(folded.module(0)(X), sparse.module(0)(X))


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        (networks_of(Stream, True), "head.weight, which reads it, is tied|embedding.weight, which reads it, is tied"),
        (networks_of(Stream, False, OnePlusRMSNorm), "gains of another form"),
        (networks_of(Looked), "no linear layer reads the norm of first.weight"),
        (networks_of(Stream, False, nn.LayerNorm), "no RMS norm with a gain"),
    ],
)
def test_what_cannot_be_folded_is_refused(networks: ws.Collection, message: str) -> None:
    with pytest.raises(ws.InputError, match=message):
        symmetry.fold_gains(networks, X)


def test_gains_that_keep_a_stream_from_rotating_are_said() -> None:
    networks = networks_of(Stream)
    several = ws.Collection.concatenate([networks, networks])
    matching = ws.WeightMatching(rotate=True)
    with pytest.warns(UserWarning, match="can be mixed"), pytest.warns(UserWarning, match="fold_gains"):
        matching.fit(several, example=X)
