"""The networks of the zoo: each name makes a module and an example."""

from collections.abc import Callable
from typing import Any

import torch
import torchvision
import transformers
from torch import Tensor, nn
from torch.nn import utils
from torch.nn.functional import scaled_dot_product_attention
from torch.nn.utils import rnn

Made = tuple[nn.Module, Any]
WORDS = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
SIZES = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LONG = WORDS | SIZES | {"max_position_embeddings": 32}
IMAGE = SIZES | {"image_size": 16, "patch_size": 8}
PAIR = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}


def words() -> Tensor:
    """Two sentences of six words."""
    return torch.randint(3, 50, (2, 6))


def vision(name: str, pixels: int, **settings: Any) -> Callable[[], Made]:
    """A network of torchvision."""

    def make() -> Made:
        module = torchvision.models.get_model(name, weights=None, num_classes=10, **settings)
        return module, torch.randn(2, 3, pixels, pixels)

    return make


def shipped(kind: str, config: str, example: Callable[[], Any], **settings: Any) -> Callable[[], Made]:
    """A network of transformers."""
    return lambda: (getattr(transformers, kind)(getattr(transformers, config)(**settings)), example())


def language(kind: str, config: str, **settings: Any) -> Callable[[], Made]:
    """A language model of transformers."""
    return shipped(kind, config, words, **(settings or LONG))


def pair() -> dict[str, Tensor]:
    """Inputs of an encoder and of a decoder."""
    return {"input_ids": words(), "decoder_input_ids": words()[:, :4]}


def picture() -> Tensor:
    """Two small pictures."""
    return torch.randn(2, 3, 16, 16)


def matrix(*shape: int) -> nn.Parameter:
    """A parameter of an einsum."""
    return nn.Parameter(torch.randn(*shape) * 0.3)


class EinsumAttention(nn.Module):
    """Weights (heads, inputs, units)."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = matrix(4, 6, 8), matrix(4, 6, 8), matrix(4, 6, 8), matrix(4, 8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Attention over positions."""
        q, k, v = (torch.einsum("bld,hdk->bhlk", x, w) for w in (self.q, self.k, self.v))
        a = torch.softmax(torch.einsum("bhqk,bhlk->bhql", q, k), -1)
        return torch.einsum("bhqk,hkd->bqd", torch.einsum("bhql,bhlk->bhqk", a, v), self.o)


class EinsumExperts(nn.Module):
    """A soft mixture of experts."""

    def __init__(self) -> None:
        super().__init__()
        self.g, self.a, self.b = nn.Linear(6, 4), matrix(4, 6, 16), matrix(4, 16, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The mean of all experts, weighted by the gate."""
        h = torch.relu(torch.einsum("bi,eio->beo", x, self.a))
        return torch.einsum("beo,eoi,be->bi", h, self.b, torch.softmax(self.g(x), -1))


class Grouped(nn.Module):
    """Attention with fewer heads of keys and values."""

    def __init__(self, kv: int) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(24, 24), nn.Linear(24, 6 * kv), nn.Linear(24, 6 * kv)
        self.out = nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Attention over positions."""
        q, k, v = (w(x).unflatten(-1, (-1, 6)).transpose(1, 2) for w in (self.q, self.k, self.v))
        return self.out(scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))


