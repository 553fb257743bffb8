"""An encoder, a classifier and routed heads over a picture: every head on its own pixels alone."""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pcsr import routing
from pcsr.backbones.base import Backbone
from pcsr.engine import grids, parts
from pcsr.engine.factored import Factored, Place
from pcsr.engine.grids import Band
from pcsr.engine.parts import Part, Piece
from pcsr.geometry import Axis, axis
from pcsr.resize import hr_size
from pcsr.routing import Rule

# Numbers in a hidden layer of the pixels that are run together, so that it stays in cache.
SPREAD = 1 << 20  # of the head that runs on all pixels: 8 MB
GATHERED = 1 << 19  # of a head that runs on some: 2 MB
KEPT = 0.4  # of the memory: features that may wait for a decision on the whole picture
FLOAT = 4  # bytes


class Engine:
    """Computes what PCSR defines, for less.

    * The first layer of each head is split (``Factored``); BatchNorm is folded (``inference``).
    * The cheapest head runs on all pixels: it costs less than to pick its pixels out. Every other
      head runs on the pixels that are routed to it.
    * Rows of LR pixels are taken a few at a time, classified, decided and finished while they are
      in cache; a rule that looks at the whole picture is settled in a pass before.

    Weights are read when the engine is made.

    Args:
        encoder: (N, 3, h, w) -> (N, C, h, w).
        classifier: (n, C + 4) -> (n, M).
        heads: M of them, (n, C + 4) -> (n, 3), cheapest first.
    """

    def __init__(
        self, encoder: Backbone, classifier: nn.Sequential, heads: Sequence[nn.Sequential]
    ) -> None:
        self._encoder = encoder.inference()
        self._halo = encoder.halo
        self._channels = encoder.width
        self._classifier = Factored(classifier, encoder.width)
        self._heads = [Factored(head, encoder.width) for head in heads]

    @property
    def encoder(self) -> nn.Module:
        """The encoder as it is run."""
        return self._encoder

    @property
    def flops_lr(self) -> int:
        """FLOPs per LR pixel beside the encoder: the features' part of all first layers."""
        return sum(factored.flops_lr for factored in (self._classifier, *self._heads))

    @property
    def flops_hr(self) -> tuple[int, ...]:
        """FLOPs per HR pixel of each branch, classifier and cheapest head included."""
        cheapest, *others = (head.flops_hr for head in self._heads)
        always = self._classifier.flops_hr + cheapest
        return (always, *(always + other for other in others))

    @torch.no_grad()
    def pieces(
        self, lr: Tensor, scale: float, rule: Rule, refine: bool, limit: float | None = None
    ) -> Iterator[Piece]:
        """Super-resolve pictures piece by piece; without a limit, each picture is one piece.

        Args:
            lr: (N, 3, h, w) in [0, 1].
            scale: HR size / LR size.
            rule: decides which head computes an HR pixel.
            refine: whether pixels beside a dearer one are smoothed.
            limit: bytes that may be taken beside ``lr``.

        Raises:
            UserError: the limit is too low, or a budget is.
        """
        pictures = _Pictures(lr, hr_size((lr.shape[-2], lr.shape[-1]), scale))
        kept = pictures.lr_pixels * self._channels * FLOAT if rule.whole else 0
        if limit is not None and kept > KEPT * limit:
            kept = 0
        todo = self._cut(pictures, rule, kept, limit)
        regions = [_Region(part, pictures, self._together(pictures)) for part in todo]
        features: list[Tensor] = []
        measured: list[list[Tensor]] = []
        if rule.whole:
            for region in regions:
                encoded = self._encode(region)
                measured.append(
                    [self._measure(region, band, encoded, rule) for band in region.bands]
                )
                if kept:
                    features.append(encoded)
                parts.after(regions)
            inside = [region.kept(one) for region, one in zip(regions, measured, strict=True)]
            rule = rule.settle(inside)
        for number, region in enumerate(regions):
            encoded = features[number] if features else self._encode(region)
            known = measured[number] if measured else None
            yield self._finish(region, encoded, rule, known, refine)
            parts.after(regions)

    def _cut(self, pictures: "_Pictures", rule: Rule, kept: int, limit: float | None) -> list[Part]:
        """Cut pictures into parts that take no more than the limit, beside the kept features."""
        count, lr_size = len(pictures.lr), pictures.lr_size
        if limit is None:
            return parts.whole(count, lr_size)
        encoder = parts.bytes_per_lr_pixel(self._encoder, pictures.lr)
        features = self._channels * FLOAT
        block = pictures.hr_pixels / pictures.lr_pixels
        measures = (len(self._heads) - 1) * FLOAT
        # SR, labels and measures, and what refinement takes.
        finished = block * (3 * FLOAT + 1 + measures + 5 * 3 * FLOAT)
        wide = max(head.width for head in self._heads)
        layers = FLOAT * (3 * SPREAD + self._together(pictures) * wide + 3 * GATHERED)
        # All measures, and two copies while they are settled.
        whole = kept + 3 * measures * pictures.hr_pixels if rule.whole else 0

        def needed(outer: int, inner: int) -> float:
            return whole + features * inner + max(encoder * outer, finished * inner + layers)

        return parts.cut(count, lr_size, self._halo + 1, needed, limit)

    def _together(self, pictures: "_Pictures") -> int:
        """Return how many LR pixels a band has."""
        narrow = max(self._classifier.width, self._heads[0].width)
        return max(1, int(SPREAD * pictures.lr_pixels / pictures.hr_pixels / narrow))

    def _encode(self, region: "_Region") -> Tensor:
        """Return the features of a region: (rows, columns, C)."""
        pictures = region.pictures
        outer = region.outer.grown(self._halo, pictures.lr_size)
        # (C, h, w) with the channels last in memory, which is free on a CPU model.
        features = self._encoder(outer.of(pictures.lr))[0]
        return region.outer.inside(outer, features).permute(1, 2, 0).contiguous()

    def _measure(self, region: "_Region", band: Band, features: Tensor, rule: Rule) -> Tensor:
        """Return what the rule wants to know of a band's pixels: (1, K, pixels)."""
        place = band.local(region.place(self._classifier))
        projected = self._classifier.project(features[band.lr_rows].flatten(0, 1))
        logits = self._classifier.finish(band.everywhere(projected, place))
        return rule.measure(logits[None])

    def _finish(
        self,
        region: "_Region",
        features: Tensor,
        rule: Rule,
        measured: Sequence[Tensor] | None,
        refine: bool,
    ) -> Piece:
        """Decide, run the heads, add the bilinear picture and refine."""
        sr = region.bilinear()
        labels = torch.empty(region.size, dtype=torch.uint8, device=sr.device)
        for number, band in enumerate(region.bands):
            known = measured[number] if measured else self._measure(region, band, features, rule)
            chosen = rule.decide(known)[0]
            colours = self._colours(region, band, features[band.lr_rows].flatten(0, 1), chosen)
            view = band.view(sr[:, band.hr_rows])
            view += band.shaped(colours)
            band.view(labels[None, band.hr_rows]).copy_(band.shaped(chosen[None]))
        if refine:
            routing.refine_(sr[None], labels[None])
        return region.piece(sr, labels)

    def _colours(self, region: "_Region", band: Band, features: Tensor, chosen: Tensor) -> Tensor:
        """Return the heads' output (3, pixels): features (n, C), the branch of each pixel."""
        cheapest, *others = self._heads
        place = band.local(region.place(cheapest))
        colours = cheapest.finish(band.everywhere(cheapest.project(features), place))
        for branch, head in enumerate(others, start=1):
            place = band.local(region.place(head))
            mine = (chosen == branch if len(others) > 1 else chosen).nonzero()[:, 0]
            table = head.table(features, band.places(place))
            for pixels in mine.split(max(1, GATHERED // head.width)):
                first = F.embedding_bag(band.terms(pixels), table, mode="sum").T
                colours.index_copy_(1, pixels, head.finish(first))
        return colours


class _Pictures:
    """LR pictures, and where their HR pixels lie."""

    def __init__(self, lr: Tensor, size: tuple[int, int]) -> None:
        self.lr = lr
        self.lr_size = (lr.shape[-2], lr.shape[-1])
        self.rows, self.columns = (
            axis(*lengths, lr.device) for lengths in zip(self.lr_size, size, strict=True)
        )
        self.taps = [_taps(*lengths, lr.device) for lengths in zip(self.lr_size, size, strict=True)]
        self.regular = bool(self.rows.block and self.columns.block)
        self.lr_pixels = len(lr) * self.lr_size[0] * self.lr_size[1]
        self.hr_pixels = len(lr) * size[0] * size[1]

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


class _Region:
    """A part and one LR pixel around it, so that refinement has its neighbours.

    Args:
        part: what is kept in the end.
        pictures: where it lies.
        together: LR pixels of a band.

    Attributes:
        outer: LR pixels of the region.
        size: its HR rows and columns.
        bands: its HR pixels.
    """

    def __init__(self, part: Part, pictures: _Pictures, together: int) -> None:
        self.pictures = pictures
        self.outer = part.grown(1, pictures.lr_size)
        self._part = part
        self._rows, self._columns = pictures.hr_ranges(self.outer)
        self.size = (self._rows.stop - self._rows.start, self._columns.stop - self._columns.start)
        rows = pictures.rows.cut(self._rows.start, self._rows.stop, self.outer.top)
        columns = pictures.columns.cut(self._columns.start, self._columns.stop, self.outer.left)
        self.bands = grids.bands(rows, columns, self.outer.size, together)
        self._distinct = grids.distinct(rows), grids.distinct(columns)
        self._places: dict[Factored, Place] = {}

    def place(self, head: Factored) -> Place:
        """Return what the region's places add to a head's first layer."""
        if head not in self._places:
            self._places[head] = head.place(*self._distinct)
        return self._places[head]

    def bilinear(self) -> Tensor:
        """Return bilinear(LR) of the region, (3, rows, columns)."""
        if not self.pictures.regular:
            return self._bilinear_by_taps()
        around = self.outer.grown(1, self.pictures.lr_size)
        down, across = self.pictures.rows.block, self.pictures.columns.block
        size = around.size[0] * down, around.size[1] * across
        enlarged = F.interpolate(around.of(self.pictures.lr).contiguous(), size, mode="bilinear")
        top, left = (self.outer.top - around.top) * down, (self.outer.left - around.left) * across
        return enlarged[0, :, top : top + self.size[0], left : left + self.size[1]]

    def _bilinear_by_taps(self) -> Tensor:
        """Interpolate where blocks differ, and a part cannot be enlarged by itself."""
        row_taps, column_taps = self.pictures.taps
        first, second, share = (tap[self._rows] for tap in row_taps)
        top, bottom = int(first[0]), int(second[-1]) + 1
        lr = self.pictures.lr[self._part.picture, :, top:bottom]
        wide = _lerp(lr, 2, *(tap[self._columns] for tap in column_taps))
        return _lerp(wide, 1, first - top, second - top, share[:, None])

    def _own(self) -> tuple[slice, slice]:
        """Return rows and columns of the region that are the part's own."""
        rows, columns = self.pictures.hr_ranges(self._part)
        top, left = self._rows.start, self._columns.start
        return (
            slice(rows.start - top, rows.stop - top),
            slice(columns.start - left, columns.stop - left),
        )

    def kept(self, of_bands: Sequence[Tensor]) -> Tensor:
        """Return what was measured in the part alone: bands (1, K, pixels) -> (1, K, n)."""
        if self.outer == self._part:
            return torch.cat(list(of_bands), dim=2)
        picture = of_bands[0].new_empty(of_bands[0].shape[1], *self.size)
        for band, values in zip(self.bands, of_bands, strict=True):
            band.view(picture[:, band.hr_rows]).copy_(band.shaped(values[0]))
        return picture[:, *self._own()].flatten(1)[None]

    def piece(self, sr: Tensor, labels: Tensor) -> Piece:
        """Return the part of a finished region."""
        rows, columns = self._own()
        return Piece(
            self._part.picture,
            self._rows.start + rows.start,
            self._columns.start + columns.start,
            sr[None, :, rows, columns],
            labels[None, rows, columns],
        )


def _taps(lr_length: int, hr_length: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Return the two LR pixels that bilinear interpolation mixes, and the second's share."""
    pixels = torch.arange(hr_length, device=device, dtype=torch.float64)
    centre = ((pixels + 0.5) * lr_length / hr_length - 0.5).clamp_min(0)
    first = centre.long()
    return first, (first + 1).clamp_max(lr_length - 1), (centre - first).float()


def _lerp(picture: Tensor, dim: int, first: Tensor, second: Tensor, share: Tensor) -> Tensor:
    return torch.lerp(picture.index_select(dim, first), picture.index_select(dim, second), share)
