"""Upscale images that have no HR, a file or a folder, within a memory limit."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import torch
from cyclopts import Parameter

from pcsr import runtime
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
from pcsr.engine.runners import Runner, runner
from pcsr.errors import UserError
from pcsr.evaluation import knob_table
from pcsr.evaluation.points import requested_point, usable_point, usable_scale
from pcsr.evaluation.super_resolve import room_on, super_resolve_pixels
from pcsr.geometry import hr_size
from pcsr.images import decoding, encoding
from pcsr.images.decoding import Encoded, Pixels
from pcsr.methods.base import Method
from pcsr.precision import dtype_of
from pcsr.routing import OperatingPoint
from pcsr.storage import files
from pcsr.weights.load import load_method

log = logging.getLogger("pcsr")


def upscale(
    source: Annotated[Path, Parameter(help="image, or folder of images")],
    target: Annotated[
        Path, Parameter(help="image to write (.png, .jpg, .webp or .tif), or folder")
    ],
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
    ext: Annotated[
        str | None,
        Parameter(help="ending of the images that are written to a folder; default: png"),
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

    Grey stays grey, 16 bits stay 16 bits, transparency is enlarged beside the colours, and colour
    profiles are kept. Images are turned upright; other metadata is not copied.

    Example: `pcsr upscale photo.png photo_x4.png --weights carn-pcsr.safetensors --budget 0.5`.
    """
    runtime.setup_logging()
    pairs = targets(source, target, ext)
    files.refuse_overwriting((source, weights), [out for _, out in pairs])
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
    dtype = dtype_of(precision, picked)
    upscale_files(method, pairs, scale, point, limit, dtype)


def targets(source: Path, target: Path, ext: str | None = None) -> list[tuple[Path, Path]]:
    """Return the images to upscale, each with the file to write.

    Args:
        source: image or folder.
        target: image to write, or folder.
        ext: ending of the images in a folder, with or without a dot; None is png.

    Raises:
        UserError: the folder has no images, two results would have one name, or no format is
            written under this ending.
    """
    into_folder = source.is_dir() or not target.suffix
    if source.is_dir() and target.suffix.lower() in images.EXTENSIONS:
        raise UserError(f"{target}: {source} is a folder, so the output must be a folder too.")
    if not into_folder:
        if ext is not None:
            raise UserError(f"--ext {ext}: {target} has an ending already; drop --ext.")
        encoding.ending(target)
        return [(source, target)]
    ending = encoding.ending(target / f"*.{(ext or 'png').removeprefix('.')}")
    sources = images.list_images(source) if source.is_dir() else [source]
    names = images.unique([file.stem for file in sources], str(source))
    return [(file, target / f"{name}{ending}") for file, name in zip(sources, names, strict=True)]


@torch.no_grad()
def upscale_files(
    method: Method,
    pairs: Sequence[tuple[Path, Path]],
    scale: float,
    point: OperatingPoint,
    max_memory: int | None = None,
    precision: torch.dtype = torch.float32,
) -> None:
    """Super-resolve images that have no HR. One that cannot be read does not stop the others.

    Args:
        method: the model.
        pairs: each image with the file to write.
        scale: HR size / LR size.
        point: operating point; without a knob, the method's default.
        max_memory: bytes that the process may use (on a GPU: of the GPU's memory); images that need
            more are computed in tiles. None allows most of the free memory.
        precision: of the networks; half precision needs a GPU.

    Raises:
        UserError: the method does not support the precision on this device; or some images could
            not be read or need more memory, all of which are named after the others are done.
    """
    point = usable_point(method, point)
    fast = runner(method, precision)
    problems = []
    for folder in {path.parent for _, path in pairs}:
        files.remove_leftovers(folder)
    for number, (file, path) in enumerate(pairs):
        try:
            result = _upscaled(fast, file, path, scale, point, max_memory)
        except UserError as error:
            text = str(error)
            named = text.startswith((str(file), str(path)))
            problems.append(text if named else f"{file}: {text}")
            continue
        encoding.save(path, result)
        log.info("%d/%d %s", number + 1, len(pairs), path)
    if problems:
        raise UserError(" ".join(problems))


def _upscaled(
    fast: Runner,
    file: Path,
    path: Path,
    scale: float,
    point: OperatingPoint,
    max_memory: int | None,
) -> Pixels:
    """Read and super-resolve an image, unless its header says that it does not fit."""
    device = next(fast.method.parameters()).device
    # A limit on a GPU is one of its memory; images are decoded in the host's.
    room = room_on(torch.device("cpu"), max_memory if device.type == "cpu" else None)
    encoded = decoding.read_header(file, room=room)
    width, height = encoded.image.size
    encoding.require_room_in_format(path, encoded, hr_size((height, width), scale))
    encoded.require_memory(room, _bytes_per_pixel(encoded, scale))
    image = encoded.decode()
    done = super_resolve_pixels(fast, image, scale, point, max_memory)
    return Pixels(done.sr, image.colour)


def _bytes_per_pixel(image: Encoded, scale: float) -> float:
    """Return the bytes of host memory for each LR pixel: the network's input and the result."""
    return 3 * 4 + 2 * scale**2 * image.planes * image.bits / 8
