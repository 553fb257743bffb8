"""How much memory networks take, and how to cut images so that a limit holds."""

from collections.abc import Callable
from math import ceil
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor
from torch.utils._pytree import tree_iter

from pcsr.backbones.base import Backbone
from pcsr.engine.tiles import Tile
from pcsr.errors import MemoryLimitError
from pcsr.runtime import DispatchMode

PROBE = 8  # least side in LR pixels of the image for which memory is measured
# Memory of a process over that of its tensors: libraries have their own, and glibc leaves gaps that
# no tensor of the same size fits. Measured at 1.5 for CARN.
SLACK = 1.7
# Most bytes for a tile, whatever the limit: on a CPU more does not make it faster, and new
# memory is cleared page by page.
ENOUGH = {"cpu": 1 << 31, "cuda": 1 << 36}
SMALLEST = 16  # smallest side of a tile in LR pixels; below it, nearly all of the work is halo


def cut(
    count: int,
    lr_size: tuple[int, int],
    halo: int,
    needed: Callable[[int, int], float],
    limit: float,
) -> list[Tile]:
    """Cut images into the tiles that need the least work within a memory limit.

    Args:
        count: number of images in the batch.
        lr_size: their height and width in LR pixels.
        halo: LR pixels that a tile needs on each side.
        needed: (LR pixels with halo, LR pixels without) -> bytes that a tile takes.
        limit: bytes.

    Raises:
        MemoryLimitError: even the smallest tiles exceed the limit.
    """

    def tiles_of(rows: int, columns: int) -> list[Tile]:
        return [
            Tile(image, top, min(top + step[0], height), left, min(left + step[1], width))
            for image in range(count)
            for step in [(ceil(height / rows), ceil(width / columns))]
            for top in range(0, height, step[0])
            for left in range(0, width, step[1])
        ]

    height, width = lr_size
    best: tuple[int, list[Tile]] | None = None
    max_counts = [max(1, side // SMALLEST) for side in lr_size]
    for rows in range(1, max_counts[0] + 1):
        # With more rows than this, the fewest columns that fit only add halo.
        for columns in range(1, max_counts[1] + 1):
            step = ceil(height / rows), ceil(width / columns)
            outer = [min(s + 2 * halo, side) for s, side in zip(step, lr_size, strict=True)]
            if needed(outer[0] * outer[1], step[0] * step[1]) > limit:
                continue
            work = rows * columns * outer[0] * outer[1]
            if best is None or work < best[0]:
                best = work, tiles_of(rows, columns)
            break
    if best is None:
        raise MemoryLimitError(needed((SMALLEST + 2 * halo) ** 2, SMALLEST**2), limit)
    return best[1]


class Held(DispatchMode):
    """Count the bytes of the tensors that are alive (``now``) and their maximum (``peak``)."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._counted: WeakKeyDictionary[Any, None] = WeakKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_iter(result):
            if isinstance(value, Tensor) and not value.is_mkldnn:  # packed weights have no storage
                self._hold(value.untyped_storage())
        return result

    def _hold(self, storage: torch.UntypedStorage) -> None:
        if storage not in self._counted:
            self._counted[storage] = None
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            finalize(storage, self._drop, storage.nbytes())

    def _drop(self, size: int) -> None:
        self.now -= size


def bytes_per_pixel(layers: Callable[..., Tensor], *inputs: Tensor) -> float:
    """Return the peak memory of convolutional layers, in bytes per pixel of (1, C, h, w)."""
    with torch.no_grad(), Held() as held:
        layers(*inputs)
    return SLACK * held.peak / inputs[0][0, 0].numel()


def probe(network: Backbone) -> Tensor:
    """Return an image for measuring a network's memory, which does not depend on its values."""
    side = max(PROBE, network.least_side)
    return next(network.parameters()).new_zeros(1, 3, side, side)
