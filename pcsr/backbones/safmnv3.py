"""SAFMNv3: features modulated by their own coarse version and variance.

As entered in NTIRE 2025's challenge on efficient SR, after SAFMN (Sun et al., ICCV 2023).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr.backbones.base import Backbone, whole_scale

BLOCKS = 6
COARSE = 8  # pixels a side for each pixel of the coarse features


class Block(nn.Module):
    """Modulation of three tenths of the channels, then an MLP per pixel, with a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        coarse = 3 * width // 10
        self.modulated = nn.Conv2d(width, coarse, 3, padding=1, bias=False)
        self.others = nn.Conv2d(width, width - coarse, 3, padding=1, bias=False)
        self.depthwise = nn.Conv2d(coarse, coarse, 3, padding=1, groups=coarse, bias=False)
        self.mix = nn.Conv2d(coarse, coarse, 1, bias=False)
        self.join = nn.Conv2d(width, width, 1, bias=False)
        self.mlp = nn.Sequential(
            nn.Conv2d(width, 3 * width // 2, 1, bias=False),
            nn.GELU(),
            nn.Conv2d(3 * width // 2, width, 1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> the same shape."""
        size = (x.shape[-2], x.shape[-1])
        modulated, others = self.modulated(x), self.others(x)
        coarse = F.adaptive_max_pool2d(modulated, (size[0] // COARSE, size[1] // COARSE))
        spread = torch.var(modulated, dim=(-2, -1), keepdim=True)
        coarse = self.mix(self.depthwise(coarse) + spread)
        modulated = modulated * F.gelu(F.interpolate(coarse, size=size, mode="bilinear"))
        joined = self.join(F.gelu(torch.cat([others, modulated], dim=1)))
        return self.mlp(joined) + x


class SAFMNv3(Backbone):
    """SAFMNv3 with 6 blocks of ``width`` channels and no biases; predicts a bilinear residual.

    Each block multiplies its input by a function of the input, and nothing bounds the product. With
    the released weights, white noise of full contrast overflows float32; photographs are far from
    doing so.
    """

    # A block's convolutions see one pixel to each side, but its variance is of the whole image, so
    # no halo makes tiles exact.
    halo = 32
    tail_halo = 1
    whole_image = True
    least_side = COARSE

    def __init__(self, width: int = 40, scale: float | None = 4) -> None:
        super().__init__()
        self.width = width
        self.scale = whole_scale(scale, (2, 3, 4), "safmnv3")
        self.entry = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.body = nn.Sequential(*[Block(width) for _ in range(BLOCKS)])
        if self.scale is not None:
            self.tail = nn.Sequential(
                nn.Conv2d(width, 3 * self.scale**2, 3, padding=1, bias=False),
                nn.PixelShuffle(self.scale),
            )

    def features(self, lr: Tensor) -> Tensor:
        """See ``Backbone.features``."""
        self.require_sides(lr)
        return self.body(self.entry(lr))

    def upsample(self, features: Tensor, lr: Tensor) -> Tensor:
        """See ``Backbone.upsample``."""
        size = [side * (self.scale or 1) for side in lr.shape[-2:]]
        return self.tail(features) + F.interpolate(lr, size=size, mode="bilinear")
