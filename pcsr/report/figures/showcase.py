"""Figures of one image: where the work went, and crops side by side. Arrays in, figures out.

Images are (H, W, 3) uint8 RGB.
"""

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from numpy.typing import NDArray

from pcsr import escape, metrics
from pcsr.report.tidy import share_columns

Image = NDArray[np.uint8]
Labels = NDArray[np.integer]
Box = tuple[int, int, int, int]  # top, left, height, width in HR pixels

LARGEST_GAIN = 16  # grey levels at which the map of gains saturates
# Loss to gain, as in explorer pages.
GAINS = ("#c43c82", "#3c1e32", "#0e1016", "#0e3e3c", "#28cda5")
BOX_COLOUR = "#ffb000"  # visible on dark and light images, and to colour-blind readers


def branch_colours(branches: int) -> NDArray[np.float64]:
    """Return (branches, 3) RGB in 0..1, cheapest first: blue over pale yellow to red."""
    places = np.linspace(0.08, 0.92, branches) if branches > 1 else np.array([0.92])
    return mpl.colormaps["RdYlBu_r"](places)[:, :3]


def routing_image(labels: Labels, branches: int, background: Image) -> Image:
    """Colour each pixel by the branch that computed it, over the greyed image (H, W, 3).

    Labels are (H, W), 0 the cheapest. ``branches``, how many there are, fixes the colours even
    where one is not used.

    Raises:
        ValueError: the sizes differ, or a label is not one of the branches.
    """
    if labels.shape != background.shape[:2]:
        raise ValueError(f"labels are {labels.shape}, the image is {background.shape[:2]}")
    if labels.min() < 0 or labels.max() >= branches:
        raise ValueError(f"labels must be 0 to {branches - 1}")
    grey = background.mean(axis=2, keepdims=True)
    colour = 255 * branch_colours(branches)[labels]
    return np.rint(0.4 * grey + 0.6 * colour).astype(np.uint8)


