"""HR pixels over a few rows of LR pixels, in the order in which they are computed fastest.

A strip numbers its HR pixels. Values per HR pixel are (channels, pixels) in that order, and
``view`` shows an image in it. If every LR pixel has the same block of HR pixels, the order is block
row, block column, LR pixel, so that one broadcast addition gives the first layer of all pixels.
"""

import math
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from pcsr.geometry import Axis
from pcsr.methods.heads import Split


@dataclass(frozen=True)
class PlaceTerms:
    """What the places of HR pixels add to a head's first layer, biases included.

    Attributes:
        rows, columns: (width, rows) and (width, columns); a pixel adds its row's and its column's.
    """

    rows: Tensor
    columns: Tensor

    @cached_property
    def sums(self) -> Tensor:
        """The sums for all pairs of a row and a column, (width, rows * columns)."""
        return (self.rows[:, :, None] + self.columns[:, None, :]).flatten(1)


def place_terms(split: Split, rows: Axis, columns: Axis) -> PlaceTerms:
    """Return what the places on these axes add to the first layer of a head."""
    by_row, by_column, row_cell, column_cell = split.of_place.unbind(dim=1)
    constant = split.bias + row_cell * rows.cell + column_cell * columns.cell
    return PlaceTerms(
        constant[:, None] + by_row[:, None] * rows.offset,
        by_column[:, None] * columns.offset,
    )


@dataclass(frozen=True)
class Strip:
    """Some LR rows of a tile, all its LR columns, and their HR pixels.

    Attributes:
        lr_rows, hr_rows: the strip's LR and HR rows within the tile.
        lr_width: number of LR columns.
        rows, columns: axes of the HR pixels; ``nearest`` counts from the strip's first LR pixel.
        tables: number of LR pixels -> ``terms`` of all pixels, shared by the strips of a tile.
    """

    lr_rows: slice
    hr_rows: slice
    lr_width: int
    rows: Axis
    columns: Axis
    tables: dict[int, Tensor] = field(repr=False, compare=False)

    @property
    def regular(self) -> bool:
        """Whether every LR pixel has the same block of HR pixels, and so the same places."""
        return bool(self.rows.block and self.columns.block)

    @property
    def lr_size(self) -> tuple[int, int]:
        """Number of LR rows and columns."""
        return self.lr_rows.stop - self.lr_rows.start, self.lr_width

    @property
    def lr_pixels(self) -> slice:
        """The strip's LR pixels within the tile, which are numbered row by row."""
        return slice(self.lr_rows.start * self.lr_width, self.lr_rows.stop * self.lr_width)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the HR pixels in the strip's order; the last axis but one runs over rows."""
        if self.regular:
            return self.rows.block, self.columns.block, *self.lr_size
        return len(self.rows.nearest), len(self.columns.nearest)

    @property
    def pixels(self) -> int:
        """Number of HR pixels."""
        return math.prod(self.shape)

    def shaped(self, values: Tensor) -> Tensor:
        """View (C, pixels) as (C, *shape)."""
        return values.view(-1, *self.shape)

    def part(self, values: Tensor, thinner: "Strip") -> Tensor:
        """View those of (C, pixels) that lie in a thinner strip of this strip, in its shape."""
        rows = thinner.lr_rows if self.regular else thinner.hr_rows
        return self.shaped(values)[..., rows, :]

    def view(self, image: Tensor) -> Tensor:
        """View an image (C, H, W) of the strip's HR size as (C, *shape)."""
        if not self.regular:
            return image
        down, across, height, width = self.shape
        return image.view(-1, height, down, width, across).permute(0, 2, 4, 1, 3)

    def bilinear(self, around: Tensor) -> Tensor:
        """Return the bilinear image, (C, pixels).

        Args:
            around: (C, rows + 2, columns + 2), the strip's LR pixels plus one on each side.
        """
        interpolated = bilinear_by_block if self.regular else bilinear_by_pixel
        return interpolated(around, self.rows, self.columns).flatten(1)

    def local(self, place: PlaceTerms) -> PlaceTerms:
        """Return the strip's places, given those of the tile's ``distinct`` axes."""
        if self.regular:
            return place
        return PlaceTerms(place.rows[:, self.hr_rows], place.columns)

    def everywhere(self, projected: Tensor, place: PlaceTerms, first: Tensor) -> None:
        """Compute the first layer of all HR pixels.

        Args:
            projected: what the features add to it, (width, LR pixels).
            place: what the strip's places add to it.
            first: (width, pixels), receives the result.
        """
        if self.regular:
            out = first.view(len(first), -1, projected.shape[1])
            torch.add(projected[:, None], place.sums[:, :, None], out=out)
            return
        lr_rows = projected.view(len(projected), -1, self.lr_width)
        rows = lr_rows.index_select(1, self.rows.nearest).add_(place.rows[:, :, None])
        out = self.shaped(first)
        torch.index_select(rows, 2, self.columns.nearest, out=out)
        out.add_(place.columns[:, None])

    def places(self, place: PlaceTerms) -> Tensor:
        """Return what the places add to the first layer, as rows of a table: (places, width)."""
        return (place.sums if self.regular else torch.cat([place.rows, place.columns], dim=1)).T

    def terms(self, pixels: Tensor) -> Tensor:
        """Return the rows of a table whose sum is the first layer of each HR pixel.

        The table has one row for each of the strip's LR pixels, followed by ``places``.

        Args:
            pixels: (n,) numbers of HR pixels in the strip.

        Returns:
            (n, terms) row numbers.
        """
        lr_pixels = math.prod(self.lr_size)
        if not self.regular:
            height, width = self.shape
            row, column = pixels // width, pixels % width
            nearest = self.rows.nearest[row] * self.lr_width + self.columns.nearest[column]
            return torch.stack([nearest, lr_pixels + row, lr_pixels + height + column], dim=1)
        # Looking them up takes a quarter of the time that integer divisions take.
        if lr_pixels not in self.tables:
            block = self.rows.block * self.columns.block
            index = torch.arange(lr_pixels + block, dtype=torch.int32, device=pixels.device)
            lr = index[:lr_pixels].expand(block, -1)
            place = index[lr_pixels:, None].expand(-1, lr_pixels)
            self.tables[lr_pixels] = torch.stack([lr, place], dim=2).flatten(0, 1)
        return self.tables[lr_pixels].index_select(0, pixels)


