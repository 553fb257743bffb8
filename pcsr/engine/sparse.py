"""Run an encoder, a classifier and routed heads over images, the heads on their own pixels."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

import torch
from torch import Tensor, nn

from pcsr.backbones.base import Backbone
from pcsr.engine import parts
from pcsr.engine.banded import Banded
from pcsr.engine.deploy import deploy
from pcsr.engine.heads import Heads
from pcsr.engine.parts import Part, Piece
from pcsr.engine.regions import Images, Region
from pcsr.geometry import hr_size
from pcsr.routing import Rule

KEPT = 0.4  # largest share of the memory limit for features that wait for the whole image
FLOAT = 4  # bytes


class Engine:
    """Compute what PCSR defines from less work.

    * The first layer of each head is computed per LR pixel; BatchNorm is folded.
    * Heads run on the pixels that are routed to them (``Heads``): a few LR rows at a time on a CPU,
      and by one fused kernel each on a GPU in half precision.
    * An image is cut into regions that fit in memory. A rule that depends on the whole image is
      settled in a pass of its own first.

    Weights are read when the engine is built.

    Args:
        encoder: (N, 3, h, w) -> (N, C, h, w).
        classifier: (n, C + 4) -> (n, M).
        heads: M of them, (n, C + 4) -> (n, 3), cheapest first.
        precision: data type of features and heads; decisions and images are in float32.
        kind: implementation of the heads; by default chosen by device and precision.

    Attributes:
        encoder: the encoder, deployed.
    """

    def __init__(
        self,
        encoder: Backbone,
        classifier: nn.Sequential,
        heads: Sequence[nn.Sequential],
        precision: torch.dtype = torch.float32,
        kind: type[Heads] | None = None,
    ) -> None:
        self.encoder = deploy(encoder, precision)
        self._precision = precision
        self._halo = encoder.halo
        self._channels = encoder.width
        self._branches = len(heads)
        kind = kind or _kind(next(encoder.parameters()).device, precision)
        self._heads = kind(classifier, heads, encoder.width, precision)

    @torch.no_grad()
    def pieces(
        self, lr: Tensor, scale: float, rule: Rule, refine: bool, limit: float | None = None
    ) -> Iterator[Piece]:
        """Super-resolve images piece by piece; without a limit, each image is one piece.

        Args:
            lr: (N, 3, h, w) in [0, 1].
            scale: HR size / LR size.
            rule: decides which head computes an HR pixel.
            refine: whether pixels that touch a more expensive one are smoothed.
            limit: bytes that may be used in addition to ``lr``.

        Raises:
            UserError: the limit or the budget is too low.
        """
        images = Images(lr, hr_size((lr.shape[-2], lr.shape[-1]), scale))
        kept = images.lr_pixels * self._channels * FLOAT if rule.whole else 0
        if limit is not None and kept > KEPT * limit:
            kept = 0
        regions = [Region(part, images) for part in self._cut(images, rule, kept, limit)]
        features: list[Tensor] = []
        measured: list[list[Tensor]] = []
        if rule.whole:
            for region in regions:
                encoded = self._encode(region, lr)
                measured.append(self._heads.measure(region, encoded, rule))
                if kept:
                    features.append(encoded)
            rule = rule.settle(
                [self._heads.inside(*one) for one in zip(regions, measured, strict=True)]
            )
        for number, region in enumerate(regions):
            encoded = features[number] if features else self._encode(region, lr)
            values = measured[number] if measured else None
            sr, labels = self._heads.finish(region, encoded, rule, values)
            if refine:
                sr = self._heads.refine(sr, labels)
            yield region.piece(sr, labels)

    def _cut(self, images: Images, rule: Rule, kept: int, limit: float | None) -> list[Part]:
        """Cut images into parts that fit within the limit, together with the kept features."""
        count, lr_size = len(images.lr), images.lr_size
        if limit is None:
            return parts.whole(count, lr_size)
        encoder = parts.bytes_per_pixel(self.encoder, parts.probe(self.encoder))
        features = self._channels * FLOAT
        finished, always = self._heads.needs(images)
        finished += 5 * 3 * FLOAT * images.hr_pixels / images.lr_pixels  # refinement
        # All measured values, and two copies while the rule is settled.
        measures = (self._branches - 1) * FLOAT
        whole = kept + 3 * measures * images.hr_pixels if rule.whole else 0

        def needed(outer: int, inner: int) -> float:
            return whole + features * inner + max(encoder * outer, finished * inner + always)

        limit = min(limit, whole + parts.ENOUGH[images.lr.device.type])
        return parts.cut(count, lr_size, self._halo + 1, needed, limit)

    def _encode(self, region: Region, lr: Tensor) -> Tensor:
        """Return a region's features, (rows, columns, C), possibly with added zero channels."""
        outer = region.outer.grown(self._halo, (lr.shape[-2], lr.shape[-1]))
        # From (C, h, w) to channels last; no copy if they are already last in memory.
        features = self.encoder(outer.of(lr).to(self._precision))[0]
        return region.outer.inside(outer, features).permute(1, 2, 0).contiguous()


def _kind(device: torch.device, precision: torch.dtype) -> type[Heads]:
    """Return the fastest heads. In float32 the kernels' layers would not fit in shared memory."""
    if device.type == "cuda" and precision != torch.float32 and find_spec("triton"):
        from pcsr.engine.fused import Fused  # noqa: PLC0415 - triton is on GPU machines alone

        return Fused
    return Banded
