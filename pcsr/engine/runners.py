"""Runners: what runs a method's routed work alone. A method is run here and nowhere else.

A runner is found by the method's type; one for which there is none runs as it is defined.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcsr.data.bicubic import levels
from pcsr.engine.parts import InParts, Piece
from pcsr.engine.sparse import Engine
from pcsr.errors import UserError
from pcsr.geometry import Mosaic, Tiles
from pcsr.methods.base import Method
from pcsr.methods.checks import require_scale
from pcsr.methods.original import Original
from pcsr.methods.pcsr import PCSR
from pcsr.methods.tiled import Tiled, batches, grid
from pcsr.routing import OperatingPoint


@dataclass(frozen=True)
class Restored:
    """Super-resolved images (N, 3, H, W), not clipped, and branches of units (N, units...)."""

    sr: Tensor
    labels: Tensor


class Runner(ABC):
    """A method with its weights laid out; what changes them afterwards does not change it.

    Attributes:
        method: what is run.
        networks: that can be compiled.
    """

    method: Method
    networks: Sequence[nn.Module] = ()

    @abstractmethod
    def pieces(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[Piece]:
        """Run the routed work piece by piece, so that memory stays below a limit.

        Decisions that look at the whole image still do. Without a limit every image is one piece.

        Args:
            lr: (N, 3, h, w) in [0, 1].
            scale: HR size / LR size.
            point: operating point.
            limit: bytes that may be taken beside ``lr``; tile methods need few and do not heed it.

        Raises:
            UserError: the limit or a budget is too low, or the method lacks the scale or the point.
        """

    def run(self, lr: Tensor, scale: float, point: OperatingPoint) -> Restored:
        """Run the routed work on LR images (N, 3, h, w), each as one piece."""
        pieces = list(self.pieces(lr, scale, point))
        return Restored(_batch([p.sr for p in pieces]), _batch([p.labels for p in pieces]))

    def compile(self) -> None:
        """Compile the networks, each time that images of another size come."""
        for network in self.networks:
            network.compile()


def runner(method: Method, precision: torch.dtype = torch.float32) -> Runner:
    """Lay a method out for inference, as fast as its device allows.

    Args:
        method: with its weights.
        precision: of the networks; images and decisions are in float32. A half one is for GPUs.

    Raises:
        UserError: the method, or its device, has no such precision.
    """
    if isinstance(method, PCSR):
        return PixelRunner(method, precision)
    if isinstance(method, Original):
        return ImageRunner(method, precision)
    if precision != torch.float32:
        raise UserError(f"--precision: {method.config.method} computes in float32 alone.")
    return TileRunner(method) if isinstance(method, Tiled) else DenseRunner(method)


class PixelRunner(Runner):
    """PCSR by the engine: every head on its own pixels alone."""

    def __init__(self, method: PCSR, precision: torch.dtype) -> None:
        self.method = method
        self._rule = method.rule
        self._engine = Engine(method.encoder, method.classifier, method.heads, precision)
        self.networks = [self._engine.encoder]  # the heads' kernels are compiled in any case

    def pieces(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[Piece]:
        """See ``Runner.pieces``."""
        rule = self._rule(point, (lr.shape[-2], lr.shape[-1]), scale)
        return self._engine.pieces(lr, scale, rule, point.refine, limit)


class ImageRunner(Runner):
    """An original, its backbone as it is fastest."""

    def __init__(self, method: Original, precision: torch.dtype) -> None:
        self.method = method
        network = method.network.deployed(precision)
        self._network = InParts(network)
        self.networks = [network]

    def pieces(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[Piece]:
        """See ``Runner.pieces``."""
        whole = require_scale(self.method.config, scale)
        for part, sr in self._network.run(lr, limit):
            labels = self.method.route(sr, point, scale)
            yield Piece(part.image, part.top * whole, part.left * whole, sr, labels)


class _OneByOne(Runner):
    """Runs images one after the other, each as a whole."""

    def pieces(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[Piece]:
        """See ``Runner.pieces``."""
        for number in range(len(lr)):
            restored = self.run(lr[number : number + 1], scale, point)
            yield Piece(number, 0, 0, restored.sr, restored.labels)


class TileRunner(_OneByOne):
    """A tile method: tiles of one branch run together, a few at a time."""

    def __init__(self, method: Tiled) -> None:
        self.method = self._method = method

    def run(self, lr: Tensor, scale: float, point: OperatingPoint) -> Restored:
        """See ``Runner.run``."""
        method = self._method
        tiles = Tiles(len(lr), (lr.shape[-2], lr.shape[-1]))
        mosaic = Mosaic(tiles, require_scale(method.config, scale), lr.device)
        everything = batches(torch.arange(len(tiles)), lr.device)
        scores = [method.score(tiles.cut(lr, numbers)) for numbers in everything]
        labels = method.route(grid(scores, tiles), point, scale)
        of_tile = labels.flatten().cpu()
        for branch in range(method.branches):
            for numbers in batches((of_tile == branch).nonzero()[:, 0], lr.device):
                mosaic.add(numbers, levels(method.upscale(branch, tiles.cut(lr, numbers))))
        return Restored(mosaic.images(), labels)


class DenseRunner(_OneByOne):
    """Any method: explore, route, compose. It saves nothing, but it runs."""

    def __init__(self, method: Method) -> None:
        self.method = method

    def run(self, lr: Tensor, scale: float, point: OperatingPoint) -> Restored:
        """See ``Runner.run``."""
        exploration = self.method.explore(lr, scale)
        labels = self.method.route(exploration.scores, point, scale)
        return Restored(self.method.compose(exploration, labels, point), labels)


def _batch(images: list[Tensor]) -> Tensor:
    return images[0] if len(images) == 1 else torch.cat(images)
