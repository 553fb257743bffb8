"""Cut an image into parts, each with the surroundings that its output depends on.

A network computes a part with a halo as wide as its receptive field, and the output of the halo is
discarded: what is kept equals the output for the whole image. Where a part ends at the image's
border there is no halo, and the network pads as it does for the whole image.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any
from weakref import WeakKeyDictionary, finalize

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from pcsr.backbones.base import Backbone
from pcsr.errors import MemoryLimitError

PROBE = 8  # side in LR pixels of the image for which memory is measured
# Memory of a process over that of its tensors: libraries have their own, and glibc leaves gaps that
# no tensor of the same size fits. Measured at 1.5 for CARN.
SLACK = 1.7
# Most bytes for a part, whatever the limit: on a CPU more does not make it faster, and new
# memory is cleared page by page.
ENOUGH = {"cpu": 1 << 31, "cuda": 1 << 36}
FINISHED = 2.5  # copies of an SR image that exist at once while it is rounded to 8-bit levels
TAIL = {"cpu": 1 << 31, "cuda": 1 << 35}  # most bytes for the tail of a network
SMALLEST = 16  # smallest side of a part in LR pixels; below it, nearly all of the work is halo


@dataclass(frozen=True)
class Part:
    """A rectangle of LR pixels of one image.

    Attributes:
        image: the image's number in the batch.
        top, bottom, left, right: rows top to bottom - 1 and columns left to right - 1.
    """

    image: int
    top: int
    bottom: int
    left: int
    right: int

    @property
    def size(self) -> tuple[int, int]:
        """Number of rows and columns."""
        return self.bottom - self.top, self.right - self.left

    def grown(self, by: int, lr_size: tuple[int, int]) -> "Part":
        """Return the part extended by ``by`` pixels on each side, clipped to the image."""
        return Part(
            self.image,
            max(0, self.top - by),
            min(lr_size[0], self.bottom + by),
            max(0, self.left - by),
            min(lr_size[1], self.right + by),
        )

    def within(self, larger: "Part") -> "Part":
        """Return this part, given relative to ``larger``, in the coordinates of the image."""
        return Part(
            larger.image,
            larger.top + self.top,
            larger.top + self.bottom,
            larger.left + self.left,
            larger.left + self.right,
        )

    def enlarged(self, scale: int) -> "Part":
        """Return the part in HR pixels."""
        sides = (self.top, self.bottom, self.left, self.right)
        return Part(self.image, *(side * scale for side in sides))

    def of(self, images: Tensor) -> Tensor:
        """Cut the part out of (N, C, h, w): (1, C, rows, columns)."""
        here = images[self.image : self.image + 1]
        return here[..., self.top : self.bottom, self.left : self.right]

    def inside(self, larger: "Part", values: Tensor) -> Tensor:
        """Cut this part out of values (..., rows, columns) of a larger one that contains it."""
        return values[
            ...,
            self.top - larger.top : self.bottom - larger.top,
            self.left - larger.left : self.right - larger.left,
        ]


@dataclass(frozen=True)
class Piece:
    """A rectangle of a super-resolved image.

    Attributes:
        image: the image's number in the batch.
        top, left: HR row and column at which the piece starts.
        sr: (1, 3, rows, columns), not clipped.
        labels: branch numbers, (1, rows, columns) if units are HR pixels, else (1, units...).
    """

    image: int
    top: int
    left: int
    sr: Tensor
    labels: Tensor


def whole(count: int, lr_size: tuple[int, int]) -> list[Part]:
    """Return every image of a batch as one part."""
    return [Part(number, 0, lr_size[0], 0, lr_size[1]) for number in range(count)]


def cut(
    count: int,
    lr_size: tuple[int, int],
    halo: int,
    needed: Callable[[int, int], float],
    limit: float,
) -> list[Part]:
    """Cut images into the parts that need the least work within a memory limit.

    Args:
        count: number of images in the batch.
        lr_size: their height and width in LR pixels.
        halo: LR pixels that a part needs on each side.
        needed: (LR pixels with halo, LR pixels without) -> bytes that a part takes.
        limit: bytes.

    Raises:
        MemoryLimitError: even the smallest parts exceed the limit.
    """

    def parts_of(rows: int, columns: int) -> list[Part]:
        return [
            Part(image, top, min(top + step[0], height), left, min(left + step[1], width))
            for image in range(count)
            for step in [(ceil(height / rows), ceil(width / columns))]
            for top in range(0, height, step[0])
            for left in range(0, width, step[1])
        ]

    height, width = lr_size
    best: tuple[int, list[Part]] | None = None
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
                best = work, parts_of(rows, columns)
            break
    if best is None:
        raise MemoryLimitError(needed((SMALLEST + 2 * halo) ** 2, SMALLEST**2), limit)
    return best[1]


class Held(TorchDispatchMode):
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
    return next(network.parameters()).new_zeros(1, 3, PROBE, PROBE)


class InParts:
    """A backbone with its tail, run on parts of images.

    The tail works on HR pixels and takes by far the most memory, but its halo is narrow. So it runs
    on smaller pieces of each part, even without a limit.

    Args:
        network: the network, deployed.
    """

    def __init__(self, network: Backbone) -> None:
        assert network.scale is not None
        self._network, self._scale = network, network.scale
        small = probe(network)
        self._dtype, self._device = small.dtype, small.device
        with torch.no_grad():
            features = network.features(small)
        self._features = SLACK * features.nbytes / small[0, 0].numel()
        self._body = bytes_per_pixel(network.features, small)
        self._tail = bytes_per_pixel(network.upsample, features, small)

    def run(self, lr: Tensor, limit: float | None) -> Iterator[tuple[Part, Tensor]]:
        """Yield parts of images and their SR (1, 3, H, W), float32.

        Args:
            lr: (N, 3, h, w) in [0, 1].
            limit: bytes; without one, each image is one part.

        Raises:
            UserError: the limit is too low.
        """
        lr_size = (lr.shape[-2], lr.shape[-1])
        halo = self._network.halo + self._network.tail_halo
        tail_limit = TAIL[lr.device.type]
        parts_to_run = whole(len(lr), lr_size)
        if limit is not None:
            limit = min(limit, ENOUGH[lr.device.type])
            tail_limit = min(tail_limit, int(limit / 2))
            sr_bytes = FINISHED * 3 * self._scale**2 * lr.element_size()

            def needed(outer: int, inner: int) -> float:
                layers = max(self._body * outer, min(tail_limit, self._tail * outer))
                return self._features * outer + layers + sr_bytes * inner

            parts_to_run = cut(len(lr), lr_size, halo, needed, limit)
        x = lr.to(self._dtype)
        for part in parts_to_run:
            outer = part.grown(halo, lr_size)
            features = self._network.features(outer.of(x))
            pieces = self._pieces(part, tail_limit)
            enlarged = (self._enlarged(piece, outer, features, x) for piece in pieces)
            yield part, next(enlarged) if pieces == [part] else self._joined(part, pieces, enlarged)

    def _pieces(self, part: Part, limit: float) -> list[Part]:
        """Cut a part into pieces for which the tail's memory stays within the limit."""

        def needed(outer: int, _: int) -> float:
            return self._tail * outer

        pieces = cut(1, part.size, self._network.tail_halo, needed, limit)
        return [piece.within(part) for piece in pieces]

    def _enlarged(self, piece: Part, outer: Part, features: Tensor, x: Tensor) -> Tensor:
        """Return the SR of a piece, given the features of ``outer`` and the images ``x``."""
        around = piece.grown(self._network.tail_halo, (x.shape[-2], x.shape[-1]))
        sr = self._network.upsample(around.inside(outer, features), around.of(x))
        scale = self._scale
        return piece.enlarged(scale).inside(around.enlarged(scale), sr).float()

    def _joined(self, part: Part, pieces: Iterable[Part], sr_pieces: Iterable[Tensor]) -> Tensor:
        """Assemble the SR of a part from that of its pieces."""
        hr = part.enlarged(self._scale)
        sr = torch.empty(1, 3, *hr.size, device=self._device)
        for piece, values in zip(pieces, sr_pieces, strict=True):
            piece.enlarged(self._scale).inside(hr, sr).copy_(values)
        return sr
