"""Heads on a CPU: a few LR rows at a time, finished while they are in cache."""

import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pcsr import routing
from pcsr.engine.base import Heads
from pcsr.engine.cpu import strips
from pcsr.engine.cpu.onednn import plain_product, product
from pcsr.engine.cpu.strips import PlaceTerms, Strip
from pcsr.engine.tiles import ImageGrid, TileGrid
from pcsr.errors import UserError
from pcsr.geometry import Axis
from pcsr.methods.heads import Head
from pcsr.routing import Rule

# How much is processed at a time; on a GPU, enough that launch overhead does not matter.
# HR pixels per strip; within a strip the pixels of the more expensive heads are gathered.
STRIP = {"cpu": 1 << 19, "cuda": 1 << 22}
# Values of a hidden layer that are computed at a time, few enough to stay in a CPU's cache.
SPREAD = {"cpu": 1 << 19, "cuda": 1 << 25}  # of a head that runs on all pixels
GATHERED = {"cpu": 1 << 20, "cuda": 1 << 25}  # of a head that runs on some pixels
HALF = {"cpu": torch.bfloat16, "cuda": None}
# Width from which a head is faster in half precision: narrower products gain less than it costs to
# convert their values.
WIDE = 32
HANDLED = 12  # values per HR pixel of a strip: RGB, logits, decisions and their intermediates
FLOAT = 4  # bytes


class Factored:
    """A head whose first layer is computed once per LR pixel, its weights laid out for products.

    Args:
        head: (n, C + 4) -> (n, outputs).
        features: data type of the features.
        precision: data type of the values of all layers.

    Attributes:
        feature: (width, C), the first layer's weights for the feature.
        width: outputs of the first layer.
        rest: weights and biases of the other layers.
    """

    def __init__(self, head: Head, features: torch.dtype, precision: torch.dtype) -> None:
        split = head.split()
        self.precision = precision
        self.feature = split.of_feature.detach().to(features).contiguous()
        self.width = len(self.feature)
        self._split = split
        self.rest = [
            (layer.weight.detach().to(precision), layer.bias.detach().to(precision))
            for layer in split.rest
        ]

    def place_terms(self, rows: Axis, columns: Axis) -> PlaceTerms:
        """Return what the places on these axes add to the first layer."""
        terms = strips.place_terms(self._split, rows, columns)
        return PlaceTerms(terms.rows.to(self.precision), terms.columns.to(self.precision))


class Everywhere(Factored):
    """A head that runs on all pixels.

    Pixels are the columns of all matrices. A row of ones is appended to the hidden values and the
    biases become a column of the weights, so that a product adds the biases as well. All layers but
    the last also reproduce the row of ones for the next layer.
    """

    def __init__(self, head: Head, features: torch.dtype, precision: torch.dtype) -> None:
        super().__init__(head, features, precision)
        self._columns = [torch.column_stack(layer) for layer in self.rest]
        for number, weight in enumerate(self._columns[:-1]):
            ones = torch.zeros_like(weight[:1])
            ones[0, -1] = 1.0
            self._columns[number] = torch.cat([weight, ones])

    @property
    def hidden_rows(self) -> int:
        """Rows of all hidden matrices that are alive at once, at most; for estimating memory."""
        return self.width + 1 + 2 * max((len(weight) for weight in self._columns), default=0)

    def hidden(self, pixels: int) -> Tensor:
        """Allocate a matrix for the first hidden values of n pixels, (width + 1, n).

        Its last row is ones. Reused for one strip after another, it stays in cache.
        """
        values = self.feature.new_empty(self.width + 1, pixels, dtype=self.precision)
        values[-1] = 1.0
        return values

    def finish(self, x: Tensor) -> Tensor:
        """Run what follows the first layer on a matrix from ``hidden``, which is overwritten.

        Returns:
            (outputs, n) float32. For a head with a single layer, possibly a view of ``x``.
        """
        if not self._columns:
            return x[:-1].float()
        x.relu_()
        *columns, last = self._columns
        for weight in columns:
            x = product(weight, x, relu=True)
        return product(last, x).float()


