"""Super-resolve one image within a memory limit; shared by the command and the Python API."""

import logging
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import DTypeLike
from torch import Tensor

from pcsr import runtime
from pcsr.data.bicubic import levels
from pcsr.engine.runners import Runner
from pcsr.errors import MemoryLimitError, UserError
from pcsr.geometry import hr_size
from pcsr.routing import OperatingPoint

LIMIT_SHARE = 0.85  # of a memory limit to plan with; a process's use is not known more precisely
FREE_SHARE = 0.7  # of the free memory to use where no limit is given
log = logging.getLogger("pcsr")


@dataclass(frozen=True)
class SuperResolved:
    """A super-resolved image and the routing of its units.

    Attributes:
        sr: (H, W, 3), 8-bit levels or float32 in [0, 1].
        routing: uint8 (H, W), the branch of each HR pixel, if requested.
        units: number of units that each branch computed, cheapest first.
    """

    sr: np.ndarray
    routing: np.ndarray | None
    units: list[int]


@torch.no_grad()
def super_resolve(
    runner: Runner,
    lr: Tensor,
    scale: float,
    point: OperatingPoint,
    max_memory: int | None = None,
    dtype: DTypeLike = np.uint8,
    keep_routing: bool = False,
) -> SuperResolved:
    """Super-resolve one image, piece by piece if it does not fit in memory.

    Args:
        runner: of the method.
        lr: (1, 3, h, w) in [0, 1], on the method's device.
        scale: HR size / LR size.
        point: operating point.
        max_memory: bytes that the process may use (on a GPU: of the GPU's memory); larger images
            are computed in pieces. None allows most of the free memory.
        dtype: of the result, uint8 or float32.
        keep_routing: whether to return the branch of each HR pixel.

    Raises:
        UserError: the image needs more memory, or the method does not support the scale or the
            operating point.
    """
    lr_size = (lr.shape[-2], lr.shape[-1])
    size = hr_size(lr_size, scale)
    sr = np.empty((*size, 3), dtype)
    routing = np.empty(size, np.uint8) if keep_routing else None
    # On a CPU the result counts against the limit, twice while it is written to a file.
    own = 2 * sr.nbytes if lr.device.type == "cpu" else 0
    if max_memory is None:
        limit = FREE_SHARE * runtime.free_memory(lr.device) - own
    else:
        limit = LIMIT_SHARE * (max_memory - runtime.used_memory(lr.device) - own)
    units = torch.zeros(runner.method.branches, dtype=torch.long)
    count = 0
    try:
        for piece in runner.pieces(lr, scale, point, limit):
            height, width = piece.sr.shape[-2:]
            here = slice(piece.top, piece.top + height), slice(piece.left, piece.left + width)
            values = levels(piece.sr[0]) if sr.dtype == np.uint8 else piece.sr[0].clamp(0, 1)
            sr[here] = values.permute(1, 2, 0).cpu().numpy()
            units += torch.bincount(piece.labels.flatten(), minlength=len(units)).cpu()
            if routing is not None:
                per_pixel = runner.method.unit == "pixel"
                labels = (
                    piece.labels if per_pixel else _of_pixels(runner, piece.labels, lr_size, scale)
                )
                routing[here] = labels[0].cpu().numpy()
            count += 1
    except MemoryLimitError as error:
        if max_memory is None:
            raise
        # Twice, because a part of a higher limit goes to features that are kept, and to the tail.
        enough = runtime.used_memory(lr.device) + own + 2 * error.needed / LIMIT_SHARE
        raise UserError(f"{error} --max-memory {runtime.size_text(enough)} would do.") from None
    if count > 1:
        log.info("computed in %d pieces", count)
    return SuperResolved(sr, routing, units.tolist())


def _of_pixels(runner: Runner, labels: Tensor, lr_size: tuple[int, int], scale: float) -> Tensor:
    """Return the branch of each HR pixel, for methods whose units are larger than a pixel."""
    return runner.method.pixel_labels(labels, lr_size, scale)
