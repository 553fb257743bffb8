"""CARN-M (Ahn et al., ECCV 2018): cascading residual blocks with grouped, shared convolutions."""

import copy
from collections.abc import Sequence

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pcsr.backbones.base import Backbone, padded, sixteens, whole_scale
from pcsr.config.models import Config
from pcsr.errors import UserError
from pcsr.products import product, product_added

GROUPS = 4
STEPS = 3  # units per cascade
ROWS = 1 << 14  # pixels whose sums are computed at a time on a CPU, so that they stay in cache
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


class Summed(nn.Module):
    """A cascade for inference: BatchNorm is folded, and nothing is concatenated.

    A conv1 over a concatenation is the sum of one conv1 per part. Each of these is a matrix product
    that accumulates into the same rows, so no concatenation is copied. On a CPU it runs on
    ``ROWS`` pixels at a time.
    """

    def __init__(self, cascade: Cascade) -> None:
        super().__init__()
        self.units = nn.ModuleList(
            Summed(unit) if isinstance(unit, Cascade) else unit for unit in cascade.units
        )
        self.steps: Sequence[nn.ParameterList] = nn.ModuleList(  # type: ignore[assignment]
            nn.ParameterList(_folded(*fuse)) for fuse in cascade.fuse
        )

    def widen(self, width: int) -> None:
        """Pad the weights to parts of ``width`` channels; the added ones are zero."""
        for weights in self.steps:
            for number, values in enumerate(weights):
                weights[number] = nn.Parameter(padded(values, (width,) * values.ndim))

    def forward(self, x: Tensor) -> Tensor:
        """See ``Cascade.forward``."""
        seen = [_rows(x)]
        fused = x
        for step, (bias, *parts) in enumerate(self.steps):
            seen.append(_rows(self.units[step % len(self.units)](fused)))
            total = _fused(seen, bias, parts)
            fused = total.view(len(x), *x.shape[-2:], -1).permute(0, 3, 1, 2)
        return fused


def _fused(seen: Sequence[Tensor], bias: Tensor, parts: Sequence[Tensor]) -> Tensor:
    """Return ReLU(bias + sum_i seen[i] @ parts[i]), (pixels, width).

    Args:
        seen: (pixels, width) each.
        bias: (width,).
        parts: (width, width) each.
    """
    total = torch.empty_like(seen[0])
    rows = ROWS if total.device.type == "cpu" else len(total)
    for out, first, *others in zip(*(one.split(rows) for one in (total, *seen)), strict=True):
        block_sum = product(first, parts[0], bias)
        for other, part in zip(others, parts[1:], strict=True):
            block_sum = product_added(other, part, block_sum)
        torch.clamp_min(block_sum, 0, out=out)
    return total


def _rows(x: Tensor) -> Tensor:
    """Reshape (N, C, h, w) to (N * h * w, C); a view if channels are last in memory."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _folded(convolution: nn.Conv2d, *after: nn.Module) -> list[nn.Parameter]:
    """Split a fusing conv1 into its bias and the weights (width, width) of its parts."""
    weight, bias = convolution.weight[:, :, 0, 0], convolution.bias
    norm = after[0]
    if isinstance(norm, _BatchNorm):  # SyncBatchNorm, too
        weight, bias = fuse_conv_bn_weights(
            *(weight, bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)  # type: ignore[arg-type]
        )
    parts = weight.detach().T.contiguous().split(len(weight))
    return [nn.Parameter(values, requires_grad=False) for values in (bias.detach(), *parts)]  # type: ignore[union-attr]


def _fuse(width_in: int, width: int, batch_norm: bool) -> nn.Sequential:
    norm = [nn.BatchNorm2d(width)] if batch_norm else []
    return nn.Sequential(nn.Conv2d(width_in, width, 1, bias=not batch_norm), *norm, nn.ReLU())


class CARNOptions(Config):
    """Options of CARN."""

    batch_norm: bool = Field(default=True, description="BatchNorm after the fusing conv1")


class CARN(Backbone):
    """CARN-M with ``width`` channels, 4 groups and 3 cascaded blocks."""

    Options = CARNOptions
    halo = 1 + 2 * STEPS * STEPS
    tail_halo = 2
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
        self.body: Cascade | Summed = Cascade(blocks, width, batch_norm)
        if self.scale is not None:
            self.tail = nn.Sequential(
                *[layer for step in _shuffle_steps(self.scale) for layer in _shuffle(width, step)]
            )
            self.exit = nn.Conv2d(width, 3, 3, padding=1)

    def inference(self) -> Backbone:
        """See ``Backbone.inference``."""
        fast = copy.deepcopy(self).eval().requires_grad_(False)
        if isinstance(fast.body, Cascade):
            fast.body = Summed(fast.body)
        return fast

    def widened(self) -> Backbone:
        """See ``Backbone.widened``."""
        wide = super().widened()
        for module in wide.modules():
            if isinstance(module, Summed):
                module.widen(sixteens(self.width, self.width))
        return wide

    def features(self, lr: Tensor) -> Tensor:
        """See ``Backbone.features``."""
        return self.body(self.entry(lr - self.mean))

    def upsample(self, features: Tensor, lr: Tensor) -> Tensor:
        """See ``Backbone.upsample``."""
        return self.exit(self.tail(features)) + self.mean


def _shuffle_steps(scale: int) -> list[int]:
    return [2, 2] if scale == 4 else [scale]


def _shuffle(width: int, step: int) -> list[nn.Module]:
    convolution = nn.Conv2d(width, width * step**2, 3, padding=1, groups=GROUPS)
    return [convolution, nn.ReLU(inplace=True), nn.PixelShuffle(step)]
