"""BERT (Devlin et al. 2019, arXiv 1810.04805): encoders of texts, with a head for classes or for masked words.

Tensors have the names of transformers' `BertModel`. Attention is written out, with an additive bias and an explicit
softmax, so that it vectorises over networks with one mask each.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from weightspace.errors import InputError
from weightspace.models.sizes import check_sizes
from weightspace.runtime import checks

PADDING = 0
"""Number of the token that fills short texts up; nothing attends to it."""
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": lambda x: F.gelu(x, approximate="tanh"),
    "gelu_pytorch_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "relu": F.relu,
}
"""Activations by the names of BERT's configurations."""


class BERT(nn.Module):
    """The body: token numbers (batch, length) to one vector a token (batch, length, width).

    Args:
        vocabulary: Number of tokens; token 0 is padding.
        width: Width of the residual stream.
        layers: Number of layers.
        heads: Heads of the attention.
        hidden: Units of the hidden layer of each perceptron.
        positions: Length of the longest text.
        types: Number of kinds of segments, of which the first is used.
        activation: Activation of the perceptrons.
        epsilon: Added to the variances that are divided by.
        dropout: Fraction of units and of attention weights that training leaves out.
        train_embeddings: Whether the embeddings are trained; otherwise they are buffers and no part of the vector.

    Raises:
        InputError: A size is impossible, or the activation is unknown.
    """

    def __init__(
        self,
        *,
        vocabulary: int = 30522,
        width: int = 768,
        layers: int = 12,
        heads: int = 12,
        hidden: int = 3072,
        positions: int = 512,
        types: int = 2,
        activation: str = "gelu",
        epsilon: float = 1e-12,
        dropout: float = 0.0,
        train_embeddings: bool = True,
    ) -> None:
        super().__init__()
        check_sizes(vocabulary=vocabulary, width=width, layers=layers, heads=heads, hidden=hidden, positions=positions)
        checks.count(types, "types", at_least=1)
        checks.one_of(activation, "activation", tuple(ACTIVATIONS))
        checks.number(dropout, "dropout", at_least=0, below=1)
        if width % heads:
            raise InputError(f"the heads ({heads}) must divide the width ({width})")
        self.positions = positions
        self.embeddings = _Embeddings(vocabulary, positions, types, width, epsilon, dropout)
        self.encoder = nn.Module()
        self.encoder.layer = nn.ModuleList(
            _Layer(width, heads, hidden, activation, epsilon, dropout) for _ in range(layers)
        )
        self.apply(_draw)
        if not train_embeddings:
            _freeze(self.embeddings)

    def forward(self, ids: Tensor) -> Tensor:
        """One vector for each token."""
        if ids.shape[-1] > self.positions:
            raise InputError(f"texts have {self.positions} tokens at most, got {ids.shape[-1]}: cut them")
        h = self.embeddings(ids)  # (batch, length, width)
        bias = torch.zeros_like(h[..., 0]).masked_fill(ids == PADDING, torch.finfo(h.dtype).min)[..., None, None, :]
        for layer in self.encoder.layer:  # pyright: ignore[reportGeneralTypeIssues]
            h = layer(h, bias)
        return h


class BERTClassifier(BERT):
    """BERT with a linear head on each text: token numbers (batch, length) to logits (batch, outputs).

    Args:
        outputs: Number of classes.
        pooling: What the head reads: the mean of all tokens that are no padding, or the first token.
        sizes: Arguments of `BERT`.

    Raises:
        InputError: A size is impossible, or the pooling is unknown.
    """

    def __init__(self, *, outputs: int = 2, pooling: str = "mean", **sizes: int | float | str | bool) -> None:
        super().__init__(**sizes)  # pyright: ignore[reportArgumentType]
        check_sizes(outputs=outputs)
        self.pooling = checks.one_of(pooling, "pooling", ("mean", "first"))
        self.head = nn.Linear(self.embeddings.width, outputs)
        _draw(self.head)

    def forward(self, ids: Tensor) -> Tensor:
        """Logits of the classes."""
        h = super().forward(ids)
        if self.pooling == "first":
            return self.head(h[..., 0, :])
        kept = (ids != PADDING).to(h.dtype)[..., None]
        return self.head((h * kept).sum(-2) / kept.sum(-2).clamp(min=1))


