"""How time grows with the size of an image."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pcsr import geometry, metrics
from pcsr.benchmarks.timing import seconds
from pcsr.data import bicubic
from pcsr.engine.runners import Runner, runner
from pcsr.errors import UserError, log
from pcsr.images.levels import to_tensor, to_uint8
from pcsr.methods.base import Method
from pcsr.routing import OperatingPoint


def first_size(hr: metrics.Image, scale: float) -> Tensor:
    """Return LR of 240 x 135 pixels, the first size of ``grow`` (960x540 SR at x4).

    Raises:
        UserError: ``hr`` is smaller than the SR of this size.
    """
    size = (135, 240)
    whole = geometry.hr_size(size, scale)
    if min(have - want for have, want in zip(hr.shape, whole, strict=False)) < 0:
        raise UserError(f"--images: the last one must be {whole[1]} x {whole[0]} pixels or more.")
    lr = bicubic.resize(to_tensor(hr).double(), size)
    return lr.clamp(0, 1).float()


@torch.no_grad()
def grow(
    method: Method,
    lr: Tensor,
    knobs: Sequence[float],
    precisions: Mapping[str, torch.dtype],
    steps: int,
    limit: float | None,
) -> list[dict[str, Any]]:
    """Time a method at its scale on an image mirrored to 1, 4, 16, ... times its pixels.

    Mirroring preserves the shares of branches. The knob is the first given; the best of 3 runs.

    Args:
        method: to time.
        lr: (1, 3, h, w) in [0, 1], on the method's device.
        knobs: values of the knob.
        precisions: of the networks, by name.
        steps: number of sizes.
        limit: bytes of memory that the image may use.

    Returns:
        A row per precision that the method has, and size.
    """
    scale = method.config.scale
    knob = knobs[0] if method.knobs and knobs else method.points[0].knob
    point = OperatingPoint(knob=knob, refine=True)
    rows: list[dict[str, Any]] = []
    for name, dtype in precisions.items():
        try:
            fast = runner(method, dtype)
        except UserError as error:
            log.info("%s: left out, because %s", method.config.method, error)
            continue
        facts = {
            "backbone": method.config.backbone,
            "method": method.config.method,
            "precision": name,
        }
        rows += [facts | row for row in _growing(fast, lr, scale, point, steps, limit)]
    return rows


def _growing(
    fast: Runner, lr: Tensor, scale: float, point: OperatingPoint, steps: int, limit: float | None
) -> Iterator[dict[str, Any]]:
    for _ in range(steps):

        def run(lr: Tensor = lr) -> int:
            tiles = fast.tiles(lr, scale, point, limit)
            return sum(to_uint8(tile.sr).size for tile in tiles)

        fastest = min(seconds(run, lr.device) for _ in range(3))
        height, width = geometry.hr_size((lr.shape[-2], lr.shape[-1]), scale)
        yield {
            "hr_height": height,
            "hr_width": width,
            "seconds": fastest,
            "seconds_per_megapixel": fastest / (height * width / 1e6),
        }
        log.info("%dx%d: %.2f s", width, height, fastest)
        lr = torch.cat([lr, lr.flip(-1)], dim=-1)
        lr = torch.cat([lr, lr.flip(-2)], dim=-2)
