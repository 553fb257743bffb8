"""The published table that a report is compared with, and how each of its cells was measured."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pandas as pd
from pydantic import Field, model_validator

from pcsr.config.base import Local
from pcsr.config.load import parse, read_yaml
from pcsr.config.models import COUNT_LIMIT, SCALE_LIMIT, Config, Count, Knob, ProtocolConfig
from pcsr.report.columns import PROTOCOL
from pcsr.report.tidy import REFERENCE, knob_text

CLAIMS = Path("configs/claims.yaml")


Positive = Annotated[float, Field(gt=0)]
MFlops = Annotated[float, Field(ge=0, le=1e9)]
Tiles = Annotated[int, Field(ge=0, le=COUNT_LIMIT)]


class Tolerance(Config):
    """What still counts as the same number."""

    psnr_db: float = Field(gt=0, le=1)
    gflops_percent: float = Field(gt=0, le=100)


class PublishedModel(Config):
    """One line of the published table."""

    model: str = Field(description="name in the paper")
    backbone: str
    method: str
    params: str | None = Field(default=None, description="published number of parameters")
    per: Literal["image", "tile"] = Field(
        default="image", description="what the FLOPs of the cells are of, in G or, of a tile, in M"
    )
    cells: dict[str, tuple[Positive, Positive]] = Field(
        description="test set -> PSNR-RGB in dB, FLOPs (paper convention)"
    )

    @property
    def label(self) -> str:
        """The name with the number of parameters."""
        return f"{self.model} ({self.params})" if self.params else self.model


class PublishedLog(Config):
    """Runs of the authors' test log, of one backbone on one test set."""

    backbone: str
    test_set: str
    runs: tuple[tuple[Knob, tuple[Tiles, ...]], ...] = Field(
        min_length=1, description="knob, and the tiles that each branch computed"
    )


class PublishedCurve(Config):
    """Points of a figure, of one backbone on one test set."""

    backbone: str
    test_set: str
    points: tuple[tuple[Knob, MFlops] | tuple[Knob, MFlops, MFlops], ...] = Field(
        min_length=1, description="knob, M per tile, and PSNR-RGB in dB where it is published"
    )


class AtKnobs(Config):
    """Operating points of released weights at known values of the knob."""

    method: str
    source: str
    costs: dict[str, tuple[MFlops, ...]] = Field(
        default={},
        description="backbone -> M per tile of each branch, as the authors count; unset: ours",
    )
    lines: dict[str, Local] = Field(
        default={}, description="test set of a log -> CSV of its images (`logs.read_lines`)"
    )
    logs: tuple[PublishedLog, ...] = ()
    curves: tuple[PublishedCurve, ...] = ()

    @model_validator(mode="after")
    def _whole(self) -> "AtKnobs":
        for log in self.logs:
            branches = len(self.costs.get(log.backbone, ()))
            if log.test_set not in self.lines or not branches:
                raise ValueError(f"a log of {log.backbone} on {log.test_set} needs lines and costs")
            if any(len(tiles) != branches for _, tiles in log.runs):
                raise ValueError(f"a log of {log.backbone} counts tiles of {branches} branches")
        return self


class Claims(Config):
    """The published table and the rules of comparison."""

    source: str
    note: str
    scale: float = Field(gt=1, le=SCALE_LIMIT)
    tolerance: Tolerance
    images: dict[str, Count] = Field(description="images in each published test set")
    tiles: dict[str, Count] = Field(default={}, description="tiles in all images of a test set")
    protocols: dict[str, ProtocolConfig] = Field(
        description="method -> how its published cells were measured"
    )
    knobs: dict[str, Knob] = Field(
        default={}, description="method that has no knob of its own -> the suite's that equals it"
    )
    iterations: dict[str, Count] = Field(description="method -> published training steps in all")
    models: tuple[PublishedModel, ...] = Field(min_length=1)
    at_knobs: tuple[AtKnobs, ...] = ()

    @model_validator(mode="after")
    def _known(self) -> "Claims":
        for row in self.models:
            for key in ("iterations", "protocols"):
                if row.method not in getattr(self, key):
                    raise ValueError(f"{row.model}: its method has no entry under {key}")
            for key in ("images", "tiles")[: 1 + (row.per == "tile")]:
                if not set(row.cells) <= set(getattr(self, key)):
                    raise ValueError(f"{row.model}: a test set has no entry under {key}")
        for known in self.at_knobs:
            if known.method not in self.protocols:
                raise ValueError(f"at_knobs: {known.method} has no entry under protocols")
            for log in known.logs:
                if any(sum(tiles) != self.tiles.get(log.test_set) for _, tiles in log.runs):
                    raise ValueError(f"a log of {log.backbone} has not all tiles of {log.test_set}")
        return self

    def cell(self, row: PublishedModel, test_set: str) -> tuple[float, float] | None:
        """Return PSNR-RGB in dB and GFLOPs per image of a line on a test set, or None."""
        if row.per == "image" or test_set not in row.cells:
            return row.cells.get(test_set)
        psnr, mflops = row.cells[test_set]
        return psnr, mflops / 1000 * self.tiles[test_set] / self.images[test_set]

    def at(self, points: pd.DataFrame, gflops: float) -> list[tuple[pd.Series, float]]:
        """Return what stands for a method's cell: measured points with weights that add to 1.

        They are the two points on either side of ``gflops``, so that the curve is linear in FLOPs
        between them; one point where it has just these FLOPs, at the end of a curve that does not
        reach them, or where it is that of the method's only knob value. The adaptive decision is
        left out: it aims at no share.

        Args:
            points: of one method under one protocol, with ``knob`` and ``gflops_paper``.
            gflops: what the cell comes to, per image.
        """
        points = points[~points["adaptive"]].sort_values("gflops_paper", kind="stable")
        only = self.knobs.get(points["method"].iloc[0])
        if only is not None and (points["knob"] == only).any():
            points = points[points["knob"] == only]
        cost = points["gflops_paper"].to_numpy()
        place = float(np.interp(gflops, cost, np.arange(len(cost))))
        below = int(place)
        part = round(place - below, 6)  # a point that has the published FLOPs stands alone
        weights = [(below, 1 - part), (below + 1, part)]
        return [(points.iloc[n], weight) for n, weight in weights if weight]

    def original(self, backbone: str, test_set: str) -> tuple[float, float] | None:
        """Return the published cell of a backbone's original, or None."""
        for row in self.models:
            if (row.backbone, row.method) == (backbone, REFERENCE):
                return self.cell(row, test_set)
        return None


def load_claims(path: Path = CLAIMS) -> Claims:
    """Read the published numbers; a UserError names a missing file or a wrong key."""
    return parse(Claims, read_yaml(path), str(path))


def knobs_text(parts: Sequence[tuple[pd.Series, float]]) -> str:
    """Return the knob of a point, or the two between which it was interpolated, as text."""
    ordered = sorted((point for point, _ in parts), key=lambda point: point["knob"])
    return " to ".join(map(knob_text, ordered))


def as_published(points: pd.DataFrame, claims: Claims) -> pd.DataFrame:
    """Keep what was measured as a method's cells were: the LR first, then crop and refinement.

    A choice that was not measured so stays as in the suite's own protocol.
    """
    if points.empty:
        return points
    asked = claims.protocols[points["method"].iloc[0]].columns()
    own = points[points["main"]].iloc[0]
    for choice in PROTOCOL:
        for value in (asked[choice], own[choice]):
            if (points[choice] == value).any():
                points = points[points[choice] == value]
                break
    return points
