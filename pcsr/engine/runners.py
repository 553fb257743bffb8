"""Runners: execute only the routed work of a method. Methods are run here and nowhere else.

The runner is chosen by the method's type. A method without one is run as it is defined.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from typing import ClassVar

import torch
from torch import Tensor, nn

from pcsr.data.bicubic import levels
from pcsr.engine import memory
from pcsr.engine.cpu.heads import StripHeads
from pcsr.engine.deploy import deploy
from pcsr.engine.engine import Engine, Heads
from pcsr.engine.tiles import SRTile, Tile, warn_if_cut, whole
from pcsr.errors import MemoryLimitError, UserError
from pcsr.geometry import TILE, Mosaic, Tiles
from pcsr.methods.base import Method
from pcsr.methods.checks import require_scale
from pcsr.methods.original import Original
from pcsr.methods.pcsr import PCSR
from pcsr.methods.tiled import TOGETHER, Tiled, grid
from pcsr.routing import OperatingPoint

FINISHED = 2.5  # copies of an SR image that exist at once while it is rounded to 8-bit levels
TAIL = {"cpu": 1 << 31, "cuda": 1 << 35}  # most bytes for the tail of a network


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
        heeds_limit: whether ``tiles`` keeps within its limit of memory.
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
        kind = fastest_heads(next(method.parameters()).device, precision)
        self._engine = Engine(method.encoder, method.classifier, method.heads, precision, kind)
        self.networks = [self._engine.encoder]  # the heads' kernels are always compiled

    def tiles(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[SRTile]:
        """See ``Runner.tiles``."""
        rule = self._rule(point, (lr.shape[-2], lr.shape[-1]), scale)
        return self._engine.tiles(lr, scale, rule, point.refine, limit)


def fastest_heads(device: torch.device, precision: torch.dtype) -> type[Heads]:
    """Return the fastest heads. In float32 the kernels' layers would not fit in shared memory."""
    if device.type == "cuda" and precision != torch.float32 and find_spec("triton"):
        from pcsr.engine.gpu.heads import FusedHeads  # noqa: PLC0415 - triton is on GPU machines alone

        return FusedHeads
    return StripHeads