class Gathered(Factored):
    """A head that runs on some pixels. Pixels are the rows of all matrices.

    The number of pixels differs on every call, and oneDNN would have to prepare for each new size
    (``onednn``). So the pixels are split into chunks of four fixed sizes, each half the previous
    one, and a remainder.

    Args:
        head, features, precision: see ``Factored``.
        largest: largest number of first-layer outputs in one chunk.
    """

    def __init__(
        self, head: Head, features: torch.dtype, precision: torch.dtype, largest: int
    ) -> None:
        super().__init__(head, features, precision)
        self._sizes = [max(1, (largest // self.width) >> n) for n in range(4)]

    def split(self, pixels: Tensor) -> Iterator[Tensor]:
        """Split the numbers of pixels (n,) into chunks that are run one after another."""
        start = 0
        for size in self._sizes:
            while start + size <= len(pixels):
                yield pixels[start : start + size]
                start += size
        if start < len(pixels):
            yield pixels[start:]

    def table(self, features: Tensor, places: Tensor) -> Tensor:
        """Return a table: the first layer of every HR pixel is a sum of some of its rows.

        Its rows, (n + p, width), are of the LR pixels' features (n, C), then the ``places``.
        """
        return torch.cat([product(features, self.feature.T).to(self.precision), places])

    def finish(self, x: Tensor) -> Tensor:
        """Run what follows the first layer: (n, width), overwritten -> (n, outputs) float32."""
        if not self.rest:
            return x.float()
        run = product if len(x) in self._sizes else plain_product
        x.relu_()
        *rest, (last, last_bias) = self.rest
        for weight, bias in rest:
            x = run(x, weight.T, bias, relu=True)
        return run(x, last.T, last_bias).float()


def _projected(features: Tensor, heads: Sequence[Factored]) -> list[Tensor]:
    """Return what features (n, C) add to the first layers of heads, (width, n) each."""
    weight = torch.cat([head.feature for head in heads])
    parts = product(weight, features.T).split([head.width for head in heads])
    return [part.to(head.precision) for part, head in zip(parts, heads, strict=True)]


def _fastest(head: Head, features: torch.dtype) -> torch.dtype:
    """Return the data type in which a head is fastest, given that of its features."""
    return features if head.layers[0].out_features >= WIDE else torch.float32


class StripHeads(Heads):
    """See ``Heads``; matrix products, strip by strip."""

    def __init__(self, classifier: Head, heads: Sequence[Head], precision: torch.dtype) -> None:
        device = next(classifier.parameters()).device.type
        if precision not in (torch.float32, HALF[device]):
            raise UserError(
                "half precision is bf16 on a CPU, and float16 on a GPU with triton; use float32."
            )
        self._strip, self._spread, self._gathered = STRIP[device], SPREAD[device], GATHERED[device]
        self._classifier = Everywhere(classifier, precision, torch.float32)  # it decides
        cheapest, *others = heads
        self._cheapest = Everywhere(cheapest, precision, _fastest(cheapest, precision))
        self._others = [
            Gathered(head, precision, _fastest(head, precision), self._gathered) for head in others
        ]

    def needs(self, images: ImageGrid) -> tuple[float, float]:
        """See ``Heads.needs``."""
        block = images.hr_pixels / images.lr_pixels
        everywhere = self._classifier, self._cheapest
        # Per LR pixel: the projected features, and the table twice while it is concatenated.
        projected = sum(head.width for head in everywhere)
        projected += 2 * max(head.width for head in self._others)
        numbers = self._strip * (HANDLED + projected / block) + 3 * self._gathered
        # Hidden values twice, because the last strip may have another size.
        numbers += 2 * sum(self._spread / head.width * head.hidden_rows for head in everywhere)
        # SR, labels and measured values.
        return block * (3 * FLOAT + 1 + len(self._others) * FLOAT), FLOAT * numbers

    def measure(self, tile: TileGrid, features: Tensor, rule: Rule) -> list[Tensor]:
        """See ``Heads.measure``; one (1, K, pixels) for each strip."""
        cache, measured = _TileCache(tile, self._spread), []
        for strip in self._strips(tile):
            lr_features = features[strip.lr_rows].flatten(0, 1)
            (projected,) = _projected(lr_features, [self._classifier])
            measured.append(self._measure(strip, cache, projected, rule))
        return measured

    def inside(self, tile: TileGrid, measured: list[Tensor]) -> Tensor:
        """See ``Heads.inside``."""
        if not tile.ringed:
            return torch.cat(measured, dim=2)
        image = measured[0].new_empty(measured[0].shape[1], *tile.size)
        for strip, values in zip(self._strips(tile), measured, strict=True):
            strip.view(image[:, strip.hr_rows]).copy_(strip.shaped(values[0]))
        return tile.inside(image).flatten(1)[None]

    def finish(
        self, tile: TileGrid, features: Tensor, rule: Rule, measured: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """See ``Heads.finish``."""
        sr = torch.empty(3, *tile.size, device=features.device)
        labels = torch.empty(tile.size, dtype=torch.uint8, device=features.device)
        cache, around = _TileCache(tile, self._spread), tile.around()
        for number, strip in enumerate(self._strips(tile)):
            lr_features = features[strip.lr_rows].flatten(0, 1)
            if measured:
                (projected,) = _projected(lr_features, [self._cheapest])
                values = measured[number]
            else:
                heads = self._classifier, self._cheapest
                of_classifier, projected = _projected(lr_features, heads)
                values = self._measure(strip, cache, of_classifier, rule)
            branches = rule.decide(values)[0]
            rgb = strip.bilinear(around[:, strip.lr_rows.start : strip.lr_rows.stop + 2])
            self._add_heads(strip, cache, lr_features, projected, branches, rgb)
            strip.view(sr[:, strip.hr_rows]).copy_(strip.shaped(rgb))
            strip.view(labels[None, strip.hr_rows]).copy_(strip.shaped(branches[None]))
        return sr, labels

    def refine(self, sr: Tensor, labels: Tensor) -> Tensor:
        """See ``Heads.refine``."""
        return routing.refine_(sr[None], labels[None])[0]

    def _strips(self, tile: TileGrid) -> list[Strip]:
        block = math.prod(tile.size) / math.prod(tile.outer.size)
        return strips.cut(tile.rows, tile.columns, tile.outer.size, int(self._strip / block))

    def _measure(self, strip: Strip, cache: "_TileCache", projected: Tensor, rule: Rule) -> Tensor:
        """Measure a strip by the rule, given ``_projected`` of the classifier: (1, K, pixels)."""
        values = [
            thinner.shaped(rule.measure(logits[None])[0])
            for thinner, logits in cache.everywhere(strip, self._classifier, projected)
        ]
        return torch.cat(values, dim=-2).flatten(1)[None]

    def _add_heads(
        self,
        strip: Strip,
        cache: "_TileCache",
        features: Tensor,
        projected: Tensor,
        branches: Tensor,
        rgb: Tensor,
    ) -> None:
        """Add to ``rgb`` (3, pixels) the output of the head that each pixel is routed to.

        The expensive heads read ``rgb`` before the cheapest one adds to all of it, and write last.
        """
        expensive = []
        for branch, head in enumerate(self._others, start=1):
            table = head.table(features, strip.places(cache.places(strip, head)))
            for pixels in head.split(self._routed(branches, branch)):
                first = F.embedding_bag(strip.terms(pixels), table, mode="sum")
                rgb_values = rgb.index_select(1, pixels).add_(head.finish(first).T)
                expensive.append((pixels, rgb_values))
        for thinner, rgb_values in cache.everywhere(strip, self._cheapest, projected):
            strip.part(rgb, thinner).add_(thinner.shaped(rgb_values))
        for pixels, rgb_values in expensive:
            rgb.index_copy_(1, pixels, rgb_values)

    def _routed(self, branches: Tensor, branch: int) -> Tensor:
        """Return the numbers of a branch's pixels (n,); with two branches, those that are not 0."""
        return (branches == branch if len(self._others) > 1 else branches).nonzero()[:, 0]


class _TileCache:
    """What is computed or allocated once for a tile and shared by all of its strips."""

    def __init__(self, tile: TileGrid, spread: int) -> None:
        self._distinct = strips.distinct(tile.rows, tile.columns)
        self._spread = spread
        self._places: dict[Factored, PlaceTerms] = {}
        self._hidden: dict[tuple[Factored, int], Tensor] = {}

    def places(self, strip: Strip, head: Factored) -> PlaceTerms:
        """Return what the places of a strip's pixels add to the first layer of a head."""
        if head not in self._places:
            self._places[head] = head.place_terms(*self._distinct)
        return strip.local(self._places[head])

    def everywhere(
        self, strip: Strip, head: Everywhere, projected: Tensor
    ) -> Iterator[tuple[Strip, Tensor]]:
        """Cut a strip into thinner ones; yield each with a head's outputs for its pixels."""
        places = self.places(strip, head)
        lr_pixels = self._spread // head.width * math.prod(strip.lr_size) // strip.pixels
        for thinner in strips.cut(strip.rows, strip.columns, strip.lr_size, lr_pixels):
            key = head, thinner.pixels
            if key not in self._hidden:
                self._hidden[key] = head.hidden(thinner.pixels)
            hidden = self._hidden[key]
            thinner.everywhere(projected[:, thinner.lr_pixels], thinner.local(places), hidden[:-1])
            yield thinner, head.finish(hidden)
