"""The interface of a classifier and heads, which each kind of processor implements its own way."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pcsr.engine.regions import Images, Region
from pcsr.routing import Rule


class Heads(ABC):
    """A classifier and routed heads over the features of a region.

    The cheapest head runs on all pixels, because that costs less than gathering its own. Every
    other head runs only on the pixels that are routed to it.
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
            channels: C, channels of the features.
            precision: data type of the features.
        """

    @abstractmethod
    def needs(self, images: Images) -> tuple[float, float]:
        """Return the bytes of memory per LR pixel of a region, and those regardless of its size."""

    @abstractmethod
    def measure(self, region: Region, features: Tensor, rule: Rule) -> list[Tensor]:
        """Run the classifier and apply ``rule.measure`` to all pixels of a region.

        Args:
            region: where the pixels lie.
            features: (rows, columns, C) of its LR pixels.
            rule: the rule that will decide.

        Returns:
            The measured values, in the layout that ``inside`` and ``finish`` expect.
        """

    @abstractmethod
    def inside(self, region: Region, measured: list[Tensor]) -> Tensor:
        """Return the values measured in the region's own part, (1, K, pixels), in any order."""

    @abstractmethod
    def finish(
        self, region: Region, features: Tensor, rule: Rule, measured: list[Tensor] | None
    ) -> tuple[Tensor, Tensor]:
        """Decide, run the heads and add the bilinear image.

        Args:
            region: where the pixels lie.
            features: (rows, columns, C) of its LR pixels.
            rule: the rule that decides, settled.
            measured: what ``measure`` returned, or None to measure here.

        Returns:
            SR (3, H, W), not refined, and branch numbers (H, W) uint8.
        """

    @abstractmethod
    def refine(self, sr: Tensor, labels: Tensor) -> Tensor:
        """Refine SR (3, H, W) (see ``routing.refine``), possibly in place, and return it."""
