"""Where the HR pixels of a part of a picture lie, and its bilinear picture."""

from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from pcsr.engine.parts import Part, Piece
from pcsr.geometry import Axis, axis

Taps = tuple[Tensor, Tensor, Tensor]


class Pictures:
    """LR pictures, and where their HR pixels lie.

    Args:
        lr: (N, 3, h, w) in [0, 1].
        size: H and W of the HR pictures.

    Attributes:
        lr: the pictures.
        lr_size: h and w.
        rows, columns: all HR rows and columns.
        regular: whether every LR pixel has the same block of HR pixels.
        lr_pixels, hr_pixels: of all pictures.
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

    @cached_property
    def taps(self) -> tuple[Taps, Taps]:
        """What bilinear interpolation reads for all HR rows and columns."""
        return _taps(self.rows, self.lr_size[0]), _taps(self.columns, self.lr_size[1])

    def hr_ranges(self, part: Part) -> tuple[slice, slice]:
        """Return the HR rows and columns of a part."""
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
    """A part and one LR pixel around it, so that refinement has its neighbours.

    Args:
        part: what is kept in the end.
        pictures: where it lies.

    Attributes:
        outer: LR pixels of the region.
        size: its HR rows and columns.
        rows, columns: its HR rows and columns; ``nearest`` counts from the region's LR pixels.
        margin: whether there is more in it than the part.
    """

    def __init__(self, part: Part, pictures: Pictures) -> None:
        self.outer = part.grown(1, pictures.lr_size)
        self.margin = self.outer != part
        self._part = part
        self._pictures = pictures
        down, across = pictures.hr_ranges(self.outer)
        self._top, self._left = down.start, across.start
        self.rows = pictures.rows.cut(down.start, down.stop, self.outer.top)
        self.columns = pictures.columns.cut(across.start, across.stop, self.outer.left)
        self.size = (len(self.rows.nearest), len(self.columns.nearest))

    def bilinear(self) -> Tensor:
        """Return bilinear(LR) of the region, (3, rows, columns)."""
        if not self._pictures.regular:
            return self._bilinear_by_taps()
        around = self.outer.grown(1, self._pictures.lr_size)
        down, across = self.rows.block, self.columns.block
        size = around.size[0] * down, around.size[1] * across
        enlarged = F.interpolate(around.of(self._pictures.lr).contiguous(), size, mode="bilinear")
        top, left = (self.outer.top - around.top) * down, (self.outer.left - around.left) * across
        return enlarged[0, :, top : top + self.size[0], left : left + self.size[1]]

    def _bilinear_by_taps(self) -> Tensor:
        """Interpolate where blocks differ, and a part cannot be enlarged by itself."""
        rows, columns = self._pictures.taps
        first, second, share = (tap[self._top : self._top + self.size[0]] for tap in rows)
        top, bottom = int(first[0]), int(second[-1]) + 1
        lr = self._pictures.lr[self._part.picture, :, top:bottom]
        here = (tap[self._left : self._left + self.size[1]] for tap in columns)
        wide = _lerp(lr, 2, *here)
        return _lerp(wide, 1, first - top, second - top, share[:, None])

    def own(self) -> tuple[slice, slice]:
        """Return rows and columns of the region that are the part's own."""
        rows, columns = self._pictures.hr_ranges(self._part)
        return (
            slice(rows.start - self._top, rows.stop - self._top),
            slice(columns.start - self._left, columns.stop - self._left),
        )

    def piece(self, sr: Tensor, labels: Tensor) -> Piece:
        """Return the part of a finished region."""
        rows, columns = self.own()
        return Piece(
            self._part.picture,
            self._top + rows.start,
            self._left + columns.start,
            sr[None, :, rows, columns],
            labels[None, rows, columns],
        )


def _taps(along: Axis, lr_length: int) -> Taps:
    """Return the two LR pixels that bilinear interpolation mixes, and the second's share."""
    hr_length = len(along.nearest)
    pixels = torch.arange(hr_length, device=along.nearest.device, dtype=torch.float64)
    centre = ((pixels + 0.5) * lr_length / hr_length - 0.5).clamp_min(0)
    first = centre.long()
    return first, (first + 1).clamp_max(lr_length - 1), (centre - first).float()


def _lerp(picture: Tensor, dim: int, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(picture.index_select(dim, first), picture.index_select(dim, second), share)
