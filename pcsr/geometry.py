"""Where HR pixels lie on the LR image, and where tiles lie on an image.

Coordinates follow LIIF (Chen et al., CVPR 2021): an image spans [-1, 1] on each axis, and a
pixel is located at its centre.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor

TILE = 32  # side of a test tile in LR pixels
STRIDE = 28  # step between tiles in LR pixels


@dataclass(frozen=True)
class Axis:
    """One axis of HR pixels laid over LR pixels.

    Attributes:
        nearest: (size,) int64, index of the LR pixel that contains the HR pixel's centre. A centre
            exactly on the border between two LR pixels belongs to the later one.
        offset: (size,) float32, HR centre minus LR centre in [-1, 1] coordinates, times the LR
            length. At x4 it is one of -0.75, -0.25, 0.25, 0.75.
        cell: side of an HR pixel in [-1, 1] coordinates, times the LR length: 2 / scale.
        block: HR pixels per LR pixel if all LR pixels have the same number of them, at the same
            offsets; else 0.
    """

    nearest: Tensor
    offset: Tensor
    cell: float
    block: int

    def cut(self, start: int, stop: int, lr_start: int = 0) -> "Axis":
        """Return HR pixels ``start`` to ``stop`` - 1; ``nearest`` then counts from ``lr_start``."""
        here = slice(start, stop)
        return replace(self, nearest=self.nearest[here] - lr_start, offset=self.offset[here])


def axis(lr_length: int, hr_length: int, device: torch.device | None = None) -> Axis:
    """Lay ``hr_length`` pixels over ``lr_length`` pixels (LIIF; PCSR section 3.1)."""
    # Twice the HR centre in units of 1 / hr_length: integers keep ties exact at every scale.
    doubled = 2 * torch.arange(hr_length, device=device) + 1
    nearest = doubled * lr_length // (2 * hr_length)
    offset = (doubled * lr_length - (2 * nearest + 1) * hr_length).double() / hr_length
    block = 0 if hr_length % lr_length else hr_length // lr_length
    return Axis(nearest, offset.float(), 2.0 * lr_length / hr_length, block)


def tile_crop(lr_height: int, lr_width: int) -> tuple[int, int]:
    """Return the largest size that whole tiles cover, side 32 and step 28 (protocol section 6).

    A side shorter than one tile gives 0.
    """

    def whole(length: int) -> int:
        return TILE + (length - TILE) // STRIDE * STRIDE if length >= TILE else 0

    return whole(lr_height), whole(lr_width)


def crop_origins(length: int, size: int, step: int, keep_over: int) -> list[int]:
    """Return where crops of ``size`` pixels start along an axis of ``length`` pixels.

    There is one crop every ``step`` pixels, and one more at the far border if more than
    ``keep_over`` pixels would remain uncovered there. The list is empty if no crop fits.
    """
    origins = list(range(0, length - size + 1, step))
    if origins and length - (origins[-1] + size) > keep_over:
        origins.append(length - size)
    return origins


@dataclass(frozen=True)
class Tiles:
    """The test tiles of images of one size: side 32 and step 28 LR pixels, numbered row by row.

    The tiles cover every image: if the steps leave a remainder, one more tile ends at the border,
    and a side shorter than a tile is extended by repeating its last pixel.
    """

    count: int  # images
    lr_size: tuple[int, int]  # height and width of each, in LR pixels

    @cached_property
    def rows(self) -> list[int]:
        """LR rows at which tiles start."""
        return crop_origins(self.lr_size[0], TILE, STRIDE, 0) or [0]

    @cached_property
    def columns(self) -> list[int]:
        """LR columns at which tiles start."""
        return crop_origins(self.lr_size[1], TILE, STRIDE, 0) or [0]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of images, rows of tiles and columns of tiles."""
        return self.count, len(self.rows), len(self.columns)

    def __len__(self) -> int:
        return prod(self.shape)

    def place(self, number: int) -> tuple[int, int, int]:
        """Return the image, LR row and LR column at which the tile with this number starts."""
        line, column = divmod(number, len(self.columns))
        image, row = divmod(line, len(self.rows))
        return image, self.rows[row], self.columns[column]

    def cut(self, images: Tensor, numbers: Tensor, scale: int = 1) -> Tensor:
        """Cut the tiles with the given numbers, (n,) int64, out of LR or HR images.

        (N, C, h * scale, w * scale) -> (n, C, 32 * scale, 32 * scale), with scale 1 for LR images.
        """
        places = torch.tensor([self.place(number) for number in numbers.tolist()])
        image, row, column = places.to(images.device).view(-1, 3).T
        inside = torch.arange(TILE * scale, device=images.device)
        ys = (row[:, None] * scale + inside).clamp_max(images.shape[-2] - 1)
        xs = (column[:, None] * scale + inside).clamp_max(images.shape[-1] - 1)
        tiles = images.movedim(1, -1)[image[:, None, None], ys[:, :, None], xs[:, None, :]]
        return tiles.movedim(-1, 1).contiguous()

    def nearest(self, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Return the tile row of each HR row, (H,), and the tile column of each HR column, (W,).

        Where tiles overlap, the tile with the nearest centre counts. HR images have the ``size``.
        """
        indices = []
        for origins, lr_length, length in zip(
            (self.rows, self.columns), self.lr_size, size, strict=True
        ):
            centres = torch.tensor(origins) + TILE / 2
            pixels = (torch.arange(length) + 0.5) * lr_length / length
            indices.append((pixels[:, None] - centres).abs().argmin(dim=1))
        return indices[0], indices[1]


class Mosaic:
    """SR images assembled on a device from their tiles; overlapping values are averaged.

    Tiles are given as 8-bit levels, so that sums are exact and the order of tiles does not matter.
    A row of tiles is summed when its strip is requested, and a tile is kept no longer than that.
    """

    def __init__(self, tiles: Tiles, scale: int, device: torch.device) -> None:
        self._tiles = tiles
        self._scale = scale
        self._waiting: dict[tuple[int, int], list[tuple[int, Tensor]]] = defaultdict(list)
        height, width = (side * scale for side in tiles.lr_size)
        # At most 9 tiles cover a pixel (3 per axis next to an added last tile): 9 * 255 fits.
        self._sums = torch.zeros(3, TILE * scale, width, dtype=torch.int16, device=device)
        self._rows = self._covered(tiles.rows, height)
        self._columns = self._covered(tiles.columns, width)

    def add(self, numbers: Tensor, sr: Tensor) -> None:
        """Add the tiles with the given numbers (n,): uint8 (n, 3, 32 * scale, 32 * scale)."""
        for number, tile in zip(numbers.tolist(), sr, strict=True):
            image, row, column = self._tiles.place(number)
            self._waiting[image, row].append((column * self._scale, tile))

    def strips(self, image: int = 0) -> Iterator[Tensor]:
        """Yield an image from top to bottom, (3, rows, W) float32 in [0, 1], one row of tiles each.

        A strip ends where the next row of tiles starts. The tiles of a row must have been added
        when its strip is requested, and an image must be finished before the next one.
        """
        self._sums.zero_()
        ends = [*self._tiles.rows[1:], self._tiles.lr_size[0]]
        for start, end in zip(self._tiles.rows, ends, strict=True):
            for left, tile in self._waiting.pop((image, start)):
                target = self._sums[:, :, left : left + tile.shape[-1]]
                target += tile[:, :, : target.shape[-1]]
            finished = slice(start * self._scale, end * self._scale)
            count = finished.stop - finished.start
            yield self._sums[:, :count] / (255 * self._rows[finished, None] * self._columns)
            self._sums = self._sums.roll(-count, dims=1)
            self._sums[:, len(self._sums[0]) - count :] = 0

    def images(self) -> Tensor:
        """Return the images (N, 3, H, W), float32 in [0, 1]; call it after adding all tiles."""
        return torch.stack(
            [torch.cat(list(self.strips(image)), dim=1) for image in range(self._tiles.count)]
        )

    def _covered(self, origins: list[int], length: int) -> Tensor:
        """Count the tiles that cover each pixel along one axis."""
        covered = torch.zeros(length, device=self._sums.device)
        for origin in origins:
            covered[origin * self._scale : (origin + TILE) * self._scale] += 1
        return covered


def lr_size(hr_size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return the largest LR size whose HR size at ``scale`` fits into ``hr_size``."""

    def fitting(length: int) -> int:
        side = round(length / scale)
        return side if round(side * scale) <= length else side - 1

    return fitting(hr_size[0]), fitting(hr_size[1])


def hr_size(lr_size: tuple[int, int], scale: float) -> tuple[int, int]:
    """Return the HR size that an LR image has at ``scale``."""
    return round(lr_size[0] * scale), round(lr_size[1] * scale)
