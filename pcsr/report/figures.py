"""PSNR against FLOPs, from a summary (``tidy.summarise``). Nothing here touches pyplot's state."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from cyclopts import Parameter
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, NullLocator, SymmetricalLogLocator
from matplotlib.transforms import Bbox

from pcsr import escape
from pcsr.config.options import Results
from pcsr.errors import unknown_name
from pcsr.report import frontier
from pcsr.report.tidy import (
    CONVENTIONS,
    REFERENCE,
    knob_text,
    labels,
    load,
    protocol_text,
    summarise,
)
from pcsr.storage import files

Colours = dict[str, tuple[float, float, float]]

LINES = ("-", "--", ":", "-.")  # experiments of one method share its colour
REFERENCE_COLOUR = "0.25"
KNOB_POINTS = 7.5  # type size of what is written beside the markers
STATIC: dict[str, Any] = {"marker": "s", "color": "0.35", "markersize": 5}
FRONTIER: dict[str, Any] = {"color": "0.35", "linestyle": "-", "linewidth": 1.3}
TICKS = (1.0, 2.0, 3.0, 5.0, 7.0)  # in each decade


def figure(
    results: Results,
    /,
    *,
    test_set: Annotated[str, Parameter(help="data set")],
    backbone: Annotated[str, Parameter(help="backbone")],
    out: Annotated[Path, Parameter(help="PNG to write; an SVG is written beside it")],
) -> None:
    """Draw PSNR over GFLOPs in both conventions: one curve per method."""
    outputs = [out.with_suffix(suffix) for suffix in (".svg", ".png")]
    files.refuse_overwriting([results], outputs)
    drawn = psnr_flops(summarise(load(results)), test_set, backbone)
    for path in outputs:
        save(drawn, path)


def psnr_flops(summary: pd.DataFrame, test_set: str, backbone: str) -> Figure:
    """Draw PSNR-RGB (dB) against GFLOPs per image, once per FLOP convention.

    One curve per method, a marker per knob value; a star is the adaptive decision, a diamond with
    guide lines the original. Squares are the other static networks of the test set: originals of
    other backbones. A line joins those that no other one beats, straight where the axis is
    logarithmic (``frontier``).

    Raises:
        UserError: nothing was measured for this test set or backbone.
    """
    points = _select(_select(summary, "test_set", test_set), "backbone", backbone)
    points = points.assign(curve=labels(points))
    static = _static(summary, points)
    colours = _colours(summary)
    with sns.axes_style("ticks", {"axes.grid": True, "grid.color": "0.92"}):
        figure = Figure(figsize=(11, 5.2), layout="constrained")
        panels = dict(zip(CONVENTIONS, figure.subplots(1, 2, sharey=True), strict=True))
    for convention, panel in panels.items():
        x = f"gflops_{convention}"
        if not static.empty:  # networks of very different cost
            _space_by_logarithm(panel, pd.concat([points, static])[x])
        _draw(panel, points, x, colours)
        _draw_static(panel, points, static, x)
        _fit(panel)
        panel.set_title(f"FLOPs counted by the {convention} convention", fontsize="small")
        panel.set_xlabel("GFLOPs per image")
        sns.despine(ax=panel)
    panels["paper"].set_ylabel("PSNR-RGB (dB)")
    figure.suptitle(_title(points, test_set, backbone), fontsize="medium")
    handles = _handles(points, static, colours)
    columns = min(len(handles), 6)
    figure.legend(handles=handles, loc="outside lower center", ncols=columns, frameon=False)
    figure.draw_without_rendering()  # the labels need the final scale of the axes
    for convention, panel in panels.items():
        taken = _drawn(panel, panel.figure.dpi / 72)
        taken += _write_static(panel, static, f"gflops_{convention}", taken)
        _write_knobs(panel, points, f"gflops_{convention}", colours, taken)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure atomically as .png (150 dpi) or .svg; the same figure gives the same bytes."""
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    with (
        mpl.rc_context({"svg.hashsalt": "pcsr"}),
        files.atomic(path) as temporary,
    ):
        figure.savefig(temporary, dpi=150, metadata=metadata)


def _select(summary: pd.DataFrame, column: str, name: str) -> pd.DataFrame:
    chosen = summary[summary[column] == name]
    if chosen.empty:
        raise unknown_name(column.replace("_", " "), name, set(summary[column]), "results")
    return chosen


def _colours(summary: pd.DataFrame) -> Colours:
    """Give each method of the whole summary a colour, so that all figures of a suite agree."""
    methods = sorted(set(summary["method"]) - {REFERENCE})
    return dict(zip(methods, sns.color_palette("colorblind", len(methods)), strict=True))


def _curves(
    points: pd.DataFrame, colours: Colours
) -> Iterator[tuple[str, dict[str, Any], pd.DataFrame]]:
    """Yield name, colour and line style, and points of every curve but the reference's."""
    for method, of_method in points[points["method"] != REFERENCE].groupby("method"):
        for number, (curve, rows) in enumerate(of_method.groupby("curve")):
            style = {"color": colours[str(method)], "linestyle": LINES[number % len(LINES)]}
            yield str(curve), style, rows.sort_values("knob", kind="stable")


