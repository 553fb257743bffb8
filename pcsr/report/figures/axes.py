"""The axes of PSNR over FLOPs: their scale, their limits and what they say of both."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from pcsr.report.curves import Floats
from pcsr.report.tidy import REFERENCE

TICKS = (1.0, 2.0, 3.0, 5.0, 7.0)  # in each decade of a logarithmic axis
SPREAD = 3  # times the original's FLOPs from which on an axis is logarithmic
LINEAR = 0.05  # of the largest FLOPs, up to which an axis with a cost of 0 is linear
SHOWN_DB = 1.0  # below the original, where the axis ends
SHOWN_COST = 4  # times more or less than the curves cost, where the axis ends


def scale(panel: Axes, points: pd.DataFrame, static: pd.DataFrame, x: str) -> None:
    """Make the axis of costs logarithmic where costs are far apart.

    A cost of 0 (bicubic everywhere) stands at its left.
    """
    costs = points[x]
    if static.empty and not costs.max() > SPREAD * costs[points["method"] == REFERENCE].max():
        return
    if (costs > 0).all():
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=TICKS))
    else:
        linear = float(f"{LINEAR * costs.max():.1g}")  # as the label says it
        panel.set_xscale("symlog", linthresh=linear, linscale=0.3)
        decades = 10.0 ** np.arange(np.floor(np.log10(linear)), np.ceil(np.log10(costs.max())) + 1)
        ticks = np.outer(decades, TICKS).ravel()
        panel.xaxis.set_major_locator(FixedLocator([0, *ticks[ticks >= linear]]))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_locator(NullLocator())


def fit(
    panels: Mapping[str, Axes], points: pd.DataFrame, static: pd.DataFrame, tops: Floats
) -> None:
    """Fit the axes to the range of the curves, and name their costs; panels share the PSNR axis.

    The axis of PSNR ends ``SHOWN_DB`` below the original, or as low as the best point of each curve
    and its adaptive decision are. A minimum span keeps a sweep whose points coincide from looking
    like magnified noise.

    Panels are by their column of costs; ``points`` are those of all curves and of the original, and
    ``tops`` what has to be seen besides (PSNR).
    """
    psnr = points["psnr_rgb"]
    originals = psnr[points["method"] == REFERENCE]
    worst = psnr.groupby([points["curve"], points["adaptive"]]).max().min()
    lowest = min(originals.min() - SHOWN_DB, worst) if len(originals) else psnr.min()
    heights = tops.tolist()
    for x, panel in panels.items():
        cost = points[x]
        near = static[x].between(cost.min() / SHOWN_COST, cost.max() * SHOWN_COST)
        shown = pd.concat([points, static[near]])
        shown = shown[shown["psnr_rgb"] >= lowest]
        least = 2 if panel.get_xscale() != "linear" else 1.1
        _widen(panel, "x", shown[x], cost.max() * np.array([1, least]))
        _name(panel)
        heights += shown["psnr_rgb"].tolist()
    _widen(panel, "y", pd.Series(heights), np.array([0, 0.1]))


def _widen(panel: Axes, axis: str, values: pd.Series, least: Floats) -> None:
    """Let an axis span all values with a margin, and at least the given pair."""
    transform = getattr(panel, f"{axis}axis").get_transform()
    drawn = transform.transform(values.to_numpy(dtype=float))
    middle = (drawn.min() + drawn.max()) / 2
    span = max(np.ptp(drawn), np.ptp(transform.transform(least)))
    ends = np.array([middle - 0.58 * span, middle + 0.58 * span])
    panel.set(**{f"{axis}lim": transform.inverted().transform(ends)})


def _name(panel: Axes) -> None:
    """Name the axis of costs and its scale, which depends on its limits."""
    kind, linear = panel.get_xscale(), getattr(panel.xaxis.get_transform(), "linthresh", 0)
    below = f", linear below {linear:g}" if panel.get_xlim()[0] < linear else ""
    panel.set_xlabel("GFLOPs per image" + ("" if kind == "linear" else f" (log scale{below})"))
