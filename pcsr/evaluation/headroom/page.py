"""What is left to save: where backbones spend their FLOPs, and what perfect routing would save."""

from collections.abc import Sequence
from typing import Annotated

import numpy as np
import pandas as pd
from cyclopts import Parameter
from numpy.typing import NDArray

from pcsr import escape, registry, runtime
from pcsr.config.load import load_experiment
from pcsr.config.models import ModelConfig, ProtocolConfig
from pcsr.config.options import CORES, Count, Device, HRImages, MarkdownOut, Threads, WeightsFiles
from pcsr.data.test_images import open_images
from pcsr.errors import UserError
from pcsr.evaluation.headroom.oracle import FULL, Choice, decided
from pcsr.evaluation.measure import Row, make_pair
from pcsr.geometry import TILE
from pcsr.methods.base import Method
from pcsr.methods.original import PAPER as ORIGINALS
from pcsr.methods.original import Original
from pcsr.methods.pcsr import PAPER, PCSR
from pcsr.report import pages
from pcsr.report.curves import Curve, estimate
from pcsr.report.tables import markdown
from pcsr.storage import files
from pcsr.weights.load import load_method

LOSS = 0.05  # dB
COUNTS = {"paper": "paper", "engine": "executed", "once": "executed, no pixel twice"}
HEADS = "span-pcsr"  # experiment whose heads are used for backbones without heads in a paper


def headroom(
    *,
    weights: WeightsFiles,
    images: HRImages,
    out: MarkdownOut,
    first: Annotated[
        int | None, Count, Parameter(help="measure only this many images, from the first")
    ] = None,
    device: Device = "auto",
    threads: Threads = CORES,
) -> None:
    """Show where backbones spend their FLOPs, and what an oracle would save with their branches.

    The first weights are the original to save on. Methods on its backbone are measured with their
    own router and with an oracle. With further originals, an oracle chooses one of all originals,
    or bicubic interpolation, for each tile.

    Example: `pcsr headroom --weights span.safetensors span-enaf.safetensors fsrcnn.safetensors
    --images data/prepared/kodak24 --out headroom.md`.
    """
    files.check_outputs((*weights, images), pages.written(out))
    picked = runtime.pick_device(device)
    runtime.set_up(0, threads)
    methods = [runtime.move(load_method(path)[0], picked) for path in weights]
    compared, scale, test = _compared(methods), methods[0].config.scale, open_images(images)
    # First, because it reads an experiment, which may be missing.
    page = [HEAD.format(scale=scale), markdown(shares(scale), SHARES), ORACLES]
    rows: list[Row] = []
    count = min(first or len(test), len(test))
    for number in runtime.progress(range(count), "headroom"):
        pair = make_pair(test[number], scale, ProtocolConfig(refine=False))
        rows += [row for method in compared for row in decided(method, pair)]
    whole = f"{len(test)} of {escape.markdown(images.name)}"
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
            full = Curve.of(of_method[of_method["by"] == FULL], count)
            reference = Curve.of(original, count)
            routed = of_method[of_method["by"] != FULL]
            for by, decisions in routed.groupby("by", sort=False):
                curve = Curve.of(decisions, count)
                table.append(
                    {
                        "Method": str(method),
                        "Decided by": str(by),
                        "FLOPs": counted,
                        **_needed(curve, full, reference),
                    }
                )
    return pd.DataFrame(table)


def _needed(curve: Curve, full: Curve, original: Curve) -> dict[str, str]:
    def gain(some: NDArray[np.intp]) -> float:
        return float(full.psnr[some].mean() - original.psnr[some].mean())

    def cost(some: NDArray[np.intp]) -> float:
        return 100 * float(full.gflops[some].mean() / original.gflops[some].mean())

    def below(target: Curve, some: NDArray[np.intp]) -> float:
        needed = curve.gflops_at(float(target.psnr[some].mean()) - LOSS, some)
        return 100 * needed / float(original.gflops[some].mean())

    count = len(original.psnr)
    return {
        "In full (dB)": estimate(gain, count).text(3),
        "In full (%)": estimate(cost, count).text(1),
        f"{LOSS:g} dB below full (%)": estimate(lambda some: below(full, some), count).text(1),
        f"{LOSS:g} dB below original (%)": estimate(lambda some: below(original, some), count).text(
            1
        ),
    }


def shares(scale: float) -> pd.DataFrame:
    """Return what share of an original's FLOPs encoder, tail and PCSR's heads take, by backbone."""
    others = load_experiment(HEADS).model.options
    table = []
    for backbone, original in ORIGINALS.items():
        width = original["width"]
        options = {**PAPER.get(backbone, others), "width": width}
        whole = _built(backbone, "original", {"width": width}, scale).costs((TILE, TILE), scale)
        heads = _built(backbone, "pcsr", options, scale)
        assert isinstance(heads, PCSR)
        costs, units = heads.costs((TILE, TILE), scale), round((TILE * scale) ** 2)
        cost, encoder = whole.total([1]), heads.encoder_flops((TILE, TILE))
        light, heavy = costs.total([units, 0]), costs.total([0, units])
        table += [
            _share(backbone, count, *(getattr(one, count) for one in (cost, encoder, light, heavy)))
            for count in ("paper", "engine")
        ]
    return pd.DataFrame(table)


def _built(backbone: str, method: str, options: dict[str, object], scale: float) -> Method:
    config = ModelConfig(backbone=backbone, method=method, options=options, scale=scale)
    return registry.build(config, f"{backbone}-{method}")


def _share(
    backbone: str, count: str, whole: float, encoder: float, light: float, heavy: float
) -> dict[str, str]:
    return {
        "Backbone": backbone,
        "FLOPs": COUNTS[count],
        "MFLOPs per tile": f"{whole / 1e6:.1f}",
        "Encoder (%)": f"{100 * encoder / whole:.1f}",
        "Tail (%)": f"{100 * (1 - encoder / whole):.1f}",
        "All light (%)": f"{100 * light / whole:.1f}",
        "All heavy (%)": f"{100 * heavy / whole:.1f}",
    }


SHARES = ("MFLOPs per tile", "Encoder (%)", "Tail (%)", "All light (%)", "All heavy (%)")
SAVINGS = (
    "In full (dB)",
    "In full (%)",
    f"{LOSS:g} dB below full (%)",
    f"{LOSS:g} dB below original (%)",
)
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
the oracle also picks what is better by chance. All FLOPs are in percent of the original's on whole
images, those of the method's scores included. *In full* is the most expensive branch everywhere,
its PSNR beside the original's. The last columns are the least FLOPs for a PSNR {LOSS:g} dB below
that of the full computation, and below the original's; a dash where the curve never has it.
Brackets hold 95 % bootstrap intervals over the images. Nothing is refined; LR has 8 bit.
"""
