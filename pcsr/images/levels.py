"""Convert between levels of image files and values in [0, 1], with one rounding rule for all."""

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor


def levels(x: Tensor) -> Tensor:
    """Quantise [0, 1] to 8-bit levels (uint8): clamp, then round half up as MATLAB does."""
    return x.clamp(0, 1).mul_(255).add_(0.5).floor_().to(torch.uint8)


def round_8bit(x: Tensor) -> Tensor:
    """Clamp to [0, 1] and round to the 256 levels of 8 bits; keeps the dtype."""
    return levels(x).to(x.dtype) / 255


def to_tensor(image: np.ndarray) -> Tensor:
    """Convert (H, W, 3), or grey (H, W, 1), to float32 (1, 3, H, W) in [0, 1].

    Integers are levels of their type; floating-point values are in [0, 1] already.
    """
    top = np.iinfo(image.dtype).max if np.issubdtype(image.dtype, np.integer) else 1
    planes = np.divide(image.transpose(2, 0, 1), top, dtype=np.float32, order="C")
    return torch.from_numpy(planes)[None].expand(-1, 3, -1, -1).contiguous()


def to_levels(image: Tensor, dtype: DTypeLike) -> np.ndarray:
    """Convert (C, H, W) to (H, W, C): clamp to [0, 1], then round half up if ``dtype`` is integer.

    Args:
        image: floating point; not changed.
        dtype: uint8, uint16 or float32.
    """
    image = image.detach()
    if dtype == np.uint8:
        values = levels(image)
    elif dtype == np.uint16:
        values = image.clamp(0, 1).mul_(65535).add_(0.5).floor_()
    else:
        values = image.clamp(0, 1)
    return values.permute(1, 2, 0).contiguous().cpu().numpy().astype(dtype, copy=False)


def to_uint8(image: Tensor) -> np.ndarray:
    """Convert (1, 3, H, W) to uint8 (H, W, 3): clamp to [0, 1], then round half up.

    Raises:
        ValueError: the tensor does not hold exactly one RGB image.
    """
    if image.ndim != 4 or image.shape[:2] != (1, 3):
        raise ValueError(f"not (1, 3, H, W): {tuple(image.shape)}")
    return to_levels(image[0], np.uint8)
