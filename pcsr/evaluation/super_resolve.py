"""Super-resolve within a memory limit: files, or one image for the Python interface."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from pcsr import runtime
from pcsr.data import bicubic
from pcsr.engine.base import Runner
from pcsr.engine.runners import runner
from pcsr.errors import MemoryLimitError, UserError, log
from pcsr.geometry import hr_size
from pcsr.images import decoding, encoding
from pcsr.images.decoding import FREE_SHARE, Pixels
from pcsr.images.levels import to_levels, to_tensor
from pcsr.methods.base import Method
from pcsr.routing import OperatingPoint
from pcsr.storage import files

LIMIT_SHARE = 0.85  # of a memory limit to plan with; a process's use is not known more precisely
ALPHA_ROWS = 256  # HR rows of transparency that are enlarged at a time


@dataclass(frozen=True)
class SuperResolved:
    """A super-resolved image and the routing of its units.

    Attributes:
        sr: (H, W, planes), 8- or 16-bit levels or float32 in [0, 1].
        routing: uint8 (H, W), the branch of each HR pixel, if requested.
        units: number of units that each branch computed, cheapest first.
    """

    sr: np.ndarray
    routing: np.ndarray | None
    units: list[int]


@torch.no_grad()
def upscale_files(
    method: Method,
    pairs: Sequence[tuple[Path, Path]],
    scale: float,
    point: OperatingPoint,
    max_memory: int | None = None,
    precision: torch.dtype = torch.float32,
) -> None:
    """Super-resolve each image into the file paired with it; see ``SuperResolver``.

    An image that cannot be read does not stop the others. Half precision is bfloat16 on a CPU,
    float16 on a GPU.

    Raises:
        UserError: the method does not support the precision on this device; or some images could
            not be read or need more memory, all of which are named after the others are done.
    """
    resolver = SuperResolver(runner(method, precision), scale, point, max_memory)
    problems = []
    for folder in {path.parent for _, path in pairs}:
        files.remove_leftovers(folder)
    for number, (file, path) in enumerate(pairs):
        started = perf_counter()
        try:
            work = resolver.file(file, path)
        except UserError as error:
            text = str(error)
            named = text.startswith((str(file), str(path)))
            problems.append(text if named else f"{file}: {text}")
            continue
        taken = perf_counter() - started
        log.info("%d/%d %s: %s, %.2f s", number + 1, len(pairs), path, work, taken)
    if problems:
        raise UserError(" ".join(problems))


@dataclass(frozen=True)
class SuperResolver:
    """A method at an operating point, run tile by tile on images that do not fit in memory.

    Attributes:
        fast: runner of the method.
        scale: HR size / LR size.
        point: operating point that the method has.
        max_memory: bytes that the process may use (on a GPU: of the GPU's memory). None allows most
            of the free memory.
    """

    fast: Runner
    scale: float
    point: OperatingPoint
    max_memory: int | None = None

    def file(self, source: Path, target: Path) -> str:
        """Super-resolve an image file, unless its header says that it does not fit.

        Returns what was done in words.

        Raises:
            UserError: the image cannot be read, needs more memory, or would lose something in a
                file with this suffix.
        """
        # On a GPU the limit is for GPU memory; images are decoded in host memory.
        on_cpu = self._device.type == "cpu"
        room = room_on(torch.device("cpu"), self.max_memory if on_cpu else None)
        encoded = decoding.read_header(source, room=room)
        width, height = encoded.image.size
        encoding.require_room_in_format(target, encoded, hr_size((height, width), self.scale))
        # For each LR pixel the network's input, and the result, twice while it is being written.
        encoded.require_memory(room, 3 * 4 + 2 * self.scale**2 * encoded.planes * encoded.bits / 8)
        image = encoded.decode()
        done = self.pixels(image)
        encoding.save(target, Pixels(done.sr, image.colour))
        return self._work(image.values.shape[:2], done)

    def pixels(self, image: Pixels, keep_routing: bool = False) -> SuperResolved:
        """Super-resolve what a file holds: RGB or grey, 8 or 16 bits, with or without transparency.

        Grey is run as three equal channels, and the mean of the result is grey again. Transparency
        is enlarged by bicubic interpolation. The result has the image's dtype and number of planes.
        """
        values, planes = image.values, image.values.shape[2]
        lr = to_tensor(values[:, :, : image.colours])
        done = self.tensor(lr, values.dtype, keep_routing, planes)
        if planes > image.colours:
            _enlarge_alpha(values[:, :, -1], done.sr[:, :, -1])
        return done

    @torch.no_grad()
    def tensor(
        self, lr: Tensor, dtype: DTypeLike = np.uint8, keep_routing: bool = False, planes: int = 3
    ) -> SuperResolved:
        """Super-resolve one image.

        Args:
            lr: (1, 3, h, w) in [0, 1].
            dtype: of the result, uint8, uint16 or float32.
            keep_routing: whether to return the branch of each HR pixel.
            planes: of the result. With 1 or 2 the mean of the colours is its first plane; the plane
                after the colours, of 2 or 4, is left for the caller to fill.

        Raises:
            UserError: the image needs more memory, or the method does not support the scale or the
                operating point.
        """
        lr = lr.to(self._device)
        method, lr_size = self.fast.method, (lr.shape[-2], lr.shape[-1])
        size = hr_size(lr_size, self.scale)
        # On a CPU the result counts against the limit, twice while it is being written to a file.
        nbytes = size[0] * size[1] * planes * np.dtype(dtype).itemsize
        own = 2 * nbytes if lr.device.type == "cpu" else 0
        limit = room_on(lr.device, self.max_memory, own)
        if limit <= 0 and not self.fast.heeds_limit:
            left = max(room_on(lr.device, self.max_memory), 0)
            raise UserError(
                f"the result of {size[1]} x {size[0]} pixels alone needs {own / 2**20:.0f} MiB, "
                f"and {left / 2**20:.0f} MiB are left; give more memory, or split the image."
            )
        tiles = self.fast.tiles(lr, self.scale, self.point, limit)
        units = torch.zeros(method.branches, dtype=torch.long)
        per_pixel = method.unit == "pixel"
        count = 0
        try:
            first = next(tiles)  # a limit that is too low is refused before the result takes memory
            sr = np.empty((*size, planes), dtype)
            routing = np.empty(size, np.uint8) if keep_routing else None
            if routing is not None and not per_pixel:
                branches = first.labels.to(torch.uint8)
                routing[:] = method.pixel_labels(branches, lr_size, self.scale)[0].cpu().numpy()
            for tile in chain([first], tiles):
                height, width = tile.sr.shape[-2:]
                here = slice(tile.top, tile.top + height), slice(tile.left, tile.left + width)
                colours = tile.sr[0] if planes > 2 else tile.sr[0].mean(0, keepdim=True)
                sr[(*here, slice(len(colours)))] = to_levels(colours, dtype)
                units += torch.bincount(tile.labels.flatten(), minlength=len(units)).cpu()
                if routing is not None and per_pixel:
                    routing[here] = tile.labels[0].cpu().numpy()
                count += 1
        except MemoryLimitError as error:
            if self.max_memory is None:
                raise
            # Twice, because part of a higher limit goes to features that are kept, and to the tail.
            enough = runtime.used_memory(lr.device) + own + 2 * error.needed / LIMIT_SHARE
            needed = runtime.size_text(enough)
            raise UserError(f"{error} --max-memory {needed} would be enough.") from None
        if count > 1 and method.unit != "tile":  # those are finished in strips anyway
            log.info("computed in %d tiles", count)
        return SuperResolved(sr, routing, units.tolist())

    @property
    def _device(self) -> torch.device:
        return next(self.fast.method.parameters()).device

    def _work(self, lr_size: tuple[int, int], done: SuperResolved) -> str:
        """Say what was done: sizes, operating point, share of the heavy branch, FLOPs."""
        method, point = self.fast.method, self.point
        sizes = (f"{size[1]}x{size[0]}" for size in (lr_size, done.sr.shape[:2]))
        words = [" -> ".join(sizes)]
        if point.budget is not None:
            words += ["to the budget"]
        elif point.adaptive or point.knob is not None:
            words += ["adaptive" if point.adaptive else f"k = {point.knob:g}"]
        if method.branches > 1:
            share = done.units[-1] / sum(done.units)
            words += [f"{100 * share:.1f} % heavy"]
        # The image is written: an operation that nobody counts is no reason to call that an error.
        with suppress(UserError):
            flops = method.costs(lr_size, self.scale).total(done.units).engine
            words += [f"{flops / 1e9:.3g} GFLOPs"]
        return ", ".join(words)


def _enlarge_alpha(alpha: np.ndarray, enlarged: np.ndarray) -> None:
    """Fill ``enlarged`` (H, W) with ``alpha`` (h, w) by bicubic interpolation, strip by strip."""
    height, width = enlarged.shape
    x = torch.from_numpy(alpha.astype(np.float32) / np.iinfo(alpha.dtype).max)
    tall = bicubic.resize(x, (height, x.shape[1]))
    for top in range(0, height, ALPHA_ROWS):
        rows = tall[top : top + ALPHA_ROWS]
        wide = bicubic.resize(rows, (len(rows), width))
        enlarged[top : top + ALPHA_ROWS] = to_levels(wide[None], alpha.dtype)[:, :, 0]


def room_on(device: torch.device, max_memory: int | None, own: int = 0) -> float:
    """Return the bytes of a device that may still be used beside ``own``, at most ``max_memory``.

    Without a limit it is most of the free memory.
    """
    if max_memory is None:
        return FREE_SHARE * runtime.free_memory(device) - own
    return LIMIT_SHARE * (max_memory - runtime.used_memory(device) - own)