class GraphConvolution(nn.Module):
    """Sums over the edges of a graph, given as a list."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 12), nn.Linear(12, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """One step over the edges between two layers."""
        h = torch.relu(self.a(x))
        return self.b(torch.zeros_like(h).index_add(0, edges[1], h[edges[0]]))


class GraphAttention(nn.Module):
    """Attention over the edges of a graph, with heads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.source, self.target, self.out = nn.Linear(5, 12), matrix(3, 4), matrix(3, 4), nn.Linear(12, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Weights of edges from both of their nodes."""
        h = self.a(x).view(-1, 3, 4)
        logits = (h * self.source).sum(-1)[edges[0]] + (h * self.target).sum(-1)[edges[1]]
        weight = torch.nn.functional.leaky_relu(logits).exp()
        total = torch.zeros(len(x), 3, dtype=weight.dtype).index_add(0, edges[1], weight)
        sent = weight[..., None] / total[edges[1]][..., None] * h[edges[0]]
        return self.out(torch.zeros_like(h).index_add(0, edges[1], sent).flatten(1))


def graph() -> tuple[Tensor, Tensor]:
    """Nodes, and edges with one from every node to itself."""
    loops = torch.arange(7).expand(2, 7)
    return torch.randn(7, 5), torch.cat([torch.randint(7, (2, 12)), loops], 1)


class Packed(nn.Module):
    """An LSTM over sequences of different lengths."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(5, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        """The last state of each sequence."""
        packed = rnn.pack_padded_sequence(x, torch.tensor([6, 4, 3]), batch_first=True)
        return self.out(self.lstm(packed)[1][0][-1])


class Likelihood(nn.Module):
    """Returns the logarithm of a density."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.mean, self.scale = nn.Linear(5, 12), nn.Linear(12, 3), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Of the input's first values."""
        h = torch.relu(self.a(x))
        scale = nn.functional.softplus(self.scale(h)) + 0.1
        return torch.distributions.Normal(self.mean(h), scale, validate_args=False).log_prob(x[:, :3])


class Sampled(Likelihood):
    """Draws from it."""

    def forward(self, x: Tensor) -> Tensor:
        """A draw."""
        h = torch.relu(self.a(x))
        return torch.distributions.Normal(self.mean(h), 1.0, validate_args=False).rsample()


def chain(*layers: nn.Module) -> Callable[[], Made]:
    """Layers one after another, on five inputs."""
    return lambda: (nn.Sequential(*layers), torch.randn(6, 5))


def normed(norm: Callable[[nn.Module], nn.Module]) -> Callable[[], Made]:
    """A network with normed weights."""
    return lambda: (
        nn.Sequential(norm(nn.Linear(5, 16)), nn.ReLU(), norm(nn.Linear(16, 12)), nn.ReLU(), nn.Linear(12, 3)),
        torch.randn(6, 5),
    )


NETWORKS: dict[str, Callable[[], Made]] = {
    "MLP, ReLU": chain(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)),
    "MLP, tanh": chain(nn.Linear(5, 16), nn.Tanh(), nn.Linear(16, 3)),
    "MLP, GELU and LayerNorm": chain(nn.Linear(5, 16), nn.LayerNorm(16), nn.GELU(), nn.Linear(16, 3)),
    "weight_norm": normed(utils.parametrizations.weight_norm),
    "spectral_norm": normed(utils.parametrizations.spectral_norm),
    "spectral_norm, hook": normed(utils.spectral_norm),
    "einsum attention": lambda: (EinsumAttention(), torch.randn(3, 7, 6)),
    "einsum experts": lambda: (EinsumExperts(), torch.randn(6, 6)),
    "grouped-query attention": lambda: (Grouped(2), torch.randn(3, 7, 24)),
    "multi-query attention": lambda: (Grouped(1), torch.randn(3, 7, 24)),
    "nn.TransformerEncoderLayer": lambda: (
        nn.Sequential(nn.Linear(5, 12), nn.TransformerEncoderLayer(12, 3, 16, batch_first=True), nn.Linear(12, 3)),
        torch.randn(3, 7, 5),
    ),
    "GCN, edge list": lambda: (GraphConvolution(), graph()),
    "GAT, edge list": lambda: (GraphAttention(), graph()),
    "LSTM, packed": lambda: (Packed(), torch.randn(3, 6, 5)),
    "log-likelihood": lambda: (Likelihood(), torch.randn(6, 5)),
    "rsample": lambda: (Sampled(), torch.randn(6, 5)),
    "GPT-2": language("GPT2LMHeadModel", "GPT2Config", n_embd=24, n_layer=2, n_head=4, n_positions=32, **WORDS),
    "BERT": language("BertForSequenceClassification", "BertConfig"),
    "DistilBERT": language(
        "DistilBertForSequenceClassification", "DistilBertConfig", vocab_size=50, dim=24, hidden_dim=32, n_layers=2,
        n_heads=4, max_position_embeddings=32,
    ),
    "RoBERTa": language("RobertaForSequenceClassification", "RobertaConfig"),
    "ELECTRA": language("ElectraForSequenceClassification", "ElectraConfig", embedding_size=16, **LONG),
    "ALBERT": language("AlbertForSequenceClassification", "AlbertConfig", embedding_size=16, **LONG),
    "Llama": language("LlamaForCausalLM", "LlamaConfig", num_key_value_heads=2, **LONG),
    "Mistral": language("MistralForCausalLM", "MistralConfig", num_key_value_heads=2, **LONG),
    "Qwen2": language("Qwen2ForCausalLM", "Qwen2Config", num_key_value_heads=2, **LONG),
    "Qwen3": language("Qwen3ForCausalLM", "Qwen3Config", num_key_value_heads=2, head_dim=6, **LONG),
    "Gemma": language("GemmaForCausalLM", "GemmaConfig", num_key_value_heads=2, head_dim=6, **LONG),
    "GPT-NeoX": language("GPTNeoXForCausalLM", "GPTNeoXConfig"),
    "OPT": language(
        "OPTForCausalLM", "OPTConfig", hidden_size=24, word_embed_proj_dim=24, ffn_dim=32, num_hidden_layers=2,
        num_attention_heads=4, max_position_embeddings=32, **WORDS,
    ),
    "Mixtral": language(
        "MixtralForCausalLM", "MixtralConfig", num_key_value_heads=2, num_local_experts=4, num_experts_per_tok=2, **LONG
    ),
    "Mamba": language("MambaForCausalLM", "MambaConfig", hidden_size=16, state_size=4, num_hidden_layers=1, **WORDS),
    "CLIP text": language("CLIPTextModel", "CLIPTextConfig"),
    "T5": shipped(
        "T5ForConditionalGeneration", "T5Config", pair, vocab_size=50, d_model=24, d_kv=6, d_ff=32, num_layers=2,
        num_heads=4, decoder_start_token_id=0,
    ),
    "BART": shipped(
        "BartForConditionalGeneration", "BartConfig", pair, d_model=24, encoder_ffn_dim=32, decoder_ffn_dim=32,
        max_position_embeddings=32, decoder_start_token_id=2, **WORDS, **PAIR,
    ),
    "ViT": shipped("ViTForImageClassification", "ViTConfig", picture, **IMAGE),
    "DeiT": shipped("DeiTForImageClassification", "DeiTConfig", picture, **IMAGE),
    "CLIP vision": shipped("CLIPVisionModel", "CLIPVisionConfig", picture, **IMAGE),
    "AlexNet": vision("alexnet", 64),
    "VGG-11, BatchNorm": vision("vgg11_bn", 32),
    "ResNet-18": vision("resnet18", 32),
    "SqueezeNet": vision("squeezenet1_1", 64),
    "MobileNetV2": vision("mobilenet_v2", 32),
    "MobileNetV3": vision("mobilenet_v3_small", 32),
    "ShuffleNetV2": vision("shufflenet_v2_x0_5", 32),
    "MNASNet": vision("mnasnet0_5", 32),
    "RegNet": vision("regnet_y_400mf", 32),
    "EfficientNet": vision("efficientnet_b0", 32),
}  # fmt: skip
