"""Tiles of images, each with the surroundings that its output depends on, and their HR pixels.

A network computes a tile with a halo as wide as its receptive field, whose output is discarded, so
that the rest equals the output for the whole image. Where a tile ends at the image's
border there is no halo, and the network pads as it does for the whole image. A network that sees
the whole image gets it as one tile; in several, the halo only makes the difference small.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import ceil, prod

import torch
import torch.nn.functional as F
from torch import Tensor

from pcsr.backbones.base import Backbone
from pcsr.engine.cpu.strips import bilinear_by_pixel
from pcsr.errors import MemoryLimitError, log
from pcsr.geometry import Axis, axis

SMALLEST = 16  # side of a tile in LR pixels; below it, nearly all of the work is halo


@dataclass(frozen=True)
class Tile:
    """A rectangle of LR pixels of one image.

    Attributes:
        image: the image's number in the batch.
        top, bottom, left, right: rows top to bottom - 1 and columns left to right - 1.
    """

    image: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def grown(self, by: int, lr_size: tuple[int, int]) -> "Tile":
        """Return the tile extended by ``by`` pixels on each side, clipped to the image."""
        return Tile(
            self.image,
            max(0, self.top - by),
            min(lr_size[0], self.bottom + by),
            max(0, self.left - by),
            min(lr_size[1], self.right + by),
        )

    def within(self, larger: "Tile") -> "Tile":
        """Return this tile, given relative to ``larger``, in the coordinates of the image."""
        top, left = larger.top, larger.left
        return Tile(
            larger.image, top + self.top, top + self.bottom, left + self.left, left + self.right
        )

    def enlarged(self, scale: int) -> "Tile":
        """Return the tile in HR pixels."""
        sides = (self.top, self.bottom, self.left, self.right)
        return Tile(self.image, *(side * scale for side in sides))

    def of(self, images: Tensor) -> Tensor:
        """Cut the tile out of (N, C, h, w): (1, C, rows, columns)."""
        here = images[self.image : self.image + 1]
        return here[..., self.top : self.bottom, self.left : self.right]

    def inside(self, larger: "Tile", values: Tensor) -> Tensor:
        """Cut this tile out of values (..., rows, columns) of a larger one that contains it."""
        return values[
            ...,
            self.top - larger.top : self.bottom - larger.top,
            self.left - larger.left : self.right - larger.left,
        ]


@dataclass(frozen=True)
class SRTile:
    """A rectangle of a super-resolved image.

    Attributes:
        image: the image's number in the batch.
        top, left: HR row and column at which the tile starts.
        sr: (1, 3, rows, columns), not clipped.
        labels: branch numbers, (1, rows, columns) if units are HR pixels. Larger units are all of
            the image's, (1, units...), in its first tile, and none, (0, units...), in others.
    """

    image: int
    top: int
    left: int
    sr: Tensor
    labels: Tensor


def whole(count: int, lr_size: tuple[int, int]) -> list[Tile]:
    """Return every image of a batch as one tile."""
    return [Tile(number, 0, lr_size[0], 0, lr_size[1]) for number in range(count)]


def cut_to_fit(
    count: int,
    lr_size: tuple[int, int],
    halo: int,
    needed: Callable[[int, int], float],
    limit: float,
) -> list[Tile]:
    """Cut images into the tiles that need the least work within a memory limit.

    Args:
        count: number of images in the batch.
        lr_size: their height and width in LR pixels.
        halo: LR pixels that a tile needs on each side.
        needed: (LR pixels with halo, LR pixels without) -> bytes that a tile takes.
        limit: bytes.

    Raises:
        MemoryLimitError: even the smallest tiles exceed the limit.
    """

    height, width = lr_size
    best: tuple[int, tuple[int, int]] | None = None
    for rows in range(1, max(1, height // SMALLEST) + 1):
        for columns in range(1, max(1, width // SMALLEST) + 1):
            step = ceil(height / rows), ceil(width / columns)
            outer = prod(min(one + 2 * halo, side) for one, side in zip(step, lr_size, strict=True))
            if needed(outer, prod(step)) <= limit:
                work = rows * columns * outer
                if best is None or work < best[0]:
                    best = work, step
                break  # more columns only add halo
    if best is None:
        raise MemoryLimitError(needed((SMALLEST + 2 * halo) ** 2, SMALLEST**2), limit)
    down, across = best[1]
    return [
        Tile(image, top, min(top + down, height), left, min(left + across, width))
        for image in range(count)
        for top in range(0, height, down)
        for left in range(0, width, across)
    ]


def warn_if_cut(network: Backbone, tiles: Sequence[Tile], count: int) -> None:
    """Log a warning if a network that sees whole images gets tiles of ``count`` images."""
    if network.whole_image and len(tiles) > count:
        log.warning(
            "%s sees the whole image, which does not fit in memory: it is computed in %d tiles, "
            "and the result depends on them; give more memory for the exact one",
            type(network).__name__,
            len(tiles),
        )


class ImageGrid:
    """LR images, and where their HR pixels lie.

    Args:
        lr: (N, 3, h, w) in [0, 1].
        size: H and W of the HR images.

    Attributes:
        lr: the images.
        lr_size: h and w.
        rows, columns: axes of all HR rows and columns.
        lr_pixels, hr_pixels: number of pixels in all images.
    """

    def __init__(self, lr: Tensor, size: tuple[int, int]) -> None:
        self.lr = lr
        self.lr_size = (lr.shape[-2], lr.shape[-1])
        self.rows, self.columns = (
            axis(*lengths, lr.device) for lengths in zip(self.lr_size, size, strict=True)
        )
        self.lr_pixels = len(lr) * self.lr_size[0] * self.lr_size[1]
        self.hr_pixels = len(lr) * size[0] * size[1]

    def hr(self, tile: Tile) -> Tile:
        """Return the HR pixels of a tile."""
        rows = _hr_range(self.rows, tile.top, tile.bottom)
        columns = _hr_range(self.columns, tile.left, tile.right)
        return Tile(tile.image, *rows, *columns)


def _hr_range(along: Axis, start: int, stop: int) -> list[int]:
    if along.block:
        return [start * along.block, stop * along.block]
    borders = torch.tensor([start, stop], device=along.nearest.device)
    return torch.searchsorted(along.nearest, borders).tolist()


class TileGrid:
    """A tile with a ring of one LR pixel, so that refinement sees its neighbours.

    Args:
        tile: what is kept in the end.
        images: the images that it belongs to.

    Attributes:
        outer: the tile with its ring, which ends at the image's border.
        size: number of HR rows and columns; like all below, with the ring.
        rows, columns: axes of the HR pixels; ``nearest`` counts from the first LR pixel.
        ringed: whether there is a ring.
    """

    def __init__(self, tile: Tile, images: ImageGrid) -> None:
        self.outer = tile.grown(1, images.lr_size)
        self.ringed = self.outer != tile
        self._images = images
        self._own, self._hr = images.hr(tile), images.hr(self.outer)
        self.rows = images.rows.cut(self._hr.top, self._hr.bottom, self.outer.top)
        self.columns = images.columns.cut(self._hr.left, self._hr.right, self.outer.left)
        self.size = self._hr.size

    def around(self) -> Tensor:
        """Return the LR pixels and one more on each side, (3, rows + 2, columns + 2).

        Beyond the image's border its last pixel is repeated.
        """
        outer, (height, width) = self.outer, self._images.lr_size
        ends = outer.left == 0, outer.right == width, outer.top == 0, outer.bottom == height
        more = outer.grown(1, (height, width)).of(self._images.lr)
        return F.pad(more, [int(end) for end in ends], mode="replicate")[0]

    def bilinear(self) -> Tensor:
        """Return the bilinear image, (3, H, W)."""
        around, down, across = self.around(), self.rows.block, self.columns.block
        if not (down and across):
            return bilinear_by_pixel(around, self.rows, self.columns)
        size = around.shape[1] * down, around.shape[2] * across
        enlarged = F.interpolate(around[None], size, mode="bilinear")
        return enlarged[0, :, down:-down, across:-across]

    def inside(self, values: Tensor) -> Tensor:
        """Cut the tile without its ring out of values of all HR pixels, (..., H, W)."""
        return self._own.inside(self._hr, values)

    def without_ring(self, sr: Tensor, labels: Tensor) -> SRTile:
        """Return the tile, given SR (3, H, W) and branch numbers (H, W) with the ring."""
        own = self._own
        return SRTile(
            own.image, own.top, own.left, self.inside(sr[None]), self.inside(labels[None])
        )
