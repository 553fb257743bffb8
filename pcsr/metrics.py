"""Image quality: PSNR and SSIM of 8-bit images with the border shaved.

Every metric is a function of two uint8 images (H, W, 3) and a border in pixels. Images that differ
in shape are a ValueError.

The PSNR of equal images is infinite, and would make every mean infinite. An image that is restored
exactly at any point of a comparison is therefore left out of all its means (``comparable``), so
that all points are means over the same images.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Image = NDArray[np.uint8]
LUMA = np.array([65.481, 128.553, 24.966])  # BT.601, of R, G, B in [0, 1]
SSIM_WINDOW = 11  # side in pixels
Metric = Callable[[Image, Image, int], float]


def shave_for(scale: float) -> int:
    """Return the width of the excluded border in HR pixels: the scale, rounded up (4 at x4)."""
    return int(np.ceil(scale))


def smallest_side(scale: float) -> int:
    """Return the smallest measurable side in HR pixels: SSIM's window plus both borders."""
    return SSIM_WINDOW + 2 * shave_for(scale)


def _shaved(sr: Image, hr: Image, shave: int) -> tuple[Image, Image]:
    if sr.shape != hr.shape:
        raise ValueError(f"SR is {sr.shape}, HR is {hr.shape}")
    inside = slice(shave, -shave or None)
    return sr[inside, inside], hr[inside, inside]


def psnr_rgb(sr: Image, hr: Image, shave: int) -> float:
    """Return the PSNR in dB over all three channels; infinite for equal images."""
    sr, hr = _shaved(sr, hr, shave)
    return _psnr(sr.astype(np.float64), hr.astype(np.float64))


def _psnr(sr: NDArray[np.float64], hr: NDArray[np.float64]) -> float:
    error = np.square(sr - hr).mean()
    return float(10 * np.log10(255.0**2 / error)) if error else float("inf")


def comparable(psnr: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Tell which images count in means: those that no point restores exactly.

    PSNR in dB (images, points), NaN where a point was not measured -> (images,).
    """
    return np.logical_not(np.isinf(psnr).any(axis=1))


def psnr_rgb_each(sr: Tensor, hr: Tensor, shave: int) -> Tensor:
    """Return the PSNR-RGB in dB of each image of a batch: uint8 (n, 3, H, W) -> float64 (n,)."""
    inside = slice(shave, -shave or None)
    difference = sr[..., inside, inside].double() - hr[..., inside, inside].double()
    return 10 * torch.log10(255.0**2 / difference.square().mean(dim=(1, 2, 3)))


def _luma(image: Image) -> NDArray[np.float64]:
    """Return BT.601 luma in [16, 235], as MATLAB's rgb2ycbcr without its final rounding.

    scikit-image's rgb2ycbcr gives the same but takes eight times as long, as it computes chroma.
    """
    luma: NDArray[np.float64] = 16 + image @ (LUMA / 255)
    return luma


def psnr_y(sr: Image, hr: Image, shave: int) -> float:
    """Return the PSNR in dB of the luma; infinite for equal images."""
    sr, hr = _shaved(sr, hr, shave)
    return _psnr(_luma(sr), _luma(hr))


def ssim(sr: Image, hr: Image, shave: int) -> float:
    """Return the SSIM of the luma, in [-1, 1].

    The window is Gaussian, 11x11 with sigma 1.5, as in the paper that introduced SSIM.
    """
    from skimage.metrics import structural_similarity  # noqa: PLC0415 - training does not need it

    sr, hr = _shaved(sr, hr, shave)
    kernel = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    return float(structural_similarity(_luma(hr), _luma(sr), data_range=255, **kernel))
