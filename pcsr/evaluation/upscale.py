"""Upscaling of images that have no HR: a file or a folder, in as much memory as is allowed."""

import logging
from pathlib import Path

import numpy as np
import torch

from pcsr import files, geometry, metrics, runtime
from pcsr.data import images
from pcsr.errors import UserError
from pcsr.evaluation.show import usable_knob
from pcsr.methods.base import Knob, Method, Ready

LIMIT_SHARE = 0.85  # of a limit that is planned with; a process's memory is known no better
FREE_SHARE = 0.7  # of the memory that is free, which a picture may take where no limit is given
log = logging.getLogger("pcsr")


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
        files.require_suffix(targets[0], ".png", "OUT")
    if any(path.resolve() in {picture.resolve() for picture in pictures} for path in targets):
        raise UserError(f"{target}: {source} would be overwritten; give another output.")
    knob = usable_knob(method, knob)
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
    size = geometry.hr_size(picture.shape[:2], scale)
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
