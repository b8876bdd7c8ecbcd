"""Vision transformer (Dosovitskiy et al. 2021, arXiv 2010.11929), pre-norm."""

import torch
from torch import Tensor, nn

from weightspace.errors import InputError
from weightspace.models.sizes import check_sizes


class Attention(nn.Module):
    """Multi-head self-attention, written out so that it vectorises over networks."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, tokens, width)
        """Outputs for a batch."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # (batch, heads, tokens, d)
        weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).flatten(-2))


class Layer(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for a batch."""
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    """ViT-tiny (width 192, 12 layers, 3 heads): 5,717,416 parameters at 224 x 224, patch 16 and 1000
    classes, as DeiT-Ti; the defaults are its form for 32 x 32 images.

    Args:
        width: Width of the residual stream.
        depth: Number of layers.
        heads: Heads of the attention.
        patch: Side of a patch, in pixels, which must divide the image's.
        side: Side of the image, in pixels.
        channels: Channels of the image.
        outputs: Number of classes.
    """

    def __init__(
        self,
        *,
        width: int = 192,
        depth: int = 12,
        heads: int = 3,
        patch: int = 4,
        side: int = 32,
        channels: int = 3,
        outputs: int = 10,
    ) -> None:
        super().__init__()
        check_sizes(width=width, depth=depth, heads=heads, patch=patch, side=side, channels=channels, outputs=outputs)
        if side % patch or width % heads:
            raise InputError(
                f"the patch ({patch}) must divide the image ({side}), the heads ({heads}) the width ({width})"
            )
        self.input_shape = (channels, side, side)
        self.patches = nn.Conv2d(channels, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.empty(1, (side // patch) ** 2 + 1, width).normal_(std=0.02))
        self.layers = nn.Sequential(*(Layer(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Outputs for a batch."""
        patches = self.patches(x).flatten(2).mT  # (batch, patches, width)
        h = torch.cat([self.token.expand(len(x), -1, -1), patches], dim=1) + self.position
        return self.head(self.norm(self.layers(h))[:, 0])
