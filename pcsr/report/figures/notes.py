"""Texts beside the markers of a figure, placed so that they cover as little as possible."""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.transforms import Bbox

from pcsr import escape
from pcsr.report.tidy import knob_text

TYPE_SIZE = 7.5  # of what is written beside the markers
APART = 4  # points between two texts of one line, so that they do not read as one
NEAR = 3  # points between markers that look like one
CLEARER = 1.4  # times as far as a text's own marker has to be any other one
# From a marker to its text, to the right and upwards: in corners, then on sides; the best first.
CORNERS = ((1, -1), (-1, 1), (1, 1), (-1, -1))
SIDES = ((1, 0), (-1, 0), (0, 1), (0, -1))


def write_names(
    panel: Axes, points: pd.DataFrame, x: str, colour: str, taken: list[Bbox], y: str = "psnr_rgb"
) -> None:
    """Write the ``name`` of every point beside its marker, where it covers least.

    Points that coincide share a text. The panel has its final scale; ``x`` and ``y`` are the
    columns that it shows. ``taken`` are boxes in pixels that are in use, to which those of the
    texts are added.
    """
    pixels = panel.transData.transform(points[[x, y]].to_numpy(dtype=float))
    groups = _grouped(points["name"], pixels, NEAR * _unit(panel))
    for names, place in groups:
        _write_beside(panel, place, ", ".join(sorted(names)), colour, taken)


def write_knobs(panel: Axes, swept: pd.DataFrame, x: str, colour: str, taken: list[Bbox]) -> None:
    """Write a few knob values of one curve, each nearest to its own marker, as ``write_names``.

    Where a marker of something else lies on a curve's own, no text could say which one it means.
    """
    unit = _unit(panel)
    near, apart = NEAR * unit, 26 * unit  # the latter is the least way between two texts
    curve = swept[[x, "psnr_rgb"]].to_numpy(dtype=float)
    own = panel.transData.transform(curve)
    marked = [line for line in panel.get_lines() if line.get_marker() != "None"]
    rest = [line for line in marked if not np.array_equal(line.get_xydata(), curve)]
    foreign = np.concatenate([np.empty((0, 2)), *map(_pixels, rest)])
    written = np.empty((0, 2))
    for text, place in _knobs(swept, own, near):
        far = (_length(foreign - place) > 1.5 * near).all()
        if not (far and (_length(written - place) > apart).all() and panel.bbox.contains(*place)):
            continue
        others = np.concatenate([foreign, own[_length(own - place) > near]])
        for box in _beside(place, text, unit):
            nearest = CLEARER * _gap(place, box) < _gap(others, box).min(initial=np.inf)
            if nearest and _within(panel, box) and not box.count_overlaps(taken):
                _write(panel, box, text, colour, taken)
                written = np.vstack([written, place])
                break


def mark_cut(panel: Axes, swept: pd.DataFrame, x: str, colour: str, taken: list[Bbox]) -> None:
    """Mark where a curve leaves the panel, if it ends below, by an arrow and its lowest PSNR."""
    corner = np.array([panel.bbox.x0, panel.bbox.y0])
    places = panel.transData.transform(swept[[x, "psnr_rgb"]].to_numpy(dtype=float))
    beyond = np.less(places, corner)  # by axis
    if not beyond[:, 1].any():
        return
    out = beyond.any(axis=1)
    leaving = int(np.flatnonzero(np.diff(out))[0])
    pair = places[leaving : leaving + 2]
    inside, outside = pair if out[leaving + 1] else pair[::-1]
    with np.errstate(divide="ignore", invalid="ignore"):
        ways = (corner - inside) / (outside - inside)  # to the left end and to the lower one
    at = inside + min(way for way in ways if way >= 0) * (outside - inside)
    text = f"↓ {swept['psnr_rgb'].min():.1f} dB"
    _write_beside(panel, np.clip(at, corner, panel.bbox.max), text, colour, taken)


def drawn(panel: Axes) -> list[Bbox]:
    """Cover all markers and lines of a panel with boxes, in pixels."""
    unit = _unit(panel)
    boxes = []
    for line in panel.get_lines():
        ends = _pixels(line)
        half = (7 if line.get_marker() == "*" else 4 if line.get_marker() != "None" else 1) * unit
        boxes += [Bbox([end - half, end + half]) for end in ends]
        if line.get_linestyle() != "None":
            for start, end in pairwise(ends):
                steps = np.linspace(0, 1, 2 + int(_length(end - start) / (2 * unit)))[:, None]
                boxes += [Bbox([at - unit, at + unit]) for at in start + steps * (end - start)]
    return boxes


def _unit(panel: Axes) -> float:
    """Return the pixels per point of type."""
    return panel.figure.dpi / 72


def _pixels(line: Line2D) -> np.ndarray:
    return np.asarray(line.get_transform().transform(line.get_xydata()))


def _length(vectors: np.ndarray) -> Any:
    return np.hypot(*vectors.T)


def _gap(places: np.ndarray, box: Bbox) -> Any:
    """Return how far places are from a box."""
    return _length(places - np.clip(places, box.min, box.max))


def _within(panel: Axes, box: Bbox) -> bool:
    return panel.bbox.count_contains([box.min, box.max]) == 2


def _write_beside(
    panel: Axes, place: np.ndarray, text: str, colour: str, taken: list[Bbox]
) -> None:
    """Write a text beside a pixel, where it covers least."""
    boxes = list(_beside(place, text, _unit(panel)))
    inside = [box for box in boxes if _within(panel, box)] or boxes
    _write(panel, min(inside, key=lambda box: box.count_overlaps(taken)), text, colour, taken)


def _write(panel: Axes, box: Bbox, text: str, colour: str, taken: list[Bbox]) -> None:
    x, y = panel.transData.inverted().transform(box.min)
    frame = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.3}
    font: dict[str, Any] = {"fontsize": TYPE_SIZE, "color": colour, "bbox": frame}
    panel.text(x, y, escape.mathtext(text), va="bottom", zorder=6, **font)
    taken.append(box.padded(APART * _unit(panel), 0))


def _beside(place: np.ndarray, text: str, unit: float) -> Iterator[Bbox]:
    """Yield the boxes, in pixels, that a text could fill around a marker."""
    size = TYPE_SIZE * unit * np.array([0.6 * len(text), 1])
    for way in CORNERS + SIDES:
        gap = unit * np.array([5, 4] if way in CORNERS else [6, 6])
        middle = place + way * (gap + size / 2)
        yield Bbox([middle - size / 2, middle + size / 2])


def _knobs(swept: pd.DataFrame, pixels: np.ndarray, near: float) -> list[tuple[str, np.ndarray]]:
    """Return text and pixel position of each marker: the ends, then the shortest (roundest) values.

    At extreme knob values everything goes to one branch; these markers coincide and share a text.
    """
    groups = _grouped(swept.apply(knob_text, axis="columns"), pixels, near)
    named = [(" to ".join(dict.fromkeys((names[0], names[-1]))), place) for names, place in groups]
    ends = (0, len(named) - 1)
    order = sorted(range(len(named)), key=lambda i: (i not in ends, len(named[i][0])))
    return [named[i] for i in order]


def _grouped(
    texts: Iterable[str], pixels: np.ndarray, near: float
) -> list[tuple[list[str], np.ndarray]]:
    """Return the texts of neighbours in order whose markers look like one, each with its place."""
    groups: list[tuple[list[str], np.ndarray]] = []
    for text, place in zip(texts, pixels, strict=True):
        if groups and _length(place - groups[-1][1]) < near:
            groups[-1][0].append(text)
        else:
            groups.append(([text], place))
    return groups
