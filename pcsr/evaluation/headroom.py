"""What is left to save: where backbones spend their FLOPs, and what perfect routing would save.

Perfect routing is an oracle that decides with the HR image: each unit takes the branch with the
least sum of error and price times cost. It is an upper bound, because a router has to guess the
error. For tiles the bound is tight; for pixels it is loose, because the oracle also picks a branch
that is better by chance.
"""

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from cyclopts import Parameter
from numpy.typing import NDArray
from torch import Tensor, nn

from pcsr import escape, registry, runtime
from pcsr.config.load import load_experiment
from pcsr.config.models import ModelConfig, ProtocolConfig
from pcsr.config.options import THREADS, Count, Device, HRImages, MarkdownOut, Threads, WeightsFiles
from pcsr.data.test_images import open_images
from pcsr.errors import UserError
from pcsr.evaluation.measure import DensePass, Pair, Row, make_pair
from pcsr.flops import Flops
from pcsr.geometry import TILE
from pcsr.methods.base import Exploration, Method
from pcsr.methods.original import PAPER as ORIGINALS
from pcsr.methods.original import Original
from pcsr.methods.pcsr import PAPER, PCSR
from pcsr.methods.tiled import Tiled
from pcsr.metrics import psnr_rgb, shave_for
from pcsr.report import pages
from pcsr.report.curves import Curve, Floats, estimates, gflops_needed, percent_needed
from pcsr.report.tables import markdown
from pcsr.routing import OperatingPoint
from pcsr.storage import files
from pcsr.weights.load import load_all

LOSS = 0.05  # dB
COUNTS = {"paper": "paper", "engine": "executed", "once": "executed, no pixel twice"}
HEADS = "span-pcsr"  # experiment whose heads are used for backbones without heads in a paper
# In dB per full cost, like ENAF's eta. The last takes the cheapest branch.
PRICES = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.5, 5.0, 10.0, 1000.0)
FULL, ROUTER, ORACLE = "full", "its router", "an oracle"
CONTENT, PLACE = "its router, per LR pixel", "its router, by place alone"


def headroom(
    *,
    weights: WeightsFiles,
    images: HRImages,
    out: MarkdownOut,
    first: Annotated[
        int | None, Count, Parameter(help="measure only this many images, from the first")
    ] = None,
    device: Device = "auto",
    threads: Threads = THREADS,
) -> None:
    """Show where backbones spend their FLOPs, and what an oracle would save with their branches.

    The first weights are the original to save on. Methods on its backbone are measured with their
    own router and with an oracle, PCSR also with one decision per LR pixel, and by the place of a
    pixel within its LR pixel alone. With further originals, an oracle chooses one of all originals,
    or bicubic interpolation, for each tile.

    Example: `pcsr headroom --weights span.safetensors span-enaf.safetensors fsrcnn.safetensors
    --images data/prepared/kodak24 --out headroom.md`.
    """
    files.check_outputs((*weights, images), pages.written(out))
    methods = [method for method, _ in load_all(weights, device, threads)[1]]
    compared, scale, test = _compared(methods), methods[0].config.scale, open_images(images)
    spent = shares(scale)  # first, because it reads an experiment, which may be missing
    page = [HEAD.format(scale=scale), markdown(spent, spent.columns[2:]), ORACLES]
    rows: list[Row] = []
    count = min(first or len(test), len(test))
    for number in runtime.progress(range(count), "headroom"):
        pair = make_pair(test[number], scale, ProtocolConfig(refine=False))
        rows += [row for method in compared for row in decided(method, pair)]
    name = images.parent.name if images.name == "HR" else images.name
    whole = f"{len(test)} of {escape.markdown(name)}"
    page.append(
        f"Images: {whole if count == len(test) else f'the first {count} of the {whole}'}.\n"
    )
    page.append(markdown(savings(pd.DataFrame(rows)), SAVINGS))
    pages.write("\n".join(page), out)


def _compared(methods: Sequence[Method]) -> list[Method]:
    """Return the original, the methods on its backbone, and a choice of all originals."""
    originals = [method for method in methods if isinstance(method, Original)]
    others = [method for method in methods if not isinstance(method, Original)]
    first = methods[0]
    foreign = any(method.config.backbone != first.config.backbone for method in others)
    twice = len({method.config.method for method in others}) < len(others)
    scales = {method.config.scale for method in methods}
    if first not in originals or foreign or twice or len(scales) > 1 or len(methods) < 2:
        raise UserError(
            "--weights: give an original first, and then different methods on its backbone or "
            "other originals, all of one scale."
        )
    choice = [Choice(originals)] if len(originals) > 1 else []
    return [first, *others, *choice]


