"""Nothing is proven twice, and nothing that has changed passes for proven."""

import pytest
import torch
from torch import Tensor, nn

from tests.symmetry.examples import Net, X, net
from weightspace.errors import InputError
from weightspace.symmetry import proof, prove, trace


@pytest.fixture
def draws(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The draws of proofs that have been made."""
    made: list[int] = []
    require = proof._require_unchanged

    def counted(*args: object) -> None:
        made.append(args[-1])  # pyright: ignore[reportArgumentType]
        require(*args)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(proof, "_require_unchanged", counted)
    return made


class Switched(Net):
    """A network of which an attribute changes the function."""

    weighted = False

    def forward(self, x: Tensor) -> Tensor:
        """Beside the network, units weighted by their place."""
        h = torch.relu(self.a(x))
        if self.weighted:
            h = h * torch.arange(1.0, h.shape[-1] + 1)
        return self.b(h)


def test_a_symmetry_is_proven_once_for_a_function_whatever_its_weights(draws: list[int]) -> None:
    x = X + 0.25  # which no other test proves on
    again = Switched()
    first = trace(again, x)
    assert draws == [0, 1, 2, 3]
    with torch.no_grad():
        for parameter in again.parameters():
            parameter *= 3
    assert trace(again, x) == first
    prove(first, again, x)
    assert draws == [0, 1, 2, 3]
    prove(first, again, x + 1)
    assert draws == [0, 1, 2, 3] * 2


def test_a_module_that_has_changed_is_proven_anew(draws: list[int]) -> None:
    x, module = X + 0.5, Switched()
    symmetry = trace(module, x)
    module.weighted = True
    with pytest.raises(InputError, match="does not fit"):
        prove(symmetry, module, x)
    with pytest.warns(UserWarning, match="no permutation moves"):
        assert trace(module, x).groups == ()


def test_a_table_without_its_negative_control_is_not_proven_with_it() -> None:
    module = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    symmetry = trace(module, torch.randn(6, 4))
    blank = torch.zeros(2, 4)
    for _ in range(2):
        prove(symmetry, module, blank, controls=False)
        with pytest.raises(InputError, match="blind"):
            prove(symmetry, module, blank)


def test_modes_that_agree_are_run_once_and_in_both_at_the_end() -> None:
    modes: list[bool] = []

    def note(self: Net, h: Tensor) -> Tensor:
        modes.append(self.training)
        return h

    module = net(note)
    symmetry = trace(module, X + 0.75)
    modes.clear()
    prove(symmetry, module, X + 1.0)
    # The first pass, and other inputs before and after, in both; another seed, three draws, the backward pass in one.
    assert modes == [False, True] * 2 + [False] * 4 + [False, True] + [False]
