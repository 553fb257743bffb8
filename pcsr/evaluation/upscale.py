"""Upscale images that have no HR, a file or a folder, within a memory limit."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from pcsr import files, registry, runtime
from pcsr.config.models import ModelConfig
from pcsr.config.options import (
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
from pcsr.data import images
from pcsr.engine.runners import runner
from pcsr.errors import UserError
from pcsr.evaluation import knob_table
from pcsr.evaluation.show import usable_point
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
        Parameter(help="share of the original's FLOPs to spend on each image, e.g. 0.5"),
    ] = None,
    psnr_drop: Annotated[
        float | None,
        Parameter(
            help="largest average PSNR loss in dB against the full computation, e.g. 0.02; needs "
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
    requested = OperatingPoint(k, adaptive, budget, refine)
    point = _point(method, facts, scale, weights, requested, psnr_drop)
    runtime.move(method, picked)
    dtype = runtime.dtype_of(precision, picked)
    upscale_files(method, source, target, scale, point, limit, dtype)


def _point(
    method: Method,
    facts: Mapping[str, Any],
    scale: float,
    where: Path,
    requested: OperatingPoint,
    psnr_drop: float | None,
) -> OperatingPoint:
    """Resolve the user's options (a knob, a budget or a PSNR drop) to an operating point."""
    if psnr_drop is not None and requested != OperatingPoint(refine=requested.refine):
        raise UserError("give --psnr-drop or one of --k, --adaptive and --budget, not both.")
    if requested.budget is not None:
        if not requested.budget > 0:
            raise UserError(f"--budget {requested.budget:g}: give a share above 0, such as 0.5.")
        return replace(requested, budget=requested.budget * original_flops(method, scale))
    if psnr_drop is not None:
        table = knob_table.read(facts, str(where))
        return replace(requested, knob=knob_table.for_drop(table, psnr_drop))
    return requested


def original_flops(method: Method, scale: float) -> float:
    """Return the FLOPs that the original of a method's backbone executes per LR pixel."""
    model = ModelConfig(
        backbone=method.config.backbone,
        method="original",
        scale=scale,
        backbone_options=method.config.backbone_options,
    )
    original = registry.build(model, "--budget: the original that it is a share of")
    return original.costs((1, 1), scale).total([1]).engine


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
            more are computed in tiles. None allows most of the free memory.
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
