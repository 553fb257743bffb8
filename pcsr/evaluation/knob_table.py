"""What a knob value costs in PSNR, measured once and kept with the weights.

The *drop* of a knob value is the mean PSNR-RGB of the dearest branch everywhere, less its own, in
dB. With it ``pcsr upscale --psnr-drop 0.02`` finds the knob for a quality instead of the reverse.
"""

import itertools
import logging
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from pcsr import runtime
from pcsr.config.models import ProtocolConfig
from pcsr.data.test_images import TestImages
from pcsr.errors import UserError
from pcsr.evaluation import sweep
from pcsr.methods.base import Method
from pcsr.metrics import psnr_rgb

log = logging.getLogger("pcsr")


class Point(BaseModel):
    """One knob value: its PSNR drop in dB, and its FLOPs over those of the dearest branch."""

    model_config = ConfigDict(frozen=True, allow_inf_nan=False)

    knob: float
    drop: float
    share: float = Field(ge=0)


def measure(method: Method, pictures: TestImages, knobs: Sequence[float]) -> list[Point]:
    """Measure knob values on HR pictures by the suite's own protocol, dearest first.

    Raises:
        UserError: the method has no knob.
    """
    if not method.knobs:
        raise UserError(f"{method.config.method} has no knob to calibrate.")
    scale, protocol = method.config.scale, ProtocolConfig()
    psnr: list[list[float]] = []
    flops: list[list[float]] = []
    for number in runtime.progress(range(len(pictures)), "calibrate-knob"):
        pair = sweep.make_pair(pictures[number], scale, protocol)
        measures = {"psnr_rgb": psnr_rgb}
        rows = list(sweep.measure(method, pair, scale, knobs, [protocol], measures))
        psnr.append([row["psnr_rgb"] for row in rows])
        flops.append([row["flops_engine"] for row in rows])
        log.info("%d/%d %s", number + 1, len(pictures), pair.name)
    mean_psnr, mean_flops = np.mean(psnr, axis=0), np.mean(flops, axis=0)
    order = np.argsort(-mean_flops, kind="stable")
    best, most = mean_psnr[order[0]], mean_flops[order[0]]
    return [
        Point(
            knob=knobs[n],
            drop=round(float(best - mean_psnr[n]), 6),
            share=round(float(mean_flops[n] / most), 6),
        )
        for n in order
    ]


def for_drop(points: Sequence[Point], drop: float) -> float:
    """Return the knob value that saves most while the drop stays within ``drop`` dB.

    Between two measured values the drop is taken as linear in the knob.

    Raises:
        UserError: even the first step of the table loses more.
    """
    if drop < points[0].drop:
        raise UserError(f"--psnr-drop {drop:g}: give a drop of at least {points[0].drop:g} dB.")
    for dearer, cheaper in itertools.pairwise(points):
        if cheaper.drop > drop:
            part = (drop - dearer.drop) / (cheaper.drop - dearer.drop)
            return dearer.knob + part * (cheaper.knob - dearer.knob)
    return points[-1].knob


def read(facts: Mapping[str, Any], where: str) -> list[Point]:
    """Return the table that is kept with weights.

    Raises:
        UserError: there is none, or it is damaged.
    """
    table = facts.get("knob_table")
    if not isinstance(table, Mapping):
        raise UserError(
            f"{where}: has no table of what its knob costs; make it with `pcsr calibrate-knob`."
        )
    try:
        points = [Point.model_validate(point) for point in table["points"]]
    except (KeyError, TypeError, ValueError):
        points = []
    if not points:
        raise UserError(f"{where}: its knob table is damaged; run `pcsr calibrate-knob` again.")
    return points