class ImageRunner(Runner):
    """An original network, its backbone deployed, on tiles of images.

    The tail works on HR pixels and takes by far the most memory, but its halo is narrow. So it runs
    on smaller tiles within each tile, even without a limit.
    """

    def __init__(self, method: Original, precision: torch.dtype) -> None:
        self.method = method
        self._network = network = deploy(method.network, precision)
        self.networks = [network]
        small = memory.probe(network)
        self._dtype = small.dtype
        with torch.no_grad():
            features = network.features(small)
        self._features = memory.SLACK * features.nbytes / small[0, 0].numel()
        self._body = memory.bytes_per_pixel(network.features, small)
        self._tail = memory.bytes_per_pixel(network.upsample, features, small)

    def tiles(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[SRTile]:
        """See ``Runner.tiles``."""
        factor = require_scale(self.method.config, scale)
        halo = self._network.halo + self._network.tail_halo
        x = lr.to(self._dtype)
        tail_limit = TAIL[lr.device.type]
        if limit is not None:
            limit = min(limit, memory.ENOUGH[lr.device.type])
            tail_limit = min(tail_limit, int(limit / 2))
        tiles = self._cut(lr, factor, halo, limit, tail_limit)
        warn_if_cut(self._network, tiles, len(lr))
        for tile in tiles:
            outer = tile.grown(halo, (lr.shape[-2], lr.shape[-1]))
            features = self._network.features(outer.of(x))
            sr = self._enlarge(tile, outer, features, x, factor, tail_limit)
            labels = self.method.route(sr, point, scale)
            if tile.top or tile.left:  # the image is one unit, which has been counted
                labels = labels[:0]
            yield SRTile(tile.image, tile.top * factor, tile.left * factor, sr, labels)

    def _cut(
        self, lr: Tensor, factor: int, halo: int, limit: float | None, tail_limit: float
    ) -> list[Tile]:
        """Cut images into tiles that fit within the limit."""
        lr_size = (lr.shape[-2], lr.shape[-1])
        if limit is None:
            return whole(len(lr), lr_size)
        sr_bytes = FINISHED * 3 * factor**2 * lr.element_size()

        def needed(outer: int, inner: int) -> float:
            layers = max(self._body * outer, min(tail_limit, self._tail * outer))
            return self._features * outer + layers + sr_bytes * inner

        return memory.cut(len(lr), lr_size, halo, needed, limit)

    def _enlarge(
        self, tile: Tile, outer: Tile, features: Tensor, x: Tensor, factor: int, limit: float
    ) -> Tensor:
        """Return the SR of a tile, (1, 3, H, W), given the features of ``outer``."""
        halo = self._network.tail_halo

        def needed(outer: int, _: int) -> float:
            return self._tail * outer

        def enlarged(small: Tile) -> Tensor:
            around = small.grown(halo, (x.shape[-2], x.shape[-1]))
            sr = self._network.upsample(around.inside(outer, features), around.of(x))
            return small.enlarged(factor).inside(around.enlarged(factor), sr).float()

        tiles = [small.within(tile) for small in memory.cut(1, tile.size, halo, needed, limit)]
        if tiles == [tile]:
            return enlarged(tile)
        hr = tile.enlarged(factor)
        result = torch.empty(1, 3, *hr.size, device=x.device)
        for small in tiles:
            small.enlarged(factor).inside(hr, result).copy_(enlarged(small))
        return result


class TileRunner(Runner):
    """A tile method: the tiles of each branch run in batches, rows of tiles are finished in order.

    Scores are small and are taken of the whole image first. A batch runs when the first of its
    tiles is needed, and those of later rows wait as 8-bit levels. So batches, and with them the
    result, are the same whether an image is finished in strips or whole.
    """

    def __init__(self, method: Tiled) -> None:
        self.method = self._method = method

    def tiles(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[SRTile]:
        """See ``Runner.tiles``; within a limit, each row of tiles gives a strip of the image."""
        factor = require_scale(self.method.config, scale)
        together = self._together((lr.shape[-2], lr.shape[-1]), factor, lr.device, limit)
        for number in range(len(lr)):
            image = lr[number : number + 1]
            tiles = Tiles(1, (lr.shape[-2], lr.shape[-1]))
            labels = self._labels(image, tiles, scale, point, together)
            strips = self._strips(image, tiles, labels, factor, together)
            if limit is None:
                strips = iter([torch.cat(list(strips), dim=1)])
            top = 0
            for sr in strips:
                yield SRTile(number, top, 0, sr[None], labels if top == 0 else labels[:0])
                top += sr.shape[1]

    def _labels(
        self, lr: Tensor, tiles: Tiles, scale: float, point: OperatingPoint, together: int
    ) -> Tensor:
        """Decide for all tiles of an image: (1, rows, columns)."""
        scores = [
            self._method.score(tiles.cut(lr, numbers))
            for numbers in torch.arange(len(tiles)).split(together)
        ]
        return self._method.route(grid(scores, tiles), point, scale)

    def _strips(
        self, lr: Tensor, tiles: Tiles, labels: Tensor, factor: int, together: int
    ) -> Iterator[Tensor]:
        """Yield an image strip by strip, (3, rows, W)."""
        mosaic = Mosaic(tiles, factor, lr.device)
        batches = deque(_batches(labels.flatten().cpu(), together))
        strips = mosaic.strips()
        for end in range(len(tiles.columns), len(tiles) + 1, len(tiles.columns)):
            while batches and batches[0][1][0] < end:
                branch, numbers = batches.popleft()
                mosaic.add(numbers, levels(self._method.upscale(branch, tiles.cut(lr, numbers))))
            yield next(strips)

    def _together(
        self, lr_size: tuple[int, int], factor: int, device: torch.device, limit: float | None
    ) -> int:
        """Return how many tiles run in a batch: as usual, or as many as fit within the limit."""
        most = TOGETHER[device.type]
        if limit is None:
            return most
        values = 3 * TILE * factor * max(TILE, lr_size[1]) * factor
        # Sums twice while they move on, tiles that wait, and the finished strip.
        strip = values * (2 * 2 + 2 + FINISHED * 4)
        waiting = 3 * (TILE * factor) ** 2 * self.method.branches
        fitting = int((limit - strip) // (self._tile_bytes + waiting))
        if fitting < 1:
            raise MemoryLimitError(strip + self._tile_bytes + waiting, limit)
        return min(most, fitting)

    @cached_property
    def _tile_bytes(self) -> float:
        """Bytes that a tile takes in the branch, or for the score, that takes the most."""
        tile = next(self.method.parameters()).new_zeros(1, 3, TILE, TILE)
        runs: list[Callable[[Tensor], Tensor]] = [self._method.score]
        runs += [partial(self._method.upscale, branch) for branch in range(self.method.branches)]
        return TILE**2 * max(memory.bytes_per_pixel(run, tile) for run in runs)


class DenseRunner(Runner):
    """Any method as it is defined: explore, route, compose. It saves no work."""

    heeds_limit = False

    def __init__(self, method: Method) -> None:
        self.method = method

    def tiles(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[SRTile]:
        """See ``Runner.tiles``; the limit is ignored."""
        for number, image in enumerate(lr.split(1)):
            exploration = self.method.explore(image, scale)
            labels = self.method.route(exploration.scores, point, scale)
            yield SRTile(number, 0, 0, self.method.compose(exploration, labels, point), labels)


def _batches(labels: Tensor, together: int) -> list[tuple[int, Tensor]]:
    """Return each branch with the numbers of its tiles, in batches, in order of the first tile."""
    batches = [
        (branch, numbers)
        for branch in labels.unique().tolist()
        for numbers in (labels == branch).nonzero()[:, 0].split(together)
    ]
    return sorted(batches, key=lambda batch: int(batch[1][0]))


def _batch(images: list[Tensor]) -> Tensor:
    return images[0] if len(images) == 1 else torch.cat(images)
