"""Runners: execute only the routed work of a method. Methods are run here and nowhere else.

The runner is chosen by the method's type. A method without one is run as it is defined.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pcsr.data.bicubic import levels
from pcsr.engine.deploy import deploy
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
    """Super-resolved images (N, 3, H, W), not clipped, and branch numbers (N, units...)."""

    sr: Tensor
    labels: Tensor


class Runner(ABC):
    """A method with its weights laid out for speed.

    Build a new runner after the method's weights have changed.

    Attributes:
        method: the method that is run.
        networks: the networks that ``compile`` compiles.
    """

    method: Method
    networks: Sequence[nn.Module] = ()

    @abstractmethod
    def pieces(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[Piece]:
        """Run the routed work piece by piece, so that memory stays below a limit.

        Decisions that depend on the whole image still see all of it. Without a limit, every image
        is one piece.

        Args:
            lr: (N, 3, h, w) in [0, 1].
            scale: HR size / LR size.
            point: operating point.
            limit: bytes that may be used in addition to ``lr``. Tile methods need little memory
                and ignore it.

        Raises:
            UserError: the limit or the budget is too low, or the method does not support the scale
                or the operating point.
        """

    def run(self, lr: Tensor, scale: float, point: OperatingPoint) -> Restored:
        """Run the routed work on LR images (N, 3, h, w), each as one piece."""
        pieces = list(self.pieces(lr, scale, point))
        return Restored(_batch([p.sr for p in pieces]), _batch([p.labels for p in pieces]))

    def compile(self) -> None:
        """Compile the networks with ``torch.compile``, anew for each image size that occurs."""
        for network in self.networks:
            network.compile()


def runner(method: Method, precision: torch.dtype = torch.float32) -> Runner:
    """Return the fastest runner for a method on its device.

    Args:
        method: the method, its weights loaded.
        precision: data type of the networks; images and decisions stay in float32. Half precision
            needs a GPU.

    Raises:
        UserError: the method or its device does not support the precision.
    """
    if isinstance(method, PCSR):
        return PixelRunner(method, precision)
    if isinstance(method, Original):
        return ImageRunner(method, precision)
    if precision != torch.float32:
        raise UserError(f"--precision: {method.config.method} supports float32 only.")
    return TileRunner(method) if isinstance(method, Tiled) else DenseRunner(method)


class PixelRunner(Runner):
    """PCSR by the engine: every head but the cheapest runs on its own pixels only."""

    def __init__(self, method: PCSR, precision: torch.dtype) -> None:
        self.method = method
        self._rule = method.rule
        self._engine = Engine(method.encoder, method.classifier, method.heads, precision)
        self.networks = [self._engine.encoder]  # the heads' kernels are always compiled

    def pieces(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[Piece]:
        """See ``Runner.pieces``."""
        rule = self._rule(point, (lr.shape[-2], lr.shape[-1]), scale)
        return self._engine.pieces(lr, scale, rule, point.refine, limit)


class ImageRunner(Runner):
    """An original network, its backbone deployed."""

    def __init__(self, method: Original, precision: torch.dtype) -> None:
        self.method = method
        network = deploy(method.network, precision)
        self._network = InParts(network)
        self.networks = [network]

    def pieces(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[Piece]:
        """See ``Runner.pieces``."""
        factor = require_scale(self.method.config, scale)
        for part, sr in self._network.run(lr, limit):
            labels = self.method.route(sr, point, scale)
            yield Piece(part.image, part.top * factor, part.left * factor, sr, labels)


class _OneByOne(Runner):
    """Runs images one at a time, each as one piece."""

    def pieces(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[Piece]:
        """See ``Runner.pieces``."""
        for number in range(len(lr)):
            restored = self.run(lr[number : number + 1], scale, point)
            yield Piece(number, 0, 0, restored.sr, restored.labels)


class TileRunner(_OneByOne):
    """A tile method: the tiles of each branch run in batches."""

    def __init__(self, method: Tiled) -> None:
        self.method = self._method = method

    def run(self, lr: Tensor, scale: float, point: OperatingPoint) -> Restored:
        """See ``Runner.run``."""
        method = self._method
        tiles = Tiles(len(lr), (lr.shape[-2], lr.shape[-1]))
        mosaic = Mosaic(tiles, require_scale(method.config, scale), lr.device)
        all_batches = batches(torch.arange(len(tiles)), lr.device)
        scores = [method.score(tiles.cut(lr, numbers)) for numbers in all_batches]
        labels = method.route(grid(scores, tiles), point, scale)
        tile_labels = labels.flatten().cpu()
        for branch in range(method.branches):
            for numbers in batches((tile_labels == branch).nonzero()[:, 0], lr.device):
                mosaic.add(numbers, levels(method.upscale(branch, tiles.cut(lr, numbers))))
        return Restored(mosaic.images(), labels)


class DenseRunner(_OneByOne):
    """Any method as it is defined: explore, route, compose. It saves no work."""

    def __init__(self, method: Method) -> None:
        self.method = method

    def run(self, lr: Tensor, scale: float, point: OperatingPoint) -> Restored:
        """See ``Runner.run``."""
        exploration = self.method.explore(lr, scale)
        labels = self.method.route(exploration.scores, point, scale)
        return Restored(self.method.compose(exploration, labels, point), labels)


def _batch(images: list[Tensor]) -> Tensor:
    return images[0] if len(images) == 1 else torch.cat(images)
