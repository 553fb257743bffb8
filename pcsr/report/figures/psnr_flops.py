"""PSNR against FLOPs, from the results of a suite. Nothing here touches pyplot's state."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
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

from pcsr import escape
from pcsr.config.options import Results
from pcsr.errors import require_name
from pcsr.report import tidy
from pcsr.report.columns import CALLED, COUNTS
from pcsr.report.curves import Curve, Floats, estimates
from pcsr.report.fairness import frontier
from pcsr.report.figures import axes, notes, style
from pcsr.report.figures.saving import SUFFIXES, save
from pcsr.report.figures.style import Style
from pcsr.report.tidy import REFERENCE
from pcsr.storage import files

LINES = ("-", "--", ":", "-.")  # experiments of one method share its colour
DARK = "0.25"  # of the original
WHOLE: dict[str, Any] = {"marker": "D", "markersize": 8, "markerfacecolor": "white"}
STAR = {"marker": "*", "markersize": 17, "markeredgewidth": 1.2, "linestyle": ""}
GUIDE: dict[str, Any] = {"color": DARK, "linestyle": (0, (5, 4)), "linewidth": 0.8}
STATIC: dict[str, Any] = {"marker": "s", "color": "0.35", "markersize": 5}
FRONTIER: dict[str, Any] = {"color": "0.35", "linestyle": "-", "linewidth": 1.3}
BAND: dict[str, Any] = {"alpha": 0.13, "linewidth": 0}
AGREE = 0.01  # relative difference of two counts that one panel can stand for: a line's width
MOST = 2  # panels in a row


@dataclass(frozen=True)
class Drawn:
    """A curve: its means, and how it is drawn."""

    name: str
    style: Style
    number: int  # among the experiments of its method, which share a colour and a marker
    points: pd.DataFrame  # rows of the summary, by knob; the adaptive decision among them
    # PSNR in dB, (2, knob values), between which the mean lies with 95 % confidence as far as it
    # depends on the difference from the original; None where there is no interval.
    band: Floats | None

    @property
    def swept(self) -> pd.DataFrame:
        """The points of the knob."""
        return self.points[~self.points["adaptive"]]

    @property
    def look(self) -> dict[str, Any]:
        """Colours, marker and line; every second experiment of a method has hollow markers."""
        line = {"marker": self.style.marker, "linestyle": LINES[self.number % len(LINES)]}
        return line | self.style.face(hollow=self.number % 2 == 1)


def figure(
    results: Results,
    /,
    *,
    test_set: Annotated[str, Parameter(help="data set")],
    backbone: Annotated[str, Parameter(help="backbone")],
    out: Annotated[Path, Parameter(help="PNG to write; an SVG and a PDF are written beside it")],
) -> None:
    """Draw PSNR over GFLOPs by every count of FLOPs: one curve per method.

    Example: `pcsr figure reports/quick/results.csv --test-set embedded-photos --backbone carn
    --out carn.png`.
    """
    outputs = [out.with_suffix(suffix) for suffix in SUFFIXES]
    files.check_outputs([results], outputs)
    drawn = psnr_flops(tidy.load(results), test_set, backbone)
    for path in outputs:
        save(drawn, path)


def psnr_flops(results: pd.DataFrame, test_set: str, backbone: str) -> Figure:
    """Draw PSNR-RGB (dB) against GFLOPs per image, once per count of FLOPs.

    Counts that agree on this backbone share a panel. One curve per method, a marker per knob value;
    a star is the adaptive decision, a diamond with guide lines the original. Squares are the other
    static networks of the test set: originals of other backbones. A line joins those that no other
    beats, straight on the logarithmic axis, and goes on beyond the last (``frontier``). Curves are
    cut, with a mark, at the end of the axis (``axes.fit``). Bands are 95 % intervals, over images,
    of the difference from the original.

    Raises:
        UserError: nothing was measured for this test set or backbone.
    """
    points = summary = tidy.summarise(results)
    for column, name in (("test_set", test_set), ("backbone", backbone)):
        require_name(column.replace("_", " "), name, set(points[column]), "results")
        points, results = (table[table[column] == name] for table in (points, results))
    points = points.assign(curve=tidy.labels)
    curves = list(_curves(points, results, style.styles(summary["method"])))
    static = _static(summary, points)
    titles = _titles(points, static)
    figure, cells = _grid(len(titles))
    panels = dict(zip(titles, cells, strict=True))
    for x, panel in panels.items():
        axes.scale(panel, points, static, x)
        _draw(panel, points, curves, x)
        panel.set_title(escape.mathtext(titles[x]), fontsize="small")
        sns.despine(ax=panel)
    tops = np.array([curve.band[1].max() for curve in curves if curve.band is not None])
    axes.fit(panels, points, static, tops)
    networks = pd.concat([points[points["method"] == REFERENCE], static]) if len(static) else static
    if len(static):
        for x, panel in panels.items():
            _draw_static(panel, networks, x)
    figure.suptitle(_title(points, test_set, backbone), fontsize="medium")
    _legend(figure, _handles(points, static, curves), len(panels))
    figure.draw_without_rendering()  # the texts need the final scale of the axes
    for x, panel in panels.items():
        _write(panel, curves, networks, x)
    return figure


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, in rows; all share the PSNR axis."""
    columns = style.columns(count, MOST)
    rows = -(-count // columns)
    size = (11 if columns > 1 else 7.5, 1 + 4.2 * rows)
    with sns.axes_style("ticks", {"axes.grid": True, "grid.color": "0.92"}):
        figure = Figure(figsize=size, layout="constrained")
        cells = figure.subplots(rows, columns, sharey=True, squeeze=False)
    for cell in cells.flat[count:]:
        cell.remove()
    for cell in cells[:, 0]:
        cell.set_ylabel("PSNR-RGB (dB)")
    return figure, list(cells.flat[:count])


def _legend(figure: Figure, handles: list[Artist], panels: int) -> None:
    """Draw the legend in the cell without a panel, or below, in columns that fit the figure."""
    draw = partial(figure.legend, handles=handles, frameon=False)
    if panels % style.columns(panels, MOST):
        draw(loc="center", bbox_to_anchor=(0.5, 0, 0.5, 0.5))
        return
    for most in range(3 * panels, 0, -1):
        columns = style.columns(len(handles), most)
        legend = draw(loc="outside lower center", ncols=columns)
        if columns == 1 or legend.get_window_extent().width <= figure.bbox.width:
            return
        legend.remove()


def _curves(
    points: pd.DataFrame, results: pd.DataFrame, styles: dict[str, Style]
) -> Iterator[Drawn]:
    """Yield every curve of one test set and backbone but the original."""
    rows = tidy.comparable(results)
    rows = tidy.common_images(rows[rows["main"]]).assign(curve=tidy.labels)
    for method, of_method in points[points["method"] != REFERENCE].groupby("method"):
        for number, (curve, of_curve) in enumerate(of_method.groupby("curve")):
            yield Drawn(
                style.curve(str(curve)),
                styles[str(method)],
                number,
                of_curve.sort_values("knob", kind="stable"),
                _band(rows[rows["curve"] == curve], rows[rows["method"] == REFERENCE]),
            )


def _band(rows: pd.DataFrame, originals: pd.DataFrame) -> Floats | None:
    if originals["experiment"].nunique() != 1 or rows["adaptive"].all():
        return None
    curve, original = Curve.of(rows, "paper"), Curve.of(originals, "paper")
    difference = curve.psnr - original.psnr
    found = estimates(lambda some: difference[some].mean(axis=0), len(difference))
    band = original.psnr.mean() + np.array([(one.low, one.high) for one in found]).T
    return None if np.isnan(band).all() else band


def _static(summary: pd.DataFrame, points: pd.DataFrame) -> pd.DataFrame:
    """Select the static networks of the same test set, by name: originals of other backbones."""
    here = summary["test_set"].isin(points["test_set"]) & summary["scale"].isin(points["scale"])
    originals = summary[here & (summary["method"] == REFERENCE)]
    originals = originals.assign(curve=tidy.labels).assign(name=frontier.names)
    return originals[~originals["backbone"].isin(points["backbone"])]


def _titles(points: pd.DataFrame, static: pd.DataFrame) -> dict[str, str]:
    """Return the columns of costs to draw, with the titles of their panels.

    A count that agrees with an earlier one on all points of the backbone has no panel of its own;
    the title names static networks that it counts differently.
    """
    groups: dict[str, list[str]] = {}
    for count in COUNTS:
        agreed = (first for first in groups if not _apart(points, [first, count]).any())
        groups.setdefault(next(agreed, count), []).append(count)
    return {
        f"gflops_{first}": _title_of(first, others, static) for first, *others in groups.values()
    }


def _title_of(count: str, others: list[str], static: pd.DataFrame) -> str:
    title = f"{CALLED[count]} FLOPs"
    if not others:
        return title
    differing = static.loc[_apart(static, [count, *others]), "name"].map(style.name)
    but = f" but for {', '.join(differing)}" if len(differing) else ""
    return f"{title} ({' and '.join(CALLED[other] for other in others)}: the same{but})"


def _apart(points: pd.DataFrame, counts: list[str]) -> pd.Series:
    """Tell which points cost differently by several counts."""
    costs = points[[f"gflops_{count}" for count in counts]]
    first = costs.iloc[:, 0]
    return costs.sub(first, axis="index").abs().gt(AGREE * first, axis="index").any(axis="columns")


def _draw(panel: Axes, points: pd.DataFrame, curves: list[Drawn], x: str) -> None:
    """Draw originals and curves."""
    for _, original in points[points["method"] == REFERENCE].iterrows():
        panel.axhline(original["psnr_rgb"], zorder=1, **GUIDE)
        panel.axvline(original[x], zorder=1, **GUIDE)
        panel.plot(original[x], original["psnr_rgb"], color=DARK, zorder=4, **WHOLE)
    for curve in curves:
        swept, adaptive = curve.swept, curve.points[curve.points["adaptive"]]
        panel.plot(swept[x], swept["psnr_rgb"], zorder=3, markersize=7, **curve.look)
        panel.plot(adaptive[x], adaptive["psnr_rgb"], zorder=5, **curve.look | STAR)
        if curve.band is not None:
            panel.fill_between(swept[x], *curve.band, color=curve.style.colour, zorder=1, **BAND)


def _draw_static(panel: Axes, networks: pd.DataFrame, x: str) -> None:
    """Draw the static networks, and their frontier to the end of the axis, which is set."""
    edge = frontier.undominated(networks, x)[[x, "psnr_rgb"]].to_numpy()
    beyond = [[max(edge[-1, 0], panel.get_xlim()[1]), edge[-1, 1]]]
    panel.plot(*np.concatenate([edge, beyond]).T, zorder=2, **FRONTIER)
    static = networks[networks["name"].notna()]
    panel.plot(static[x], static["psnr_rgb"], linestyle="", zorder=4, **STATIC)


def _write(panel: Axes, curves: list[Drawn], networks: pd.DataFrame, x: str) -> None:
    """Write names of networks, knob values, and the lowest PSNR of curves that are cut."""
    taken = notes.drawn(panel)
    named = networks.assign(name=networks["name"].fillna(networks["backbone"]).map(style.name))
    (left, right), (low, _) = panel.get_xlim(), panel.get_ylim()
    shown = named[named[x].between(left, right) & (named["psnr_rgb"] > low)].sort_values(x)
    notes.write_names(panel, shown, x, STATIC["color"], taken)
    for curve in curves:
        notes.mark_cut(panel, curve.swept, x, curve.style.colour, taken)
    for curve in curves:
        notes.write_knobs(panel, curve.swept, x, curve.style.colour, taken)


def _title(points: pd.DataFrame, test_set: str, backbone: str) -> str:
    scales = ", ".join(f"x{scale:g}" for scale in sorted(set(points["scale"])))
    counts = sorted({points["images"].min(), points["images"].max()})
    images = " to ".join(map(str, counts))
    part = "" if points["complete"].all() else ", a subset of the published set"
    if exact := points["exact"].max():
        part += f", without {exact} restored exactly"
    lines = [
        f"{style.name(backbone)} on {style.name(test_set)}, {scales}",
        f"mean of {images} images{part}; {tidy.protocol_text(points)}",
    ]
    if trained := tidy.training_text(points):
        lines.append(f"weights {trained}")
    return "\n".join(map(escape.mathtext, lines))


def _handles(points: pd.DataFrame, static: pd.DataFrame, curves: list[Drawn]) -> list[Artist]:
    handles: list[Artist] = []

    def explain(label: str, **look: Any) -> None:
        handles.append(Line2D([], [], label=escape.mathtext(label), **look))

    swept = [curve.swept["knob"].notna().any() for curve in curves]
    for curve, has_knob in zip(curves, swept, strict=True):
        knob = f" ({curve.style.knob_and_unit})" if has_knob else ""
        explain(curve.name + knob, **curve.look)
    if any(swept):
        look = {"marker": "$1.5$", "markersize": 16, "markeredgewidth": 0, "color": "0.4"}
        explain("value of the knob", linestyle="", **look)
    if points["adaptive"].any():
        explain("adaptive (ADM)", linestyle="", marker="*", markersize=14, color="0.6")
    if (points["method"] == REFERENCE).any():
        explain(REFERENCE, **GUIDE, **WHOLE)
    if len(static):
        explain("other static network", linestyle="", **STATIC)
        explain("static frontier", **FRONTIER)
    if any(curve.band is not None for curve in curves):
        note = "95 % interval of the difference from the original"
        handles.append(Patch(color="0.2", label=note, **BAND))
    return handles