class BERTMaskedWords(BERT):
    """BERT with a decoder of masked words: token numbers and places to logits (batch, places, vocabulary).

    Only the places that are asked for are decoded, LN(gelu(W h)) E' + b, where E is the input embedding.

    Args:
        tied: Whether the decoder is the input embedding itself; otherwise it is a matrix of its own.
        sizes: Arguments of `BERT`.

    Raises:
        InputError: A size is impossible.
    """

    def __init__(self, *, tied: bool = True, **sizes: int | float | str | bool) -> None:
        super().__init__(**sizes)  # pyright: ignore[reportArgumentType]
        checks.flag(tied, "tied")
        width, words = self.embeddings.width, self.embeddings.word_embeddings.weight
        self.head = _Decoder(width, self.embeddings.LayerNorm.eps, words, tied=tied)

    def forward(self, ids: Tensor, places: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Logits of the words at places (batch, number) of texts (batch, length)."""
        h = super().forward(ids)
        h = h.gather(-2, places[..., None].expand(*places.shape, h.shape[-1]))
        return self.head(h, self.embeddings.word_embeddings.weight)


class _Decoder(nn.Module):
    """The likeliest words for vectors; without a decoder of its own, by the embeddings of the words."""

    def __init__(self, width: int, epsilon: float, words: Tensor, *, tied: bool) -> None:
        super().__init__()
        self.dense = nn.Linear(width, width)
        self.LayerNorm = nn.LayerNorm(width, epsilon)
        self.bias = nn.Parameter(torch.zeros(len(words)))
        nn.init.eye_(self.dense.weight)
        nn.init.zeros_(self.dense.bias)
        self.decoder = None if tied else nn.Linear(width, len(words), bias=False)
        if self.decoder is not None:
            with torch.no_grad():
                self.decoder.weight.copy_(words)

    def forward(self, h: Tensor, words: Tensor) -> Tensor:
        h = self.LayerNorm(F.gelu(self.dense(h)))
        return h @ (words if self.decoder is None else self.decoder.weight).mT + self.bias


class _Embeddings(nn.Module):
    """The sum of a token's own vector, its position's and its segment's, normalised."""

    def __init__(self, vocabulary: int, positions: int, types: int, width: int, epsilon: float, dropout: float) -> None:
        super().__init__()
        self.width = width
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.position_embeddings = nn.Embedding(positions, width)
        self.token_type_embeddings = nn.Embedding(types, width)
        self.LayerNorm = nn.LayerNorm(width, epsilon)
        self.dropout = _dropout(dropout)

    def forward(self, ids: Tensor) -> Tensor:
        where = self.position_embeddings.weight[: ids.shape[-1]] + self.token_type_embeddings.weight[0]
        return self.dropout(self.LayerNorm(self.word_embeddings(ids) + where))


class _Layer(nn.Module):
    """LN(x + attention(x)), then LN(x + perceptron(x))."""

    def __init__(self, width: int, heads: int, hidden: int, activation: str, epsilon: float, dropout: float) -> None:
        super().__init__()
        attention = {"self": _Attention(width, heads, dropout), "output": _Added(width, width, epsilon, dropout)}
        self.attention = nn.ModuleDict(attention)
        self.intermediate = nn.ModuleDict({"dense": nn.Linear(width, hidden)})
        self.output = _Added(hidden, width, epsilon, dropout)
        self.activation = ACTIVATIONS[activation]

    def forward(self, h: Tensor, bias: Tensor) -> Tensor:
        h = self.attention["output"](self.attention["self"](h, bias), h)
        return self.output(self.activation(self.intermediate["dense"](h)), h)


class _Attention(nn.Module):
    """Attention of all heads, side by side."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dropout = _dropout(dropout)

    def forward(self, h: Tensor, bias: Tensor) -> Tensor:
        parts = (layer(h).unflatten(-1, (self.heads, -1)) for layer in (self.query, self.key, self.value))
        q, k, v = (part.transpose(-3, -2) for part in parts)  # (batch, heads, length, width / heads)
        weights = (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1)
        return (self.dropout(weights) @ v).transpose(-3, -2).flatten(-2)


class _Added(nn.Module):
    """A linear layer whose output is added to the residual stream, and the sum normalised."""

    def __init__(self, inputs: int, width: int, epsilon: float, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(inputs, width)
        self.LayerNorm = nn.LayerNorm(width, epsilon)
        self.dropout = _dropout(dropout)

    def forward(self, h: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(h)) + residual)


def _dropout(rate: float) -> nn.Module:
    return nn.Dropout(rate) if rate else nn.Identity()


def _draw(layer: nn.Module) -> None:
    """BERT's initialisation: normal weights of standard deviation 0.02, biases zero."""
    if isinstance(layer, nn.Linear | nn.Embedding):
        nn.init.normal_(layer.weight, std=0.02)
    if isinstance(layer, nn.Linear):
        nn.init.zeros_(layer.bias)


def _freeze(module: nn.Module) -> None:
    """Turn all parameters of a module into buffers, which are stored with a network and not trained."""
    for part in module.modules():
        for name, parameter in list(part.named_parameters(recurse=False)):
            delattr(part, name)
            part.register_buffer(name, parameter.detach())
