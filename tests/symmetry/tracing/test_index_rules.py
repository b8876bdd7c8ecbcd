"""Rows chosen by tensors of indices: graphs, tokens, packed sequences."""

import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import rnn

from tests.symmetry.examples import outputs_of_a_copy
from weightspace.errors import InputError
from weightspace.runtime.outputs import difference
from weightspace.symmetry import trace

Step = Callable[[Tensor, Tensor], Tensor]


class Graph(nn.Module):
    """5 - 12 - 3, with a step over the edges between."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.a, self.b, self.step = nn.Linear(5, 12), nn.Linear(12, 3), step

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.b(self.step(torch.relu(self.a(x)), edges))


def sent(h: Tensor, edges: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros(7, 12, dtype=h.dtype), edges[1][:, None], h[edges[0]]


def graph() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(7, 5), torch.cat([torch.arange(7).expand(2, 7), torch.randint(7, (2, 12))], 1)


def scatter_add(h: Tensor, edges: Tensor) -> Tensor:
    zeros, to, source = sent(h, edges)
    return zeros.scatter_add(0, to.expand(-1, 12), source)


def in_place(h: Tensor, edges: Tensor) -> Tensor:
    zeros, to, source = sent(h, edges)
    return zeros.scatter_add_(0, to.repeat(1, 12), source)


def largest(h: Tensor, edges: Tensor) -> Tensor:
    zeros, to, source = sent(h, edges)
    return zeros.scatter_reduce(0, to.expand_as(source), source, "amax", include_self=False)


def counted(h: Tensor, edges: Tensor) -> Tensor:
    zeros = torch.zeros(int(edges.max()) + 1, 12, dtype=h.dtype)
    return zeros.index_add(0, edges[1], h[edges[0]])


def gathered(h: Tensor, edges: Tensor) -> Tensor:
    return h.gather(0, edges[0][:7, None].expand(-1, 12))


def put(h: Tensor, edges: Tensor) -> Tensor:
    return torch.zeros_like(h).index_put((edges[1],), h[edges[0]], accumulate=True)


def masked(h: Tensor, edges: Tensor) -> Tensor:
    return torch.cat([h[edges[0][:7] > 2], h])


@pytest.mark.parametrize("step", [scatter_add, in_place, largest, counted, gathered, put, masked])
def test_units_go_through_what_moves_rows(step: Step) -> None:
    module, x = Graph(step), graph()
    symmetry = trace(module, x)
    assert [(g.size, {a.tensor for a in g.axes}) for g in symmetry.groups] == [(12, {"a.weight", "a.bias", "b.weight"})]
    assert difference(*outputs_of_a_copy(symmetry, module, x)) < 1e-9


def test_an_index_of_its_own_for_each_unit_is_refused_by_operator_and_layer() -> None:
    def shifted(h: Tensor, edges: Tensor) -> Tensor:
        zeros, to, source = sent(h, edges)
        return zeros.scatter_add(0, (to + torch.arange(12)) % 7, source)

    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.graph = Graph(shifted)

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            return self.graph(x, edges)

    with pytest.raises(InputError, match=r"aten.scatter_add in layer 'graph'.*an index of its own for each unit"):
        trace(Outer(), graph())


def test_several_indices_pick_tokens_and_leave_units_alone() -> None:
    class Picks(nn.Module):
        def __init__(self, across: bool) -> None:
            super().__init__()
            self.words, self.a, self.b, self.across = nn.Embedding(9, 6), nn.Linear(6, 8), nn.Linear(8, 3), across

        def forward(self, words: Tensor) -> Tensor:
            h = torch.tanh(self.a(self.words(words)))
            rows, last = torch.arange(len(words)), words.argmax(-1)
            if self.across:  # which index means which unit is lost
                return h[rows, last, words[:, 0] % 8]
            return self.b(h[rows, last])

    words = torch.randint(9, (6, 5))
    assert [g.size for g in trace(Picks(False), words).groups] == [6, 8]
    with pytest.warns(UserWarning, match=r"no permutation moves a.weight\[0\] \(8\)"):
        assert [g.size for g in trace(Picks(True), words).groups] == [6]


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
@pytest.mark.parametrize("sorted_", [True, False])
def test_packed_sequences(kind: type[nn.RNNBase], sorted_: bool) -> None:
    class Packed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.cells = nn.Embedding(9, 6), kind(6, 4, 2, batch_first=True, bidirectional=not sorted_)
            self.out = nn.Linear(4 if sorted_ else 8, 3)

        def forward(self, words: Tensor, lengths: Tensor) -> Tensor:
            packed = rnn.pack_padded_sequence(self.words(words), lengths, batch_first=True, enforce_sorted=sorted_)
            return self.out(rnn.pad_packed_sequence(self.cells(packed)[0], batch_first=True)[0])

    lengths = torch.tensor([5, 4, 2] if sorted_ else [2, 5, 4])
    module, x = Packed(), (torch.randint(9, (3, 5)), lengths)
    symmetry = trace(module, x)
    assert sorted(g.size for g in symmetry.groups) == [4] * (2 if sorted_ else 4) + [6]
    assert difference(*outputs_of_a_copy(symmetry, module, x)) < 1e-9


def test_a_number_of_the_inputs_must_not_choose_parameters_but_may_be_a_length() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.heads = nn.Linear(5, 12), nn.ModuleList([nn.Linear(12, 3), nn.Linear(12, 3)])

        def forward(self, x: Tensor, task: Tensor) -> Tensor:
            return self.heads[int(task)](torch.relu(self.a(x)))

    with pytest.raises(InputError, match=r"_local_scalar_dense in the module's own forward.*heads.0.bias was not used"):
        trace(Heads(), (torch.randn(4, 5), torch.tensor(1)))
    assert trace(Graph(counted), graph()).groups


def test_a_number_of_units_is_still_refused_with_operator_and_layer() -> None:
    class Reads(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            h = super().forward(input)
            return h * h.sum().tolist()

    with pytest.raises(InputError, match=r"Tensor.tolist\) in layer '0'"):
        trace(nn.Sequential(Reads(5, 4), nn.Linear(4, 2)), torch.randn(3, 5))


def test_convolutions_with_groups_and_normed_weights() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        inner = nn.utils.parametrizations.weight_norm(nn.Conv1d(8, 8, 4, groups=2), dim=2)  # as in wav2vec2
        module = nn.Sequential(nn.Conv1d(3, 8, 2), inner, nn.GELU(), nn.Conv1d(8, 2, 1))
        symmetry = trace(module, torch.randn(2, 3, 9))
    sizes = {(g.size, g.parent is None) for g in symmetry.groups}
    assert sizes == {(2, True), (4, False)}
