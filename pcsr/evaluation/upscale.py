"""Upscaling of images that have no HR: a file or a folder, in as much memory as is allowed."""

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
from cyclopts import Parameter

from pcsr import files, registry, runtime
from pcsr.config.models import ModelConfig
from pcsr.data import images
from pcsr.engine.runners import runner
from pcsr.errors import UserError
from pcsr.evaluation import knob_table
from pcsr.evaluation.show import usable_point
from pcsr.evaluation.super_resolve import super_resolve
from pcsr.methods.base import Method
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
    wanted = OperatingPoint(k, adaptive, budget, refine)
    point = _point(method, facts, scale, weights, wanted, psnr_drop)
    runtime.move(method, picked)
    dtype = runtime.dtype_of(precision, picked)
    upscale_files(method, source, target, scale, point, limit, dtype)


def _point(
    method: Method,
    facts: Mapping[str, Any],
    scale: float,
    where: Path,
    wanted: OperatingPoint,
    psnr_drop: float | None,
) -> OperatingPoint:
    """Return the operating point that the user asks for in one of several ways."""
    if psnr_drop is not None and wanted != OperatingPoint(refine=wanted.refine):
        raise UserError("give --psnr-drop or one of --k, --adaptive and --budget, not both.")
    if wanted.budget is not None:
        if not wanted.budget > 0:
            raise UserError(f"--budget {wanted.budget:g}: give a share above 0, such as 0.5.")
        return replace(wanted, budget=wanted.budget * original_flops(method, scale))
    if psnr_drop is not None:
        table = knob_table.read(facts, str(where))
        return replace(wanted, knob=knob_table.for_drop(table, psnr_drop))
    return wanted


def original_flops(method: Method, scale: float) -> float:
    """Return what the original of a method's backbone executes per LR pixel."""
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

    An image of a folder that cannot be read does not stop the others.

    Args:
        method: what super-resolves.
        source: image or folder.
        target: PNG file or folder.
        scale: HR size / LR size.
        point: operating point; without a knob, the method's default one.
        max_memory: bytes that the process may take, on a GPU those of the GPU; images that need
            more are computed in parts. None: most of what is free.
        precision: of the networks; a half one is for GPUs.

    Raises:
        UserError: the method has no such precision here; or an image could not be read, or needs
            more memory: names them all, after the others are done.
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
            done = super_resolve(fast, images.to_tensor(lr).to(device), scale, point, max_memory)
        except UserError as error:
            text = str(error)
            problems.append(text if text.startswith(str(file)) else f"{file}: {text}")
            continue
        images.write(path, done.sr)
        log.info("%d/%d %s", number + 1, len(sources), path)
    if problems:
        raise UserError(" ".join(problems))
