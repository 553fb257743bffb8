"""What the engine asks of a classifier and heads, however a processor computes them fastest."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcsr.engine.regions import Images, Region
from pcsr.routing import Rule


class Heads(ABC):
    """A classifier and routed heads over the features of a region.

    The cheapest head runs on all pixels: it costs less than to pick its pixels out. Every other
    head runs on the pixels that are routed to it.
    """

    @abstractmethod
    def __init__(
        self,
        classifier: nn.Sequential,
        heads: Sequence[nn.Sequential],
        channels: int,
        precision: torch.dtype,
    ) -> None:
        """Lay the weights out.

        Args:
            classifier: (n, C + 4) -> (n, M).
            heads: M of them, (n, C + 4) -> (n, 3), cheapest first.
            channels: C, of the features.
            precision: of the features.
        """

    @abstractmethod
    def needs(self, images: Images) -> tuple[float, float]:
        """Return the bytes that are taken per LR pixel of a region, and in any case."""

    @abstractmethod
    def measure(self, region: Region, features: Tensor, rule: Rule) -> list[Tensor]:
        """Return what the rule wants to know of all pixels, as ``finish`` likes it.

        Args:
            region: where the pixels lie.
            features: (rows, columns, C) of its LR pixels.
            rule: that will decide.
        """

    @abstractmethod
    def inside(self, region: Region, measured: list[Tensor]) -> Tensor:
        """Return what was measured in the region's own part, (1, K, pixels), in any order."""

    @abstractmethod
    def finish(
        self, region: Region, features: Tensor, rule: Rule, measured: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Decide, run the heads and add the bilinear image.

        Args:
            region: where the pixels lie.
            features: (rows, columns, C) of its LR pixels.
            rule: decides; settled.
            measured: if the rule has measured already.

        Returns:
            SR (3, H, W), not refined, and branch numbers (H, W) uint8.
        """

    @abstractmethod
    def refine(self, sr: Tensor, labels: Tensor) -> Tensor:
        """Return SR (3, H, W) refined (``routing.refine``); may be written in place."""
