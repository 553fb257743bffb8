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
APART = 4  # points between two texts of one line, so that they do not read as one
CLEARER = 1.4  # times as far as a text's own marker has to be any other one


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
    for name, *at in points[["name", x, y]].itertuples(index=False):
        _write_beside(panel, panel.transData.transform(at), name, colour, taken)


def write_knobs(panel: Axes, swept: pd.DataFrame, x: str, colour: str, taken: list[Bbox]) -> None:
    """Write a few knob values of one curve, each nearest to its own marker, as ``write_names``.

    Where a marker of something else lies on a curve's own, no text could say which one it means.
    """
    unit = _unit(panel)
    near, apart = 3 * unit, 26 * unit  # markers that look like one; least way between two texts
    curve = swept[[x, "psnr_rgb"]].to_numpy(dtype=float)
    own = panel.transData.transform(curve)
    marked = [line for line in panel.get_lines() if line.get_marker() != "None"]
    rest = [line for line in marked if not np.array_equal(_ends(line), curve)]
    foreign = np.concatenate([np.empty((0, 2)), *map(_pixels, rest)])

    def clear(place: np.ndarray) -> bool:
        far_from = [(foreign, 1.5 * near), (np.reshape(written, (-1, 2)), apart)]
        inside = panel.bbox.contains(*place)
        return inside and all((_distances(those, place) > way).all() for those, way in far_from)

    def fits(box: Bbox, place: np.ndarray) -> bool:
        others = np.concatenate([foreign, own[_distances(own, place) > near]])
        next_one = min((_gap(marker, box) for marker in others), default=np.inf)
        nearest = CLEARER * _gap(place, box) < next_one
        return _within(panel, box) and nearest and not box.count_overlaps(taken)

    written: list[np.ndarray] = []
    for text, place in _knobs(swept, own, near):
        boxes = _beside(place, text, unit) if clear(place) else ()
        box = next((box for box in boxes if fits(box, place)), None)
        if box:
            _write(panel, box, text, colour, taken)
            written.append(place)


def mark_cut(panel: Axes, swept: pd.DataFrame, x: str, colour: str, taken: list[Bbox]) -> None:
    """Mark where a curve leaves the panel, if it ends below, by an arrow and its lowest PSNR."""
    corner = np.array([panel.bbox.x0, panel.bbox.y0])
    places = panel.transData.transform(swept[[x, "psnr_rgb"]].to_numpy(dtype=float))
    beyond = np.less(places, corner)  # by axis
    if not beyond[:, 1].any():
        return
    out = beyond.any(axis=1)
    leaving = int(np.flatnonzero(out[1:] != out[:-1])[0])
    inside, outside = places[[leaving, leaving + 1] if out[leaving + 1] else [leaving + 1, leaving]]
    with np.errstate(divide="ignore", invalid="ignore"):
        ways = (corner - inside) / (outside - inside)  # to the left end and to the lower one
    at = inside + min(way for way in ways if way >= 0) * (outside - inside)
    at = np.clip(at, corner, panel.bbox.max)
    text = f"↓ {swept['psnr_rgb'].min():.1f} dB"
    _write_beside(panel, at, text, colour, taken)


def drawn(panel: Axes) -> list[Bbox]:
    """Cover all markers and lines of a panel with boxes, in pixels."""
    unit = _unit(panel)
    boxes = []
    for line in panel.get_lines():
        ends = _pixels(line)
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


def _pixels(line: Any) -> np.ndarray:
    pixels: np.ndarray = line.get_transform().transform(_ends(line))
    return pixels


def _within(panel: Axes, box: Bbox) -> bool:
    return panel.bbox.count_contains([box.min, box.max]) == 2


def _write_beside(
    panel: Axes, place: np.ndarray, text: str, colour: str, taken: list[Bbox]
) -> None:
    """Write a text beside a pixel, where it covers least."""
    boxes = list(_beside(place, text, _unit(panel)))
    inside = [box for box in boxes if _within(panel, box)] or boxes
    box = min(inside, key=lambda one: one.count_overlaps(taken))
    _write(panel, box, text, colour, taken)


def _write(panel: Axes, box: Bbox, text: str, colour: str, taken: list[Bbox]) -> None:
    at = panel.transData.inverted().transform(box.min)
    font: dict[str, Any] = {"fontsize": TYPE_SIZE, "color": colour}
    font["bbox"] = {"facecolor": "white", "alpha": 0.7, "linewidth": 0, "pad": 0.3}
    panel.text(at[0], at[1], escape.mathtext(text), va="bottom", zorder=6, **font)
    taken.append(box.padded(APART * _unit(panel), 0))


def _beside(place: np.ndarray, text: str, unit: float) -> Iterator[Bbox]:
    """Yield the boxes, in pixels, that a text could fill around a marker."""
    width, height = 0.6 * TYPE_SIZE * len(text) * unit, TYPE_SIZE * unit
    right, left = place[0] + 5 * unit, place[0] - 5 * unit - width
    above, below = place[1] + 4 * unit, place[1] - 4 * unit - height
    centre, middle = place - [width / 2, height / 2]
    corners = [(right, below), (left, above), (right, above), (left, below)]
    sides = [(right + unit, middle), (left - unit, middle)]
    sides += [(centre, above + 2 * unit), (centre, below - 2 * unit)]
    for corner in corners + sides:
        yield Bbox.from_bounds(*corner, width, height)


def _gap(place: np.ndarray, box: Bbox) -> float:
    return float(np.hypot(*(place - np.clip(place, box.min, box.max))))


def _distances(places: np.ndarray, place: np.ndarray) -> np.ndarray:
    return np.hypot(*(places - place).T)


def _knobs(swept: pd.DataFrame, pixels: np.ndarray, near: float) -> list[tuple[str, np.ndarray]]:
    """Return text and pixel position of each marker: the ends, then the shortest (roundest) values.

    At extreme knob values everything goes to one branch; these markers coincide and share a text.
    """
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
