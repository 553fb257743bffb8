"""PSNR against FLOPs, from the results of a suite. Nothing here touches pyplot's state."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pandas as pd
import seaborn as sns
from cyclopts import Parameter
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, LogLocator, NullLocator

from pcsr import escape
from pcsr.config.options import Results
from pcsr.errors import unknown_name
from pcsr.report.columns import CONVENTIONS
from pcsr.report.curves import Curve, Floats, estimates
from pcsr.report.fairness import frontier
from pcsr.report.figures import notes, style
from pcsr.report.figures.saving import SUFFIXES, save
from pcsr.report.figures.style import Style
from pcsr.report.tidy import (
    REFERENCE,
    common_images,
    comparable,
    labels,
    load,
    protocol_text,
    summarise,
)
from pcsr.storage import files

LINES = ("-", "--", ":", "-.")  # experiments of one method share its colour
DARK = "0.25"  # of the original
GUIDE: dict[str, Any] = {"color": DARK, "linestyle": (0, (5, 4)), "linewidth": 0.8}
STATIC: dict[str, Any] = {"marker": "s", "color": "0.35", "markersize": 5}
FRONTIER: dict[str, Any] = {"color": "0.35", "linestyle": "-", "linewidth": 1.3}
TICKS = (1.0, 2.0, 3.0, 5.0, 7.0)  # in each decade of a logarithmic axis
BAND: dict[str, Any] = {"alpha": 0.13, "linewidth": 0}
SPREAD = 3  # times the original's FLOPs from which on an axis is logarithmic
LINEAR = 0.05  # of the largest FLOPs, up to which an axis with a cost of 0 is linear
SHOWN_DB = 1.0  # below the original, where the axis ends
SHOWN_COST = 4  # times more or less than the curves cost, where the axis ends
AGREE = 0.01  # relative difference of two counts that one panel can stand for


@dataclass(frozen=True)
class Drawn:
    """A curve: its means, and how it is drawn.

    Attributes:
        points: rows of the summary, by knob; the adaptive decision among them.
        band: PSNR in dB, (2, knob values), between which the mean lies with 95 % confidence as far
            as it depends on the difference from the original; None where there is no interval.
    """

    name: str
    style: Style
    line: str
    points: pd.DataFrame
    band: Floats | None

    @property
    def swept(self) -> pd.DataFrame:
        """The points of the knob."""
        return self.points[~self.points["adaptive"]]


def figure(
    results: Results,
    /,
    *,
    test_set: Annotated[str, Parameter(help="data set")],
    backbone: Annotated[str, Parameter(help="backbone")],
    out: Annotated[Path, Parameter(help="PNG to write; an SVG and a PDF are written beside it")],
) -> None:
    """Draw PSNR over GFLOPs in both conventions: one curve per method."""
    outputs = [out.with_suffix(suffix) for suffix in SUFFIXES]
    files.check_outputs([results], outputs)
    drawn = psnr_flops(load(results), test_set, backbone)
    for path in outputs:
        save(drawn, path)


def psnr_flops(results: pd.DataFrame, test_set: str, backbone: str) -> Figure:
    """Draw PSNR-RGB (dB) against GFLOPs per image, once per FLOP convention.

    Where both conventions agree there is one panel. One curve per method, a marker per knob value;
    a star is the adaptive decision, a diamond with guide lines the original. Squares are the other
    static networks of the test set: originals of other backbones. A line joins those that no other
    beats, straight on the logarithmic axis (``frontier``). Curves are cut, with a mark, at
    ``SHOWN_DB`` below the original. Bands are 95 % intervals, over images, of the difference from
    the original.

    Raises:
        UserError: nothing was measured for this test set or backbone.
    """
    summary = summarise(results)
    points = _select(_select(summary, "test_set", test_set), "backbone", backbone)
    points = points.assign(curve=labels(points))
    curves = list(_curves(points, results, style.styles(summary["method"])))
    static = _static(summary, points)
    counts = _counts(pd.concat([points, static]))
    with sns.axes_style("ticks", {"axes.grid": True, "grid.color": "0.92"}):
        size = (11, 5.2) if len(counts) > 1 else (7.5, 5.2)
        figure = Figure(figsize=size, layout="constrained")
        panels = figure.subplots(1, len(counts), sharey=True, squeeze=False)[0]
    by_cost = {f"gflops_{count}": panel for count, panel in zip(counts, panels, strict=True)}
    for count, (x, panel) in zip(counts, by_cost.items(), strict=True):
        _draw(panel, points, curves, static, x)
        panel.set_title(_convention(count, counts), fontsize="small")
        panel.set_xlabel("GFLOPs per image")
        sns.despine(ax=panel)
    panels[0].set_ylabel("PSNR-RGB (dB)")
    _fit(by_cost, points, curves, static)
    figure.suptitle(_title(points, test_set, backbone), fontsize="medium")
    handles = _handles(points, static, curves)
    most = 3 if len(counts) == 1 else 6
    _legend(figure, handles, ceil(len(handles) / ceil(len(handles) / most)))  # equally long rows
    figure.draw_without_rendering()  # the texts need the final scale of the axes
    for x, panel in by_cost.items():
        _write(panel, curves, static, x)
    return figure


def _legend(figure: Figure, handles: list[Artist], columns: int) -> None:
    """Draw a legend below the panels, in fewer columns if names are too long for the figure."""
    legend = figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, frameon=False
    )
    if columns > 1 and legend.get_window_extent().width > figure.bbox.width:
        legend.remove()
        _legend(figure, handles, columns - 1)


def _select(summary: pd.DataFrame, column: str, name: str) -> pd.DataFrame:
    chosen = summary[summary[column] == name]
    if chosen.empty:
        raise unknown_name(column.replace("_", " "), name, set(summary[column]), "results")
    return chosen


def _curves(
    points: pd.DataFrame, results: pd.DataFrame, styles: dict[str, Style]
) -> Iterator[Drawn]:
    """Yield every curve of one test set and backbone but the original."""
    place = points.iloc[0][["test_set", "backbone"]]
    rows = comparable(results[(results[list(place.index)] == place).all(axis="columns")])
    rows = common_images(rows[rows["main"]])
    rows = rows.assign(curve=labels(rows))
    for method, of_method in points[points["method"] != REFERENCE].groupby("method"):
        for number, (curve, of_curve) in enumerate(of_method.groupby("curve")):
            yield Drawn(
                style.curve(str(curve)),
                styles[str(method)],
                LINES[number % len(LINES)],
                of_curve.sort_values("knob", kind="stable"),
                _band(rows[rows["curve"] == curve], rows[rows["method"] == REFERENCE]),
            )


def _band(rows: pd.DataFrame, originals: pd.DataFrame) -> Floats | None:
    if originals["experiment"].nunique() != 1 or rows["adaptive"].all():
        return None
    curve, original = Curve.of(rows, "paper"), Curve.of(originals, "paper")
    difference = curve.psnr - original.psnr
    found = estimates(lambda some: difference[some].mean(axis=0), len(difference))
    band = original.psnr.mean() + np.array(
        [[one.low for one in found], [one.high for one in found]]
    )
    return None if np.isnan(band).all() else band


def _static(summary: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Select the static networks of the same test set, by name: originals of other backbones."""
    here = (summary["test_set"].isin(points["test_set"])) & summary["scale"].isin(points["scale"])
    originals = summary[here & (summary["method"] == REFERENCE)]
    originals = originals.assign(curve=labels(originals))
    originals = originals.assign(name=frontier.names(originals))
    return originals[~originals["backbone"].isin(points["backbone"])]