class Choice(Tiled):
    """Bicubic interpolation or one of several originals for each tile, cheapest first.

    It has no router; an oracle shows what the best one could save.
    """

    points = (OperatingPoint(),)

    def __init__(self, originals: Sequence[Original]) -> None:
        nn.Module.__init__(self)
        tile = (TILE, TILE)
        scale = originals[0].config.scale
        ordered = sorted(originals, key=lambda one: one.costs(tile, scale).branch[0].engine)
        self.networks = nn.ModuleList(one.network for one in ordered)
        self.branches = 1 + len(ordered)
        self.stages = ()
        names = ["bicubic", *(one.config.backbone for one in ordered)]
        self.config = ordered[-1].config.model_copy(update={"method": " or ".join(names)})
        self._costs = tuple(one.costs(tile, scale).branch[0] for one in ordered)

    def score(self, tiles: Tensor) -> Tensor:
        """Return zeros (n, M): nothing is known before HR is seen."""
        return tiles.new_zeros(len(tiles), self.branches)

    def upscale(self, branch: int, lr: Tensor) -> Tensor:
        """See ``Tiled.upscale``; bicubic as ENAF's."""
        if branch == 0:
            return F.interpolate(lr, scale_factor=self.config.scale, mode="bicubic")
        sr: Tensor = self.networks[branch - 1](lr)
        return sr

    def tile_costs(self) -> tuple[Flops, tuple[Flops, ...]]:
        """See ``Tiled.tile_costs``; bicubic counts as free."""
        return Flops(), (Flops(), *self._costs)

    def route(self, scores: Tensor, point: OperatingPoint, scale: float) -> Tensor:
        """Take the most expensive branch: there is no router."""
        return torch.full_like(scores[:, 0], self.branches - 1, dtype=torch.long)


def errors(dense: DensePass) -> Tensor:
    """Return the squared error of every branch in every unit, (M, units), float64.

    In 8-bit levels, summed over a unit's pixels and channels, without the border that PSNR leaves
    out. Where tiles overlap, a pixel belongs to the nearest one.
    """
    method, hr, shave = dense.method, dense.pair.hr, shave_for(dense.scale)
    inside = slice(shave, -shave)
    labels = dense.everywhere(0)
    numbers = torch.arange(labels.numel()).view_as(labels)
    unit = method.pixel_labels(numbers, dense.exploration.lr_size, dense.scale)[0]
    unit = unit.expand(hr.shape[:2])[inside, inside].flatten().cpu()
    found = []
    for branch in range(method.branches):
        sr = dense.image(dense.everywhere(branch), OperatingPoint())
        apart = torch.from_numpy(sr.astype(np.float64) - hr)[inside, inside]
        of_pixel = apart.square().sum(dim=-1).flatten()
        found.append(torch.bincount(unit, of_pixel, minlength=labels.numel()))
    return torch.stack(found)


def routers(method: Method, exploration: Exploration) -> Iterator[tuple[str, Tensor]]:
    """Yield a method's scores, and those of pixels with less to see, (N, M, ...) each.

    At an integer scale the scores of the HR pixels of an LR pixel are averaged, which leaves the
    content, and those of the pixels at one place within all LR pixels, which leaves the place.
    """
    scores = exploration.scores
    yield ROUTER, scores
    block = round(method.config.scale)
    if method.unit != "pixel" or block != method.config.scale:
        return
    height, width = exploration.lr_size
    split = scores.unflatten(-1, (width, block)).unflatten(-3, (height, block))
    for by, alike in ((CONTENT, (-3, -1)), (PLACE, (-4, -2))):
        yield by, split.mean(alike, keepdim=True).expand_as(split).reshape(scores.shape)


def oracle(error: Tensor, cost: Sequence[float], price: float) -> Tensor:
    """Choose the branch of each unit by its true error: (M, units) -> (units,) int64.

    Minimises, to first order, the loss of PSNR in dB plus ``price`` times the cost as a share of
    the full computation's. Ties go to the cheapest branch.

    Args:
        error: squared error of every branch in every unit.
        cost: FLOPs of a unit in each branch, cheapest first.
        price: dB that the full cost is worth.
    """
    whole = error[-1].sum().clamp_min(1.0)
    loss = 10 / np.log(10) * error / whole
    shares = torch.tensor(cost, dtype=error.dtype)[:, None] / (cost[-1] * error.shape[1])
    return (loss + price * shares).argmin(dim=0)


@torch.no_grad()
def decided(method: Method, pair: Pair) -> Iterator[Row]:
    """Yield the rows of a method on an image: in full, by its router, and by an oracle (``by``)."""
    dense = DensePass(method, pair, method.config.scale)
    full = dense.everywhere(method.branches - 1)
    decisions = {FULL: [(OperatingPoint(), full)]}
    points = [OperatingPoint(knob=k) for k in method.fine_knobs or method.knobs]
    for by, seen in routers(method, dense.exploration) if points else ():
        decisions[by] = [(point, method.route(seen, point, dense.scale)) for point in points]
    if method.branches > 1:
        error = errors(dense)
        costs = method.costs(dense.exploration.lr_size, dense.scale).branch
        best = (oracle(error, [cost.engine for cost in costs], price) for price in PRICES)
        decisions[ORACLE] = [
            (OperatingPoint(knob=price), labels.view_as(full).to(full.device))
            for price, labels in zip(PRICES, best, strict=True)
        ]
    for by, made in decisions.items():
        for row in dense.rows(made, [ProtocolConfig(refine=False)], {"psnr_rgb": psnr_rgb}):
            yield {**row, "by": by}


