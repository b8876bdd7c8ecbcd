"""Language models: logits of the next token at every position, from the tokens up to it.

The recurrent one as in Zaremba et al. 2014 (arXiv 1409.2329), with tied weights as in Press & Wolf 2017 (arXiv
1608.05859); the transformer as GPT-2 (Radford et al. 2019).
"""

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.models.sizes import check_sizes
from weightspace.runtime import checks


class LSTMLanguageModel(nn.Module):
    """An embedding, an LSTM and a linear decoder. The state is zero before the first token.

    PyTorch's LSTM is one operation, which is faster than many networks side by side: networks train one after another.

    Args:
        vocabulary: Number of tokens.
        width: Width of the embedding.
        hidden: Units of each layer of the LSTM.
        layers: Number of layers of the LSTM.
        tied: Whether the decoder's weights are those of the embedding, of which there must then be as many.
        dropout: Fraction of units that training leaves out, before each layer and the decoder.

    Raises:
        InputError: A size is impossible, or the decoder cannot be tied.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int = 64,
        hidden: int = 256,
        layers: int = 1,
        tied: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(vocabulary=vocabulary, width=width, hidden=hidden, layers=layers)
        checks.flag(tied, "tied")
        checks.number(dropout, "dropout", at_least=0, below=1)
        if tied and width != hidden:
            raise InputError(
                f"a tied decoder reads hidden units with the embedding's weights: width ({width}) and hidden "
                f"({hidden}) must be equal"
            )
        self.embedding = nn.Embedding(vocabulary, width)
        self.lstm = nn.LSTM(width, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.drop = nn.Dropout(dropout)
        self.decoder = nn.Linear(hidden, vocabulary)
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)
        if tied:
            self.decoder.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, positions, vocabulary) of the token after each of (batch, positions)."""
        hidden, _ = self.lstm(self.drop(self.embedding(ids)))
        return self.decoder(self.drop(hidden))


class _CausalAttention(nn.Module):
    """Self-attention to what came before, written out so that it vectorises over networks."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, positions, width)
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (batch, heads, positions, d)
        positions = torch.arange(x.shape[-2], device=x.device)
        later = positions > positions[:, None]  # (positions, positions), True where a key comes after a query
        scores = (q @ k.mT / q.shape[-1] ** 0.5).masked_fill(later, -torch.inf)
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))


class _Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = _CausalAttention(width, heads)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.drop = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop(self.attention(self.norm1(x)))
        return x + self.drop(self.mlp(self.norm2(x)))


class TransformerLanguageModel(nn.Module):
    """A pre-norm transformer with causal attention and learned positions.

    Args:
        vocabulary: Number of tokens.
        width: Width of the residual stream.
        layers: Number of layers.
        heads: Heads of the attention.
        positions: Most tokens that are read at once.
        tied: Whether the decoder's weights are those of the embedding.
        dropout: Fraction of units that training leaves out, after the embedding and in every branch.

    Raises:
        InputError: A size is impossible.
    """

    def __init__(
        self,
        *,
        vocabulary: int,
        width: int = 128,
        layers: int = 2,
        heads: int = 4,
        positions: int = 64,
        tied: bool = False,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        check_sizes(vocabulary=vocabulary, width=width, layers=layers, heads=heads, positions=positions)
        checks.flag(tied, "tied")
        checks.number(dropout, "dropout", at_least=0, below=1)
        if width % heads:
            raise InputError(f"the heads ({heads}) must divide the width ({width})")
        self.embedding = nn.Embedding(vocabulary, width)
        self.position = nn.Parameter(torch.empty(positions, width))
        self.drop = nn.Dropout(dropout)
        self.layers = nn.Sequential(*(_Layer(width, heads, dropout) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        self.decoder = nn.Linear(width, vocabulary, bias=not tied)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        nn.init.normal_(self.position, std=0.02)
        if tied:
            self.decoder.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Logits (batch, positions, vocabulary) of the token after each of (batch, positions).

        Raises:
            InputError: There are more positions than the network has.
        """
        if ids.shape[-1] > len(self.position):
            raise InputError(
                f"the transformer reads {len(self.position)} tokens at once, got {ids.shape[-1]}: give it positions="
            )
        x = self.drop(self.embedding(ids) + self.position[: ids.shape[-1]])
        return self.decoder(self.norm(self.layers(x)))
