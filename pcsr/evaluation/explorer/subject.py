"""A method on an explorer page: its branches' images, and where each unit changes its branch."""

from typing import Any

import numpy as np
import torch

from pcsr import metrics
from pcsr.config.models import ProtocolConfig
from pcsr.errors import UserError
from pcsr.evaluation.explorer import stops
from pcsr.evaluation.explorer.stops import Ranks, Stops
from pcsr.evaluation.measure import DensePass, Pair, Row, points_of
from pcsr.geometry import TILE, Tiles
from pcsr.methods.base import Method
from pcsr.methods.tiled import Tiled
from pcsr.report.curves import Curve
from pcsr.report.explorer.head import Swept
from pcsr.report.explorer.page import Planes
from pcsr.report.figures import style
from pcsr.routing import OperatingPoint

STEPS = 501  # of the slider: 0.2 % of the units each
POINTS = 13  # of a curve, besides the method's own
CONVENTIONS = ("paper", "engine")


class Subject:
    """A method, called ``label`` in a page, and what its images there have in common.

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
        dense = DensePass(self.method, pair, self.scale)
        routing = self._routing(dense, planes) if self.routes else {}
        decisions = dense.route(points_of(self.method, self._knobs, adaptive=True))
        measured = list(dense.rows(decisions, [self.protocol], {"psnr_rgb": metrics.psnr_rgb}))
        self._rows.append(measured)
        return {
            "points": [
                {
                    "knob": row["knob"],
                    "adaptive": row["adaptive"],
                    "psnr": row["psnr_rgb"],
                    "gflops": row["flops_engine"] / 1e9,
                }
                for row in measured
            ],
            "costs": self._costs(dense.exploration.lr_size),
            **self._branches(dense, planes),
            **routing,
        }

    @property
    def routes(self) -> bool:
        """Whether the method has a knob."""
        return bool(self.method.knobs)

    def summary(self) -> dict[str, Any]:
        """Return what the page needs of the method, after all images were added."""
        return {
            "label": self.label,
            "letter": style.knob(self.method.config.method),
            "unit": self.method.unit,
            "branches": self.method.branches,
            "segments": self._stops.segments if self._stops else [],
            "default": self.method.points[0].knob,
            "track": stops.track(self._ranks, self._stops, STEPS) if self._stops else [],
        }

    def swept(self) -> Swept:
        """Return the method's curve over all images added; the adaptive decision is left out."""
        kept = [[row for row in of if not row["adaptive"]] for of in self._rows]
        psnr, flops = (
            np.array([[row[name] for row in of] for of in kept], dtype=float)
            for name in ("psnr_rgb", "flops_engine")
        )
        return Swept(
            label=self.label,
            letter=style.knob(self.method.config.method),
            knobs=self._knobs or [None],
            default=self.method.points[0].knob,
            curve=Curve(psnr, flops / 1e9),
        )

    def _costs(self, lr_size: tuple[int, int]) -> dict[str, Any]:
        costs = self.method.costs(lr_size, self.scale)
        return {
            convention: {
                "shared": getattr(costs.shared, convention),
                "branch": [getattr(branch, convention) for branch in costs.branch],
            }
            for convention in CONVENTIONS
        }

    def _branches(self, dense: DensePass, planes: Planes) -> dict[str, Any]:
        """Store the images of the branches; of a tile method, tile under tile."""
        if isinstance(self.method, Tiled):
            tiles = Tiles(1, dense.exploration.lr_size)
            candidates = dense.exploration.candidates
            side = candidates.shape[-1]
            under = candidates.movedim(2, -1).flatten(1, 2).cpu().numpy()
            factor = side // TILE
            return {
                "side": side,
                "rows": [row * factor for row in tiles.rows],
                "columns": [column * factor for column in tiles.columns],
                "images": [planes.add(branch) for branch in under],
            }
        everywhere = map(dense.everywhere, range(self.method.branches))
        images = (dense.image(labels, OperatingPoint()) for labels in everywhere)
        return {"images": [planes.add(image) for image in images]}

    def _routing(self, dense: DensePass, planes: Planes) -> dict[str, Any]:
        scores = dense.scores.cpu()
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
