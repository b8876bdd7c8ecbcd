"""Weights that their use shows, whatever they are called."""

import pytest
import torch
from torch import Tensor, nn

import weightspace as ws
from weightspace.networks.uses import weights_by_use


class Own(nn.Module):
    """Weights under names of their own, and tensors of as many axes that are none."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(6, 8))
        self.b = nn.Parameter(torch.randn(2, 8, 8))
        self.kernels = nn.Parameter(torch.randn(3, 1, 3))
        self.table = nn.Parameter(torch.randn(7, 8))
        self.position = nn.Parameter(torch.randn(6, 8))
        self.token = nn.Parameter(torch.randn(2, 8))
        self.weight = nn.Parameter(torch.randn(2, 8))  # called as one, and used as a factor
        self.unused_weight = nn.Parameter(torch.randn(3, 3))
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.einsum("ni,io->no", x, self.a.to(torch.float32)) + self.position[: len(x)]
        h = torch.stack([h @ self.b[i].T for i in range(2)], 1) * self.weight
        h = torch.cat([h, self.token.expand(len(x), 2, 8)], 1).sum(1)
        h = h + nn.functional.conv1d(h[:, None], self.kernels, padding=1).sum(1)
        return self.head(h + self.table[(x[:, 0] > 0).long()])


def test_weights_are_recognised_by_their_use() -> None:
    structural = ws.Architecture.of(Own)
    assert [e.name for e in structural.layout().weights] == ["weight", "unused_weight", "head.weight"]
    network = structural.recognise(torch.randn(4, 6))
    assert [e.name for e in network.layout().weights] == ["a", "b", "kernels", "table", "unused_weight", "head.weight"]
    assert [e.name for e in network.layout().left_out] == ["position", "token", "weight"]
    assert network.to_json() == structural.to_json()  # runs are known by what they were
    assert network == structural


def test_what_needs_no_recognition_stays_as_it_is() -> None:
    x = torch.randn(4, 6)
    named = ws.Architecture.of(Own, prunable=["a"])
    plain = ws.Architecture.of(lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(6, 4))))
    unfit = ws.Architecture.of(lambda: nn.Linear(5, 2))
    built_in = ws.Architecture("ViT", {"width": 12, "depth": 1, "heads": 1, "side": 8})
    assert all(network.recognise(x) is network for network in (named, plain, unfit, built_in))


def test_weights_under_other_names_of_parametrised_layers() -> None:
    class Rows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mixing = nn.Parameter(torch.randn(6, 3))
            self.length = nn.Parameter(torch.ones(6, 1))
            self.register_buffer("mask", torch.ones(6, 3))

        def forward(self, x: Tensor) -> Tensor:
            return x @ (self.mixing * self.mask * self.length)

    assert [e.name for e in ws.Architecture.of(Rows).recognise(torch.randn(2, 6)).layout().weights] == ["mixing"]


def test_matrices_of_transformers_are_prunable_without_and_with_inputs() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"vocab_size": 40, "bos_token_id": 0, "eos_token_id": 0}
    gpt2 = transformers.GPT2Config(n_embd=16, n_layer=1, n_head=2, n_positions=12, **small)
    mixture = transformers.MixtralConfig(
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=3,
        **small,
    )
    ids = {"input_ids": torch.randint(40, (2, 6), generator=torch.Generator().manual_seed(0))}
    for build in (lambda: transformers.GPT2LMHeadModel(gpt2), lambda: transformers.MixtralForCausalLM(mixture)):
        network = ws.Architecture.of(build)
        layout = network.layout()
        assert not layout.left_out
        assert layout.num_prunable > 0.9 * layout.size
        assert network.recognise(ids) is network
        assert len(weights_by_use(build(), layout.with_prunable([]), ids)) >= len(layout.weights) - 3
    body = ws.Only(ws.Unstructured(0.1), "transformer.h.*.weight")
    gpt2_layout = ws.Layout.of(transformers.GPT2LMHeadModel(gpt2))
    kept = body.mask(torch.rand(gpt2_layout.size), gpt2_layout)
    assert kept[gpt2_layout.slices["transformer.wte.weight"]].all()
    inside = torch.cat([kept[gpt2_layout.slices[e.name]] for e in body.part(gpt2_layout).weights])
    assert inside.double().mean().item() == pytest.approx(0.1, abs=1e-3)
    assert inside.numel() == 12 * 16 * 16
