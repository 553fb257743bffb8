"""SRResNet without BatchNorm (MSRResNet: Ledig et al., CVPR 2017, as used by ClassSR and PCSR)."""

import torch.nn.functional as F
from torch import Tensor, nn

from pcsr.backbones.base import Backbone, initialise, whole_scale

BLOCKS = 16
SLOPE = 0.1  # of every LeakyReLU


class ResidualBlock(nn.Module):
    """conv3, ReLU, conv3 with a skip."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> the same shape."""
        return self.body(x).add_(x)


class SRResNet(Backbone):
    """16 residual blocks of ``width`` channels with no long skip; predicts a bilinear residual."""

    halo = 1 + 2 * BLOCKS
    tail_halo = 2
    widens = True

    def __init__(self, width: int = 64, scale: float | None = 4) -> None:
        super().__init__()
        self.width = width
        self.scale = whole_scale(scale, (2, 3, 4), "srresnet")
        self.entry = nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.LeakyReLU(SLOPE))
        self.body = nn.Sequential(*[ResidualBlock(width) for _ in range(BLOCKS)])
        if self.scale is not None:
            steps = [2, 2] if self.scale == 4 else [self.scale]
            self.tail = nn.Sequential(
                *[layer for step in steps for layer in _shuffle(width, step)],
                nn.Conv2d(width, width, 3, padding=1),
                nn.LeakyReLU(SLOPE),
                nn.Conv2d(width, 3, 3, padding=1),
            )
        initialise(self.modules())

    def features(self, lr: Tensor) -> Tensor:
        """See ``Backbone.features``."""
        return self.body(self.entry(lr))

    def upsample(self, features: Tensor, lr: Tensor) -> Tensor:
        """See ``Backbone.upsample``."""
        size = [side * (self.scale or 1) for side in lr.shape[-2:]]
        return self.tail(features) + F.interpolate(lr, size=size, mode="bilinear")


def _shuffle(width: int, step: int) -> list[nn.Module]:
    convolution = nn.Conv2d(width, width * step**2, 3, padding=1)
    return [convolution, nn.PixelShuffle(step), nn.LeakyReLU(SLOPE)]
