"""SPAN (Wan et al., CVPRW 2024): attention without parameters, from the features themselves.

Convolutions are plain: any wider branches that they were trained with are merged.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from pcsr.backbones.base import Backbone, whole_scale
from pcsr.backbones.carn import MEAN_RGB
from pcsr.config.models import Config, Width

BLOCKS = 6
LEVELS = 255  # the network works on levels of 8 bit


class Block(nn.Module):
    """Three conv3, whose output is weighted by how far its sigmoid is from one half."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, width, h, w) -> two of the same shape: the output, and the first convolution's."""
        first, second, third = self.convolutions
        inner = F.silu(first(x))
        out = third(F.silu(second(inner)))
        return (out + x) * (torch.sigmoid(out) - 0.5), inner


class SPANOptions(Config):
    """Options of SPAN."""

    fused: Width = Field(default=20, description="channels of the features, which the tail reads")


class SPAN(Backbone):
    """SPAN with 6 blocks of ``width`` channels; 28 as entered in NTIRE 2025's challenge."""

    Options = SPANOptions
    halo = 1 + 3 * BLOCKS + 1
    tail_halo = 1
    mean: Tensor

    def __init__(self, width: int = 28, scale: float | None = 4, fused: int = 20) -> None:
        super().__init__()
        self.width = fused
        self.scale = whole_scale(scale, (2, 3, 4), "span")
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(1, 3, 1, 1), persistent=False)
        self.entry = nn.Conv2d(3, width, 3, padding=1)
        self.blocks = nn.ModuleList(Block(width) for _ in range(BLOCKS))
        self.last = nn.Conv2d(width, width, 3, padding=1)
        self.fuse = nn.Conv2d(4 * width, fused, 1)
        if self.scale is not None:
            self.tail = nn.Sequential(
                nn.Conv2d(fused, 3 * self.scale**2, 3, padding=1), nn.PixelShuffle(self.scale)
            )

    def features(self, lr: Tensor) -> Tensor:
        """See ``Backbone.features``."""
        *_, fused = self.along(lr)
        return fused

    def along(self, lr: Tensor) -> Iterator[Tensor]:
        """Yield the output of each block but the last, (N, channels, h, w), then the features.

        Lazy, so that an early exit runs no block after it.
        """
        entry = self.entry((lr - self.mean) * LEVELS)
        x = first = self.blocks[0](entry)[0]
        for block in self.blocks[1:]:
            yield x
            x, inner = block(x)
        # The last block's inner features are taken after their activation, because the release
        # activates in place.
        yield self.fuse(torch.cat([entry, self.last(x), first, inner], dim=1))

    def upsample(self, features: Tensor, lr: Tensor) -> Tensor:
        """See ``Backbone.upsample``; the mean is not added back."""
        return self.tail(features)
