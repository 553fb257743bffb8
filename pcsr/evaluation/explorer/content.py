"""Explorer pages: a few images with every knob value of every method, in one offline HTML file."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from pcsr import __version__, escape, metrics, runtime
from pcsr.config import options
from pcsr.config.models import ProtocolConfig
from pcsr.data.test_images import TestImage, open_images
from pcsr.errors import UserError, log
from pcsr.evaluation.explorer.subject import Subject
from pcsr.evaluation.measure import Pair, make_pair
from pcsr.evaluation.points import usable_scale
from pcsr.images.levels import to_uint8
from pcsr.methods.base import Method
from pcsr.report import tidy
from pcsr.report.explorer import head, page
from pcsr.report.explorer.head import Head
from pcsr.report.figures import style
from pcsr.storage import files
from pcsr.weights.load import load_all

SMALLEST_SIDE, LARGEST_SIDE = 128, 4096  # of an image in a page, in HR pixels


def explore(
    *images: Annotated[Path, Parameter(help="HR images, folders of them, or packed stores")],
    weights: options.WeightsFiles,
    out: Annotated[Path, Parameter(help="HTML page to write")],
    title: Annotated[str, Parameter(help="heading of the page")] = "Turn the knob",
    results: Annotated[
        Path | None,
        Parameter(help="results.csv of a suite; the page opens with its curves"),
    ] = None,
    test_set: Annotated[str, Parameter(help="test set of these results")] = "",
    megabytes: Annotated[
        float,
        Parameter(
            validator=Number(gte=1, lte=1000),
            help="size of the page; images that no longer fit are left out",
        ),
    ] = 25.0,
    side: Annotated[
        int,
        options.whole_number(SMALLEST_SIDE, LARGEST_SIDE),
        Parameter(help="largest side of an image in HR pixels; larger ones are cropped centrally"),
    ] = 1024,
    lr: options.LR = "8bit",
    crop: options.Crop = "tiles",
    refine: options.Refine = True,
    scale: options.Scale = None,
    device: options.Device = "auto",
    threads: options.Threads = options.THREADS,
) -> str:
    """Write an offline page that shows images at every value of the knob.

    Give the original's weights first: methods on its backbone are compared with it. With several
    backbones the page has a menu of them. Protocol and numbers are those of `pcsr sweep`.

    Example: `pcsr explore photo.png --weights fsrcnn-original.safetensors fsrcnn-pcsr.safetensors
    --out photo.html`.
    """
    files.require_suffix(out, ".html", "--out")
    files.check_outputs((*images, *weights, results), (out,))
    if not images:
        raise UserError("give at least one HR image, a folder of images, or a packed store.")
    if (results is None) != (not test_set):
        raise UserError("--results and --test-set: give both, or neither.")
    runtime.setup_logging()
    methods = [method for method, _ in load_all(weights, device, threads)[1]]
    upscaling = usable_scale(methods[0], scale)
    protocol = ProtocolConfig(lr=lr, crop=crop, refine=refine)
    backbones = dict.fromkeys(method.config.backbone for method in methods)
    table = tidy.load(results) if results else None
    opening = {
        name: head.of_results(table, test_set, name) for name in backbones if table is not None
    }
    names = _labels(methods, weights)
    shown = [Subject(m, name, upscaling, protocol) for m, name in zip(methods, names, strict=True)]
    found = [(opened, n) for opened in map(open_images, images) for n in range(len(opened))]
    pairs = (make_pair(_middle(opened[n], side), upscaling, protocol) for opened, n in found)
    note = f"at most {side} pixels a side"
    count, size = write(
        pairs, shown, out, title=title, note=note, opening=opening, megabytes=megabytes
    )
    left_out = f" of {len(found)}; the others do not fit" if count < len(found) else ""
    return f"{out}: {size:.1f} MB, {count} images{left_out}"


def _middle(image: TestImage, side: int) -> TestImage:
    """Return the middle of an image, at most ``side`` pixels high and wide."""
    height, width = image.hr.shape[:2]
    if max(height, width) <= side:
        return image
    top, left = max(0, (height - side) // 2), max(0, (width - side) // 2)
    # A ready-made LR image no longer matches the cut image.
    return TestImage(image.name, image.hr[top : top + side, left : left + side].copy(), None)


def _labels(methods: Sequence[Method], weights: Sequence[Path]) -> list[str]:
    """Name each method, with its file's name if a backbone has several of that method."""
    names = [type(method).__name__ for method in methods]
    pairs = [(m.config.backbone, name) for m, name in zip(methods, names, strict=True)]
    stems = [escape.printable(path.stem) for path in weights]
    return [
        name if pairs.count((backbone, name)) == 1 else f"{name} ({stem})"
        for (backbone, name), stem in zip(pairs, stems, strict=True)
    ]


def write(
    pairs: Iterable[Pair],
    subjects: Sequence[Subject],
    out: Path,
    *,
    title: str,
    note: str = "",
    opening: Mapping[str, Head] | None = None,
    megabytes: float = math.inf,
) -> tuple[int, float]:
    """Run every method on every image and write the page.

    Args:
        pairs, subjects: what to show; the methods of a backbone are compared with the first of them
            without a knob.
        out: HTML file.
        title, note: heading of the page, and what it says of its images.
        opening: backbone -> the curves to open with; else those of the images shown.
        megabytes: size of the page; images that no longer fit are left out, but for the first.

    Returns:
        The number of images in the page, and its size in megabytes.
    """
    planes = page.Planes()
    images: list[dict[str, Any]] = []
    for pair in pairs:
        largest = max((image["megabytes"] for image in images), default=0.0)
        if planes.megabytes + largest > megabytes:
            break
        images.append(_image(pair, subjects, planes))
        log.info("%d %s: %.1f MB", len(images), pair.name, images[-1]["megabytes"])
    first = subjects[0]
    backbones = list(dict.fromkeys(subject.method.config.backbone for subject in subjects))
    content = {
        "title": escape.printable(title),
        "scale": first.scale,
        "shave": metrics.shave_for(first.scale),
        "protocol": first.protocol.model_dump(mode="json"),
        "note": note,
        "version": __version__,
        "backbones": [_backbone(name, subjects, (opening or {}).get(name)) for name in backbones],
        "methods": [
            subject.summary() | {"backbone": backbones.index(subject.method.config.backbone)}
            for subject in subjects
        ],
        "images": images,
    }
    return len(images), page.write(content, planes, out)


def _image(pair: Pair, subjects: Sequence[Subject], planes: page.Planes) -> dict[str, Any]:
    height, width = pair.hr.shape[:2]
    before = planes.megabytes
    return {
        "name": pair.name,
        "width": width,
        "height": height,
        "hr": planes.add(pair.hr),
        "lr": planes.add(to_uint8(pair.lr)),
        "methods": [subject.add(pair, planes) for subject in subjects],
        "megabytes": planes.megabytes - before,
    }


def _backbone(name: str, subjects: Sequence[Subject], opening: Head | None) -> dict[str, Any]:
    """Return what the page has of a backbone: its methods, by number, and its head."""
    own = [i for i, subject in enumerate(subjects) if subject.method.config.backbone == name]
    reference = next((i for i in own if not subjects[i].routes), None)
    label = None if reference is None else subjects[reference].label
    swept = [subjects[number].swept() for number in own]
    return {
        "name": style.name(name),
        "methods": own,
        "reference": reference,
        "head": opening or head.of_page(swept, label),
    }
