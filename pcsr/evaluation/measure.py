"""Measure methods: one dense pass per image, then every operating point by routing alone.

All methods are measured here, with the same images, degradation, PSNR and FLOP count. A method
never scores itself.
"""

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcsr import geometry, metrics
from pcsr.config.models import ProtocolConfig
from pcsr.data import bicubic, images
from pcsr.data.test_images import TestImage
from pcsr.errors import UserError
from pcsr.methods.base import Exploration, Method, Stage
from pcsr.metrics import Metric
from pcsr.routing import OperatingPoint

Row = dict[str, Any]


@dataclass(frozen=True)
class Pair:
    """A test image: LR float32 (1, 3, h, w) in [0, 1], and HR uint8 (H, W, 3) to compare with."""

    name: str
    lr: Tensor
    hr: metrics.Image


def make_pair(image: TestImage, scale: float, protocol: ProtocolConfig) -> Pair:
    """Degrade HR (or take the ready-made LR image) and crop, as the protocol says.

    HR is first cropped to a multiple of the scale, then degraded as a whole. ``crop: tiles`` crops
    LR to whole tiles and HR to match; crops start at the top left. ``lr: float`` always degrades
    HR, because ready-made LR images are 8 bit.

    Raises:
        UserError: the image is too small, or its LR image has another size.
    """
    height, width = image.hr.shape[:2]
    size = geometry.lr_size((height, width), scale)
    whole = geometry.hr_size(size, scale)
    hr = image.hr[: whole[0], : whole[1]]
    if image.lr is None or protocol.lr == "float":
        exact = torch.from_numpy(hr.transpose(2, 0, 1).astype(np.float64))[None] / 255
        lr = bicubic.degrade(exact, size, protocol.lr).float()
    elif image.lr.shape[:2] != size:
        found = f"{image.lr.shape[1]}x{image.lr.shape[0]}"
        raise UserError(
            f"{image.name}: the LR image is {found}, but HR {width}x{height} at x{scale:g} needs "
            f"{size[1]}x{size[0]}; give the LR image of this scale."
        )
    else:
        lr = images.to_tensor(image.lr)
    if protocol.crop == "tiles":
        size = geometry.tile_crop(*size)
        if 0 in size:
            raise UserError(
                f"{image.name}: {width}x{height} is smaller than one tile of {geometry.TILE} LR "
                f"pixels a side at x{scale:g}; use a larger image, or measure with --crop none."
            )
        whole = geometry.hr_size(size, scale)
    if min(whole) < metrics.smallest_side(scale):
        raise UserError(
            f"{image.name}: {width}x{height} is too small to be measured; at x{scale:g} a side "
            f"needs {metrics.smallest_side(scale)} pixels."
        )
    return Pair(image.name, lr[..., : size[0], : size[1]], hr[: whole[0], : whole[1]])


def points_of(method: Method, knobs: Sequence[float], adaptive: bool) -> list[OperatingPoint]:
    """Return the operating points to measure a method at; empty ``knobs``: its default sweep."""
    if not method.knobs:
        return [method.points[0]]
    swept = [OperatingPoint(knob=k) for k in knobs or sorted(method.knobs)]
    return swept + [point for point in method.points if adaptive and point.adaptive]


@torch.no_grad()
def measure(
    method: Method,
    pair: Pair,
    scale: float,
    points: Sequence[OperatingPoint],
    protocols: Sequence[ProtocolConfig],
    measures: Mapping[str, Metric],
    own: ProtocolConfig | None = None,
    full: bool = False,
) -> Iterator[Row]:
    """Yield one row per operating point and protocol of one image.

    All protocols use the same pair and one dense pass, so they may differ only in refinement. If
    ``own`` is given, all metrics are computed under that protocol and only PSNR-RGB under others.
    With ``full`` the first rows are those of the full computation, the most expensive branch
    everywhere, which no knob may reach; their knob is None.
    ``seconds`` is the time of the dense pass, the same in all rows of the image; it is not a
    latency. ``share_j`` is the share of units that branch j computes. ``lr_pixels`` is the number
    of LR pixels processed, which exceeds the image's where tiles overlap.
    """
    device = next(method.parameters()).device
    started = time.perf_counter()
    exploration = method.explore(pair.lr.to(device), scale)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    for row in rows(method, exploration, pair, scale, points, protocols, measures, own, full):
        yield {**row, "seconds": seconds}


@torch.no_grad()
def rows(
    method: Method,
    exploration: Exploration,
    pair: Pair,
    scale: float,
    points: Sequence[OperatingPoint],
    protocols: Sequence[ProtocolConfig],
    measures: Mapping[str, Metric],
    own: ProtocolConfig | None = None,
    full: bool = False,
) -> Iterator[Row]:
    """Yield what ``measure`` does, but for ``seconds``, of an image that is explored already."""
    height, width = pair.lr.shape[-2:]
    costs = method.costs((height, width), scale)
    decisions = [(point, method.route(exploration.scores, point, scale)) for point in points]
    if full:
        everywhere = torch.full_like(exploration.scores[:, 0], method.branches - 1).long()
        decisions.insert(0, (OperatingPoint(), everywhere))
    for point, labels in decisions:
        units = torch.bincount(labels.flatten(), minlength=method.branches).tolist()
        flops = costs.total(units)
        for protocol in protocols:
            refined = replace(point, refine=protocol.refine)
            sr = images.to_uint8(method.compose(exploration, labels, refined))
            every = own in (None, protocol)
            yield {
                "image": pair.name,
                "method": method.config.method,
                "backbone": method.config.backbone,
                "scale": scale,
                "knob": point.knob,
                "adaptive": point.adaptive,
                **protocol.model_dump(),
                **{
                    name: metric(sr, pair.hr, metrics.shave_for(scale))
                    if every or name == "psnr_rgb"
                    else None
                    for name, metric in measures.items()
                },
                "flops_paper": flops.paper,
                "flops_algorithmic": flops.algorithmic,
                "flops_engine": flops.engine,
                **{f"share_{j}": count / sum(units) for j, count in enumerate(units)},
                "units": sum(units),
                "lr_pixels": method.lr_pixels((height, width)),
                "lr_height": height,
                "lr_width": width,
            }


@torch.no_grad()
def validate(
    method: Method, stage: Stage, pairs: Sequence[Pair], scale: float, refine: bool
) -> dict[str, float]:
    """Return the mean PSNR-RGB in dB and the share of the most expensive branch for one stage.

    Images that are restored exactly do not count in the mean (``metrics.comparable``).

    Every branch is run, because a stage may train a branch that the finished method rarely takes.
    """
    device = next(method.parameters()).device
    point = replace(method.points[0], refine=refine)
    psnr, heavy = [], []
    for pair in pairs:
        exploration = method.explore(pair.lr.to(device), scale)
        if stage.branch is None:
            labels = method.route(exploration.scores, point, scale)
        else:
            labels = torch.full_like(exploration.scores[:, 0], stage.branch, dtype=torch.long)
        sr = images.to_uint8(method.compose(exploration, labels, point))
        psnr.append(metrics.psnr_rgb(sr, pair.hr, metrics.shave_for(scale)))
        heavy.append(float((labels == method.branches - 1).double().mean()))
    counted = metrics.comparable(np.array(psnr)[:, None])
    mean = float(np.mean(np.array(psnr)[counted])) if counted.any() else np.inf
    return {"psnr_rgb": mean, "heavy_share": float(np.mean(heavy))}
