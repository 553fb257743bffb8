"""What each knob value costs in PSNR, measured once and saved with the weights.

The *drop* of a knob value is its loss in mean PSNR-RGB, in dB, against the full computation: the
most expensive branch everywhere, which is always measured, whatever the knob values. With it
``pcsr upscale --psnr-drop 0.02`` finds the knob value for a given quality.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from cyclopts import Parameter
from pydantic import BaseModel, ConfigDict, Field

from pcsr import runtime
from pcsr.config.models import ProtocolConfig
from pcsr.config.options import THREADS, Device, HRImages, KnobValue, LogFile, Threads, WeightsFile
from pcsr.data.test_images import TestImages, open_images
from pcsr.errors import UserError, log
from pcsr.evaluation.measure import DensePass, Row, make_pair
from pcsr.methods.base import Method
from pcsr.metrics import comparable, psnr_rgb
from pcsr.routing import OperatingPoint
from pcsr.storage import files, provenance
from pcsr.weights import checkpoint
from pcsr.weights.load import load_all


def calibrate_knob(
    *,
    weights: WeightsFile,
    images: HRImages,
    out: Annotated[Path, Parameter(help="weights file to write, including the table")],
    knob: Annotated[
        Sequence[float],
        KnobValue,
        Parameter(help="values of the knob; default: a range that suits it"),
    ] = (),
    device: Device = "auto",
    threads: Threads = THREADS,
    log_file: LogFile = None,
) -> list[str]:
    """Measure what the knob costs in PSNR, for `upscale --psnr-drop`.

    The cost of a value is its mean PSNR loss against the full computation, the most expensive
    branch everywhere. Images restored exactly have an infinite PSNR and are left out.

    Example: `pcsr calibrate-knob --weights carn-pcsr.safetensors --images data/prepared/div2k-valid
    --out carn-pcsr-calibrated.safetensors`.
    """
    files.require_suffix(out, ".safetensors", "--out")
    files.check_outputs((weights, images), (out, files.sidecar(out), log_file))
    runtime.setup_logging(log_file)
    picked, ((method, facts),) = load_all([weights], device, threads)
    test = open_images(images)
    with files.locked(out):
        points = measure(method, test, knob or method.fine_knobs or method.knobs)
        table = {
            "reference": "most expensive branch everywhere",
            "points": [point.model_dump() for point in points],
            "images": test.digest,
            "provenance": provenance.record(device=runtime.describe(picked)),
        }
        model = method.config.model_dump(mode="json")
        checkpoint.save_weights(out, method, {**facts, "model": model, "knob_table": table})
    return [f"{p.knob:g}: -{p.drop:.3f} dB, {100 * p.share:.1f} % of the FLOPs" for p in points]


class Point(BaseModel):
    """One knob value: its PSNR drop in dB and share of FLOPs, against the full computation."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    knob: float
    drop: float
    share: float = Field(ge=0)


class Table(BaseModel):
    """What is saved with weights, beside where it comes from; most expensive point first."""

    reference: Literal["most expensive branch everywhere"]
    points: tuple[Point, ...] = Field(min_length=1)


@torch.no_grad()
def measure(method: Method, images: TestImages, knobs: Sequence[float]) -> list[Point]:
    """Measure knob values on HR images by the suite's protocol; return the most expensive first.

    Raises:
        UserError: the method has no knob, or every image is restored exactly.
    """
    if not method.knobs:
        raise UserError(f"{method.config.method} has no knob to calibrate.")
    scale, protocol = method.config.scale, ProtocolConfig()
    points = [OperatingPoint(knob=k) for k in knobs]
    measured: list[list[Row]] = []
    for number in runtime.progress(range(len(images)), "calibrate-knob"):
        pair = make_pair(images[number], scale, protocol)
        dense = DensePass(method, pair, scale)
        full = OperatingPoint(), dense.everywhere(method.branches - 1)
        decisions = [full, *dense.route(points)]
        measured.append(list(dense.rows(decisions, [protocol], {"psnr_rgb": psnr_rgb})))
        log.info("%d/%d %s", number + 1, len(images), pair.name)
    psnr, flops = (
        np.array([[row[name] for row in rows] for rows in measured])
        for name in ("psnr_rgb", "flops_engine")
    )
    counted = comparable(psnr)
    if not counted.any():
        raise UserError("calibrate-knob: every image is restored exactly; give photographs.")
    if not counted.all():
        log.info("left out, because they are restored exactly: %d images", (~counted).sum())
    mean_psnr, mean_flops = (values[counted].mean(axis=0) for values in (psnr, flops))
    drops, shares = mean_psnr[0] - mean_psnr[1:], mean_flops[1:] / mean_flops[0]
    return [
        Point(knob=knobs[n], drop=round(float(drops[n]), 6), share=round(float(shares[n]), 6))
        for n in np.argsort(-mean_flops[1:], kind="stable")
    ]


def for_drop(points: Sequence[Point], drop: float) -> float:
    """Return the cheapest knob value whose drop stays within ``drop`` dB.

    The drop is interpolated linearly between measured knob values.

    Raises:
        UserError: ``drop`` is below that of the first, most expensive point, or not finite.
    """
    if not points[0].drop <= drop < math.inf:
        raise UserError(
            f"--psnr-drop {drop:g}: give a drop of at least {points[0].drop:g} dB, or measure more "
            "expensive values with `pcsr calibrate-knob --knob`."
        )
    for costlier, cheaper in itertools.pairwise(points):
        if cheaper.drop > drop:
            part = (drop - costlier.drop) / (cheaper.drop - costlier.drop)
            return costlier.knob + part * (cheaper.knob - costlier.knob)
    return points[-1].knob


def read(facts: Mapping[str, Any], where: str) -> list[Point]:
    """Return the table that is saved with weights.

    Raises:
        UserError: the weights have no table, or it is damaged, or an earlier version made it, which
            measured drops against the most expensive knob value given.
    """
    table = facts.get("knob_table")
    if not isinstance(table, Mapping):
        raise UserError(
            f"{where}: has no table of its knob's cost in PSNR; make it with `pcsr calibrate-knob`."
        )
    try:
        return list(Table.model_validate(table).points)
    except ValueError:
        raise UserError(
            f"{where}: its knob table is damaged, or older than the rule that drops are measured "
            "against the full computation; run `pcsr calibrate-knob` again."
        ) from None
