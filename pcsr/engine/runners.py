"""Find the runner of a method, by its type; the runners of originals, tile methods and all others.

Methods are only ever run by their runners.
"""

from collections import deque
from collections.abc import Callable, Iterator
from functools import cached_property, partial

import torch
from torch import Tensor

from pcsr.engine import memory
from pcsr.engine.base import Runner
from pcsr.engine.deploy import deploy
from pcsr.engine.pixels import PixelRunner
from pcsr.engine.tiles import SRTile, Tile, cut_to_fit, warn_if_cut, whole
from pcsr.errors import MemoryLimitError, UserError
from pcsr.geometry import TILE, Mosaic, Tiles
from pcsr.images.levels import levels
from pcsr.methods.base import Method
from pcsr.methods.checks import require_scale
from pcsr.methods.original import Original
from pcsr.methods.pcsr import PCSR
from pcsr.methods.tiled import BATCH, Tiled, grid
from pcsr.routing import OperatingPoint

FINISHED = 2.5  # copies of an SR image that exist at once while it is rounded to 8-bit levels
TAIL = {"cpu": 1 << 31, "cuda": 1 << 35}  # most bytes for the tail of a network


def runner(method: Method, precision: torch.dtype = torch.float32) -> Runner:
    """Return the fastest runner for a method on its device.

    Args:
        method: the method, its weights loaded.
        precision: data type of the networks; images and decisions stay in float32. Half precision
            is bfloat16 on a CPU and float16 on a GPU.

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

        return cut_to_fit(len(lr), lr_size, halo, needed, limit)

    def _enlarge(
        self, tile: Tile, outer: Tile, features: Tensor, x: Tensor, factor: int, limit: float
    ) -> Tensor:
        """Return the SR of a tile, (1, 3, H, W), given the features of ``outer``."""
        halo = self._network.tail_halo

        def enlarged(small: Tile) -> Tensor:
            around = small.grown(halo, (x.shape[-2], x.shape[-1]))
            sr = self._network.upsample(around.inside(outer, features), around.of(x))
            return small.enlarged(factor).inside(around.enlarged(factor), sr).float()

        cut = cut_to_fit(1, tile.size, halo, lambda outer, _: self._tail * outer, limit)
        tiles = [small.within(tile) for small in cut]
        if tiles == [tile]:
            return enlarged(tile)
        hr = tile.enlarged(factor)
        result = torch.empty(1, 3, *hr.size, device=x.device)
        for small in tiles:
            small.enlarged(factor).inside(hr, result).copy_(enlarged(small))
        return result


class TileRunner(Runner):
    """A tile method: the tiles of each branch run in batches, rows of tiles are finished in order.

    Scores, which are small, are computed for the whole image first. A batch runs when the first of
    its tiles is needed; its tiles in later rows wait as 8-bit levels. So the batches, and with them
    the result, are the same whether an image is finished in strips or whole.
    """

    method: Tiled

    def __init__(self, method: Tiled) -> None:
        self.method = method

    def tiles(
        self, lr: Tensor, scale: float, point: OperatingPoint, limit: float | None = None
    ) -> Iterator[SRTile]:
        """See ``Runner.tiles``; within a limit, each row of tiles gives a strip of the image."""
        factor = require_scale(self.method.config, scale)
        tiles = Tiles(1, (lr.shape[-2], lr.shape[-1]))
        batch = self._batch_size(tiles.lr_size, factor, lr.device, limit)
        for number, image in enumerate(lr.split(1)):
            scores = [
                self.method.score(tiles.cut(image, numbers))
                for numbers in torch.arange(len(tiles)).split(batch)
            ]
            labels = self.method.route(grid(scores, tiles), point, scale)
            strips = self._strips(image, tiles, labels, factor, batch)
            if limit is None:
                strips = iter([torch.cat(list(strips), dim=1)])
            top = 0
            for sr in strips:
                yield SRTile(number, top, 0, sr[None], labels if top == 0 else labels[:0])
                top += sr.shape[1]

    def _strips(
        self, lr: Tensor, tiles: Tiles, labels: Tensor, factor: int, batch: int
    ) -> Iterator[Tensor]:
        """Yield an image strip by strip, (3, rows, W)."""
        mosaic = Mosaic(tiles, factor, lr.device)
        strips = mosaic.strips()
        batches = deque(_batches(labels.flatten().cpu(), batch))
        for end in range(len(tiles.columns), len(tiles) + 1, len(tiles.columns)):
            while batches and batches[0][1][0] < end:
                branch, numbers = batches.popleft()
                mosaic.add(numbers, levels(self.method.upscale(branch, tiles.cut(lr, numbers))))
            yield next(strips)

    def _batch_size(
        self, lr_size: tuple[int, int], factor: int, device: torch.device, limit: float | None
    ) -> int:
        """Return how many tiles run in a batch: as usual, or as many as fit within the limit."""
        most = BATCH[device.type]
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
        runs: list[Callable[[Tensor], Tensor]] = [self.method.score]
        runs += [partial(self.method.upscale, branch) for branch in range(self.method.branches)]
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


def _batches(labels: Tensor, size: int) -> list[tuple[int, Tensor]]:
    """Return each branch with the numbers of its tiles, in batches, in order of the first tile."""
    batches = [
        (branch, numbers)
        for branch in labels.unique().tolist()
        for numbers in (labels == branch).nonzero()[:, 0].split(size)
    ]
    return sorted(batches, key=lambda one: int(one[1][0]))
