"""Texts beside the markers of a figure, placed so that they cover as little as possible."""

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.transforms import Bbox

from pcsr import escape
from pcsr.report.tidy import knob_text

TYPE_SIZE = 7.5  # of what is written beside the markers


def write_names(
    panel: Axes,
    points: pd.DataFrame,
    x: str,
    colour: str,
    taken: list[Bbox],
    y: str = "psnr_rgb",
) -> None:
    """Write the ``name`` of every point beside its marker, where it covers least.

    Args:
        panel: with its final scale.
        points: with their ``name``.
        x: column of costs.
        colour: of the texts.
        taken: boxes in pixels that are in use; those of the texts are added.
        y: column of the vertical axis.
    """
    unit = _unit(panel)
    for name, *at in points[["name", x, y]].itertuples(index=False):
        boxes = list(_beside(panel.transData.transform(at), name, unit))
        inside = [box for box in boxes if _within(panel, box)] or boxes
        box = min(inside, key=lambda one: one.count_overlaps(taken))
        _write(panel, box, name, colour)
        taken.append(box)


def write_knobs(panel: Axes, swept: pd.DataFrame, x: str, colour: str, taken: list[Bbox]) -> None:
    """Write a few knob values of one curve, each nearest to its own marker, as ``write_names``."""
    unit = _unit(panel)
    near, apart = 2 * unit, 26 * unit  # markers that look like one; least way between two texts
    markers = [line.get_transform().transform(_ends(line)) for line in panel.get_lines()]
    others = np.concatenate(markers)

    def fits(box: Bbox, place: np.ndarray) -> bool:
        own = _gap(place, box) - near <= min(_gap(marker, box) for marker in others)
        return _within(panel, box) and own and not box.count_overlaps(taken)

    written: list[np.ndarray] = []
    for text, place in _knobs(panel, swept, x, near):
        if any(np.hypot(*(place - other)) < apart for other in written):
            continue
        box = next((box for box in _beside(place, text, unit) if fits(box, place)), None)
        if box:
            _write(panel, box, text, colour)
            taken.append(box)
            written.append(place)


def mark_cut(panel: Axes, swept: pd.DataFrame, x: str, colour: str, taken: list[Bbox]) -> None:
    """Mark where a curve leaves the panel by an arrow and its lowest PSNR; see ``write_names``.

    A curve that lies below the panel as a whole is marked under its best point, by its range.
    """
    unit, bounds = _unit(panel), panel.bbox
    places = panel.transData.transform(swept[[x, "psnr_rgb"]].to_numpy(dtype=float))
    lowest, highest = swept["psnr_rgb"].min(), swept["psnr_rgb"].max()
    below = places[:, 1] < bounds.y0
    if not below.any():
        return
    if below.all():
        at = places[places[:, 1].argmax(), 0]
        text = f"↓ {lowest:.1f} to {highest:.1f} dB"
    else:
        leaving = int(np.flatnonzero(below[1:] != below[:-1])[0])
        (start, height), (end, depth) = places[leaving : leaving + 2]
        at = start + (end - start) * (height - bounds.y0) / (height - depth)
        text = f"↓ {lowest:.1f} dB"
    at = min(max(at, bounds.x0), bounds.x1)  # where the axis ends before the curve does
    boxes = list(_beside(np.array([at, bounds.y0 + 2 * TYPE_SIZE * unit]), text, unit))
    box = next((one for one in boxes if _within(panel, one)), boxes[0])
    _write(panel, box, text, colour)
    taken.append(box)


def drawn(panel: Axes) -> list[Bbox]:
    """Cover all markers and lines of a panel with boxes, in pixels."""
    unit = _unit(panel)
    boxes = []
    for line in panel.get_lines():
        ends = line.get_transform().transform(_ends(line))
        half = (7 if line.get_marker() == "*" else 4 if line.get_marker() != "None" else 1) * unit
        boxes += [Bbox.from_extents(*(end - half), *(end + half)) for end in ends]
        if line.get_linestyle() != "None":
            for start, end in pairwise(ends):
                steps = np.linspace(0, 1, 2 + int(np.hypot(*(end - start)) / (2 * unit)))[:, None]
                path = start + steps * (end - start)
                boxes += [Bbox.from_extents(*(at - unit), *(at + unit)) for at in path]
    return boxes


def _unit(panel: Axes) -> float:
    """Return the pixels per point of type."""
    return panel.figure.dpi / 72


def _ends(line: Any) -> np.ndarray:
    return np.column_stack(line.get_data()).astype(float)


def _within(panel: Axes, box: Bbox) -> bool:
    return panel.bbox.count_contains([box.min, box.max]) == 2


def _write(panel: Axes, box: Bbox, text: str, colour: str) -> None:
    at = panel.transData.inverted().transform(box.min)
    font: dict[str, Any] = {"fontsize": TYPE_SIZE, "color": colour}
    panel.text(at[0], at[1], escape.mathtext(text), va="bottom", zorder=6, **font)


def _beside(place: np.ndarray, text: str, unit: float) -> Iterator[Bbox]:
    """Yield the boxes, in pixels, that a text could fill at the four corners of a marker."""
    width, height = 0.6 * TYPE_SIZE * len(text) * unit, TYPE_SIZE * unit
    right, left = place[0] + 5 * unit, place[0] - 5 * unit - width
    above, below = place[1] + 4 * unit, place[1] - 4 * unit - height
    for corner in ((right, below), (left, above), (right, above), (left, below)):
        yield Bbox.from_bounds(*corner, width, height)


def _gap(place: np.ndarray, box: Bbox) -> float:
    return float(np.hypot(*(place - np.clip(place, box.min, box.max))))


def _knobs(panel: Axes, swept: pd.DataFrame, x: str, near: float) -> list[tuple[str, np.ndarray]]:
    """Return text and pixel position of each marker: the ends, then the shortest (roundest) values.

    At extreme knob values everything goes to one branch; these markers coincide and share a text.
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
