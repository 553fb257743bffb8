"""What an explorer page holds of a method: its branches' images, and where each unit changes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pcsr import metrics
from pcsr.config.models import ProtocolConfig
from pcsr.data.images import to_uint8
from pcsr.errors import UserError
from pcsr.evaluation import stops
from pcsr.evaluation.measure import Pair, Row, points_of, rows
from pcsr.evaluation.stops import Ranks, Stops
from pcsr.geometry import TILE, Tiles
from pcsr.methods.base import Exploration, Method
from pcsr.methods.tiled import Tiled
from pcsr.report import curves
from pcsr.report.curves import Curve
from pcsr.report.explorer.page import Planes
from pcsr.routing import OperatingPoint

STEPS = 501  # of the slider: 0.2 % of the units each
POINTS = 13  # of a curve, besides the method's own
CONVENTIONS = ("paper", "engine")


class Subject:
    """A method with what its images have in common.

    Args:
        method: to show.
        label: its name in the page.
        scale: HR size / LR size.
        protocol: how images are measured.

    Raises:
        UserError: the method decides for whole images.
    """

    def __init__(self, method: Method, label: str, scale: float, protocol: ProtocolConfig) -> None:
        if method.branches > 1 and method.unit == "image":
            raise UserError(
                f"{label}: it decides for whole images, which an explorer page cannot show; leave "
                "its weights out."
            )
        self.method, self.label, self.scale, self.protocol = method, label, scale, protocol
        self._knobs: list[float] = []
        self._stops: Stops | None = None
        self._ranks: list[list[Ranks]] = []
        self._rows: list[list[Row]] = []

    @torch.no_grad()
    def add(self, pair: Pair, planes: Planes) -> dict[str, Any]:
        """Run every branch on an image, and return what the page needs of it."""
        lr = pair.lr.to(next(self.method.parameters()).device)
        exploration = self.method.explore(lr, self.scale)
        routing = self._routing(exploration, planes) if self.routes else {}
        measured = self._measure(exploration, pair)
        self._rows.append(measured)
        return {
            "points": [_point(row) for row in measured],
            "costs": self._costs(exploration.lr_size),
            **self._branches(exploration, planes),
            **routing,
        }

    @property
    def routes(self) -> bool:
        """Whether the method has a knob."""
        return bool(self.method.knobs)

    def summary(self, reference: "Subject | None") -> dict[str, Any]:
        """Return what the page says of the method, over all images added."""
        default = self.method.points[0].knob
        return {
            "label": self.label,
            "unit": self.method.unit,
            "branches": self.method.branches,
            "segments": self._stops.segments if self._stops else [],
            "default": default,
            "track": stops.track(self._ranks, self._stops, STEPS) if self._stops else [],
            "curve": self._mean_curve(),
            "verdict": self._verdict(reference, default) if reference and self.routes else None,
        }

    def _measure(self, exploration: Exploration, pair: Pair) -> list[Row]:
        points = points_of(self.method, self._knobs, adaptive=True)
        measures = {"psnr_rgb": metrics.psnr_rgb}
        protocols = [self.protocol]
        return list(rows(self.method, exploration, pair, self.scale, points, protocols, measures))

    def _costs(self, lr_size: tuple[int, int]) -> dict[str, Any]:
        costs = self.method.costs(lr_size, self.scale)
        return {
            convention: {
                "shared": getattr(costs.shared, convention),
                "branch": [getattr(branch, convention) for branch in costs.branch],
            }
            for convention in CONVENTIONS
        }

    def _branches(self, exploration: Exploration, planes: Planes) -> dict[str, Any]:
        """Store the images of the branches; of a tile method, tile under tile."""
        if isinstance(self.method, Tiled):
            tiles = Tiles(1, exploration.lr_size)
            side = exploration.candidates.shape[-1]
            under = exploration.candidates.movedim(2, -1).flatten(1, 2).cpu().numpy()
            factor = side // TILE
            return {
                "side": side,
                "rows": [row * factor for row in tiles.rows],
                "columns": [column * factor for column in tiles.columns],
                "images": [planes.add(branch) for branch in under],
            }
        everywhere = torch.zeros_like(exploration.scores[:, 0], dtype=torch.long)
        composed = (
            self.method.compose(exploration, everywhere + branch, OperatingPoint())
            for branch in range(self.method.branches)
        )
        return {"images": [planes.add(to_uint8(image)) for image in composed]}

    def _routing(self, exploration: Exploration, planes: Planes) -> dict[str, Any]:
        scores = exploration.scores.cpu()
        if self._stops is None:
            self._stops = stops.stops_of(self.method, scores, self.scale)
        ranks = stops.ranks(self.method, scores, self.scale, self._stops)
        self._ranks.append(ranks)
        if not self._knobs:  # the same for all images, so that their mean is a curve
            spread = stops.track([ranks], self._stops, POINTS)
            self._knobs = sorted({*self.method.knobs, *map(self._stops.knob, spread)})
        if self.method.unit == "tile":
            return {"ranks": [rank.ravel().tolist() for rank in ranks]}
        return {"ranks": [planes.add(rank) for rank in ranks]}

    def _curve(self) -> Curve:
        """Return PSNR and GFLOPs at the swept points of the images, without exact ones."""
        swept = [[row for row in of if not row["adaptive"]] for of in self._rows]
        psnr, flops = (
            np.array([[row[name] for row in of] for of in swept], dtype=float)
            for name in ("psnr_rgb", "flops_paper")
        )
        kept = metrics.comparable(psnr)
        return Curve(psnr[kept], flops[kept] / 1e9)

    def _mean_curve(self) -> list[dict[str, Any]]:
        curve = self._curve()
        knobs: Sequence[float | None] = self._knobs or [None]
        return [
            {"knob": knob, "psnr": float(psnr), "gflops": float(gflops)}
            for knob, psnr, gflops in zip(
                knobs, curve.psnr.mean(axis=0), curve.gflops.mean(axis=0), strict=True
            )
        ]

    def _verdict(self, reference: "Subject", default: float | None) -> dict[str, Any]:
        """Compare with the original: at the default point, and where its PSNR is reached.

        Returns:
            Name -> value and 95 % interval: ``gain`` in dB and ``share`` of FLOPs in percent at the
            default point; FLOPs in percent at ``equal`` PSNR, and at one ``close`` to it (0.1 dB).
        """
        curve, original = self._curve(), reference._curve()
        at = self._knobs.index(default)  # type: ignore[arg-type]

        def values(some: NDArray[np.intp]) -> NDArray[np.float64]:
            psnr, gflops = (of[some, at].mean() for of in (curve.psnr, curve.gflops))
            base_psnr, base = (of[some, 0].mean() for of in (original.psnr, original.gflops))
            needed = (curves.percent_needed(curve, original, loss, some) for loss in (0.0, 0.1))
            return np.array([psnr - base_psnr, 100 * gflops / base, *needed])

        names = ("gain", "share", "equal", "close")
        found = curves.estimates(values, len(curve.psnr))
        return {n: [of.value, of.low, of.high] for n, of in zip(names, found, strict=True)}


def _point(row: Row) -> dict[str, Any]:
    """Return an operating point of an image as the page shows it."""
    return {
        "knob": row["knob"],
        "adaptive": row["adaptive"],
        "psnr": row["psnr_rgb"],
        "gflops": row["flops_paper"] / 1e9,
    }
