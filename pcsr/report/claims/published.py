"""Our points to compare with published cells: by the same protocol, at the same FLOPs."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from pcsr.config.published import Claims
from pcsr.report.columns import PROTOCOL
from pcsr.report.tidy import knob_text


def at(points: pd.DataFrame, gflops: float, claims: Claims) -> list[tuple[pd.Series, float]]:
    """Return our counterpart of a method's cell: measured points with weights that add to 1.

    They are the two points on either side of ``gflops``, which interpolates linearly in FLOPs. It
    is a single point if that has exactly these FLOPs, if the curve ends before it reaches them, or
    if the method has only one knob value. The adaptive decision, which aims at no share, is left
    out.

    Args:
        points: of one method under one protocol, with ``knob`` and ``gflops_paper``.
        gflops: the cell's GFLOPs per image.
        claims: the published numbers, which know the methods with only one knob value.
    """
    points = points[~points["adaptive"]].sort_values("gflops_paper", kind="stable")
    only = claims.knobs.get(points["method"].iloc[0])
    if only is not None and (points["knob"] == only).any():
        points = points[points["knob"] == only]
    cost = points["gflops_paper"].to_numpy()
    place = float(np.interp(gflops, cost, np.arange(len(cost))))
    below = int(place)
    part = round(place - below, 6)  # a point that has the published FLOPs stands alone
    weights = [(below, 1 - part), (below + 1, part)]
    return [(points.iloc[n], weight) for n, weight in weights if weight]


def knobs_text(parts: Sequence[tuple[pd.Series, float]]) -> str:
    """Return the knob of a point, or the two between which it was interpolated, as text."""
    ordered = sorted((point for point, _ in parts), key=lambda point: point["knob"])
    return " to ".join(map(knob_text, ordered))


def as_published(points: pd.DataFrame, claims: Claims) -> pd.DataFrame:
    """Keep the rows measured like a method's cells: first by LR, then by crop and refinement.

    A choice that was not measured that way stays as in the suite's own protocol.
    """
    if points.empty:
        return points
    published = claims.protocols[points["method"].iloc[0]].columns()
    own = points[points["main"]].iloc[0]
    for choice in PROTOCOL:
        for value in (published[choice], own[choice]):
            if (points[choice] == value).any():
                points = points[points[choice] == value]
                break
    return points
