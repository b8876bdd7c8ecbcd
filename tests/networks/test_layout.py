import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import weightspace as ws
from weightspace.errors import InputError, LayoutMismatch
from weightspace.networks.layout import Entry

sizes = st.lists(st.integers(1, 6), min_size=2, max_size=4)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, 4)
        self.head = nn.Linear(4, 7, bias=False)
        self.head.weight = self.embed.weight


@given(sizes=sizes, lead=st.sampled_from([(), (1,), (3,), (2, 3)]))
def test_unpack_inverts_pack_for_one_network_and_for_batches(sizes: list[int], lead: tuple[int, ...]) -> None:
    layout = ws.Layout.of(ws.models.MLP(sizes))
    vector = torch.randn(*lead, layout.size, generator=torch.Generator().manual_seed(0))
    state = layout.unpack(vector)
    assert all(state[e.name].shape == (*lead, *e.shape) for e in layout.parameters)
    assert torch.equal(layout.pack(state), vector)


def test_pack_reads_a_module_and_unpack_writes_it_back() -> None:
    module = ws.models.MLP((4, 3, 2))
    layout = ws.Layout.of(module)
    other = ws.models.MLP((4, 3, 2))
    other.load_state_dict(layout.unpack(layout.pack(module.state_dict())))
    x = torch.randn(5, 4)
    assert torch.equal(module(x), other(x))


def test_roles_and_prunable_weights() -> None:
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 3), nn.PReLU(3))
    layout = ws.Layout.of(module)
    roles = {entry.name: entry.role for entry in layout.entries}
    assert roles == {
        "0.weight": "weight",
        "0.bias": "bias",
        "1.weight": "norm",
        "1.bias": "norm",
        "1.running_mean": "buffer",
        "1.running_var": "buffer",
        "1.num_batches_tracked": "buffer",
        "3.weight": "weight",
        "3.bias": "bias",
        "4.weight": "other",
    }
    assert layout.num_prunable == 2 * 9 + 24 == int(layout.prunable.sum())
    assert layout.size == 18 + 2 + 2 + 2 + 24 + 3 + 3
    assert layout.free == [slice(18, 24), slice(48, 54)]  # neighbours in one slice
    covered = torch.zeros(layout.size, dtype=torch.bool)
    for at in layout.free:
        covered[at] = True
    assert torch.equal(covered, ~layout.prunable)


def test_attention_and_recurrent_weights_are_prunable() -> None:
    assert ws.Layout.of(nn.MultiheadAttention(4, 2)).num_prunable == 12 * 4 + 4 * 4
    assert ws.Layout.of(nn.LSTM(3, 5)).num_prunable == 20 * 3 + 20 * 5


def test_tied_weights_are_stored_once() -> None:
    layout = ws.Layout.of(Tied())
    assert layout.size == 28
    assert layout.aliases == (("head.weight", "embed.weight"),)
    state = layout.unpack(torch.arange(28.0))
    assert torch.equal(state["head.weight"], state["embed.weight"])
    assert torch.equal(layout.pack(state), torch.arange(28.0))
    with pytest.raises(LayoutMismatch, match=r"head\.weight.*embed\.weight.*tied"):
        layout.pack(state | {"head.weight": torch.zeros(7, 4)})


def test_json_round_trip() -> None:
    layout = ws.Layout.of(Tied())
    assert ws.Layout.from_json(layout.to_json()) == layout


def test_refuses_another_layouts_vector_and_names_both_sizes() -> None:
    layout = ws.Layout.of(ws.models.MLP((4, 3, 2)))
    with pytest.raises(LayoutMismatch, match=r"22 values.*23 trainable"):
        layout.unpack(torch.zeros(22))


def test_refuses_missing_unknown_and_misshapen_tensors() -> None:
    layout = ws.Layout.of(ws.models.MLP((4, 3, 2)))
    state = layout.unpack(torch.zeros(layout.size))
    with pytest.raises(LayoutMismatch, match=r"missing \['1.bias'\]"):
        layout.pack({k: v for k, v in state.items() if k != "1.bias"})
    with pytest.raises(LayoutMismatch, match=r"unknown \['extra'\]"):
        layout.pack(state | {"extra": torch.zeros(1)})
    with pytest.raises(LayoutMismatch, match=r"'3.weight' has shape \(3, 2\), expected \(2, 3\)"):
        layout.pack(state | {"3.weight": torch.zeros(3, 2)})


def test_refuses_mixed_dtypes_and_empty_modules() -> None:
    with pytest.raises(InputError, match="several dtypes"):
        ws.Layout((Entry("a", (1,), "weight", "float32"), Entry("b", (1,), "bias", "float16")))
    with pytest.raises(InputError, match="at least one trainable parameter"):
        ws.Layout.of(nn.ReLU())
