"""CARN-M (Ahn et al., ECCV 2018): cascading residual blocks with grouped, shared convolutions."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn

from pcsr.backbones.base import Backbone, shuffle_steps, whole_scale
from pcsr.config.models import Config
from pcsr.errors import UserError

GROUPS = 4
STEPS = 3  # units per cascade
# Mean RGB of DIV2K, subtracted from the network's input and added to its output.
MEAN_RGB = (0.4488, 0.4371, 0.4040)


class EfficientResidual(nn.Module):
    """Two grouped conv3 and a conv1 with a skip; applied three times with the same weights."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, groups=GROUPS),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, padding=1, groups=GROUPS),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> the same shape."""
        return self.body(x).add_(x).relu_()


class Cascade(nn.Module):
    """Three steps of a unit, each followed by a conv1 over the input and all outputs so far.

    Args:
        units: one unit per step, or a single one whose weights all steps share.
        width: channels.
        batch_norm: if true, the fusing conv1 has no bias and is followed by BatchNorm (PCSR and
            ClassSR releases); else it has a bias and no BatchNorm (ARM release).
    """

    def __init__(self, units: list[nn.Module], width: int, batch_norm: bool) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self.fuse: Sequence[nn.Sequential] = nn.ModuleList(  # type: ignore[assignment]
            _fuse((step + 2) * width, width, batch_norm) for step in range(STEPS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, h, w) -> the same shape."""
        seen = fused = x
        for step, fuse in enumerate(self.fuse):
            unit = self.units[step % len(self.units)]
            seen = torch.cat([seen, unit(fused)], dim=1)
            fused = fuse(seen)
        return fused


def _fuse(width_in: int, width: int, batch_norm: bool) -> nn.Sequential:
    norm = [nn.BatchNorm2d(width)] if batch_norm else []
    return nn.Sequential(nn.Conv2d(width_in, width, 1, bias=not batch_norm), *norm, nn.ReLU())


class CARNOptions(Config):
    """Options of CARN."""

    batch_norm: bool = Field(default=True, description="BatchNorm after the fusing conv1")


class CARN(Backbone):
    """CARN-M with ``width`` channels, 4 groups and 3 cascaded blocks."""

    Options: ClassVar[type[Config]] = CARNOptions
    halo = 1 + 2 * STEPS * STEPS
    tail_halo = 2
    widens = True  # deployed, its concatenations are sums
    mean: Tensor

    def __init__(self, width: int = 64, scale: float | None = 4, batch_norm: bool = True) -> None:
        super().__init__()
        if width % GROUPS:
            raise UserError(f"model.width: carn needs a multiple of {GROUPS}, not {width}.")
        self.width = width
        self.scale = whole_scale(scale, (2, 3, 4), "carn")
        # Stored with the weights, because ClassSR's released networks have means of their own.
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(1, 3, 1, 1))
        self.entry = nn.Conv2d(3, width, 3, padding=1)
        blocks: list[nn.Module] = [
            Cascade([EfficientResidual(width)], width, batch_norm) for _ in range(STEPS)
        ]
        self.body: nn.Module = Cascade(blocks, width, batch_norm)
        if self.scale is not None:
            self.tail = nn.Sequential(
                *[layer for step in shuffle_steps(self.scale) for layer in _shuffle(width, step)]
            )
            self.exit = nn.Conv2d(width, 3, 3, padding=1)

    def features(self, lr: Tensor) -> Tensor:
        """See ``Backbone.features``."""
        return self.body(self.entry(lr - self.mean))

    def upsample(self, features: Tensor, lr: Tensor) -> Tensor:
        """See ``Backbone.upsample``."""
        return self.exit(self.tail(features)) + self.mean


class CARNM(CARN):
    """CARN-M as its own authors trained it: without BatchNorm."""

    Options = Config

    def __init__(self, width: int = 64, scale: float | None = 4) -> None:
        super().__init__(width, scale, batch_norm=False)


def _shuffle(width: int, step: int) -> list[nn.Module]:
    convolution = nn.Conv2d(width, width * step**2, 3, padding=1, groups=GROUPS)
    return [convolution, nn.ReLU(inplace=True), nn.PixelShuffle(step)]
