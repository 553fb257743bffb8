"""The one degradation against the golden values, MATLAB's own outputs and another library."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from resize_right import resize as oracle
from resize_right.interp_methods import cubic
from torch import Tensor

from pcsr.data import bicubic


def planes(image: NDArray[np.generic]) -> Tensor:
    values = torch.from_numpy(np.asarray(image, dtype=np.float64))
    return values.permute(2, 0, 1) if values.ndim == 3 else values


@pytest.mark.shared
def test_golden_reductions_and_enlargement(shared: Path) -> None:
    golden = dict(np.load(shared / "golden/bicubic.npz"))
    hr = golden.pop("hr_uint8")
    assert len(golden) == 5
    for name, expected in golden.items():
        height, width = hr.shape[:2]
        if name == "lr_x3_float":  # cut to a multiple of the scale first
            height, width = height // 3 * 3, width // 3 * 3
        if name == "up_x2_float":
            height, width = 32, 40
        ours = bicubic.resize(planes(hr[:height, :width]) / 255, expected.shape[1:])
        np.testing.assert_allclose(ours.numpy(), expected, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.shared
def test_matlab_float_outputs(shared: Path) -> None:
    matlab = dict(np.load(shared / "golden/matlab_imresize.npz"))
    names = [name for name in matlab if name.startswith("expected__")]
    assert len(names) > 5
    for name in names:
        _, source, size = name.split("__")
        given = matlab.get(f"input_{source}")
        image = matlab[f"{source}_uint8"] / 255 if given is None else given
        height, width = (int(side) for side in size.split("x"))
        ours = bicubic.resize(planes(image), (height, width))
        np.testing.assert_allclose(ours, planes(matlab[name]), rtol=0, atol=1e-11, err_msg=name)


@pytest.mark.shared
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_matlab_8bit_outputs(shared: Path, scale: int) -> None:
    matlab = np.load(shared / "golden/matlab_imresize.npz")
    expected = matlab[f"baboon_down_x{scale}_uint8"]
    lr = bicubic.degrade(planes(matlab["baboon_uint8"]) / 255, expected.shape[:2], "8bit")
    difference = (lr * 255).round().permute(1, 2, 0).numpy() - expected
    assert np.abs(difference).max() <= 1
    assert (difference == 0).mean() >= 0.999


@pytest.mark.parametrize("size", [(31, 44), (17, 90), (80, 23)])
def test_agrees_with_resize_right(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    image = torch.rand(3, 62, 61, dtype=torch.float64)
    factors = [1, size[0] / 62, size[1] / 61]
    expected = oracle(image, factors, (3, *size), cubic, antialiasing=True, pad_mode="reflect")
    inside = (..., slice(4, -4), slice(4, -4))  # its borders do not repeat the border pixel
    # Its pixel grid is float32, hence the tolerance.
    ours = bicubic.resize(image, size)
    torch.testing.assert_close(ours[inside], expected[inside], rtol=0, atol=2e-5)


def test_float32_batch_is_the_float64_image() -> None:
    torch.manual_seed(0)
    images = torch.rand(5, 3, 48, 64)
    batch = bicubic.degrade(images, (12, 16), "float")
    single = bicubic.degrade(images[2].double(), (12, 16), "float")
    torch.testing.assert_close(batch[2].double(), single, rtol=0, atol=1e-6)


def test_8bit_is_rounded_and_clamped() -> None:
    edge = torch.zeros(1, 32, 32, dtype=torch.float64)
    edge[..., 16:] = 1  # bicubic overshoots beside an edge
    exact = bicubic.degrade(edge, (8, 8), "float")
    lr = bicubic.degrade(edge, (8, 8), "8bit")
    assert exact.min() < 0 and exact.max() > 1
    assert lr.min() == 0 and lr.max() == 1
    torch.testing.assert_close(lr * 255, (lr * 255).round())
