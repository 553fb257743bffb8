"""HR pixels over a few rows of LR pixels, in the order in which they are computed fastest.

A strip numbers its HR pixels. Values per HR pixel are (channels, pixels) in that order, and
``view`` shows an image in it. If every LR pixel has the same block of HR pixels, the order is block
row, block column, LR pixel, so that one broadcast addition gives the first layer of all pixels.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cached_property

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
class Strip(ABC):
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
    def pixels(self) -> int:
        """Number of HR pixels."""
        return len(self.rows.nearest) * len(self.columns.nearest)

    @property
    def lr_size(self) -> tuple[int, int]:
        """Number of LR rows and columns."""
        return self.lr_rows.stop - self.lr_rows.start, self.lr_width

    @property
    def lr_pixels(self) -> slice:
        """The strip's LR pixels within the tile, which are numbered row by row."""
        return slice(self.lr_rows.start * self.lr_width, self.lr_rows.stop * self.lr_width)

    @abstractmethod
    def local(self, place: PlaceTerms) -> PlaceTerms:
        """Return the strip's places, given those of all ``distinct`` axes of the tile."""

    @abstractmethod
    def everywhere(self, projected: Tensor, place: PlaceTerms, first: Tensor) -> None:
        """Compute the first layer of all HR pixels.

        Args:
            projected: what the features add to it, (width, LR pixels).
            place: what the strip's places add to it.
            first: (width, pixels), receives the result.
        """

    @abstractmethod
    def places(self, place: PlaceTerms) -> Tensor:
        """Return what the places add to the first layer, as rows of a table: (places, width)."""

    @abstractmethod
    def terms(self, pixels: Tensor) -> Tensor:
        """Return the rows of a table whose sum is the first layer of each HR pixel.

        The table has one row for each of the strip's LR pixels, followed by ``places``.

        Args:
            pixels: (n,) numbers of HR pixels in the strip.

        Returns:
            (n, terms) row numbers.
        """

    @abstractmethod
    def bilinear(self, around: Tensor) -> Tensor:
        """Return the bilinear image, (C, pixels).

        Args:
            around: (C, rows + 2, columns + 2), the strip's LR pixels plus one on each side.
        """

    @abstractmethod
    def view(self, image: Tensor) -> Tensor:
        """View an image (C, H, W) of the strip's HR size with its pixels in the strip's order."""

    @abstractmethod
    def shaped(self, values: Tensor) -> Tensor:
        """View (C, pixels) in the shape of ``view``; the last axis but one runs over rows."""

    @abstractmethod
    def part(self, values: Tensor, thinner: "Strip") -> Tensor:
        """View those of (C, pixels) that lie in a thinner strip of this strip, in its shape."""


class RegularStrip(Strip):
    """Every LR pixel has the same block of HR pixels: the scale is an integer."""

    def local(self, place: PlaceTerms) -> PlaceTerms:
        """See ``Strip.local``: every strip has the places of one block."""
        return place

    def everywhere(self, projected: Tensor, place: PlaceTerms, first: Tensor) -> None:
        """See ``Strip.everywhere``."""
        out = first.view(len(first), -1, projected.shape[1])
        torch.add(projected[:, None], place.sums[:, :, None], out=out)

    def places(self, place: PlaceTerms) -> Tensor:
        """See ``Strip.places``: one for each pixel of the block."""
        return place.sums.T

    def terms(self, pixels: Tensor) -> Tensor:
        """See ``Strip.terms``."""
        # Looking them up takes a quarter of the time that integer divisions take.
        lr_pixels = math.prod(self.lr_size)
        if lr_pixels not in self.tables:
            self.tables[lr_pixels] = self._all_terms()
        return self.tables[lr_pixels].index_select(0, pixels)

    def _all_terms(self) -> Tensor:
        lr_pixels, blocks = math.prod(self.lr_size), math.prod(self._block)
        index = torch.arange(lr_pixels + blocks, dtype=torch.int32, device=self.rows.offset.device)
        terms = index.new_empty(blocks, lr_pixels, 2)
        terms[..., 0] = index[:lr_pixels]
        terms[..., 1] = index[lr_pixels:, None]
        return terms.flatten(0, 1)

    def bilinear(self, around: Tensor) -> Tensor:
        """See ``Strip.bilinear``."""
        return bilinear_by_block(around, self.rows, self.columns).flatten(1)

    def view(self, image: Tensor) -> Tensor:
        """See ``Strip.view``."""
        (height, width), (down, across) = self.lr_size, self._block
        return image.view(-1, height, down, width, across).permute(0, 2, 4, 1, 3)

    def shaped(self, values: Tensor) -> Tensor:
        """See ``Strip.shaped``."""
        return values.view(-1, *self._block, *self.lr_size)

    def part(self, values: Tensor, thinner: Strip) -> Tensor:
        """See ``Strip.part``."""
        return self.shaped(values)[..., thinner.lr_rows, :]

    @property
    def _block(self) -> tuple[int, int]:
        return self.rows.block, self.columns.block


class AnyStrip(Strip):
    """LR pixels have different blocks of HR pixels; HR pixels are numbered row by row."""

    def local(self, place: PlaceTerms) -> PlaceTerms:
        """See ``Strip.local``."""
        return PlaceTerms(place.rows[:, self.hr_rows], place.columns)

    def everywhere(self, projected: Tensor, place: PlaceTerms, first: Tensor) -> None:
        """See ``Strip.everywhere``."""
        lr_rows = projected.view(len(projected), -1, self.lr_width)
        rows = lr_rows.index_select(1, self.rows.nearest).add_(place.rows[:, :, None])
        out = self.shaped(first)
        torch.index_select(rows, 2, self.columns.nearest, out=out)
        out.add_(place.columns[:, None])

    def places(self, place: PlaceTerms) -> Tensor:
        """See ``Strip.places``: those of the rows, then those of the columns."""
        return torch.cat([place.rows, place.columns], dim=1).T

    def terms(self, pixels: Tensor) -> Tensor:
        """See ``Strip.terms``."""
        height, width = len(self.rows.nearest), len(self.columns.nearest)
        row, column = pixels // width, pixels % width
        nearest = self.rows.nearest[row] * self.lr_width + self.columns.nearest[column]
        first = math.prod(self.lr_size)
        return torch.stack([nearest, first + row, first + height + column], dim=1)

    def bilinear(self, around: Tensor) -> Tensor:
        """See ``Strip.bilinear``."""
        return bilinear_by_pixel(around, self.rows, self.columns).flatten(1)

    def view(self, image: Tensor) -> Tensor:
        """See ``Strip.view``: the image itself."""
        return image

    def shaped(self, values: Tensor) -> Tensor:
        """See ``Strip.shaped``."""
        return values.view(len(values), -1, len(self.columns.nearest))

    def part(self, values: Tensor, thinner: Strip) -> Tensor:
        """See ``Strip.part``."""
        return self.shaped(values)[:, thinner.hr_rows]


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
    kind = RegularStrip if rows.block and columns.block else AnyStrip
    tops = torch.arange(0, height, max(1, pixels // width), device=rows.nearest.device)
    lr = [*tops.tolist(), height]
    hr = [*torch.searchsorted(rows.nearest, tops).tolist(), len(rows.nearest)]
    tables: dict[int, Tensor] = {}
    return [
        kind(
            slice(lr[n], lr[n + 1]),
            slice(hr[n], hr[n + 1]),
            width,
            rows.cut(hr[n], hr[n + 1], lr[n]),
            columns,
            tables,
        )
        for n in range(len(tops))
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
