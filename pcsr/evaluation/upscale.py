"""The command that upscales an image, or a folder of images, without HR."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pcsr import runtime
from pcsr.config import options
from pcsr.data import images
from pcsr.errors import UserError
from pcsr.evaluation import knob_table
from pcsr.evaluation.points import requested_point, usable_scale
from pcsr.evaluation.super_resolve import upscale_files
from pcsr.images import encoding
from pcsr.precision import dtype_of
from pcsr.storage import files
from pcsr.weights.load import load_all


def upscale(
    source: Annotated[Path, Parameter(help="image, or folder of images")],
    target: Annotated[
        Path, Parameter(help="image to write (.png, .jpg, .webp or .tif), or folder")
    ],
    /,
    *,
    weights: options.WeightsFile,
    k: options.Knob = None,
    adaptive: options.Adaptive = False,
    budget: Annotated[
        float | None,
        options.Share,
        Parameter(help="share of the original's FLOPs to spend on each image, e.g. 0.5"),
    ] = None,
    psnr_drop: Annotated[
        float | None,
        options.Decibels,
        Parameter(
            help="largest average PSNR loss in dB against the full computation, e.g. 0.02; needs "
            "weights from `pcsr calibrate-knob`"
        ),
    ] = None,
    ext: Annotated[
        str | None,
        Parameter(help="suffix of the images written to a folder; default: png"),
    ] = None,
    refine: Annotated[
        bool | None, Parameter(help="smooth light pixels next to heavy ones; default: on for pcsr")
    ] = None,
    scale: options.Scale = None,
    max_memory: options.MaxMemory = None,
    precision: options.Precision = "float32",
    device: options.Device = "auto",
    threads: options.Threads = options.THREADS,
) -> None:
    """Super-resolve an image, or a folder of images, without HR.

    Grey stays grey, 16 bits stay 16 bits, transparency is enlarged with the image, and colour
    profiles are kept. Images are rotated upright; other metadata is not copied.

    Example: `pcsr upscale photo.png photo_x4.png --weights carn-pcsr.safetensors --budget 0.5`.
    """
    runtime.setup_logging()
    pairs = targets(source, target, ext)
    files.check_outputs((source, weights), [out for _, out in pairs])
    limit = runtime.read_bytes(max_memory)
    picked, ((method, facts),) = load_all([weights], device, threads)
    scale = usable_scale(method, scale)
    if psnr_drop is not None:
        if k is not None or adaptive or budget is not None:
            raise UserError("give --psnr-drop or one of --k, --adaptive and --budget, not both.")
        if not method.knobs:
            raise UserError(f"--psnr-drop: {method.config.method} has nothing to decide; drop it.")
        k = knob_table.for_drop(knob_table.read(facts, str(weights)), psnr_drop)
    point = requested_point(method, scale, k, adaptive, budget, refine)
    upscale_files(method, pairs, scale, point, limit, dtype_of(precision, picked))


def targets(source: Path, target: Path, ext: str | None = None) -> list[tuple[Path, Path]]:
    """Return the images to upscale, each with the file to write.

    ``source`` and ``target`` are images or folders; ``ext`` is the ending of the images in a
    folder, with or without a dot.

    Raises:
        UserError: the folder has no images, two results would have one name, or no format is
            written under this ending.
    """
    if target.suffix and not source.is_dir():
        if ext is not None:
            raise UserError(f"--ext {ext}: {target} has an ending already; drop --ext.")
        encoding.ending(target)
        return [(source, target)]
    if target.suffix.lower() in images.EXTENSIONS:
        raise UserError(f"{target}: {source} is a folder, so the output must be a folder too.")
    ending = encoding.ending(target / f"*.{(ext or 'png').removeprefix('.')}")
    sources = images.list_images(source) if source.is_dir() else [source]
    names = images.unique([file.stem for file in sources], str(source))
    return [(file, target / f"{name}{ending}") for file, name in zip(sources, names, strict=True)]