def _draw(panel: Axes, points: pd.DataFrame, x: str, colours: Colours) -> None:
    for _, original in points[points["method"] == REFERENCE].iterrows():
        guide: dict[str, Any] = {
            "color": REFERENCE_COLOUR,
            "linestyle": (0, (5, 4)),
            "linewidth": 0.8,
            "zorder": 1,
        }
        panel.axhline(original["psnr_rgb"], **guide)
        panel.axvline(original[x], **guide)
        panel.plot(original[x], original["psnr_rgb"], "D", color=REFERENCE_COLOUR, zorder=4)
    for _, style, rows in _curves(points, colours):
        swept, adaptive = rows[~rows["adaptive"]], rows[rows["adaptive"]]
        style["markeredgecolor"] = "white"
        panel.plot(swept[x], swept["psnr_rgb"], marker="o", zorder=3, **style)
        star = style | {"marker": "*", "markersize": 17, "markeredgewidth": 1.2, "linestyle": ""}
        panel.plot(adaptive[x], adaptive["psnr_rgb"], zorder=5, **star)


def _static(summary: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Select the static networks of the same test set, by name: originals of other backbones."""
    here = (summary["test_set"].isin(points["test_set"])) & summary["scale"].isin(points["scale"])
    originals = summary[here & (summary["method"] == REFERENCE)]
    originals = originals.assign(curve=labels(originals))
    originals = originals.assign(name=frontier.names(originals))
    return originals[~originals["backbone"].isin(points["backbone"])]


def _draw_static(panel: Axes, points: pd.DataFrame, static: pd.DataFrame, x: str) -> None:
    if static.empty:
        return
    originals = pd.concat([points[points["method"] == REFERENCE], static])
    edge = frontier.undominated(originals, x)
    panel.plot(edge[x], edge["psnr_rgb"], zorder=2, **FRONTIER)
    panel.plot(static[x], static["psnr_rgb"], linestyle="", zorder=4, **STATIC)


def _space_by_logarithm(panel: Axes, costs: pd.Series) -> None:
    """Make the axis of costs logarithmic; a cost of 0 (bicubic everywhere) stands at its left."""
    if (costs > 0).all():
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=TICKS))
    else:
        panel.set_xscale("symlog", linthresh=costs[costs > 0].min(), linscale=0.3)
        transform = panel.xaxis.get_transform()
        panel.xaxis.set_major_locator(SymmetricalLogLocator(transform, subs=TICKS))
    panel.xaxis.set_major_formatter("{x:g}")
    panel.xaxis.set_minor_locator(NullLocator())


def _fit(panel: Axes) -> None:
    """Set the limits of both axes.

    A sweep whose points coincide must look like one point, not like noise blown up.
    """
    logarithmic = panel.get_xscale() != "linear"
    _widen(panel, "x", 0.3 if logarithmic else 0.1 * float(panel.dataLim.xmax))
    _widen(panel, "y", 0.1)


def _widen(panel: Axes, axis: str, least: float) -> None:
    """Let an axis span at least ``least`` as it is drawn, with a margin around the data."""
    limits = panel.dataLim.intervalx if axis == "x" else panel.dataLim.intervaly
    transform = (panel.xaxis if axis == "x" else panel.yaxis).get_transform()
    drawn = transform.transform(limits)
    middle, span = float(np.mean(drawn)), max(float(np.ptp(drawn)), least)
    ends = np.array([middle - 0.58 * span, middle + 0.58 * span])
    set_limits = panel.set_xlim if axis == "x" else panel.set_ylim
    set_limits(*transform.inverted().transform(ends))


def _title(points: pd.DataFrame, test_set: str, backbone: str) -> str:
    scales = ", ".join(f"x{scale:g}" for scale in sorted(set(points["scale"])))
    least, most = points["images"].min(), points["images"].max()
    images = f"{most}" if least == most else f"{least} to {most}"
    part = "" if points["complete"].all() else ", a subset of the published set"
    if exact := points["exact"].max():
        part += f", without {exact} restored exactly"
    lines = (
        f"{backbone} on {test_set}, {scales}",
        f"mean of {images} images{part}; {protocol_text(points)}",
    )
    return "\n".join(map(escape.mathtext, lines))


def _handles(points: pd.DataFrame, static: pd.DataFrame, colours: Colours) -> list[Line2D]:
    handles = [
        Line2D([], [], marker="o", label=escape.mathtext(curve), **style)
        for curve, style, _ in _curves(points, colours)
    ]
    mark: dict[str, Any] = {"linestyle": "none", "color": "0.6"}
    if points["adaptive"].any():
        handles.append(Line2D([], [], marker="*", markersize=14, label="adaptive (ADM)", **mark))
    if points["knob"].notna().any():
        handles.append(Line2D([], [], marker="$1$", label="knob value", **mark))
    if (points["method"] == REFERENCE).any():
        reference: dict[str, Any] = {
            "color": REFERENCE_COLOUR,
            "linestyle": (0, (5, 4)),
            "linewidth": 0.8,
        }
        handles.append(Line2D([], [], marker="D", label=REFERENCE, **reference))
    if not static.empty:
        handles.append(Line2D([], [], linestyle="", label="other static network", **STATIC))
        handles.append(Line2D([], [], label="static frontier", **FRONTIER))
    return handles


def _write_static(panel: Axes, static: pd.DataFrame, x: str, taken: list[Bbox]) -> list[Bbox]:
    """Write the name of every static network beside its marker; return the boxes of the texts."""
    unit = panel.figure.dpi / 72
    written: list[Bbox] = []
    for name, *at in static[["name", x, "psnr_rgb"]].itertuples(index=False):
        boxes = list(_beside(panel.transData.transform(at), name, unit))
        inside = [b for b in boxes if panel.bbox.count_contains([b.min, b.max]) == 2] or boxes
        # A name is always there, where it covers least.
        box = min(inside, key=lambda b: b.count_overlaps([*taken, *written]))
        place = panel.transData.inverted().transform(box.min)
        font: dict[str, Any] = {"fontsize": KNOB_POINTS, "color": STATIC["color"]}
        panel.text(place[0], place[1], escape.mathtext(name), va="bottom", zorder=6, **font)
        written.append(box)
    return written


def _write_knobs(
    panel: Axes, points: pd.DataFrame, x: str, colours: Colours, taken: list[Bbox]
) -> None:
    """Write a few knob values, each where it covers nothing and is nearest to its own marker."""
    unit = panel.figure.dpi / 72  # pixels per point of type
    near, apart = 2 * unit, 26 * unit  # markers that look like one; least way between two texts
    markers = panel.transData.transform(points[[x, "psnr_rgb"]].to_numpy(dtype=float))

    def fits(box: Bbox, place: np.ndarray) -> bool:
        inside = panel.bbox.count_contains([box.min, box.max]) == 2
        own = _gap(place, box) - near <= min(_gap(marker, box) for marker in markers)
        return inside and own and not box.count_overlaps(taken)

    for _, style, rows in _curves(points, colours):
        swept = rows[~rows["adaptive"] & rows["knob"].notna()]
        written: list[np.ndarray] = []
        for text, place in _knobs(panel, swept, x, near):
            if any(np.hypot(*(place - other)) < apart for other in written):
                continue
            box = next((box for box in _beside(place, text, unit) if fits(box, place)), None)
            if box:
                at = panel.transData.inverted().transform(box.min)
                font: dict[str, Any] = {"fontsize": KNOB_POINTS, "color": style["color"]}
                panel.text(at[0], at[1], text, va="bottom", zorder=6, **font)
                taken.append(box)
                written.append(place)


def _beside(place: np.ndarray, text: str, unit: float) -> Iterator[Bbox]:
    """Yield the boxes, in pixels, that a text could fill at the four corners of a marker."""
    width, height = 0.6 * KNOB_POINTS * len(text) * unit, KNOB_POINTS * unit
    right, left = place[0] + 5 * unit, place[0] - 5 * unit - width
    above, below = place[1] + 4 * unit, place[1] - 4 * unit - height
    for corner in ((right, below), (left, above), (right, above), (left, below)):
        yield Bbox.from_bounds(*corner, width, height)


def _gap(place: np.ndarray, box: Bbox) -> float:
    return float(np.hypot(*(place - np.clip(place, box.min, box.max))))


def _drawn(panel: Axes, unit: float) -> list[Bbox]:
    """Cover all markers and lines of a panel with boxes, in pixels."""
    boxes = []
    for line in panel.get_lines():
        ends = line.get_transform().transform(np.column_stack(line.get_data()).astype(float))
        half = (7 if line.get_marker() == "*" else 4 if line.get_marker() != "None" else 1) * unit
        boxes += [Bbox.from_extents(*(end - half), *(end + half)) for end in ends]
        if line.get_linestyle() != "None":
            for start, end in pairwise(ends):
                steps = np.linspace(0, 1, 2 + int(np.hypot(*(end - start)) / (2 * unit)))[:, None]
                path = start + steps * (end - start)
                boxes += [Bbox.from_extents(*(at - unit), *(at + unit)) for at in path]
    return boxes


def _knobs(panel: Axes, swept: pd.DataFrame, x: str, near: float) -> list[tuple[str, np.ndarray]]:
    """Return text and pixel position of each marker: the ends, then the shortest (roundest) values.

    Knobs far out on either side route everything to one branch; their markers coincide and share
    a text.
    """
    pixels = panel.transData.transform(swept[[x, "psnr_rgb"]].to_numpy(dtype=float))
    texts = [knob_text(point) for _, point in swept.iterrows()]
    groups: list[tuple[list[str], np.ndarray]] = []
    for text, place in zip(texts, pixels, strict=True):
        if groups and np.hypot(*(place - groups[-1][1])) < near:
            groups[-1][0].append(text)
        else:
            groups.append(([text], place))
    named = [(" to ".join(dict.fromkeys((names[0], names[-1]))), place) for names, place in groups]
    ends = (0, len(named) - 1)
    order = sorted(range(len(named)), key=lambda i: (i not in ends, len(named[i][0])))
    return [named[i] for i in order]
