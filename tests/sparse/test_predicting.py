"""What sparse networks return, through compressed rows and through dense matrices."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.kernels.csr import CSRStructure
from weightspace.masks import Unstructured
from weightspace.models import MLP
from weightspace.networks.architecture import Architecture
from weightspace.networks.collection import Collection
from weightspace.networks.forward import predict
from weightspace.runtime import trees
from weightspace.sparse import predicting
from weightspace.sparse.predicting import predict_sparse


class _ReadsItself(nn.Module):
    """A module that uses the weight of its layer in its own way."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + x @ self.layer.weight


class _OverSteps(nn.Module):
    """A layer that gets a step of several at once."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.unflatten(0, (-1, 1))).flatten(0, 1)


class _Normed(nn.Module):
    """Buffers, a convolution, and a layer that is large beside one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.norm = nn.BatchNorm1d(256)
        self.large = nn.Linear(256, 32)
        self.small = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.large(self.norm(self.conv(x).flatten(1))).relu()
        return self.small(hidden), hidden


@pytest.fixture
def used(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of weights of the compressed rows that are multiplied; no work is too little."""
    calls: list[int] = []
    infer = CSRStructure.infer

    def counted(self: CSRStructure, x: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
        calls.append(self.nnz)
        return infer(self, x, values, bias)

    monkeypatch.setattr(CSRStructure, "infer", counted)
    monkeypatch.setattr(predicting, "_WORK", 0)
    return calls


def _networks(factory: Callable[[], nn.Module], density: float, n: int = 3) -> Collection:
    architecture = Architecture.of(factory)
    layout = architecture.layout()
    random = torch.Generator().manual_seed(0)
    weights = torch.randn(n, layout.size, generator=random) / 4
    masks = Unstructured(density).mask(weights.abs(), layout)
    state = architecture.build_seeded(0).state_dict()
    buffers = {b.name: torch.rand((n, *b.shape), generator=random).to(state[b.name].dtype) + 1 for b in layout.buffers}
    return Collection(layout, weights * masks, architecture=architecture, masks=masks, buffers=buffers)


def _dense(networks: Collection, x: Tensor) -> list[Tensor]:
    module = networks.architecture.build_seeded(0)
    return trees.tensors(predict(module, networks.layout, networks.weights, networks.buffers, x))


@pytest.mark.parametrize("factory", [lambda: MLP((300, 40, 30, 3)), _Normed], ids=["MLP", "with buffers"])
def test_compressed_rows_give_what_dense_matrices_give(factory: Callable[[], nn.Module], used: list[int]) -> None:
    networks = _networks(factory, 0.1)
    shape = (300,) if factory is not _Normed else (1, 8, 8)
    x = torch.randn(2 * 256 + 3, *shape, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(trees.tensors(predict_sparse(networks, x)), _dense(networks, x), rtol=1e-4, atol=1e-4)
    large = networks.layout.tensors(networks.weights)["large.weight" if factory is _Normed else "1.weight"]
    assert set(used) == {int(weight.count_nonzero()) for weight in large}


def test_a_layer_without_weights_gives_its_bias(used: list[int]) -> None:
    networks = _networks(lambda: nn.Sequential(nn.Linear(64, 64), nn.Linear(64, 2)), 0.1)
    bare = networks.weights.clone()
    bare[1:, networks.layout.slices["0.weight"]] = 0
    networks = networks.replace(weights=bare)
    x = torch.randn(5, 64)
    torch.testing.assert_close(trees.tensors(predict_sparse(networks, x)), _dense(networks, x), rtol=1e-4, atol=1e-4)
    assert 0 in used


@pytest.mark.parametrize(
    ("factory", "density"),
    [(_ReadsItself, 0.1), (_OverSteps, 0.1), (lambda: nn.Linear(64, 64), 0.5), (lambda: nn.Linear(64, 64), 1.0)],
    ids=["reads its weight", "gets steps", "too dense", "dense"],
)
def test_what_rows_are_not_for_stays_dense(factory: Callable[[], nn.Module], density: float, used: list[int]) -> None:
    networks = _networks(factory, density)
    x = torch.randn(5, 64)
    assert all(map(torch.equal, trees.tensors(predict_sparse(networks, x)), _dense(networks, x)))
    assert len(used) == (factory is _ReadsItself)  # which is tried on a few inputs


def test_little_work_is_done_side_by_side(used: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "_WORK", 5 * 64 * 64 + 1)
    networks = _networks(lambda: nn.Linear(64, 64), 0.1)
    predict_sparse(networks, torch.randn(5, 64))
    assert not used
    predict_sparse(networks, torch.randn(6, 64))
    assert used


def test_inputs_that_do_not_fit_are_refused(used: list[int]) -> None:
    with pytest.raises(InputError, match="do not fit the network"):
        predict_sparse(_networks(lambda: nn.Linear(64, 64), 0.1), torch.randn(5, 63))
    assert not used
