"""EFDN (Wang, CVPRW 2022): distilling cells with attention, in its re-parameterised form.

As entered in NTIRE 2025's challenge on efficient SR: 4 cells, every cell's edge-oriented branches
already merged into plain convolutions.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr.backbones.base import Backbone, whole_scale

CELLS = 4
PARTS = 4  # a cell's input and the outputs of its three layers, each distilled to half the channels


class Attention(nn.Module):
    """ESA: a mask from features of a sixth of the size, which see far across the image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        inner = width // 4
        self.shrink = nn.Conv2d(width, inner, 1)
        self.skip = nn.Conv2d(inner, inner, 1)
        self.down = nn.Conv2d(inner, inner, 3, stride=2)
        self.far = nn.Sequential(
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1),
        )
        self.expand = nn.Conv2d(inner, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> the same shape."""
        near = self.shrink(x)
        far = self.far(F.max_pool2d(self.down(near), kernel_size=7, stride=3))
        far = F.interpolate(far, size=near.shape[-2:], mode="bilinear")
        return x * torch.sigmoid(self.expand(far + self.skip(near)))


class Cell(nn.Module):
    """Three layers; their input and outputs are distilled, fused and weighted by attention."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.Sequential(nn.Conv2d(width, width, side, padding=side // 2), nn.PReLU(width))
            for side in (1, 3, 3)
        )
        self.distill = nn.ModuleList(nn.Conv2d(width, width // 2, 1) for _ in range(PARTS))
        self.fuse = nn.Conv2d(PARTS * (width // 2), width, 1)
        self.attention = Attention(width)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> the same shape."""
        parts = [x]
        for layer in self.layers:
            parts.append(layer(parts[-1]))
        distilled = [conv(part) for conv, part in zip(self.distill, parts, strict=True)]
        fused: Tensor = self.attention(self.fuse(torch.cat(distilled, dim=1)))
        return fused + x


class EFDN(Backbone):
    """EFDN with 4 cells of ``width`` channels; SR is clamped to [0, 1] inside the network."""

    # A cell's layers see 2 pixels to each side, but its attention sees far, on a grid that depends
    # on the size of the image, so no halo makes tiles exact.
    halo = 32
    tail_halo = 1
    whole_image = True
    least_side = 15  # the convolution of stride 2 makes it 7, the window of the pooling

    def __init__(self, width: int = 48, scale: float | None = 4) -> None:
        super().__init__()
        self.width = width
        self.scale = whole_scale(scale, (2, 3, 4), "efdn")
        self.entry = nn.Conv2d(3, width, 3, padding=1)
        self.cells = nn.ModuleList(Cell(width) for _ in range(CELLS))
        self.links = nn.ModuleList(nn.Conv2d(2 * width, width, 1) for _ in range(CELLS - 1))
        if self.scale is not None:
            self.tail = nn.Sequential(
                nn.Conv2d(width, 3 * self.scale**2, 3, padding=1), nn.PixelShuffle(self.scale)
            )

    def features(self, lr: Tensor) -> Tensor:
        """See ``Backbone.features``."""
        self.require_sides(lr)
        entry = self.entry(lr)
        first = self.cells[0](entry)
        second = self.cells[1](first)
        third = self.cells[2](self._linked(0, first, second))
        fourth = self.cells[3](self._linked(1, second, third))
        # As in the release, the last cell is also joined to the second, not to the third.
        return self._linked(2, second, fourth) + entry

    def upsample(self, features: Tensor, lr: Tensor) -> Tensor:
        """See ``Backbone.upsample``."""
        return self.tail(features).clamp(0, 1)

    def _linked(self, number: int, before: Tensor, after: Tensor) -> Tensor:
        return self.links[number](torch.cat([before, after], dim=1))