def _counts(points: pd.DataFrame) -> tuple[str, ...]:
    """Return the conventions to draw: only the first if both agree."""
    costs = [points[f"gflops_{count}"] for count in CONVENTIONS]
    same = np.allclose(costs[0], costs[1], rtol=AGREE, atol=0)
    return CONVENTIONS[:1] if same else CONVENTIONS


def _convention(count: str, counts: tuple[str, ...]) -> str:
    if len(counts) == 1:
        return f"FLOPs: the {' and the '.join(CONVENTIONS)} convention agree"
    return f"FLOPs counted by the {count} convention"


def _draw(
    panel: Axes, points: pd.DataFrame, curves: list[Drawn], static: pd.DataFrame, x: str
) -> None:
    """Draw originals, curves and static networks, and set the limits of both axes."""
    originals = points[points["method"] == REFERENCE]
    if len(static) or points[x].max() > SPREAD * originals[x].max():
        _space_by_logarithm(panel, points[x])
    for _, original in originals.iterrows():
        panel.axhline(original["psnr_rgb"], zorder=1, **GUIDE)
        panel.axvline(original[x], zorder=1, **GUIDE)
        panel.plot(original[x], original["psnr_rgb"], "D", color=DARK, zorder=4)
    for curve in curves:
        look: dict[str, Any] = {"color": curve.style.colour, "markeredgecolor": "white"}
        swept, adaptive = curve.swept, curve.points[curve.points["adaptive"]]
        line = look | {"marker": curve.style.marker, "linestyle": curve.line, "markersize": 7}
        panel.plot(swept[x], swept["psnr_rgb"], zorder=3, **line)
        star: dict[str, Any] = {
            "marker": "*",
            "markersize": 17,
            "markeredgewidth": 1.2,
            "linestyle": "",
        }
        panel.plot(adaptive[x], adaptive["psnr_rgb"], zorder=5, **look, **star)
        if curve.band is not None:
            panel.fill_between(swept[x], *curve.band, color=curve.style.colour, zorder=1, **BAND)
    if len(static):
        edge = frontier.undominated(pd.concat([originals, static]), x)
        panel.plot(edge[x], edge["psnr_rgb"], zorder=2, **FRONTIER)
        panel.plot(static[x], static["psnr_rgb"], linestyle="", zorder=4, **STATIC)


