"""Images that show a method at work: a super-resolved photograph, its routing, a comparison."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from cyclopts import Parameter

from pcsr import metrics
from pcsr.config import options
from pcsr.config.models import ProtocolConfig
from pcsr.data import bicubic
from pcsr.data.images import write
from pcsr.data.test_images import open_images
from pcsr.engine.runners import runner
from pcsr.errors import UserError
from pcsr.evaluation.measure import Pair, make_pair
from pcsr.evaluation.points import points_for_all, usable_point, usable_scale
from pcsr.evaluation.super_resolve import SuperResolver
from pcsr.images.levels import to_uint8
from pcsr.methods.base import Method
from pcsr.report import tidy
from pcsr.report.figures import saving, style
from pcsr.report.figures import showcase as figures
from pcsr.routing import OperatingPoint
from pcsr.storage import files
from pcsr.weights.load import load_all


def demo(
    image: Annotated[Path, Parameter(help="HR image")],
    /,
    *,
    weights: options.WeightsFiles,
    out: Annotated[Path, Parameter(help="folder for the images")],
    k: options.Knob = None,
    adaptive: options.Adaptive = False,
    refine: options.Refine = False,
    lr: options.LR = "float",
    degradation: options.Degradation = "matlab",
    crop: options.Crop = "none",
    scale: options.Scale = None,
    device: options.Device = "auto",
    threads: options.Threads = options.THREADS,
) -> list[str]:
    """Write HR, LR, SR and coloured routing images of one photograph, with PSNR and GFLOPs.

    The defaults (float LR, no crop, no refinement) are those of the published demo.

    Example: `pcsr demo 1232.png --weights carn-x4.safetensors carn-pcsr.safetensors --adaptive
    --out demo`.
    """
    protocol = ProtocolConfig(lr=lr, degradation=degradation, crop=crop, refine=refine)
    methods = [method for method, _ in load_all(weights, device, threads)[1]]
    titles = _titles(methods)
    drawn = [f"{title}{kind}" for title in titles for kind in ("", "-routing")]
    outputs = [out / f"{name}.png" for name in ("HR", "LR", *drawn)]
    files.check_outputs((image, *weights), [*outputs, out / "log.txt"])
    scale = usable_scale(methods[0], scale)
    pair = make_pair(open_images(image)[0], scale, protocol)
    if refine and not any(method.refines for method in methods):
        raise UserError("--refine: none of these methods has pixels to refine; drop it.")
    points = points_for_all(methods, OperatingPoint(k, adaptive, refine=refine))
    shown = [show(method, pair, scale, at) for method, at in zip(methods, points, strict=True)]
    return _write_demo(pair, dict(zip(titles, shown, strict=True)), out)


def showcase(
    *,
    images: options.HRImages,
    weights: options.WeightsFiles,
    routing: Annotated[Path, Parameter(help="routing-map PNG to write")],
    comparison: Annotated[Path, Parameter(help="comparison PNG to write")],
    sweep: Annotated[
        Path | None,
        Parameter(
            help="the method's sweep.csv of these images: shows the image and the knob at which "
            "its branches share the work most evenly"
        ),
    ] = None,
    image: Annotated[
        int | None,
        options.CountOrNone,
        Parameter(name=("--image", "--picture"), help="index of the image in the set, from 0"),
    ] = None,
    k: options.Knob = None,
    lr: options.LR = "8bit",
    degradation: options.Degradation = "matlab",
    crop: options.Crop = "tiles",
    refine: options.Refine = True,
    threads: options.Threads = options.THREADS,
) -> None:
    """Draw the routing map, and crops of HR, LR, bicubic, original and method.

    `--weights` takes the original's file first, then the method's. A PNG in place stays if it
    differs as little as from one kind of processor to another.

    Example: `pcsr showcase --images photo.png --weights carn-original carn-pcsr --k 1
    --routing routing.png --comparison crops.png`.
    """
    if len(weights) != 2:
        raise UserError(
            f"--weights: give two files, the original's and the method's, not {len(weights)}."
        )
    if sweep and (image is not None or k is not None):
        raise UserError("--sweep chooses the image and the knob: drop it, or --image and --k.")
    files.check_outputs((images, *weights, sweep), (routing, comparison))
    protocol = ProtocolConfig(lr=lr, degradation=degradation, crop=crop, refine=refine)
    _, loaded = load_all(weights, "cpu", threads)
    methods = [method for method, _ in loaded]
    scale = methods[1].config.scale
    test, test_set = open_images(images), None
    if sweep and methods[1].knobs:
        image, k, test_set = _telling(sweep, protocol, test.names)
    image = image or 0
    if not 0 <= image < len(test):
        raise UserError(f"--image {image}: {images} has images 0 to {len(test) - 1}.")
    pair = make_pair(test[image], scale, protocol)
    points = points_for_all(methods, OperatingPoint(knob=k, refine=refine))
    first, shown = (
        show(method, pair, scale, at, facts.get("experiment"))
        for (method, facts), at in zip(loaded, points, strict=True)
    )
    where = f"image {pair.name}" + (f" of {style.name(test_set)}" if test_set else "")
    draw(pair, first, shown, where, routing, comparison)


def _telling(sweep: Path, protocol: ProtocolConfig, names: Sequence[str]) -> tuple[int, float, str]:
    """Return the index of the image to show, and the knob, chosen from a sweep; its test set."""
    rows = tidy.collect([sweep])
    own = protocol.columns()
    same = np.logical_and.reduce([rows[name] == value for name, value in own.items()])
    rows = rows[same & ~rows["adaptive"] & rows["image"].isin(names)]
    if rows.empty:
        raise UserError(f"--sweep {sweep}: has none of these images by this protocol.")
    name, knob = figures.most_divided(rows)
    return list(names).index(name), knob, str(rows["test_set"].iloc[0])


@dataclass(frozen=True)
class Shown:
    """A super-resolved image with its routing and its cost.

    Attributes:
        labels: (H, W), the branch of each HR pixel.
        shares: share of units per branch, cheapest first.
        gflops: by the paper's convention.
        knob: that it was routed by; None without one.
        experiment: of the weights, if they name one.
    """

    method: Method
    sr: metrics.Image
    labels: np.ndarray
    shares: tuple[float, ...]
    psnr_rgb: float
    gflops: float
    knob: float | None
    experiment: str | None = None

    @property
    def name(self) -> str:
        """What figures call it: backbone, method, experiment, and the value of its knob."""
        config = self.method.config
        called = style.model(config.backbone, config.method, self.experiment)
        letter = style.knob(config.method)
        return called if self.knob is None else f"{called}, {letter} = {self.knob:g}"


def _titles(methods: Sequence[Method]) -> list[str]:
    """Return the title of each method, numbered where several have the same."""
    titles = [f"{method.config.backbone}-{method.config.method}" for method in methods]
    return [
        title if titles.count(title) == 1 else f"{title}-{number + 1}"
        for number, title in enumerate(titles)
    ]


def show(
    method: Method, pair: Pair, scale: float, point: OperatingPoint, experiment: str | None = None
) -> Shown:
    """Super-resolve a test image, running only the routed work, and measure the result."""
    used = usable_point(method, point)
    done = SuperResolver(runner(method), scale, used).tensor(pair.lr, keep_routing=True)
    assert done.routing is not None
    flops = method.costs((pair.lr.shape[-2], pair.lr.shape[-1]), scale).total(done.units)
    return Shown(
        method,
        done.sr,
        done.routing,
        tuple(count / sum(done.units) for count in done.units),
        metrics.psnr_rgb(done.sr, pair.hr, metrics.shave_for(scale)),
        flops.paper / 1e9,
        used.knob,
        experiment,
    )


def _write_demo(pair: Pair, shown: Mapping[str, Shown], out: Path) -> list[str]:
    """Write HR, LR, each SR and each routing image as PNG, and ``log.txt``.

    Returns:
        The lines of the log: title, PSNR-RGB in dB, GFLOPs, and their percentage of the first
        original's GFLOPs (of the first method's, if no original is shown).
    """
    write(out / "HR.png", pair.hr)
    write(out / "LR.png", to_uint8(pair.lr))
    originals = (result for result in shown.values() if not result.method.knobs)
    reference = next(originals, next(iter(shown.values()))).gflops
    lines = []
    for title, result in shown.items():
        write(out / f"{title}.png", result.sr)
        if result.method.branches > 1:
            coloured = figures.routing_image(result.labels, result.method.branches, result.sr)
            write(out / f"{title}-routing.png", coloured)
        percent = 100 * result.gflops / reference
        lines.append(f"{title}: {result.psnr_rgb:.2f} dB | {result.gflops:.2f} G ({percent:.0f} %)")
    files.write_text(out / "log.txt", "\n".join(lines) + "\n")
    return lines


def draw(
    pair: Pair, original: Shown, shown: Shown, where: str, routing: Path, comparison: Path
) -> None:
    """Write the report's two images: the routing map, and crops side by side.

    ``where`` is what figures call the image.
    """
    gained = shown.psnr_rgb - original.psnr_rgb
    percent = 100 * shown.gflops / original.gflops
    title = (
        f"{shown.name}, {where}: {shown.psnr_rgb:.2f} dB ({gained:+.2f} dB), "
        f"{shown.gflops:.2f} paper GFLOPs ({percent:.0f} % of the original's)"
    )
    gain = figures.gain_over(original.sr, shown.sr, pair.hr)
    method = shown.method
    routed = figures.routing_figure(
        *(shown.sr, shown.labels, method.branches, gain, title),
        names=method.branch_names,
        unit=method.unit,
    )
    saving.save(routed, routing)
    enlarged = to_uint8(bicubic.resize(pair.lr.double(), pair.hr.shape[:2]))
    panels = [
        ("HR", pair.hr),
        ("LR", to_uint8(pair.lr)),
        ("bicubic", enlarged),
        (original.name, original.sr),
        (shown.name, shown.sr),
    ]
    lost = pair.hr.astype(float) - enlarged  # the detail that super-resolution has to restore
    box = figures.detailed_box(lost, side=96)
    saving.save(figures.comparison(panels, box, title=where), comparison)
