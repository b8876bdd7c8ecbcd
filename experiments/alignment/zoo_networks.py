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


class Stack(nn.Module):
    """Two bidirectional layers of GRU over words of sentences that are padded."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.out = nn.Embedding(50, 6), nn.Linear(16, 3)
        self.gru = nn.GRU(6, 8, 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """A value for each word."""
        packed = rnn.pack_padded_sequence(self.words(x), lengths, batch_first=True, enforce_sorted=False)
        return self.out(rnn.pad_packed_sequence(self.gru(packed)[0], batch_first=True)[0])


class GraphSums(nn.Module):
    """Sums over edges by scatter_add, means by scatter_reduce."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(5, 12), nn.Linear(12, 8), nn.Linear(8, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        """Two steps over the edges."""
        h = torch.relu(self.a(x))
        at = edges[1][:, None]
        h = torch.relu(self.b(torch.zeros_like(h).scatter_add(0, at.expand(-1, 12), h[edges[0]])))
        return self.c(h.scatter_reduce(0, at.expand(-1, 8), h[edges[0]], "mean"))


class Conformer(nn.Module):
    """A block of attention, a gated depthwise convolution, and a feed-forward layer."""

    def __init__(self) -> None:
        super().__init__()
        self.start, self.end = nn.Linear(5, 12), nn.Linear(12, 3)
        self.attention = nn.MultiheadAttention(12, 3, batch_first=True)
        self.norms = nn.ModuleList(nn.LayerNorm(12) for _ in range(3))
        self.gate, self.last = nn.Conv1d(12, 24, 1), nn.Conv1d(12, 12, 1)
        self.depthwise, self.batch = nn.Conv1d(12, 12, 3, padding=1, groups=12), nn.BatchNorm1d(12)
        self.feed = nn.Sequential(nn.Linear(12, 32), nn.SiLU(), nn.Linear(32, 12))

    def forward(self, x: Tensor) -> Tensor:
        """Values of each position."""
        h = self.start(x)
        a = self.norms[0](h)
        h = h + self.attention(a, a, a)[0]
        c = nn.functional.glu(self.gate(self.norms[1](h).transpose(1, 2)), 1)
        h = h + self.last(nn.functional.silu(self.batch(self.depthwise(c)))).transpose(1, 2)
        return self.end(h + 0.5 * self.feed(self.norms[2](h)))


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
    "GRU stack, packed": lambda: (Stack(), (torch.randint(50, (3, 6)), torch.tensor([4, 6, 3]))),
    "GNN, scatter_add": lambda: (GraphSums(), graph()),
    "Conformer block": lambda: (Conformer(), torch.randn(3, 7, 5)),
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
    "GPT-J": language(
        "GPTJForCausalLM", "GPTJConfig", n_embd=24, n_layer=2, n_head=4, rotary_dim=4, n_positions=32, **WORDS
    ),
    "Bloom": language("BloomForCausalLM", "BloomConfig", hidden_size=24, n_layer=2, n_head=4, **WORDS),
    "Falcon": language(
        "FalconForCausalLM", "FalconConfig", hidden_size=24, num_hidden_layers=2, num_attention_heads=4, **WORDS
    ),
    "Phi": language("PhiForCausalLM", "PhiConfig", **LONG | {"hidden_size": 32}),
    "Phi-3": language("Phi3ForCausalLM", "Phi3Config", num_key_value_heads=2, **LONG),
    "Gemma 2": language("Gemma2ForCausalLM", "Gemma2Config", num_key_value_heads=2, head_dim=6, **LONG),
    "StableLM": language("StableLmForCausalLM", "StableLmConfig", num_key_value_heads=2, **LONG | {"hidden_size": 32}),
    "Starcoder2": language("Starcoder2ForCausalLM", "Starcoder2Config", num_key_value_heads=2, **LONG),
    "MPNet": language("MPNetForSequenceClassification", "MPNetConfig"),
    "XLNet": language("XLNetLMHeadModel", "XLNetConfig", d_model=24, n_layer=2, n_head=4, d_inner=32, **WORDS),
    "SqueezeBERT": language("SqueezeBertForSequenceClassification", "SqueezeBertConfig", embedding_size=24, **LONG),
    "FNet": language("FNetForSequenceClassification", "FNetConfig"),
    "wav2vec 2.0": shipped(
        "Wav2Vec2ForSequenceClassification", "Wav2Vec2Config", lambda: torch.randn(2, 400), conv_dim=(12, 12),
        conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2, num_conv_pos_embeddings=8,
        num_conv_pos_embedding_groups=4, mask_time_prob=0.0, **SIZES,
    ),
    "ConvNeXt": shipped(
        "ConvNextForImageClassification", "ConvNextConfig", lambda: torch.randn(2, 3, 32, 32),
        hidden_sizes=[8, 12, 16, 20], depths=[1, 1, 1, 1],
    ),
    "Swin": shipped(
        "SwinForImageClassification", "SwinConfig", lambda: torch.randn(2, 3, 16, 16), image_size=16, patch_size=2,
        embed_dim=8, depths=[1, 1], num_heads=[2, 4], window_size=2,
    ),
    "SegFormer": shipped(
        "SegformerForImageClassification", "SegformerConfig", lambda: torch.randn(2, 3, 32, 32),
        hidden_sizes=[8, 8, 16, 16], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 2, 4],
        decoder_hidden_size=16,
    ),
    "BEiT": shipped("BeitForImageClassification", "BeitConfig", picture, use_relative_position_bias=True, **IMAGE),
    "DINOv2": shipped("Dinov2ForImageClassification", "Dinov2Config", picture, **IMAGE),
    "AlexNet": vision("alexnet", 64),
    "ResNet-18": vision("resnet18", 32),
    "SqueezeNet": vision("squeezenet1_1", 64),
    "MobileNetV2": vision("mobilenet_v2", 32),
    "MobileNetV3": vision("mobilenet_v3_small", 32),
    "ShuffleNetV2": vision("shufflenet_v2_x0_5", 32),
    "MNASNet": vision("mnasnet0_5", 32),
    "RegNet": vision("regnet_y_400mf", 32),
    "EfficientNet": vision("efficientnet_b0", 32),
    "ResNeXt": lambda: (
        torchvision.models.ResNet(
            torchvision.models.resnet.Bottleneck, [1, 1, 1, 1], 10, groups=4, width_per_group=4
        ),
        torch.randn(2, 3, 32, 32),
    ),
    "DenseNet": lambda: (
        torchvision.models.DenseNet(8, (1, 1, 1, 1), 8, num_classes=10), torch.randn(2, 3, 32, 32)
    ),
    "GoogLeNet": vision("googlenet", 64, aux_logits=False, init_weights=False),
}  # fmt: skip
