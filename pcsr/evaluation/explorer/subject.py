"""A method on an explorer page: its branches' images, and where each unit changes its branch."""

from typing import Any

import numpy as np
import torch

from pcsr import metrics
from pcsr.config.models import ProtocolConfig
from pcsr.errors import UserError
from pcsr.evaluation.explorer import stops
from pcsr.evaluation.explorer.stops import Ranks, Stops
from pcsr.evaluation.measure import Pair, Row, decide, everywhere, points_of, rows_of
from pcsr.geometry import TILE, Tiles
from pcsr.images.levels import to_uint8
from pcsr.methods.base import Exploration, Method
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
    """A method and what its images on a page have in common.

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

    def _measure(self, exploration: Exploration, pair: Pair) -> list[Row]:
        points = points_of(self.method, self._knobs, adaptive=True)
        measures = {"psnr_rgb": metrics.psnr_rgb}
        decisions = decide(self.method, exploration, self.scale, points)
        place = self.method, pair, self.scale, exploration
        return list(rows_of(*place, decisions, [self.protocol], measures))

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
        composed = (
            self.method.compose(exploration, everywhere(exploration, branch), OperatingPoint())
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


def _point(row: Row) -> dict[str, Any]:
    """Return an operating point of an image as the page shows it."""
    return {
        "knob": row["knob"],
        "adaptive": row["adaptive"],
        "psnr": row["psnr_rgb"],
        "gflops": row["flops_engine"] / 1e9,
    }