def _space_by_logarithm(panel: Axes, costs: pd.Series) -> None:
    """Make the axis of costs logarithmic; a cost of 0 (bicubic everywhere) stands at its left."""
    if (costs > 0).all():
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=TICKS))
    else:
        linear = LINEAR * costs.max()
        panel.set_xscale("symlog", linthresh=linear, linscale=0.3)
        decades = 10.0 ** np.arange(np.floor(np.log10(linear)), np.ceil(np.log10(costs.max())) + 1)
        ticks = np.outer(decades, TICKS).ravel()
        panel.xaxis.set_major_locator(FixedLocator([0, *ticks[ticks >= linear]]))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_locator(NullLocator())


def _fit(
    panels: dict[str, Axes], points: pd.DataFrame, curves: list[Drawn], static: pd.DataFrame
) -> None:
    """Set the limits of the axes to the range of the curves; all panels share the PSNR axis.

    A minimum span keeps a sweep whose points coincide from looking like magnified noise.
    """
    psnr = points["psnr_rgb"]
    originals = psnr[points["method"] == REFERENCE]
    lowest = originals.min() - SHOWN_DB if len(originals) else psnr.min()
    heights = [curve.band[1].max() for curve in curves if curve.band is not None]
    for x, panel in panels.items():
        cost = points[x]
        near = static[x].between(cost.min() / SHOWN_COST, cost.max() * SHOWN_COST)
        shown = pd.concat([points, static[near]])
        shown = shown[shown["psnr_rgb"] >= lowest]
        least = 2 if panel.get_xscale() != "linear" else 1.1
        _widen(panel, "x", shown[x], cost.max() * np.array([1, least]))
        heights += shown["psnr_rgb"].tolist()
    _widen(panel, "y", pd.Series(heights), np.array([0, 0.1]))


def _widen(panel: Axes, axis: str, values: pd.Series, least: Floats) -> None:
    """Let an axis span all values with a margin, and at least the given pair."""
    transform = (panel.xaxis if axis == "x" else panel.yaxis).get_transform()
    drawn = transform.transform(values.to_numpy(dtype=float))
    low, high = float(np.min(drawn)), float(np.max(drawn))
    middle, span = (low + high) / 2, max(high - low, float(np.ptp(transform.transform(least))))
    ends = np.array([middle - 0.58 * span, middle + 0.58 * span])
    set_limits = panel.set_xlim if axis == "x" else panel.set_ylim
    set_limits(*transform.inverted().transform(ends))


def _write(panel: Axes, curves: list[Drawn], static: pd.DataFrame, x: str) -> None:
    """Write names, knob values, and the lowest PSNR of curves that are cut."""
    taken = notes.drawn(panel)
    named = static.assign(name=static["name"].map(style.name))
    (left, right), (low, _) = panel.get_xlim(), panel.get_ylim()
    shown = named[named[x].between(left, right) & (named["psnr_rgb"] > low)]
    notes.write_names(panel, shown, x, STATIC["color"], taken)
    for curve in curves:
        notes.mark_cut(panel, curve.swept, x, curve.style.colour, taken)
    for curve in curves:
        notes.write_knobs(panel, curve.swept, x, curve.style.colour, taken)


def _title(points: pd.DataFrame, test_set: str, backbone: str) -> str:
    scales = ", ".join(f"x{scale:g}" for scale in sorted(set(points["scale"])))
    least, most = points["images"].min(), points["images"].max()
    images = f"{most}" if least == most else f"{least} to {most}"
    part = "" if points["complete"].all() else ", a subset of the published set"
    if exact := points["exact"].max():
        part += f", without {exact} restored exactly"
    lines = (
        f"{style.name(backbone)} on {style.name(test_set)}, {scales}",
        f"mean of {images} images{part}; {protocol_text(points)}",
    )
    return "\n".join(map(escape.mathtext, lines))


def _handles(points: pd.DataFrame, static: pd.DataFrame, curves: list[Drawn]) -> list[Artist]:
    handles: list[Artist] = []
    for curve in curves:
        knob = f" ({curve.style.knob})" if curve.swept["knob"].notna().any() else ""
        look: dict[str, Any] = {"color": curve.style.colour, "marker": curve.style.marker}
        look["linestyle"] = curve.line
        handles.append(Line2D([], [], label=escape.mathtext(curve.name + knob), **look))
    if points["adaptive"].any():
        mark: dict[str, Any] = {"linestyle": "none", "color": "0.6"}
        handles.append(Line2D([], [], marker="*", markersize=14, label="adaptive (ADM)", **mark))
    if (points["method"] == REFERENCE).any():
        handles.append(Line2D([], [], marker="D", label=REFERENCE, **GUIDE))
    if len(static):
        handles.append(Line2D([], [], linestyle="", label="other static network", **STATIC))
        handles.append(Line2D([], [], label="static frontier", **FRONTIER))
    if any(curve.band is not None for curve in curves):
        note = "95 % interval of the difference from the original"
        handles.append(Patch(color="0.2", label=note, **BAND))
    return handles
