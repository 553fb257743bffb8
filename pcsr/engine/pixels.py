"""PCSR's runner: an encoder, a classifier, and heads that run on the pixels routed to them."""

from collections.abc import Iterator
from functools import cached_property
from importlib.util import find_spec

import torch
from torch import Tensor

from pcsr.engine import memory
from pcsr.engine.base import Heads, Runner
from pcsr.engine.cpu.heads import StripHeads
from pcsr.engine.deploy import deploy
from pcsr.engine.tiles import ImageGrid, SRTile, Tile, TileGrid, cut_to_fit, warn_if_cut, whole
from pcsr.geometry import hr_size
from pcsr.methods.pcsr import PCSR
from pcsr.routing import OperatingPoint, Rule

KEPT = 0.4  # largest share of the memory limit for features that wait for the whole image
FLOAT = 4  # bytes


class PixelRunner(Runner):
    """PCSR: every head but the cheapest runs on its own pixels only.

    * The first layer of each head is computed per LR pixel; BatchNorm is folded.
    * Heads run on the pixels that are routed to them (``Heads``): a few LR rows at a time on a CPU,
      and by one fused kernel each on a GPU in half precision.
    * An image is cut into tiles that fit in memory. A rule that depends on the whole image is
      settled in a pass of its own first.

    Args:
        method: PCSR.
        precision: data type of features and heads; decisions and images are in float32.
    """

    method: PCSR

    def __init__(self, method: PCSR, precision: torch.dtype) -> None:
        self.method = method
        self._encoder = deploy(method.encoder, precision)
        self.networks = [self._encoder]  # the heads' kernels are always compiled
        self._precision = precision
        self._features = method.encoder.width * FLOAT  # bytes per LR pixel
        kind = fastest_heads(next(method.parameters()).device, precision)
        self._heads = kind(method.classifier, method.heads, precision)

    @torch.no_grad()
    def tiles(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[SRTile]:
        """See ``Runner.tiles``."""
        images = ImageGrid(lr, hr_size((lr.shape[-2], lr.shape[-1]), scale))
        rule = self.method.rule(point, images.lr_size, scale)
        kept = images.lr_pixels * self._features if rule.whole else 0
        if limit is not None and kept > KEPT * limit:
            kept = 0
        cut = self._cut(images, rule, kept, limit)
        warn_if_cut(self._encoder, cut, len(lr))
        tiles = [TileGrid(tile, images) for tile in cut]
        features: list[Tensor] = []
        measured: list[list[Tensor]] = []
        if rule.whole:
            for tile in tiles:
                encoded = self._encode(tile, lr)
                measured.append(self._heads.measure(tile, encoded, rule))
                if kept:
                    features.append(encoded)
            rule = rule.settle([*map(self._heads.inside, tiles, measured)])
        for number, tile in enumerate(tiles):
            encoded = features[number] if features else self._encode(tile, lr)
            values = measured[number] if measured else None
            sr, labels = self._heads.finish(tile, encoded, rule, values)
            if point.refine:
                sr = self._heads.refine(sr, labels)
            yield tile.without_ring(sr, labels)

    def _cut(self, images: ImageGrid, rule: Rule, kept: int, limit: float | None) -> list[Tile]:
        """Cut images into tiles that fit within the limit, together with the kept features."""
        count, lr_size = len(images.lr), images.lr_size
        if limit is None:
            return whole(count, lr_size)
        finished, always = self._heads.needs(images)
        finished += 5 * 3 * FLOAT * images.hr_pixels / images.lr_pixels  # refinement
        # All measured values, and two copies while the rule is settled.
        measures = (self.method.branches - 1) * FLOAT
        waiting = kept + 3 * measures * images.hr_pixels if rule.whole else 0

        def needed(outer: int, inner: int) -> float:
            layers = max(self._encoder_bytes * outer, finished * inner + always)
            return waiting + self._features * inner + layers

        limit = min(limit, waiting + memory.ENOUGH[images.lr.device.type])
        return cut_to_fit(count, lr_size, self._encoder.halo + 1, needed, limit)

    @cached_property
    def _encoder_bytes(self) -> float:
        """Bytes that the encoder takes per LR pixel."""
        return memory.bytes_per_pixel(self._encoder.features, memory.probe(self._encoder))

    def _encode(self, tile: TileGrid, lr: Tensor) -> Tensor:
        """Return a tile's features, (rows, columns, C), possibly with added zero channels."""
        outer = tile.outer.grown(self._encoder.halo, (lr.shape[-2], lr.shape[-1]))
        # From (C, h, w) to channels last; no copy if they are already last in memory.
        features = self._encoder.features(outer.of(lr).to(self._precision))[0]
        return tile.outer.inside(outer, features).permute(1, 2, 0).contiguous()


def fastest_heads(device: torch.device, precision: torch.dtype) -> type[Heads]:
    """Return the fastest heads. In float32 the kernels' layers would not fit in shared memory."""
    if device.type == "cuda" and precision != torch.float32 and find_spec("triton"):
        from pcsr.engine.gpu.heads import FusedHeads  # noqa: PLC0415 - triton is on GPU machines alone

        return FusedHeads
    return StripHeads
