"""Pixel coordinates against their definition; tiles cut, laid and put together again."""

from fractions import Fraction

import pytest
import torch

from pcsr.geometry import Mosaic, Tiles, axis, tile_crop


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
    assert tile_crop(276, 420) == (256, 396)  # image 1232: 9 x 14 = 126 tiles
    assert tile_crop(32, 59) == (32, 32)
    assert tile_crop(60, 31) == (60, 0)


WHOLE = (60, 88)  # 2 x 3 tiles
SIZES = [(32, 32), WHOLE, (61, 90), (33, 59), (7, 100), (20, 24)]
CPU = torch.device("cpu")


def levels(count: int, size: tuple[int, int], scale: int = 1) -> torch.Tensor:
    """Random 8-bit images."""
    torch.manual_seed(0)
    shape = (count, 3, size[0] * scale, size[1] * scale)
    return torch.randint(0, 256, shape, dtype=torch.uint8)


def plainly_covered(tiles: Tiles) -> torch.Tensor:
    """How many tiles of an image lie over each LR pixel, counted tile by tile."""
    counts = torch.zeros(tiles.lr_size, dtype=torch.int64)
    for number in range(len(tiles) // tiles.count):
        _, row, column = tiles.place(number)
        counts[row : row + 32, column : column + 32] += 1
    return counts


def test_whole_numbers_of_tiles() -> None:
    tiles = Tiles(2, WHOLE)
    assert (tiles.rows, tiles.columns) == ([0, 28], [0, 28, 56])
    assert tiles.shape == (2, 2, 3) and len(tiles) == 12
    # Numbered row by row, then image by image.
    assert [tiles.place(n) for n in (0, 2, 3, 7)] == [(0, 0, 0), (0, 0, 56), (0, 28, 0), (1, 0, 28)]
    assert len(Tiles(1, tile_crop(276, 420))) == 126


def test_other_sizes_have_a_last_tile_at_the_border() -> None:
    assert Tiles(1, (61, 90)).rows == [0, 28, 29]
    assert Tiles(1, (61, 90)).columns == [0, 28, 56, 58]
    assert Tiles(1, (33, 59)).shape == (1, 2, 2)
    assert Tiles(1, (7, 24)).shape == (1, 1, 1)


@pytest.mark.parametrize("size", SIZES)
def test_every_pixel_is_covered_by_at_most_nine_tiles(size: tuple[int, int]) -> None:
    counts = plainly_covered(Tiles(1, size))
    assert counts.min() >= 1
    assert counts.max() <= (4 if size == tile_crop(*size) else 9)  # 9 * 255 fits the sums


def test_a_tile_is_its_part_of_the_image() -> None:
    tiles, images = Tiles(2, (61, 90)), levels(2, (61, 90), scale=3)
    numbers = torch.tensor([23, 0, 16])  # any, in any order
    cut = tiles.cut(images, numbers, scale=3)
    assert [tiles.place(n) for n in numbers.tolist()] == [(1, 29, 58), (0, 0, 0), (1, 28, 0)]
    for tile, (image, row, column) in zip(cut, ((1, 87, 174), (0, 0, 0), (1, 84, 0)), strict=True):
        assert torch.equal(tile, images[image, :, row : row + 96, column : column + 96])


def test_a_small_image_is_continued_by_its_last_pixels() -> None:
    image = levels(1, (20, 40))
    cut = Tiles(1, (20, 40)).cut(image, torch.arange(2))
    assert torch.equal(cut[0, :, :20], image[0, :, :, :32])
    assert torch.equal(cut[1, :, :20], image[0, :, :, 8:])
    assert (cut[:, :, 20:] == cut[:, :, 19:20]).all()


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("size", SIZES)
def test_tiles_put_together_are_the_images(size: tuple[int, int], scale: int) -> None:
    tiles, images = Tiles(2, size), levels(2, size, scale)
    mosaic = Mosaic(tiles, scale, CPU)
    torch.manual_seed(1)
    for numbers in torch.randperm(len(tiles)).split(5):  # the order does not matter
        mosaic.add(numbers, tiles.cut(images, numbers, scale))
    merged = mosaic.images()
    assert merged.dtype == torch.float32
    torch.testing.assert_close(merged, images / 255, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_overlap_is_averaged(size: tuple[int, int]) -> None:
    tiles, scale = Tiles(1, size), 2
    values = levels(len(tiles), (32, 32), scale)
    sums = torch.zeros(3, size[0] * scale, size[1] * scale, dtype=torch.float64)
    for number, tile in enumerate(values):
        _, row, column = tiles.place(number)
        under = sums[:, row * scale :, column * scale :][:, : 32 * scale, : 32 * scale]
        under += tile[:, : under.shape[1], : under.shape[2]]
    counts = plainly_covered(tiles).repeat_interleave(scale, 0).repeat_interleave(scale, 1)
    mosaic = Mosaic(tiles, scale, CPU)
    mosaic.add(torch.arange(len(tiles)), values)
    expected = (sums / counts / 255).float()[None]
    torch.testing.assert_close(mosaic.images(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", SIZES)
def test_nearest_tile_is_the_one_with_the_nearest_centre(size: tuple[int, int]) -> None:
    tiles, scale = Tiles(1, size), 4
    laid = tiles.nearest((size[0] * scale, size[1] * scale))
    for chosen, origins, length in zip(laid, (tiles.rows, tiles.columns), size, strict=True):
        assert len(chosen) == length * scale
        for pixel, tile in enumerate(chosen.tolist()):
            apart = [abs((pixel + 0.5) / scale - (origin + 16)) for origin in origins]
            assert apart[tile] == min(apart)
