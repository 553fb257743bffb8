"""MATLAB's bicubic ``imresize``, and the one degradation from HR to LR used everywhere.

Kernel: cubic convolution with a = -0.5 (Keys 1981), widened by the scale when shrinking
(antialiasing), pixel centres at half-integers, borders padded by reflection that repeats the
border pixel.
"""

import math

import torch
from torch import Tensor

from pcsr.config.models import MATLAB, Bicubic, LRBits
from pcsr.images.levels import levels, round_8bit


def cubic(x: Tensor) -> Tensor:
    """Cubic convolution kernel with a = -0.5, zero outside [-2, 2]."""
    x = x.abs()
    near = (1.5 * x - 2.5) * x * x + 1.0
    far = ((-0.5 * x + 2.5) * x - 4.0) * x + 2.0
    return torch.where(x <= 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def taps(length: int, size: int, replicate: bool = False) -> tuple[Tensor, Tensor]:
    """Return the filter taps that resize one axis from ``length`` to ``size`` pixels.

    Args:
        replicate: extend the border by its last pixel, as older versions of MATLAB did, instead of
            by reflection.

    Returns:
        float64 weights (size, T), each row summing to 1, and int64 source indices (size, T).
    """
    scale = size / length
    stretch = max(1.0, 1.0 / scale)
    centre = (torch.arange(size, dtype=torch.float64) + 0.5) / scale - 0.5
    first = torch.floor(centre - 2.0 * stretch).long()
    positions = first[:, None] + torch.arange(math.ceil(4.0 * stretch) + 2)
    weights = cubic((centre[:, None] - positions) / stretch)
    weights = weights / weights.sum(dim=1, keepdim=True)
    if replicate:
        return weights, positions.clamp(0, length - 1)
    # Reflection that repeats the border pixel has period 2 * length: 0 1 2 | 2 1 0 | 0 1 2 ...
    wrapped = positions % (2 * length)
    return weights, torch.where(wrapped < length, wrapped, 2 * length - 1 - wrapped)


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize images as MATLAB's ``imresize(x, size, 'bicubic')`` does.

    Args:
        x: (..., H, W), floating point, any value range.
        size: (height, width) of the result.

    Returns:
        (..., *size), same dtype and device; not clipped.
    """
    return _resize_rows(_resize_rows(x, size[0]).mT, size[1]).mT


def _resize_rows(x: Tensor, size: int, replicate: bool = False) -> Tensor:
    if x.shape[-2] == size:
        return x
    weights, indices = taps(x.shape[-2], size, replicate)
    weights, indices = weights.to(x), indices.to(x.device)
    total = torch.zeros((*x.shape[:-2], size, x.shape[-1]), dtype=x.dtype, device=x.device)
    for weight, index in zip(weights.T, indices.T, strict=True):
        total.addcmul_(weight[:, None], x.index_select(-2, index))
    return total


def matrix(length: int, size: int) -> Tensor:
    """Return the float64 (size, length) matrix that resizes columns by multiplication."""
    weights, indices = taps(length, size)
    return weights.new_zeros(size, length).scatter_add_(1, indices, weights)


def degrade(hr: Tensor, size: tuple[int, int], bits: LRBits, bicubic: Bicubic = MATLAB) -> Tensor:
    """Degrade HR images to LR: bicubic downscaling, then 8-bit rounding unless ``bits`` is float.

    Two kinds of public LR images need something else than ``matlab`` (docs/protocol.md, section 1).

    Args:
        hr: (..., H, W) in [0, 1]. With float64 the 8-bit result equals MATLAB's; float32 may
            differ by one level where a value falls on a rounding boundary.
        size: (height, width) of the LR images.
        bits: ``"8bit"`` clamps and rounds; ``"float"`` leaves the bicubic result as it is.
        bicubic: ``"matlab"`` is ``resize``; ``"matlab-uint8"`` rounds ``hr`` to 8 bit, reduces
            rows first and rounds between the passes, as MATLAB does with uint8; ``"selfexsr"`` also
            replicates border pixels.

    Returns:
        (..., *size), same dtype and device.
    """
    if bicubic == MATLAB:
        lr = resize(hr, size)
        return round_8bit(lr) if bits == "8bit" else lr
    # On levels, not on [0, 1]: at 1/2 and 1/4 sums in float64, and so ties in rounding, are exact.
    replicate = bicubic == "selfexsr"
    rows = whole_levels(_resize_rows(levels(hr).to(hr.dtype), size[0], replicate))
    lr = _resize_rows(rows.mT, size[1], replicate).mT
    return (whole_levels(lr) if bits == "8bit" else lr) / 255


def whole_levels(x: Tensor) -> Tensor:
    """Round [0, 255] to whole levels as ``levels`` does [0, 1]; keeps the dtype."""
    return x.clamp(0, 255).add_(0.5).floor_()
