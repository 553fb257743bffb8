"""Pixel coordinates against their definition, and the crop to whole tiles."""

from fractions import Fraction

import pytest
import torch

from pcsr.geometry import axis, tile_crop


@pytest.mark.parametrize(("lr", "hr"), [(8, 32), (7, 21), (5, 10), (6, 9), (10, 27), (4, 4)])
def test_axis_is_the_definition(lr: int, hr: int) -> None:
    laid = axis(lr, hr)
    for i in range(hr):
        centre = Fraction(2 * i + 1, hr) - 1
        nearest = int((centre + 1) * lr / 2)  # a border belongs to the later pixel
        offset = (centre - (Fraction(2 * nearest + 1, lr) - 1)) * lr
        assert laid.nearest[i] == nearest
        assert laid.offset[i] == pytest.approx(float(offset), abs=1e-6)
        assert abs(offset) <= 1
    assert laid.cell == pytest.approx(2 * lr / hr)


def test_offsets_at_x4() -> None:
    laid = axis(9, 36)
    assert torch.equal(
        laid.offset.view(9, 4), torch.tensor([-0.75, -0.25, 0.25, 0.75]).expand(9, 4)
    )
    assert laid.cell == 0.5


def test_tile_crop() -> None:
    assert tile_crop(276, 420) == (256, 396)  # picture 1232: 9 x 14 = 126 tiles
    assert tile_crop(32, 59) == (32, 32)
    assert tile_crop(60, 31) == (60, 0)
