"""PSNR and SSIM: hand-made cases, the border, and the library's own value."""

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity

from pcsr import metrics


@pytest.fixture
def hr() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 250, (40, 50, 3), dtype=np.uint8)


def test_psnr_rgb_by_hand(hr: np.ndarray) -> None:
    assert metrics.psnr_rgb(hr, hr, 4) == float("inf")
    assert metrics.psnr_rgb(hr + 5, hr, 4) == pytest.approx(20 * np.log10(255 / 5))
    one = hr.copy()
    one[20, 20, 1] += 3
    error = 9 / (32 * 42 * 3)
    assert metrics.psnr_rgb(one, hr, 4) == pytest.approx(10 * np.log10(255**2 / error))


@pytest.mark.parametrize("shave", [0, 4])
def test_psnr_of_a_batch_is_that_of_each_image(hr: np.ndarray, shave: int) -> None:
    one = hr.copy()
    one[20, 20, 1] += 3
    images = [hr, hr + 5, one, hr[::-1]]
    each = metrics.psnr_rgb_each(planes(images), planes([hr] * 4), shave)
    assert each.dtype == torch.float64
    assert each.tolist() == pytest.approx([metrics.psnr_rgb(p, hr, shave) for p in images])
    assert each[0] == float("inf")


def planes(images: list[np.ndarray]) -> torch.Tensor:
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("metric", [metrics.psnr_rgb, metrics.psnr_y, metrics.ssim])
def test_the_border_is_not_measured(hr: np.ndarray, metric: metrics.Metric) -> None:
    border = hr.copy()
    border[:4] = border[-4:] = 0
    border[:, :4] = border[:, -4:] = 0
    assert metric(border, hr, 4) == metric(hr, hr, 4)
    inside = hr.copy()
    inside[4, 4] ^= 64
    assert metric(inside, hr, 4) < metric(hr, hr, 4)


def test_psnr_y_weighs_green_most(hr: np.ndarray) -> None:
    changed = []
    for channel in range(3):
        sr = hr.copy()
        sr[..., channel] += 5
        changed.append(metrics.psnr_y(sr, hr, 4))
    # BT.601 in [16, 235]: 65.481, 128.553, 24.966 of 255
    expected = [20 * np.log10(255 / (5 * w / 255)) for w in (65.481, 128.553, 24.966)]
    assert changed == pytest.approx(expected)


def test_ssim_is_the_gaussian_one(hr: np.ndarray) -> None:
    sr = (hr // 2 + 30).astype(np.uint8)
    weights = np.array([65.481, 128.553, 24.966]) / 255
    luma = [16 + (x[4:-4, 4:-4] @ weights) for x in (sr.astype(float), hr.astype(float))]
    expected = structural_similarity(
        *luma, data_range=255, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert metrics.ssim(sr, hr, 4) == pytest.approx(expected)


def test_the_smallest_image_can_be_measured() -> None:
    side = metrics.smallest_side(4)
    hr = np.random.default_rng(0).integers(0, 255, (side, side, 3), dtype=np.uint8)
    assert metrics.ssim(hr, hr, 4) == pytest.approx(1)


def test_shave_is_the_scale() -> None:
    assert [metrics.shave_for(scale) for scale in (2, 3, 4, 2.5)] == [2, 3, 4, 3]
