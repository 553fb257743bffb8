"""Where the HR pixels of a part of an image lie, and its bilinear image."""

import torch
import torch.nn.functional as F
from torch import Tensor

from pcsr.engine import bilinear
from pcsr.engine.parts import Part, Piece
from pcsr.geometry import Axis, axis


class Images:
    """LR images, and where their HR pixels lie.

    Args:
        lr: (N, 3, h, w) in [0, 1].
        size: H and W of the HR images.

    Attributes:
        lr: the images.
        lr_size: h and w.
        rows, columns: axes of all HR rows and columns.
        regular: whether every LR pixel has the same block of HR pixels.
        lr_pixels, hr_pixels: number of pixels in all images.
    """

    def __init__(self, lr: Tensor, size: tuple[int, int]) -> None:
        self.lr = lr
        self.lr_size = (lr.shape[-2], lr.shape[-1])
        self.rows, self.columns = (
            axis(*lengths, lr.device) for lengths in zip(self.lr_size, size, strict=True)
        )
        self.regular = bool(self.rows.block and self.columns.block)
        self.lr_pixels = len(lr) * self.lr_size[0] * self.lr_size[1]
        self.hr_pixels = len(lr) * size[0] * size[1]

    def hr_ranges(self, part: Part) -> tuple[slice, slice]:
        """Return the ranges of HR rows and columns of a part."""
        return (
            _hr_range(self.rows, part.top, part.bottom),
            _hr_range(self.columns, part.left, part.right),
        )


def _hr_range(along: Axis, start: int, stop: int) -> slice:
    if along.block:
        return slice(start * along.block, stop * along.block)
    borders = torch.tensor([start, stop], device=along.nearest.device)
    return slice(*torch.searchsorted(along.nearest, borders).tolist())


class Region:
    """A part plus one LR pixel on each side, so that refinement sees its neighbours.

    Args:
        part: what is kept in the end.
        images: the images that it is a part of.

    Attributes:
        outer: the region's LR pixels.
        size: number of HR rows and columns.
        rows, columns: axes of the HR pixels; ``nearest`` counts from the region's first LR pixel.
        margin: whether the region is larger than the part.
    """

    def __init__(self, part: Part, images: Images) -> None:
        self.outer = part.grown(1, images.lr_size)
        self.margin = self.outer != part
        self._part = part
        self._images = images
        down, across = images.hr_ranges(self.outer)
        self._top, self._left = down.start, across.start
        self.rows = images.rows.cut(down.start, down.stop, self.outer.top)
        self.columns = images.columns.cut(across.start, across.stop, self.outer.left)
        self.size = (len(self.rows.nearest), len(self.columns.nearest))

    def around(self) -> Tensor:
        """Return the region's LR pixels plus one on each side, (3, rows + 2, columns + 2).

        Beyond the image's border its last pixel is repeated.
        """
        lr_size = self._images.lr_size
        more = self.outer.grown(1, lr_size)
        ends = [self.outer.left == 0, self.outer.right == lr_size[1]]
        ends += [self.outer.top == 0, self.outer.bottom == lr_size[0]]
        padding = [int(end) for end in ends]
        return F.pad(more.of(self._images.lr), padding, mode="replicate")[0]

    def bilinear(self) -> Tensor:
        """Return the bilinear image of the region, (3, H, W)."""
        around = self.around()
        if not self._images.regular:
            return bilinear.by_pixel(around, self.rows, self.columns)
        down, across = self.rows.block, self.columns.block
        size = around.shape[1] * down, around.shape[2] * across
        enlarged = F.interpolate(around[None], size, mode="bilinear")
        return enlarged[0, :, down:-down, across:-across]

    def own(self) -> tuple[slice, slice]:
        """Return the HR rows and columns of the part, counted within the region."""
        rows, columns = self._images.hr_ranges(self._part)
        return (
            slice(rows.start - self._top, rows.stop - self._top),
            slice(columns.start - self._left, columns.stop - self._left),
        )

    def piece(self, sr: Tensor, labels: Tensor) -> Piece:
        """Cut the part out of a region's SR (3, H, W) and branch numbers (H, W)."""
        rows, columns = self.own()
        return Piece(
            self._part.image,
            self._top + rows.start,
            self._left + columns.start,
            sr[None, :, rows, columns],
            labels[None, rows, columns],
        )
