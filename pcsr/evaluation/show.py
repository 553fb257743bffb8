"""Pictures of what a method does: one photograph super-resolved, routed, compared."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pcsr import files, metrics
from pcsr.data import bicubic, images
from pcsr.errors import UserError
from pcsr.evaluation.sweep import Pair
from pcsr.methods.base import Knob, Method
from pcsr.routing import Budget


@dataclass(frozen=True)
class Shown:
    """A super-resolved picture with its routing and what it cost.

    Attributes:
        sr: uint8 (H, W, 3).
        labels: (H, W), branch of each HR pixel.
        shares: share of units per branch, cheapest first.
        psnr_rgb: dB.
        gflops: paper convention.
    """

    method: Method
    sr: metrics.Picture
    labels: np.ndarray
    shares: tuple[float, ...]
    psnr_rgb: float
    gflops: float

    @property
    def title(self) -> str:
        """Backbone and method."""
        return f"{self.method.config.backbone}-{self.method.config.method}"


@torch.no_grad()
def show(method: Method, pair: Pair, scale: float, knob: Knob, refine: bool) -> Shown:
    """Super-resolve a test picture along the sparse path and measure the result."""
    lr = pair.lr.to(next(method.parameters()).device)
    knob = usable_knob(method, knob)
    restored = method.restore(lr, scale, knob, refine)
    sr = images.to_uint8(restored.sr)
    units = torch.bincount(restored.labels.flatten(), minlength=method.branches).tolist()
    lr_size = (pair.lr.shape[-2], pair.lr.shape[-1])
    return Shown(
        method,
        sr,
        method.pixel_labels(restored.labels, lr_size, scale)[0].cpu().numpy(),
        tuple(count / sum(units) for count in units),
        metrics.psnr_rgb(sr, pair.hr, metrics.shave_for(scale)),
        method.costs(lr_size, scale).total(units).paper / 1e9,
    )


def usable_knob(method: Method, knob: Knob) -> Knob:
    """Return the knob that a method is run with, given what was asked for (None: nothing)."""
    if not method.knobs:
        return None
    if isinstance(knob, Budget) and not method.has_budget:
        raise UserError(f"--budget: {method.config.method} keeps to no budget; give --k.")
    return method.default_knob if knob is None else knob


def write_demo(pair: Pair, shown: Sequence[Shown], out: Path) -> list[str]:
    """Write HR, LR, each SR and each routing picture as PNG, and ``log.txt``.

    Returns:
        The lines of the log: method, PSNR-RGB in dB, GFLOPs and percent of the first original's
        GFLOPs (of the first method's, if no original is shown).
    """
    from pcsr.report import showcase  # noqa: PLC0415 - heavy, and upscaling draws nothing

    images.write(out / "HR.png", pair.hr)
    images.write(out / "LR.png", images.to_uint8(pair.lr))
    reference = next((s for s in shown if not s.method.knobs), shown[0]).gflops
    titles = [one.title for one in shown]
    lines = []
    for number, one in enumerate(shown):
        title = one.title if titles.count(one.title) == 1 else f"{one.title}-{number + 1}"
        images.write(out / f"{title}.png", one.sr)
        if one.method.branches > 1:
            coloured = showcase.routing_picture(one.labels, one.method.branches, one.sr)
            images.write(out / f"{title}-routing.png", coloured)
        percent = 100 * one.gflops / reference
        lines.append(f"{title}: {one.psnr_rgb:.2f} dB | {one.gflops:.2f} G ({percent:.0f} %)")
    files.write_text(out / "log.txt", "\n".join(lines) + "\n")
    return lines


def bicubic_enlarged(pair: Pair) -> metrics.Picture:
    """Return LR enlarged by bicubic interpolation, uint8 (H, W, 3)."""
    height, width = pair.hr.shape[:2]
    return images.to_uint8(bicubic.resize(pair.lr.double(), (height, width)))


def draw(pair: Pair, original: Shown, method: Shown, routing: Path, comparison: Path) -> None:
    """Write the report's two pictures: which pixel went where, and crops side by side."""
    from pcsr.report import figures, showcase  # noqa: PLC0415 - as above

    title = f"{method.title} on {pair.name}: {method.psnr_rgb:.2f} dB, {method.gflops:.2f} GFLOPs"
    branches = method.method.branches
    figure = showcase.routing_figure(pair.hr, method.sr, method.labels, branches, title)
    figures.save(figure, routing)
    enlarged = bicubic_enlarged(pair)
    panels = [
        ("HR", pair.hr),
        ("LR", images.to_uint8(pair.lr)),
        ("bicubic", enlarged),
        (original.title, original.sr),
        (method.title, method.sr),
    ]
    lost = pair.hr.astype(float) - enlarged  # the detail that has to be invented
    figures.save(showcase.comparison(panels, showcase.detailed_box(lost, side=96)), comparison)
