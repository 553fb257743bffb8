"""The bilinear image that the heads add to, with its pixels in the order of a band.

LR images are given with one more pixel on each side (``Region.around``), so that every HR pixel
lies between two LR pixels on each axis.
"""

import torch
from torch import Tensor

from pcsr.geometry import Axis


def by_pixel(around: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Interpolate HR pixels at any positions.

    Args:
        around: (C, h + 2, w + 2).
        rows, columns: axes of the HR pixels; ``nearest`` counts from the second LR row and column.

    Returns:
        (C, H, W).
    """
    return _between(_between(around, 2, columns), 1, rows)


def _between(values: Tensor, dim: int, along: Axis) -> Tensor:
    own = along.nearest + 1
    other = own + along.offset.sign().long()
    share = along.offset.abs().div(2).view(-1, *[1] * (2 - dim))
    return torch.lerp(values.index_select(dim, own), values.index_select(dim, other), share)


def by_block(around: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Interpolate HR pixels that form the same block in every LR pixel.

    Args:
        around: (C, h + 2, w + 2).
        rows, columns: axes of the HR pixels, whose ``block`` is not 0.

    Returns:
        (C, block rows, block columns, h, w).
    """
    channels, height, width = around.shape
    tall = around.new_empty(channels, rows.block, height - 2, width)
    for place, offset in enumerate(rows.offset[: rows.block].tolist()):
        other = around[:, :-2] if offset < 0 else around[:, 2:]
        torch.lerp(around[:, 1:-1], other, abs(offset) / 2, out=tall[:, place])
    wide = tall.new_empty(channels, rows.block, columns.block, height - 2, width - 2)
    for place, offset in enumerate(columns.offset[: columns.block].tolist()):
        other = tall[..., :-2] if offset < 0 else tall[..., 2:]
        torch.lerp(tall[..., 1:-1], other, abs(offset) / 2, out=wide[:, :, place])
    return wide
