"""Upscaling of images that have no HR: a file or a folder, in as much memory as is allowed."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from cyclopts import Parameter

from pcsr import files, geometry, metrics, registry, runtime
from pcsr.config.models import ModelConfig
from pcsr.data import images
from pcsr.errors import UserError
from pcsr.evaluation import knob_table
from pcsr.evaluation.show import usable_knob
from pcsr.methods.base import Knob as KnobValue
from pcsr.methods.base import Method, Ready
from pcsr.options import (
    CORES,
    Adaptive,
    Device,
    Knob,
    MaxMemory,
    Precision,
    Refine,
    Scale,
    Threads,
    WeightsFile,
)
from pcsr.routing import Budget
from pcsr.weights.load import load_method

LIMIT_SHARE = 0.85  # of a limit that is planned with; a process's memory is known no better
FREE_SHARE = 0.7  # of the memory that is free, which an image may take where no limit is given
log = logging.getLogger("pcsr")


def upscale(
    source: Annotated[Path, Parameter(help="image, or folder of images")],
    target: Annotated[Path, Parameter(help="PNG file, or folder")],
    /,
    *,
    weights: WeightsFile,
    k: Knob = None,
    adaptive: Adaptive = False,
    budget: Annotated[
        float | None,
        Parameter(help="share of the original's FLOPs to spend on each image, e.g. 0.5"),
    ] = None,
    psnr_drop: Annotated[
        float | None,
        Parameter(
            help="dB to lose at most, on average, against the full computation, e.g. 0.02; needs "
            "weights from `pcsr calibrate-knob`"
        ),
    ] = None,
    refine: Refine = True,
    scale: Scale = None,
    max_memory: MaxMemory = None,
    precision: Precision = "float32",
    device: Device = "auto",
    threads: Threads = CORES,
) -> None:
    """Super-resolve an image, or a folder of images, that has no HR.

    Example: `pcsr upscale photo.png photo_x4.png --weights carn-pcsr.safetensors --budget 0.5`.
    """
    runtime.setup_logging()
    limit = runtime.read_bytes(max_memory)
    picked = runtime.pick_device(device)
    runtime.set_up(0, threads)
    method, facts = load_method(weights)
    scale = scale or method.config.scale
    wanted = Wanted("adaptive" if adaptive else k, budget, psnr_drop)
    point = _point(wanted, method, facts, scale, weights)
    runtime.move(method, picked)
    dtype = runtime.dtype_of(precision, picked)
    upscale_files(method, source, target, scale, point, refine, limit, dtype)


@dataclass(frozen=True)
class Wanted:
    """How much is to be computed, in one of several ways.

    Attributes:
        knob: a value of the method's knob, or "adaptive".
        budget: share of the original's FLOPs.
        psnr_drop: dB below the dearest branch everywhere.
    """

    knob: KnobValue = None
    budget: float | None = None
    psnr_drop: float | None = None


def _point(
    wanted: Wanted, method: Method, facts: Mapping[str, Any], scale: float, where: Path
) -> KnobValue:
    ways = [way for way in (wanted.knob, wanted.budget, wanted.psnr_drop) if way is not None]
    if len(ways) > 1:
        raise UserError("give one of --k, --adaptive, --budget and --psnr-drop, not several.")
    if wanted.budget is not None:
        if not wanted.budget > 0:
            raise UserError(f"--budget {wanted.budget:g}: give a share above 0, such as 0.5.")
        return Budget(wanted.budget * original_flops(method, scale))
    if wanted.psnr_drop is not None:
        return knob_table.for_drop(knob_table.read(facts, str(where)), wanted.psnr_drop)
    return wanted.knob


def original_flops(method: Method, scale: float) -> float:
    """Return what the original of a method's backbone executes per LR pixel."""
    model = ModelConfig(
        backbone=method.config.backbone,
        method="original",
        scale=scale,
        batch_norm=method.config.batch_norm,
    )
    original = registry.build(model, "--budget: the original that it is a share of")
    return original.costs((1, 1), scale).total([1]).engine


@torch.no_grad()
def upscale_files(
    method: Method,
    source: Path,
    target: Path,
    scale: float,
    knob: KnobValue,
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
    knob: KnobValue,
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
