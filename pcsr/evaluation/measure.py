"""Measure methods: one dense pass per image, then every operating point by routing alone.

All methods are measured here, with the same images, degradation, PSNR and FLOP count. A method
never scores itself.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pcsr import geometry, metrics
from pcsr.config.models import ProtocolConfig
from pcsr.data import bicubic
from pcsr.data.test_images import TestImage
from pcsr.errors import UserError
from pcsr.images.levels import to_tensor, to_uint8
from pcsr.methods.base import Method, Stage
from pcsr.metrics import Metric
from pcsr.routing import OperatingPoint

Row = dict[str, Any]
#: An operating point, and the branch of each unit there, (N, units...) int64.
Decision = tuple[OperatingPoint, Tensor]


@dataclass(frozen=True)
class Pair:
    """A test image: LR float32 (1, 3, h, w) in [0, 1], and HR uint8 (H, W, 3) to compare with."""

    name: str
    lr: Tensor
    hr: metrics.Image


def make_pair(image: TestImage, scale: float, protocol: ProtocolConfig) -> Pair:
    """Degrade HR (or take the ready-made LR image) and crop, as the protocol says.

    HR is first cropped to a multiple of the scale, then degraded as a whole. ``crop: tiles`` crops
    LR to whole tiles and HR to match; crops start at the top left. ``lr: float`` and degradations
    other than ``matlab`` always degrade HR: ready-made LR images are 8 bit and already degraded.

    Raises:
        UserError: the image is too small, or its LR image has another size.
    """
    height, width = image.hr.shape[:2]
    size = geometry.lr_size((height, width), scale)
    whole = geometry.hr_size(size, scale)
    hr = image.hr[: whole[0], : whole[1]]
    if image.lr is None or not protocol.takes_ready_lr:
        exact = torch.from_numpy(hr.transpose(2, 0, 1).astype(np.float64))[None] / 255
        lr = bicubic.degrade(exact, size, protocol.lr, protocol.degradation).float()
    elif image.lr.shape[:2] != size:
        found = f"{image.lr.shape[1]}x{image.lr.shape[0]}"
        raise UserError(
            f"{image.name}: the LR image is {found}, but HR {width}x{height} at x{scale:g} needs "
            f"{size[1]}x{size[0]}; give the LR image of this scale."
        )
    else:
        lr = to_tensor(image.lr)
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


class DensePass:
    """A method with every branch run once on a pair's LR image, before any decision.

    Attributes:
        scores: (1, M, units...), what the method routes by.
    """

    def __init__(self, method: Method, pair: Pair, scale: float) -> None:
        device = next(method.parameters()).device
        started = time.perf_counter()
        self.exploration = method.explore(pair.lr.to(device), scale)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        self._seconds = time.perf_counter() - started
        self.scores = self.exploration.scores
        self.method, self.pair, self.scale = method, pair, scale

    def route(self, points: Iterable[OperatingPoint]) -> list[Decision]:
        """Return the method's own decision at each point."""
        return [(point, self.method.route(self.scores, point, self.scale)) for point in points]

    def everywhere(self, branch: int) -> Tensor:
        """Return the decision that sends all units to one branch, (1, units...) int64."""
        return torch.full_like(self.scores[:, 0], branch, dtype=torch.long)

    def image(self, labels: Tensor, point: OperatingPoint) -> metrics.Image:
        """Return the SR image, uint8 (H, W, 3), that a decision gives."""
        return to_uint8(self.method.compose(self.exploration, labels, point))

    def rows(
        self,
        decisions: Iterable[Decision],
        protocols: Sequence[ProtocolConfig],
        measures: Mapping[str, Metric],
        own: ProtocolConfig | None = None,
    ) -> Iterator[Row]:
        """Yield one row per decision and protocol; protocols may differ only in refinement.

        If ``own`` is given, all metrics are computed under that protocol and only PSNR-RGB under
        others. ``share_j`` is the share of units that branch j computes. ``lr_pixels`` is the
        number of LR pixels processed, which exceeds the image's where tiles overlap.
        ``activations`` are those of the routed work, ``parameters`` those of the whole method.
        ``seconds`` is the time of the dense pass; it is not a latency.
        """
        method, shave = self.method, metrics.shave_for(self.scale)
        height, width = self.pair.lr.shape[-2:]
        costs = method.costs((height, width), self.scale)
        parameters = sum(parameter.numel() for parameter in method.parameters())
        for point, labels in decisions:
            units = torch.bincount(labels.flatten(), minlength=method.branches).tolist()
            flops = costs.total(units)
            for protocol in protocols:
                sr = self.image(labels, replace(point, refine=protocol.refine))
                every = own in (None, protocol)
                yield {
                    "image": self.pair.name,
                    "method": method.config.method,
                    "backbone": method.config.backbone,
                    "scale": self.scale,
                    "knob": point.knob,
                    "adaptive": point.adaptive,
                    **protocol.columns(),
                    **{
                        name: metric(sr, self.pair.hr, shave)
                        if every or name == "psnr_rgb"
                        else None
                        for name, metric in measures.items()
                    },
                    "flops_paper": flops.paper,
                    "flops_algorithmic": flops.algorithmic,
                    "flops_engine": flops.engine,
                    "activations": flops.activations,
                    "parameters": parameters,
                    **{f"share_{j}": count / sum(units) for j, count in enumerate(units)},
                    "units": sum(units),
                    "lr_pixels": method.lr_pixels((height, width)),
                    "lr_height": height,
                    "lr_width": width,
                    "seconds": self._seconds,
                }


@torch.no_grad()
def measure(
    method: Method,
    pair: Pair,
    scale: float,
    points: Iterable[OperatingPoint],
    protocols: Sequence[ProtocolConfig],
    measures: Mapping[str, Metric],
    own: ProtocolConfig | None = None,
) -> Iterator[Row]:
    """Yield one row per operating point and protocol of one image; see ``DensePass.rows``."""
    dense = DensePass(method, pair, scale)
    yield from dense.rows(dense.route(points), protocols, measures, own)


@torch.no_grad()
def validate(
    method: Method, stage: Stage, pairs: Sequence[Pair], scale: float, refine: bool
) -> dict[str, float]:
    """Return the mean PSNR-RGB in dB and the share of the most expensive branch for one stage.

    Images that are restored exactly do not count in the mean (``metrics.comparable``).

    Every branch is run, because a stage may train a branch that the finished method rarely takes.
    """
    point = replace(method.points[0], refine=refine)
    psnr, heavy = [], []
    for pair in pairs:
        dense = DensePass(method, pair, scale)
        if stage.branch is None:
            ((_, labels),) = dense.route([point])
        else:
            labels = dense.everywhere(stage.branch)
        psnr.append(metrics.psnr_rgb(dense.image(labels, point), pair.hr, metrics.shave_for(scale)))
        heavy.append(float((labels == method.branches - 1).double().mean()))
    counted = metrics.comparable(np.array(psnr)[:, None])
    mean = float(np.mean(np.array(psnr)[counted])) if counted.any() else np.inf
    return {"psnr_rgb": mean, "heavy_share": float(np.mean(heavy))}