def savings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return what each method needs for a loss, decided by its router and by an oracle.

    Images that some branch restores exactly have no mean PSNR, and are left out.

    Args:
        rows: of ``decided``, of one original and some methods.
    """
    rows = rows[np.isfinite(rows["psnr_rgb"]).groupby(rows["image"]).transform("all")]
    overlap = rows["lr_pixels"] / (rows["lr_height"] * rows["lr_width"])
    rows = rows.assign(flops_once=rows["flops_engine"] / overlap)
    original = rows[rows["method"] == "original"]
    table = []
    for method, of_method in rows[rows["method"] != "original"].groupby("method", sort=False):
        for count, counted in COUNTS.items():
            reference = Curve.of(original, count)
            curves = {
                str(by): Curve.of(decisions, count)
                for by, decisions in of_method.groupby("by", sort=False)
            }
            full = curves.pop(FULL)
            table += [
                {"Method": str(method), "Decided by": by, "FLOPs": counted}
                | _needed(curve, full, reference)
                for by, curve in curves.items()
            ]
    return pd.DataFrame(table)


def _needed(curve: Curve, full: Curve, original: Curve) -> dict[str, str]:
    def values(some: NDArray[np.intp]) -> Floats:
        (psnr, gflops), (base_psnr, whole) = (
            (of.psnr[some].mean(), of.gflops[some].mean()) for of in (full, original)
        )
        return np.array(
            [
                psnr - base_psnr,
                100 * (gflops / whole),
                100 * gflops_needed(curve, full, LOSS, some) / whole,
                percent_needed(curve, original, LOSS, some),
            ]
        )

    found = estimates(values, len(original.psnr))
    pairs = zip(SAVINGS.items(), found, strict=True)
    return {name: value.text(decimals) for (name, decimals), value in pairs}


def shares(scale: float) -> pd.DataFrame:
    """Return what share of an original's FLOPs encoder, tail and PCSR's heads take, by backbone."""
    others = load_experiment(HEADS).model.options
    tile, units = (TILE, TILE), round((TILE * scale) ** 2)
    table = []
    for backbone, paper in ORIGINALS.items():
        width: dict[str, object] = {"width": paper["width"]}
        original = _built(backbone, "original", width, scale)
        heads = _built(backbone, "pcsr", {**PAPER.get(backbone, others), **width}, scale)
        assert isinstance(heads, PCSR)
        costs = heads.costs(tile, scale)
        parts = (
            original.costs(tile, scale).total([1]),
            heads.encoder_flops(tile),
            costs.total([units, 0]),
            costs.total([0, units]),
        )
        for count in ("paper", "engine"):
            whole, encoder, light, heavy = (getattr(part, count) for part in parts)
            table.append(
                {
                    "Backbone": backbone,
                    "FLOPs": COUNTS[count],
                    "MFLOPs per tile": f"{whole / 1e6:.1f}",
                    "Encoder (%)": f"{100 * encoder / whole:.1f}",
                    "Tail (%)": f"{100 * (1 - encoder / whole):.1f}",
                    "All light (%)": f"{100 * light / whole:.1f}",
                    "All heavy (%)": f"{100 * heavy / whole:.1f}",
                }
            )
    return pd.DataFrame(table)


def _built(backbone: str, method: str, options: dict[str, object], scale: float) -> Method:
    config = ModelConfig(backbone=backbone, method=method, options=options, scale=scale)
    return registry.build(config, f"{backbone}-{method}")


SAVINGS = {  # column -> decimals
    "In full (dB)": 3,
    "In full (%)": 1,
    f"{LOSS:g} dB below full (%)": 1,
    f"{LOSS:g} dB below original (%)": 1,
}
HEAD = f"""# What is left to save

## Where the FLOPs are

Of a tile of {TILE}x{TILE} LR pixels at x{{scale:g}}, for the original of each backbone. Its tail is
the most that any method can save which keeps the encoder. *All light* and *all heavy* are PCSR on
the original's own encoder, by one head everywhere, in percent of the original. Heads and classifier
are the paper's; for backbones that no paper has any for, those of `{HEADS}`.
"""
ORACLES = f"""
## What an oracle would save

The oracle sees HR. For each unit (a tile, an HR pixel) it takes the branch with the least error and
cost; to first order no router can do better with the same branches. The bound is loose for pixels:
the oracle also picks what is better by chance. *Per LR pixel*, the HR pixels of an LR pixel share
the mean of their scores; *by place alone*, all pixels at one place within their LR pixels do. All
FLOPs are in percent of the original's on whole images, those of the method's scores included. *In
full* is the most expensive branch everywhere, its PSNR relative to the original's. The last columns
are the least FLOPs for a PSNR {LOSS:g} dB below that of the full computation, and below the
original's; a dash where the curve never has it. Brackets hold 95 % bootstrap intervals over the
images. Nothing is refined; LR has 8 bit.
"""
