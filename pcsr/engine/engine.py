"""Run an encoder, a classifier and routed heads over images, the heads on their own pixels."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from pcsr.backbones.base import Backbone
from pcsr.engine import memory
from pcsr.engine.deploy import deploy
from pcsr.engine.tiles import ImageGrid, SRTile, Tile, TileGrid, warn_if_cut, whole
from pcsr.geometry import hr_size
from pcsr.methods.heads import Head
from pcsr.routing import Rule

KEPT = 0.4  # largest share of the memory limit for features that wait for the whole image
FLOAT = 4  # bytes


class Heads(ABC):
    """A classifier and routed heads over the features of a tile.

    The cheapest head runs on all pixels, because that costs less than gathering its own. Every
    other head runs only on the pixels that are routed to it.
    """

    @abstractmethod
    def __init__(self, classifier: Head, heads: Sequence[Head], precision: torch.dtype) -> None:
        """Lay the weights out.

        Args:
            classifier: (n, C + 4) -> (n, M).
            heads: M of them, (n, C + 4) -> (n, 3), cheapest first.
            precision: data type of the features.
        """

    @abstractmethod
    def needs(self, images: ImageGrid) -> tuple[float, float]:
        """Return the bytes of memory per LR pixel of a tile, and those regardless of its size."""

    @abstractmethod
    def measure(self, tile: TileGrid, features: Tensor, rule: Rule) -> list[Tensor]:
        """Run the classifier and apply ``rule.measure`` to all pixels of a tile.

        Args:
            tile: where the pixels lie.
            features: (rows, columns, C) of its LR pixels.
            rule: the rule that will decide.

        Returns:
            The measured values, in the layout that ``inside`` and ``finish`` expect.
        """

    @abstractmethod
    def inside(self, tile: TileGrid, measured: list[Tensor]) -> Tensor:
        """Return the values measured in the tile without its ring, (1, K, pixels), in any order."""

    @abstractmethod
    def finish(
        self, tile: TileGrid, features: Tensor, rule: Rule, measured: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Decide, run the heads and add the bilinear image.

        Args:
            tile: where the pixels lie.
            features: (rows, columns, C) of its LR pixels.
            rule: the rule that decides, settled.
            measured: what ``measure`` returned, or None to measure here.

        Returns:
            SR (3, H, W), not refined, and branch numbers (H, W) uint8.
        """

    @abstractmethod
    def refine(self, sr: Tensor, labels: Tensor) -> Tensor:
        """Refine SR (3, H, W) (see ``routing.refine``), possibly in place, and return it."""


class Engine:
    """Compute what PCSR defines from less work.

    * The first layer of each head is computed per LR pixel; BatchNorm is folded.
    * Heads run on the pixels that are routed to them (``Heads``): a few LR rows at a time on a CPU,
      and by one fused kernel each on a GPU in half precision.
    * An image is cut into tiles that fit in memory. A rule that depends on the whole image is
      settled in a pass of its own first.

    Weights are read when the engine is built.

    Args:
        encoder: (N, 3, h, w) -> (N, C, h, w).
        classifier, heads: see ``Heads``.
        precision: data type of features and heads; decisions and images are in float32.
        kind: implementation of the heads, for this device and precision.

    Attributes:
        encoder: the encoder, deployed.
    """

    def __init__(
        self,
        encoder: Backbone,
        classifier: Head,
        heads: Sequence[Head],
        precision: torch.dtype,
        kind: type[Heads],
    ) -> None:
        self.encoder = deploy(encoder, precision)
        self._precision = precision
        self._halo = encoder.halo
        self._channels = encoder.width
        self._branches = len(heads)
        self._heads = kind(classifier, heads, precision)

    @torch.no_grad()
    def tiles(
        self, lr: Tensor, scale: float, rule: Rule, refine: bool, limit: float | None = None
    ) -> Iterator[SRTile]:
        """Super-resolve images tile by tile; without a limit, each image is one tile.

        Args:
            lr: (N, 3, h, w) in [0, 1].
            scale: HR size / LR size.
            rule: decides which head computes an HR pixel.
            refine: whether pixels that touch a more expensive one are smoothed.
            limit: bytes that may be used in addition to ``lr``.

        Raises:
            UserError: the limit or the budget is too low.
        """
        images = ImageGrid(lr, hr_size((lr.shape[-2], lr.shape[-1]), scale))
        kept = images.lr_pixels * self._channels * FLOAT if rule.whole else 0
        if limit is not None and kept > KEPT * limit:
            kept = 0
        cut = self._cut(images, rule, kept, limit)
        warn_if_cut(self.encoder, cut, len(lr))
        tiles = [TileGrid(tile, images) for tile in cut]
        features: list[Tensor] = []
        measured: list[list[Tensor]] = []
        if rule.whole:
            for tile in tiles:
                encoded = self._encode(tile, lr)
                measured.append(self._heads.measure(tile, encoded, rule))
                if kept:
                    features.append(encoded)
            rule = rule.settle(
                [self._heads.inside(*one) for one in zip(tiles, measured, strict=True)]
            )
        for number, tile in enumerate(tiles):
            encoded = features[number] if features else self._encode(tile, lr)
            values = measured[number] if measured else None
            sr, labels = self._heads.finish(tile, encoded, rule, values)
            if refine:
                sr = self._heads.refine(sr, labels)
            yield tile.without_ring(sr, labels)

    def _cut(self, images: ImageGrid, rule: Rule, kept: int, limit: float | None) -> list[Tile]:
        """Cut images into tiles that fit within the limit, together with the kept features."""
        count, lr_size = len(images.lr), images.lr_size
        if limit is None:
            return whole(count, lr_size)
        encoder = memory.bytes_per_pixel(self.encoder.features, memory.probe(self.encoder))
        features = self._channels * FLOAT
        finished, always = self._heads.needs(images)
        finished += 5 * 3 * FLOAT * images.hr_pixels / images.lr_pixels  # refinement
        # All measured values, and two copies while the rule is settled.
        measures = (self._branches - 1) * FLOAT
        waiting = kept + 3 * measures * images.hr_pixels if rule.whole else 0

        def needed(outer: int, inner: int) -> float:
            return waiting + features * inner + max(encoder * outer, finished * inner + always)

        limit = min(limit, waiting + memory.ENOUGH[images.lr.device.type])
        return memory.cut(count, lr_size, self._halo + 1, needed, limit)

    def _encode(self, tile: TileGrid, lr: Tensor) -> Tensor:
        """Return a tile's features, (rows, columns, C), possibly with added zero channels."""
        outer = tile.outer.grown(self._halo, (lr.shape[-2], lr.shape[-1]))
        # From (C, h, w) to channels last; no copy if they are already last in memory.
        features = self.encoder.features(outer.of(lr).to(self._precision))[0]
        return tile.outer.inside(outer, features).permute(1, 2, 0).contiguous()
