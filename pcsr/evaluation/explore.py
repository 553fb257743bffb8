"""Explorer pages: a few images with every knob value of every method, in one offline HTML file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from pcsr import __version__, escape, metrics, runtime
from pcsr.config.models import ProtocolConfig
from pcsr.config.options import (
    CORES,
    LR,
    Crop,
    Device,
    Refine,
    Scale,
    Threads,
    WeightsFiles,
    whole_number,
)
from pcsr.data.images import to_uint8
from pcsr.data.test_images import TestImage, open_images
from pcsr.errors import UserError
from pcsr.evaluation.measure import Pair, make_pair
from pcsr.evaluation.points import usable_scale
from pcsr.evaluation.subject import Subject
from pcsr.methods.base import Method
from pcsr.report.explorer import page
from pcsr.storage import files
from pcsr.weights.load import load_method

SMALLEST_SIDE, LARGEST_SIDE = 128, 4096  # of an image in a page, in HR pixels


def explore(
    *images: Annotated[Path, Parameter(help="HR images, folders of them, or packed stores")],
    weights: WeightsFiles,
    out: Annotated[Path, Parameter(help="HTML page to write")],
    title: Annotated[str, Parameter(help="heading of the page")] = "Turn the knob",
    side: Annotated[
        int,
        whole_number(SMALLEST_SIDE, LARGEST_SIDE),
        Parameter(help="largest side of an image in HR pixels; the middle of a larger one is cut"),
    ] = 1024,
    lr: LR = "8bit",
    crop: Crop = "tiles",
    refine: Refine = True,
    scale: Scale = None,
    device: Device = "auto",
    threads: Threads = CORES,
) -> str:
    """Write a page that shows images at every value of the knob; it needs no network.

    Give the original's weights first: everything is compared with it. The protocol is that of
    `pcsr sweep`, and so are the page's numbers.

    Example: `pcsr explore photo.png --weights fsrcnn-original.safetensors fsrcnn-pcsr.safetensors
    --out photo.html`.
    """
    files.require_suffix(out, ".html", "--out")
    files.refuse_overwriting((*images, *weights), (out,))
    if not images:
        raise UserError("give at least one HR image, a folder of images, or a packed store.")
    runtime.setup_logging()
    picked = runtime.pick_device(device)
    runtime.set_up(0, threads)
    methods = [runtime.move(load_method(path)[0], picked) for path in weights]
    upscaling = usable_scale(methods[0], scale)
    protocol = ProtocolConfig(lr=lr, crop=crop, refine=refine)
    found = [image for path in images for image in open_images(path)]
    pairs = [make_pair(_middle(image, side), upscaling, protocol) for image in found]
    cut = any(max(image.hr.shape[:2]) > side for image in found)
    names = _labels(methods, weights)
    shown = [Subject(m, name, upscaling, protocol) for m, name in zip(methods, names, strict=True)]
    written = write(pairs, shown, title, f"cut to {side} pixels a side" if cut else "", out)
    return f"{out}: {len(pairs)} images, {written / 1e6:.1f} MB"


def _middle(image: TestImage, side: int) -> TestImage:
    """Return the middle of an image, at most ``side`` pixels high and wide."""
    height, width = image.hr.shape[:2]
    if max(height, width) <= side:
        return image
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    # A ready-made LR image is no longer that of the part.
    return TestImage(image.name, image.hr[top : top + side, left : left + side].copy(), None)


def _labels(methods: Sequence[Method], weights: Sequence[Path]) -> list[str]:
    """Return a name for each method: its own, with the file's where several have the same."""
    names = [type(method).__name__ for method in methods]
    stems = [escape.printable(path.stem) for path in weights]
    return [
        name if names.count(name) == 1 else f"{name} ({stem})"
        for name, stem in zip(names, stems, strict=True)
    ]


def write(
    pairs: Sequence[Pair], subjects: Sequence[Subject], title: str, note: str, out: Path
) -> int:
    """Run every method on every image and write the page.

    Args:
        pairs: images to show.
        subjects: methods; the first without a knob is what others are compared with.
        title: heading of the page.
        note: on its images, or "".
        out: HTML file.

    Returns:
        The size of the page in bytes.
    """
    planes = page.Planes()
    images = []
    for pair in runtime.progress(pairs, "explore"):
        height, width = pair.hr.shape[:2]
        images.append(
            {
                "name": pair.name,
                "width": width,
                "height": height,
                "hr": planes.add(pair.hr),
                "lr": planes.add(to_uint8(pair.lr)),
                "methods": [subject.add(pair, planes) for subject in subjects],
            }
        )
    first = subjects[0]
    reference = next((i for i, subject in enumerate(subjects) if not subject.routes), None)
    content = {
        "title": title,
        "backbones": sorted({subject.method.config.backbone for subject in subjects}),
        "scale": first.scale,
        "shave": metrics.shave_for(first.scale),
        "protocol": first.protocol.model_dump(mode="json"),
        "note": note,
        "version": __version__,
        "reference": reference,
        "methods": [
            subject.summary(None if reference is None else subjects[reference])
            for subject in subjects
        ],
        "images": images,
    }
    return page.write(content, planes, out)
