"""Where HR pixels lie on the LR picture, and where tiles lie on a picture.

Coordinates follow LIIF (Chen et al., CVPR 2021): a picture spans [-1, 1] on each axis and a pixel
stands at its centre.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

TILE = 32  # side of a test tile in LR pixels
STRIDE = 28  # step between tiles in LR pixels


@dataclass(frozen=True)
class Axis:
    """One axis of HR pixels over LR pixels.

    Attributes:
        nearest: (size,) int64, the LR pixel that an HR pixel lies in. An HR centre exactly on the
            border of two LR pixels belongs to the later one.
        offset: (size,) float32, HR centre minus LR centre in [-1, 1], times the LR length; at x4
            it is one of -0.75, -0.25, 0.25, 0.75.
        cell: side of an HR pixel in [-1, 1], times the LR length: 2 / scale.
    """

    nearest: Tensor
    offset: Tensor
    cell: float


def axis(lr_length: int, hr_length: int, device: torch.device | None = None) -> Axis:
    """Lay ``hr_length`` pixels over ``lr_length`` pixels (LIIF; PCSR section 3.1)."""
    # Twice the HR centre in units of 1 / hr_length: integers keep ties exact at every scale.
    doubled = 2 * torch.arange(hr_length, device=device) + 1
    nearest = doubled * lr_length // (2 * hr_length)
    offset = (doubled * lr_length - (2 * nearest + 1) * hr_length).double() / hr_length
    return Axis(nearest, offset.float(), 2.0 * lr_length / hr_length)


def tile_crop(lr_height: int, lr_width: int) -> tuple[int, int]:
    """Return the largest size of whole tiles, side 32 and step 28, that fits (protocol section 6).

    A side shorter than one tile gives 0.
    """

    def whole(length: int) -> int:
        return TILE + (length - TILE) // STRIDE * STRIDE if length >= TILE else 0

    return whole(lr_height), whole(lr_width)
