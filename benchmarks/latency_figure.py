"""Figure of the latency benchmark: time over FLOPs, a panel for each backbone and image."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from pcsr import escape
from pcsr.report.figures import notes, style

ALLOWED = 1.15  # times the FLOP ratio: the line under which saved FLOPs count as saved time
TICKS = (0.25, 0.5, 1, 2, 4, 8, 16)
LINE: dict[str, Any] = {"color": "0.3", "linewidth": 1}
RATIOS = ["flops_ratio", "time_ratio"]
NEAR = 0.04  # decades: markers that look like one
MOST = 3  # panels in a row
RUN = {"definition": "reference {}", "tiles": "{}, as defined"}  # what the legend calls a path


def draw(of_images: Sequence[pd.DataFrame], machine: str) -> Figure:
    """Plot time ratio over FLOP ratio: a panel per backbone and image.

    Methods look as they do in all figures; hollow markers are reference PCSR. The panels of a
    backbone stand together and have the same axes.

    Args:
        of_images: the cases of each image but the originals, with ``backbone``, ``method``,
            ``path``, ``knob``, ``flops_ratio``, ``time_ratio``, ``lr_height``, ``lr_width`` and
            ``fresh``.
        machine: what they ran on.
    """
    rows = pd.concat(of_images, ignore_index=True)
    looks = style.styles(rows["method"])
    shown = [
        own
        for backbone in dict.fromkeys(rows["backbone"])
        for cases in of_images
        if len(own := cases[cases["backbone"] == backbone])
    ]
    columns = style.columns(len(shown), MOST)
    lines = -(-len(shown) // columns)
    with sns.axes_style("ticks", {"axes.grid": True, "grid.color": "0.92"}):
        drawn = Figure(figsize=(4.4 * columns + 0.6, 4.5 * lines + 1), layout="constrained")
        cells = drawn.subplots(lines, columns, squeeze=False).ravel()
    for cell in cells[len(shown) :]:
        cell.remove()
    for panel, own in zip(cells, shown, strict=False):
        _panel(panel, own, looks)
        backbone = own["backbone"].iloc[0]
        _scale(panel, rows.loc[rows["backbone"] == backbone, RATIOS].to_numpy())
        panel.set_title(escape.mathtext(_title(own.iloc[0])), fontsize="medium")
        panel.set_xlabel("algorithmic FLOPs, relative to the original")
        panel.set_ylabel("time, relative to the original")
    drawn.suptitle(escape.mathtext(machine), fontsize="small")
    handles = _handles(looks, rows)
    each = style.columns(len(handles), 2 * columns)
    drawn.legend(handles=handles, loc="outside lower center", ncols=each, frameon=False)
    drawn.draw_without_rendering()  # the texts need the final scale of the axes
    for panel, own in zip(cells, shown, strict=False):
        _write(panel, own, looks)
    return drawn


def _title(case: pd.Series) -> str:
    weights = ", untrained weights" if case["fresh"] else ""
    image = f"image {case['image']} (LR {case['lr_width']}x{case['lr_height']})"
    return f"{style.name(case['backbone'])}{weights}: {image}"


def _panel(panel: Axes, cases: pd.DataFrame, looks: dict[str, style.Style]) -> None:
    panel.axhline(1, color="0.7", linewidth=1)
    for _, case in cases.iterrows():
        look = looks[case["method"]]
        face = look.face(hollow=case["path"] == "definition")
        panel.plot(*case[RATIOS], look.marker, markersize=9, **face)


def _scale(panel: Axes, ratios: np.ndarray) -> None:
    """Set equal logarithmic axes that hold all of a backbone, and draw time = FLOPs."""
    ends = (min(0.55 * ratios.min(), 0.45), max(1.5 * ratios.max(), 2))
    for factor, line in ((1, "-"), (ALLOWED, ":")):
        panel.plot(ends, [factor * end for end in ends], linestyle=line, zorder=1, **LINE)
    panel.set(xscale="log", yscale="log", xlim=ends, ylim=ends)
    ticks = [tick for tick in TICKS if ends[0] < tick < ends[1]]
    for axis in (panel.xaxis, panel.yaxis):
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_ticks([], minor=True)
    sns.despine(ax=panel)


def _write(panel: Axes, cases: pd.DataFrame, looks: dict[str, style.Style]) -> None:
    """Write knobs beside the markers; markers that look like one share a text."""
    taken = notes.drawn(panel)
    for (method, _), of_path in cases.groupby(["method", "path"], sort=False):
        look = looks[str(method)]
        texts = pd.DataFrame(_texts(of_path, look.knob), columns=["name", *RATIOS])
        notes.write_names(panel, texts, RATIOS[0], look.colour, taken, RATIOS[1])


def _texts(cases: pd.DataFrame, letter: str) -> Iterator[tuple[str, float, float]]:
    """Yield the knobs of each marker, or of several that look like one, and its place."""
    written = cases[~cases["knob"].isin(["", "default"])]
    groups: list[tuple[np.ndarray, list[str]]] = []
    for knob, *at in written[["knob", *RATIOS]].itertuples(index=False):
        near = (of for place, of in groups if np.abs(np.log10(place / at)).max() < NEAR)
        found = next(near, None)
        if found is None:
            groups.append((np.array(at), [knob]))
        else:
            found.append(knob)
    for (flops, time), knobs in groups:
        numbers = [knob for knob in knobs if not knob.startswith("budget")]
        names = [f"{letter} = {', '.join(numbers)}"] if numbers else []
        yield ", ".join([*names, *(knob for knob in knobs if knob not in numbers)]), flops, time


def _handles(looks: dict[str, style.Style], rows: pd.DataFrame) -> list[Line2D]:
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=looks[method].marker,
            label=escape.mathtext(RUN.get(path, "{}").format(style.name(method))),
            **looks[method].face(hollow=path == "definition"),
        )
        for method, path in dict.fromkeys(zip(rows["method"], rows["path"], strict=True))
    ]
    handles.append(Line2D([], [], label="time = FLOPs", **LINE))
    handles.append(Line2D([], [], linestyle=":", label=f"{ALLOWED:g} times the FLOPs", **LINE))
    return handles
