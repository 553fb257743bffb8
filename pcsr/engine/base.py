"""The two contracts of this folder: a runner of a method, and what runs PCSR's heads in it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from pcsr.engine.tiles import ImageGrid, SRTile, TileGrid
from pcsr.methods.base import Method
from pcsr.methods.heads import Head
from pcsr.routing import OperatingPoint, Rule


@dataclass(frozen=True)
class Restored:
    """Super-resolved images (N, 3, H, W), not clipped, and branch numbers (N, units...)."""

    sr: Tensor
    labels: Tensor


class Runner(ABC):
    """A method with its weights laid out for speed.

    Build a new runner after the method's weights have changed.

    Attributes:
        method: the method that is run.
        networks: the networks that ``compile`` compiles.
        heeds_limit: whether ``tiles`` keeps within its memory limit.
    """

    heeds_limit: ClassVar[bool] = True
    method: Method
    networks: Sequence[nn.Module] = ()

    @abstractmethod
    def tiles(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[SRTile]:
        """Run the routed work tile by tile, so that memory stays below a limit.

        Decisions that depend on the whole image still see all of it. Without a limit, every image
        is one tile.

        Args:
            lr: (N, 3, h, w) in [0, 1].
            scale: HR size / LR size.
            point: operating point.
            limit: bytes that may be used in addition to ``lr``.

        Raises:
            UserError: the limit or the budget is too low, or the method does not support the scale
                or the operating point.
        """

    def run(self, lr: Tensor, scale: float, point: OperatingPoint) -> Restored:
        """Run the routed work on LR images (N, 3, h, w), each as one tile."""
        tiles = list(self.tiles(lr, scale, point))
        return Restored(_batch([t.sr for t in tiles]), _batch([t.labels for t in tiles]))

    def compile(self) -> None:
        """Compile the networks with ``torch.compile``, once per image size that occurs."""
        for network in self.networks:
            network.compile()


class Heads(ABC):
    """A classifier and routed heads over the features (rows, columns, C) of a tile's LR pixels.

    The cheapest head runs on all pixels, because that costs less than gathering its own. Every
    other head runs only on the pixels that are routed to it.

    Args:
        classifier: (n, C + 4) -> (n, M).
        heads: M of them, (n, C + 4) -> (n, 3), cheapest first.
        precision: data type of the features.
    """

    @abstractmethod
    def __init__(self, classifier: Head, heads: Sequence[Head], precision: torch.dtype) -> None:
        """Lay the weights out."""

    @abstractmethod
    def needs(self, images: ImageGrid) -> tuple[float, float]:
        """Return the bytes of memory per LR pixel of a tile, and those regardless of its size."""

    @abstractmethod
    def measure(self, tile: TileGrid, features: Tensor, rule: Rule) -> list[Tensor]:
        """Run the classifier and apply ``rule.measure`` to all pixels of a tile.

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
        """Decide by a settled rule, run the heads and add the bilinear image.

        ``measured`` is what ``measure`` returned, or None to measure here.

        Returns:
            SR (3, H, W), not refined, and branch numbers (H, W) uint8.
        """

    @abstractmethod
    def refine(self, sr: Tensor, labels: Tensor) -> Tensor:
        """Refine SR (3, H, W) (see ``routing.refine``), possibly in place, and return it."""


def _batch(images: list[Tensor]) -> Tensor:
    return images[0] if len(images) == 1 else torch.cat(images)
