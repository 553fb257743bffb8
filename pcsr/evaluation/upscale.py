"""Upscale images that have no HR, a file or a folder, within a memory limit."""

import logging
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from pcsr import files, runtime
from pcsr.config.options import (
    CORES,
    Adaptive,
    Decibels,
    Device,
    Knob,
    MaxMemory,
    Precision,
    Scale,
    Share,
    Threads,
    WeightsFile,
)
from pcsr.data import images
from pcsr.engine.runners import runner
from pcsr.errors import UserError
from pcsr.evaluation import knob_table
from pcsr.evaluation.points import requested_point, usable_point, usable_scale
from pcsr.evaluation.super_resolve import super_resolve
from pcsr.methods.base import Method
from pcsr.routing import OperatingPoint
from pcsr.weights.load import load_method

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
        Share,
        Parameter(help="share of the original's FLOPs to spend on each image, e.g. 0.5"),
    ] = None,
    psnr_drop: Annotated[
        float | None,
        Decibels,
        Parameter(
            help="largest average PSNR loss in dB against the full computation, e.g. 0.02; needs "
            "weights from `pcsr calibrate-knob`"
        ),
    ] = None,
    refine: Annotated[
        bool | None, Parameter(help="smooth light pixels next to heavy ones; default: pcsr does")
    ] = None,
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
    scale = usable_scale(method, scale)
    if psnr_drop is not None:
        if k is not None or adaptive or budget is not None:
            raise UserError("give --psnr-drop or one of --k, --adaptive and --budget, not both.")
        if not method.knobs:
            raise UserError(f"--psnr-drop: {method.config.method} has nothing to decide; drop it.")
        k = knob_table.for_drop(knob_table.read(facts, str(weights)), psnr_drop)
    point = requested_point(method, scale, k, adaptive, budget, refine)
    runtime.move(method, picked)
    dtype = runtime.dtype_of(precision, picked)
    upscale_files(method, source, target, scale, point, limit, dtype)


@torch.no_grad()
def upscale_files(
    method: Method,
    source: Path,
    target: Path,
    scale: float,
    point: OperatingPoint,
    max_memory: int | None = None,
    precision: torch.dtype = torch.float32,
) -> None:
    """Super-resolve an image, or every image of a folder, that has no HR.

    In a folder, an image that cannot be read does not stop the others.

    Args:
        method: the model.
        source: image or folder.
        target: PNG file or folder.
        scale: HR size / LR size.
        point: operating point; without a knob, the method's default.
        max_memory: bytes that the process may use (on a GPU: of the GPU's memory); images that need
            more are computed in pieces. None allows most of the free memory.
        precision: of the networks; half precision needs a GPU.

    Raises:
        UserError: the method does not support the precision on this device; or some images could
            not be read or need more memory, all of which are named after the others are done.
    """
    if source.is_dir():
        sources = images.list_images(source)
        names = images.unique([file.stem for file in sources], str(source))
        targets = [target / f"{name}.png" for name in names]
        if target.suffix.lower() in images.EXTENSIONS:
            raise UserError(f"{target}: {source} is a folder, so the output must be a folder too.")
    else:
        sources = [source]
        targets = [target if target.suffix else target / f"{source.stem}.png"]
        files.require_suffix(targets[0], ".png", "OUT")
    if any(path.resolve() in {file.resolve() for file in sources} for path in targets):
        raise UserError(f"{target}: {source} would be overwritten; give another output.")
    point = usable_point(method, point)
    fast, device = runner(method, precision), next(method.parameters()).device
    problems = []
    for number, (file, path) in enumerate(zip(sources, targets, strict=True)):
        try:
            lr = images.read(file)
            result = super_resolve(fast, images.to_tensor(lr).to(device), scale, point, max_memory)
        except UserError as error:
            text = str(error)
            problems.append(text if text.startswith(str(file)) else f"{file}: {text}")
            continue
        images.write(path, result.sr)
        log.info("%d/%d %s", number + 1, len(sources), path)
    if problems:
        raise UserError(" ".join(problems))