def distinct(rows: Axis, columns: Axis) -> tuple[Axis, Axis]:
    """Return the parts of a tile's axes with distinct places: one block if all are alike."""
    if not (rows.block and columns.block):
        return rows, columns
    return rows.cut(0, rows.block), columns.cut(0, columns.block)


def cut(rows: Axis, columns: Axis, lr_size: tuple[int, int], pixels: int) -> list[Strip]:
    """Cut a tile into strips of whole LR rows.

    Args:
        rows: all HR rows; ``nearest`` counts from the tile's first LR row.
        columns: all HR columns, likewise.
        lr_size: number of LR rows and columns.
        pixels: most LR pixels in a strip; a strip has at least one row even if that is more.
    """
    height, width = lr_size
    tops = torch.arange(0, height, max(1, pixels // width), device=rows.nearest.device)
    lr = [*tops.tolist(), height]
    hr = [*torch.searchsorted(rows.nearest, tops).tolist(), len(rows.nearest)]
    tables: dict[int, Tensor] = {}
    return [
        Strip(slice(*of_lr), slice(*of_hr), width, rows.cut(*of_hr, of_lr[0]), columns, tables)
        for of_lr, of_hr in zip(pairwise(lr), pairwise(hr), strict=True)
    ]


def bilinear_by_pixel(around: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Interpolate HR pixels at any positions.

    Args:
        around: (C, h + 2, w + 2).
        rows, columns: axes of the HR pixels; ``nearest`` counts from the second LR row and column.

    Returns:
        (C, H, W).
    """
    return _between(_between(around, 2, columns), 1, rows)


def _between(values: Tensor, dim: int, along: Axis) -> Tensor:
    own = along.nearest + 1
    other = own + along.offset.sign().long()
    share = along.offset.abs().div(2).view(-1, *[1] * (2 - dim))
    return torch.lerp(values.index_select(dim, own), values.index_select(dim, other), share)


def bilinear_by_block(around: Tensor, rows: Axis, columns: Axis) -> Tensor:
    """Interpolate HR pixels that form the same block in every LR pixel.

    Args:
        around: (C, h + 2, w + 2).
        rows, columns: axes of the HR pixels, whose ``block`` is not 0.

    Returns:
        (C, block rows, block columns, h, w).
    """
    channels, height, width = around.shape
    tall = around.new_empty(channels, rows.block, height - 2, width)
    for place, offset in enumerate(rows.offset[: rows.block].tolist()):
        other = around[:, :-2] if offset < 0 else around[:, 2:]
        torch.lerp(around[:, 1:-1], other, abs(offset) / 2, out=tall[:, place])
    wide = tall.new_empty(channels, rows.block, columns.block, height - 2, width - 2)
    for place, offset in enumerate(columns.offset[: columns.block].tolist()):
        other = tall[..., :-2] if offset < 0 else tall[..., 2:]
        torch.lerp(tall[..., 1:-1], other, abs(offset) / 2, out=wide[:, :, place])
    return wide
