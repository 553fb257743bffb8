"""Pictures of what a method does: one photograph super-resolved, routed, compared."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from pcsr import artefacts, images, metrics, resize, runtime
from pcsr.errors import UserError
from pcsr.evaluate import Pair
from pcsr.methods.base import Knob, Method, Ready
from pcsr.routing import Budget

LIMIT_SHARE = 0.85  # of a limit that is planned with; a process's memory is known no better
FREE_SHARE = 0.7  # of the memory that is free, which a picture may take where no limit is given
log = logging.getLogger("pcsr")


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
    knob = _usable(method, knob)
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


def _usable(method: Method, knob: Knob) -> Knob:
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
    artefacts.write_text(out / "log.txt", "\n".join(lines) + "\n")
    return lines


def bicubic(pair: Pair) -> metrics.Picture:
    """Return LR enlarged by bicubic interpolation, uint8 (H, W, 3)."""
    height, width = pair.hr.shape[:2]
    return images.to_uint8(resize.resize(pair.lr.double(), (height, width)))


def draw(pair: Pair, original: Shown, method: Shown, routing: Path, comparison: Path) -> None:
    """Write the report's two pictures: which pixel went where, and crops side by side."""
    from pcsr.report import figures, showcase  # noqa: PLC0415 - as above

    title = f"{method.title} on {pair.name}: {method.psnr_rgb:.2f} dB, {method.gflops:.2f} GFLOPs"
    branches = method.method.branches
    figure = showcase.routing_figure(pair.hr, method.sr, method.labels, branches, title)
    figures.save(figure, routing)
    enlarged = bicubic(pair)
    panels = [
        ("HR", pair.hr),
        ("LR", images.to_uint8(pair.lr)),
        ("bicubic", enlarged),
        (original.title, original.sr),
        (method.title, method.sr),
    ]
    lost = pair.hr.astype(float) - enlarged  # the detail that has to be invented
    figures.save(showcase.comparison(panels, showcase.detailed_box(lost, side=96)), comparison)


@torch.no_grad()
def upscale(
    method: Method,
    source: Path,
    target: Path,
    scale: float,
    knob: Knob,
    refine: bool,
    max_memory: int | None = None,
    precision: torch.dtype = torch.float32,
) -> None:
    """Super-resolve a picture, or every picture of a folder, that has no HR.

    A picture of a folder that cannot be read does not stop the others.

    Args:
        method: what super-resolves.
        source: picture or folder.
        target: PNG file or folder.
        scale: HR size / LR size.
        knob: of the method; None for its own choice.
        refine: whether cheap pixels beside dear ones are smoothed.
        max_memory: bytes that the process may take, on a GPU those of the GPU; pictures that need
            more are computed in parts. None: most of what is free.
        precision: of the networks; a half one is for GPUs.

    Raises:
        UserError: the method has no such precision here; or a picture could not be read, or needs
            more memory: names them all, after the others are done.
    """
    if source.is_dir():
        pictures = images.list_pictures(source)
        names = images.unique([picture.stem for picture in pictures], str(source))
        targets = [target / f"{name}.png" for name in names]
        if target.suffix.lower() in images.EXTENSIONS:
            raise UserError(f"{target}: {source} is a folder, so the output must be a folder too.")
    else:
        pictures = [source]
        targets = [target if target.suffix else target / f"{source.stem}.png"]
        artefacts.require_suffix(targets[0], ".png", "OUT")
    if any(path.resolve() in {picture.resolve() for picture in pictures} for path in targets):
        raise UserError(f"{target}: {source} would be overwritten; give another output.")
    knob = _usable(method, knob)
    ready, device = method.ready(precision), next(method.parameters()).device
    problems = []
    for number, (picture, path) in enumerate(zip(pictures, targets, strict=True)):
        try:
            lr = images.read(picture)
            sr = _in_pieces(ready, device, lr, scale, knob, refine, max_memory)
        except UserError as error:
            text = str(error)
            problems.append(text if text.startswith(str(picture)) else f"{picture}: {text}")
            continue
        images.write(path, sr)
        log.info("%d/%d %s", number + 1, len(pictures), path)
    if problems:
        raise UserError(" ".join(problems))


def _in_pieces(
    ready: Ready,
    device: torch.device,
    picture: metrics.Picture,
    scale: float,
    knob: Knob,
    refine: bool,
    max_memory: int | None,
) -> metrics.Picture:
    """Super-resolve one picture, never holding more of it than 8-bit levels and one piece."""
    lr = images.to_tensor(picture).to(device)
    size = resize.hr_size(picture.shape[:2], scale)
    sr = np.empty((*size, 3), np.uint8)
    # On a CPU the levels take part in the limit, twice while they are written to a file.
    levels = 2 * sr.nbytes if device.type == "cpu" else 0
    if max_memory is None:
        limit = FREE_SHARE * runtime.free_memory(device) - levels
    else:
        limit = LIMIT_SHARE * (max_memory - runtime.used_memory(device) - levels)
    count = 0
    for piece in ready.pieces(lr, scale, knob, refine, limit):
        height, width = piece.sr.shape[-2:]
        here = slice(piece.top, piece.top + height), slice(piece.left, piece.left + width)
        sr[here] = images.to_uint8(piece.sr)
        count += 1
    if count > 1:
        log.info("computed in %d parts", count)
    return sr