def detailed_box(image: NDArray[Any], side: int) -> Box:
    """Return the square of the given side whose grey values vary most; ties go to the top left.

    The square is made smaller where the image is, and moves in steps of a quarter of its side.
    """
    grey = image.mean(axis=2)
    side = min(side, *grey.shape)
    step = max(1, side // 4)

    def window_means(values: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.pad(values, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
        ends = total[side:, side:] - total[side:, :-side] - total[:-side, side:]
        return (ends + total[:-side, :-side])[::step, ::step] / side**2

    variance = window_means(grey**2) - window_means(grey) ** 2
    # Rounded, so that the last bits of a sum do not choose between equal squares.
    row, column = np.unravel_index(np.argmax(variance.round(6)), variance.shape)
    return int(row) * step, int(column) * step, side, side


def comparison(
    panels: Sequence[tuple[str, Image]], box: Box | None = None, side: int = 96, title: str = ""
) -> Figure:
    """Draw the first image with a box, and every image's content of that box, enlarged.

    Args:
        panels: title and image; the first is the reference (HR). A smaller image, such as the
            LR one, is shown with its own pixels over the same area of the scene; below the title
            of the others is their PSNR over the crop.
        box: what is enlarged, in pixels of the reference; by default its most detailed square.
        side: side of that square.
        title: name of the image; put over the figure.
    """
    panels = [(escape.mathtext(name), image) for name, image in panels]
    name, reference = panels[0]
    top, left, height, width = box or detailed_box(reference, side)
    rows = 1 if len(panels) < 4 else 2
    columns = -(-(1 + len(panels)) // rows)
    size = (2.8 * columns, (2.7 * height / width + 0.5) * rows + 0.3)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(escape.mathtext(title))
    cells = figure.subplots(rows, columns, squeeze=False).ravel()
    for cell in cells:
        cell.set_axis_off()
    cells[0].imshow(reference, interpolation="antialiased")
    cells[0].set_title(f"{name}, whole image", fontsize="medium")
    look: dict[str, Any] = {"fill": False, "linewidth": 1.5, "edgecolor": BOX_COLOUR}
    cells[0].add_patch(Rectangle((left - 0.5, top - 0.5), width, height, **look))
    crop = np.s_[top : top + height, left : left + width]
    whole = (-0.5, reference.shape[1] - 0.5, reference.shape[0] - 0.5, -0.5)
    for cell, (name, image) in zip(cells[1:], panels, strict=False):
        compared = image.shape == reference.shape and image is not reference
        psnr = metrics.psnr_rgb(image[crop], reference[crop], 0) if compared else None
        db = f"\ncrop: {psnr:.2f} dB" if compared else ""
        cell.imshow(image, interpolation="nearest", extent=whole)
        cell.set(xlim=(left - 0.5, left + width - 0.5), ylim=(top + height - 0.5, top - 0.5))
        cell.set_title(name + db, fontsize="medium")
    return figure


def gain_over(original: Image, sr: Image, hr: Image) -> NDArray[np.float64]:
    """Return by how many grey levels ``sr`` is nearer to HR at each pixel than ``original``.

    It is (H, W), the mean over the channels; negative where ``sr`` is further from HR.
    """
    before, after = (np.abs(image.astype(float) - hr).mean(axis=2) for image in (original, sr))
    return before - after


def most_divided(rows: pd.DataFrame) -> tuple[str, float]:
    """Return the image and the knob value at which the branches share the work most evenly.

    If all units took one branch, a routing map would show nothing. The measure is the entropy of
    the shares; ties go to the first by knob and image. The rows are of one method's sweep.
    """
    shares = rows[share_columns(rows)].fillna(0).to_numpy()
    logs = np.log(shares, out=np.zeros_like(shares), where=shares > 0)
    entropy = pd.Series(-(shares * logs).sum(axis=1), rows.index).round(9)
    order = ["entropy", "knob", "image"]
    first = rows.assign(entropy=-entropy).sort_values(order).iloc[0]
    return str(first["image"]), float(first["knob"])


def routing_figure(
    sr: Image,
    labels: Labels,
    branches: int,
    gain: NDArray[np.float64],
    title: str,
    *,
    names: Sequence[str] = (),
    unit: str = "pixel",
) -> Figure:
    """Draw SR, the routing over it, and by how much its error is less than the original's.

    The legend gives each branch's share of the pixels, and their mean error reduction.

    Args:
        sr, labels, branches: as ``routing_image`` takes them.
        gain: (H, W) in grey levels (``gain_over``).
        title: method, knob, image, PSNR and FLOPs; put over the figure.
        names: of the branches; by default, their numbers.
        unit: what is routed.

    Raises:
        ValueError: as ``routing_image``.
    """
    height = 4.4 * sr.shape[0] / sr.shape[1]
    figure = Figure(figsize=(13.6, height + 1.4), layout="constrained")
    panels = figure.subplots(1, 3)
    titles = ("SR", f"branch of each {unit}", "error reduction against the original")
    for panel, text in zip(panels, titles, strict=True):
        panel.set_axis_off()
        panel.set_title(text, fontsize="medium")
    panels[0].imshow(sr, interpolation="antialiased")
    panels[1].imshow(routing_image(labels, branches, sr), interpolation="antialiased")
    colours = LinearSegmentedColormap.from_list("gain", GAINS)
    limits = {"vmin": -LARGEST_GAIN, "vmax": LARGEST_GAIN}
    drawn = panels[2].imshow(gain, cmap=colours, interpolation="antialiased", **limits)
    bar = figure.colorbar(drawn, ax=panels[2], shrink=0.8, extend="both")
    bar.set_label("grey levels of 255")
    handles = []
    for j, name in enumerate(names or _numbers(branches)):
        here = labels == j
        mean = f", {gain[here].mean():+z.2f}" if here.any() else ""
        label = escape.mathtext(f"{name}: {100 * here.mean():.1f} %{mean}")
        handles.append(Patch(facecolor=branch_colours(branches)[j], label=label))
    figure.legend(
        handles=handles,
        title="share of the pixels, mean error reduction in grey levels of 255",
        loc="outside lower center",
        ncols=branches,
        frameon=False,
    )
    figure.suptitle(escape.mathtext(title))
    return figure


def _numbers(branches: int) -> list[str]:
    ends = {0: " (cheapest)", branches - 1: " (most expensive)"} if branches > 1 else {}
    return [f"branch {j}{ends.get(j, '')}" for j in range(branches)]
